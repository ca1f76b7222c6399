//! Model families: one file each that fills [`Config`] from a GGUF file, and one entry in [`FAMILIES`].
//!
//! What several families share is here; what only the arithmetic of scaling concerns is in `rope`.
//! A file that asks for anything the decoder does not do is refused, never run approximately.

mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod gptneox;
mod granite;
mod llama;
mod phi2;
mod phi3;
mod qwen2;
mod qwen3;
mod refused;
mod rope;
mod smollm3;
mod starcoder2;

use spm::{Config, LayerKind, Norm, RopeLayout};

use crate::dequant::expand;
use crate::error::Error;
use crate::fused::Fused;
use crate::keys::Keys;
use crate::metadata::Value;
use crate::reader::{GgufFile, Tensor};

/// A way to fill [`Config`], by the name in `general.architecture`.
pub(crate) struct Family {
    architecture: &'static str,
    config: fn(&Source) -> Result<Config, Error>,
    /// Those of [`EXTRAS`] that it knows what to do with.
    takes: &'static [&'static str],
    /// Tensors that hold several of ours.
    pub(crate) fused: &'static [Fused],
}

const FAMILIES: &[Family] = &[
    llama::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    smollm3::FAMILY,
    granite::FAMILY,
    starcoder2::FAMILY,
    gemma::FAMILY,
    gemma2::FAMILY,
    gemma3::FAMILY,
    phi2::FAMILY,
    phi3::FAMILY,
    gpt2::FAMILY,
    gptneox::FAMILY,
];

/// The family of the model in `shards`, and its resolved shape.
pub(crate) fn resolve(shards: &[GgufFile]) -> Result<(&'static Family, Config), Error> {
    const KEY: &str = "general.architecture";
    let keys = Keys::of(&shards[0]);
    let architecture = keys.text(KEY)?.ok_or_else(|| keys.missing(KEY))?;
    let Some(family) = FAMILIES.iter().find(|f| f.architecture == architecture) else {
        let known = FAMILIES.iter().map(|f| f.architecture).collect::<Vec<_>>().join(", ");
        let reason = refused::reason(architecture).unwrap_or("is not supported");
        let architecture = crate::error::shown(architecture);
        return Err(Error::Architecture { path: keys.path().to_owned(), architecture, reason, known });
    };
    let source = Source { shards, keys, architecture };
    refuse_extras(&source, family.takes)?;
    let config = (family.config)(&source)?;
    config.validate().map_err(|source| Error::Shape { path: keys.path().to_owned(), source })?;
    Ok((family, config))
}

/// Whether a tensor that [`Config::tensors`] does not list is no part of the arithmetic, or already in the config.
pub(crate) fn is_extra(name: &str) -> bool {
    [rope::FACTORS, rope::LONG, rope::SHORT].contains(&name) || name.ends_with(".attn_rot_embd")
}

/// What a family reads.
struct Source<'a> {
    shards: &'a [GgufFile],
    keys: Keys<'a>,
    architecture: &'a str,
}

impl<'a> Source<'a> {
    /// The key `name` of this architecture, such as `llama.block_count`.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn f32(&self, name: &str) -> Result<Option<f32>, Error> {
        self.keys.f32(&self.key(name))
    }

    /// A count, which may also be given as an array that says the same for every layer.
    fn count(&self, name: &str) -> Result<Option<usize>, Error> {
        let key = self.key(name);
        let n = match self.keys.value(&key) {
            Some(Value::Array(_)) => Some(self.same_for_all_layers(&key)?),
            _ => self.keys.u64(&key)?,
        };
        n.map(|n| usize::try_from(n).or_else(|_| self.keys.refuse(&key, format!("is {n}, which is too large"))))
            .transpose()
    }

    fn required(&self, name: &str) -> Result<usize, Error> {
        self.count(name)?.ok_or_else(|| self.keys.missing(&self.key(name)))
    }

    fn same_for_all_layers(&self, key: &str) -> Result<u64, Error> {
        let values = self.keys.array(key)?.and_then(|a| a.integers()).unwrap_or_default();
        match values.split_first() {
            Some((first, rest)) if *first >= 0 && rest.iter().all(|v| v == first) => Ok(*first as u64),
            _ => self.keys.refuse(key, "differs between layers, which this program does not run"),
        }
    }

    fn tensor(&self, name: &str) -> Option<(&'a GgufFile, &'a Tensor)> {
        self.shards.iter().find_map(|s| s.tensors().iter().find(|t| t.name == name).map(|t| (s, t)))
    }

    /// All values of a small tensor, if there is such a tensor.
    fn values(&self, name: &str, most: usize) -> Result<Option<Vec<f32>>, Error> {
        let Some((file, tensor)) = self.tensor(name) else {
            return Ok(None);
        };
        let n = tensor.rows() * tensor.cols();
        if n > most {
            return Err(Error::tensor(file.path(), name, format!("has {n} values, expected at most {most}")));
        }
        let mut out = vec![0.0; n];
        expand(tensor.kind, file.bytes().get(tensor.range.clone()).unwrap_or_default(), &mut out);
        Ok(Some(out))
    }
}

