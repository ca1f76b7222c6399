//! GPT-2: learned positions instead of rotation, LayerNorm, biases, matrices stored as (inputs, outputs).

use spm::{Config, LayerKind, LayerRope, Norm};

use super::names::{Names, Piece};
use super::{Family, Source, activation, is_tied};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { model_type: "gpt2", config, names: NAMES };

const NAMES: Names = Names {
    root: "transformer.",
    outside: &[
        ("token_embd", "transformer.wte"),
        ("position_embd", "transformer.wpe"),
        ("output_norm", "transformer.ln_f"),
        ("output", "lm_head"),
    ],
    layers: "transformer.h",
    inside: &[&[
        ("attn_norm", "ln_1", Piece::All),
        ("attn_q", "attn.c_attn", Piece::Query),
        ("attn_k", "attn.c_attn", Piece::Key),
        ("attn_v", "attn.c_attn", Piece::Value),
        ("attn_output", "attn.c_proj", Piece::All),
        ("ffn_norm", "ln_2", Piece::All),
        ("ffn_up", "mlp.c_fc", Piece::All),
        ("ffn_down", "mlp.c_proj", Piece::All),
    ]],
    transposed: true,
    norm_plus: 0.0,
};

fn config(source: &Source) -> Result<Config, Error> {
    let json = source.json;
    for (key, expected) in [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false)] {
        if json.bool(key)?.is_some_and(|found| found != expected) {
            return json
                .refuse(key, format!("is {}, expected {expected}; this program does not run others", !expected));
        }
    }
    let (dim, heads) = (json.required("n_embd")?, json.required("n_head")?);
    let hidden = json.count("n_inner")?.unwrap_or(dim.saturating_mul(4));
    let mut config = Config::new(json.required("n_layer")?, dim, hidden, heads, heads);
    config.vocab_size = json.required("vocab_size")?;
    config.context_len = json.count("n_positions")?.or(json.count("n_ctx")?).unwrap_or(1024);
    config.norm_eps = json.f32("layer_norm_epsilon")?.unwrap_or(1e-5);
    (config.norm, config.gated, config.learned_positions) = (Norm::Layer, false, true);
    config.activation = match json.text("activation_function")? {
        Some(_) => activation(json, "activation_function")?,
        None => spm::Activation::GeluTanh,
    };
    (config.qkv_bias, config.attn_output_bias, config.ffn_bias) = (true, true, true);
    config.tied_head = is_tied(source, "lm_head.weight")?;
    let none = LayerKind { rope: LayerRope::None, ..LayerKind::default() };
    config.layers = vec![none; config.n_layers.min(spm::limits::LAYERS)];
    Ok(config)
}
