//! Model families: one file each that fills [`Config`] from a `config.json` and says what its tensors are called, and one
//! entry in [`FAMILIES`].
//!
//! What several families share is here; rotary scaling is in `rope`, the names in `names`, and what is not run in `refused`.
//! A file that asks for anything the decoder does not do is refused, never run approximately.

mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod granite;
mod llama;
mod mistral;
mod names;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
mod refused;
mod rope;
mod smollm3;
mod starcoder2;

use serde_json::Value;
use spm::{Activation, Config, LayerKind};

pub(crate) use self::names::{Names, Whence};
use crate::error::{Error, shown};
use crate::json::Json;

/// A way to fill [`Config`], by the `model_type` of `config.json`.
pub(crate) struct Family {
    model_type: &'static str,
    pub(crate) config: fn(&Source) -> Result<Config, Error>,
    pub(crate) names: Names,
}

const FAMILIES: &[Family] = &[
    llama::FAMILY,
    mistral::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    smollm3::FAMILY,
    granite::FAMILY,
    starcoder2::FAMILY,
    gemma::FAMILY,
    gemma2::FAMILY,
    gemma3::FAMILY,
    phi::FAMILY,
    phi3::FAMILY,
    gpt2::FAMILY,
    gpt_neox::FAMILY,
];

/// The family of a `config.json`.
pub(crate) fn find(json: Json) -> Result<&'static Family, Error> {
    const KEY: &str = "model_type";
    let model_type = json.text(KEY)?.ok_or_else(|| json.missing(KEY))?;
    let known = || FAMILIES.iter().map(|f| f.model_type).collect::<Vec<_>>().join(", ");
    let refuse = |reason: String| {
        let (path, model_type) = (json.path().to_owned(), shown(model_type));
        Err(Error::Family { path, model_type, reason })
    };
    if let Some(reason) = refused::reason(model_type) {
        return refuse(format!("{reason}, which this program does not run; it runs {}", known()));
    }
    let Some(family) = FAMILIES.iter().find(|f| f.model_type == model_type) else {
        return refuse(format!("is not known; known are {}", known()));
    };
    if json.value("quantization_config").is_some() {
        let problem = "says that the weights are quantized, which is not read; fetch the original, or a GGUF of it";
        return json.refuse("quantization_config", problem);
    }
    Ok(family)
}

/// Whether a stored tensor that is none of ours is no part of the arithmetic.
pub(crate) fn is_extra(name: &str, config: &Config) -> bool {
    const BUFFERS: [&str; 5] =
        [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"];
    let is_tied_head = config.tied_head && (name == "lm_head.weight" || name == "embed_out.weight");
    is_tied_head || BUFFERS.iter().any(|end| name.ends_with(end))
}

/// What a family reads.
pub(crate) struct Source<'a> {
    pub(crate) json: Json<'a>,
    /// Whether there is a stored tensor of that name.
    pub(crate) has: &'a dyn Fn(&str) -> bool,
}

/// The shape of a Llama-like decoder; families then set what differs.
fn decoder(source: &Source) -> Result<Config, Error> {
    let json = source.json;
    let n_heads = json.required("num_attention_heads")?;
    let mut config = Config::new(
        json.required("num_hidden_layers")?,
        json.required("hidden_size")?,
        json.required("intermediate_size")?,
        n_heads,
        json.count("num_key_value_heads")?.unwrap_or(n_heads),
    );
    config.head_dim = json.count("head_dim")?.unwrap_or(config.head_dim);
    config.context_len = json.required("max_position_embeddings")?;
    config.norm_eps = json.f32("rms_norm_eps")?.unwrap_or(1e-6);
    config.vocab_size = json.required("vocab_size")?;
    config.tied_head = is_tied(source, "lm_head.weight")?;
    config.activation = activation(json, "hidden_act")?;
    rope::resolve(json, &mut config)?;
    Ok(config)
}

/// What is written if it is; else what is stored.
fn is_tied(source: &Source, head: &str) -> Result<bool, Error> {
    Ok(source.json.bool("tie_word_embeddings")?.unwrap_or(!(source.has)(head)))
}

fn activation(json: Json, key: &str) -> Result<Activation, Error> {
    match json.text(key)?.unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Ok(Activation::GeluTanh),
        other => json.refuse(key, format!("is `{}`; known are silu, gelu, gelu_new, gelu_pytorch_tanh", shown(other))),
    }
}

/// Biases of the attention's projections, where one key is for all.
fn attention_biases(json: Json, config: &mut Config) -> Result<(), Error> {
    let has = json.bool("attention_bias")?.unwrap_or(false);
    (config.qkv_bias, config.attn_output_bias) = (has, has);
    Ok(())
}

/// A window of `sliding_window` positions in the layers that `layer_types` names, or, in older files, that `is_windowed`.
fn window(json: Json, config: &mut Config, is_windowed: impl Fn(usize) -> bool) -> Result<(), Error> {
    const KEY: &str = "layer_types";
    let Some(window) = json.count("sliding_window")? else { return Ok(()) };
    let mut windowed: Vec<bool> = (0..config.n_layers.min(spm::limits::LAYERS)).map(is_windowed).collect();
    if let Some(types) = json.list(KEY)? {
        windowed = types.iter().map(|kind| layer_type(json, KEY, kind)).collect::<Result<_, _>>()?;
    }
    if windowed.contains(&true) {
        config.window = Some(window);
        config.layers = windowed.iter().map(|&windowed| LayerKind { windowed, ..LayerKind::default() }).collect();
    }
    Ok(())
}

fn layer_type(json: Json, key: &str, kind: &Value) -> Result<bool, Error> {
    match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => json.refuse(key, format!("has {}; known are sliding_attention, full_attention", shown(&kind.to_string()))),
    }
}