/// The shape of a Llama-like decoder; families then set what differs.
fn decoder(source: &Source, layout: RopeLayout) -> Result<Config, Error> {
    let n_heads = source.required("attention.head_count")?;
    let mut config = Config::new(
        source.required("block_count")?,
        source.required("embedding_length")?,
        source.required("feed_forward_length")?,
        n_heads,
        source.count("attention.head_count_kv")?.unwrap_or(n_heads),
    );
    config.head_dim = head_dim(source, config.head_dim)?;
    config.context_len = source.required("context_length")?;
    config.norm_eps = norm_eps(source)?;
    config.vocab_size = source.tensor("token_embd.weight").map_or(0, |(_, t)| t.rows());
    if config.vocab_size == 0 {
        let problem = "is missing; the file has a vocabulary only, or is not the first of several";
        return Err(Error::tensor(source.keys.path(), "token_embd.weight", problem));
    }
    config.tied_head = source.tensor("output.weight").is_none();
    config.rope = rope::resolve(source, &config, layout)?;
    Ok(config)
}

/// Of whichever norm the family has.
fn norm_eps(source: &Source) -> Result<f32, Error> {
    const RMS: &str = "attention.layer_norm_rms_epsilon";
    let eps = source.f32(RMS)?.or(source.f32("attention.layer_norm_epsilon")?);
    eps.ok_or_else(|| source.keys.missing(&source.key(RMS)))
}

/// LayerNorm, and a plain feed-forward block; biases where the first layer has them.
fn with_layer_norm(source: &Source, config: &mut Config) {
    let has = |name: &str| source.tensor(&format!("blk.0.{name}.bias")).is_some();
    (config.norm, config.gated) = (Norm::Layer, false);
    config.qkv_bias = has("attn_q") || has("attn_qkv");
    config.attn_output_bias = has("attn_output");
    config.ffn_bias = has("ffn_up");
}

/// The window that the file may have, in the layers that `is_windowed`.
fn window(source: &Source, config: &mut Config, is_windowed: impl Fn(usize) -> bool) -> Result<(), Error> {
    let Some(window) = source.count("attention.sliding_window")?.filter(|window| *window > 0) else { return Ok(()) };
    let kind = |layer| LayerKind { windowed: is_windowed(layer), ..LayerKind::default() };
    config.window = Some(window);
    config.layers = (0..config.n_layers.min(spm::limits::LAYERS)).map(kind).collect();
    Ok(())
}

fn head_dim(source: &Source, default: usize) -> Result<usize, Error> {
    let key = source.count("attention.key_length")?.unwrap_or(default);
    let value = source.count("attention.value_length")?.unwrap_or(default);
    if key != value {
        let problem = format!("is {value} where attention.key_length is {key}; this program runs equal ones only");
        return source.keys.refuse(&source.key("attention.value_length"), problem);
    }
    Ok(key)
}

/// Keys that change the arithmetic in ways the decoder does not know, with the value that changes nothing.
const EXTRAS: [(&str, f64); 9] = [
    ("expert_count", 0.0),
    ("attention.scale", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("final_logit_softcapping", 0.0),
    ("logit_scale", 1.0),
    ("embedding_scale", 1.0),
    ("residual_scale", 1.0),
];

fn refuse_extras(source: &Source, taken: &[&str]) -> Result<(), Error> {
    for (name, neutral) in EXTRAS.into_iter().filter(|(name, _)| !taken.contains(name)) {
        let key = source.key(name);
        let value = match source.keys.value(&key) {
            Some(Value::Unsigned(n)) => *n as f64,
            Some(Value::Signed(n)) => *n as f64,
            Some(Value::Float(v)) => *v,
            _ => continue,
        };
        if value != neutral && value != 0.0 {
            return source
                .keys
                .refuse(&key, format!("is {value}, expected none; this program does not run such models"));
        }
    }
    Ok(())
}
