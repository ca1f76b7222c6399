//! Phi-1.5 and Phi-2: both blocks read the stream through one norm, biases everywhere, the head's too.

use spm::{Config, Norm, Residual};

use super::names::{LLAMA, Names, Piece};
use super::{Family, Source, decoder};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { model_type: "phi", config, names: NAMES };

const NAMES: Names = Names {
    outside: &[("token_embd", "model.embed_tokens"), ("output_norm", "model.final_layernorm"), ("output", "lm_head")],
    inside: &[&[
        ("attn_norm", "input_layernorm", Piece::All),
        ("attn_q", "self_attn.q_proj", Piece::All),
        ("attn_k", "self_attn.k_proj", Piece::All),
        ("attn_v", "self_attn.v_proj", Piece::All),
        ("attn_output", "self_attn.dense", Piece::All),
        ("ffn_up", "mlp.fc1", Piece::All),
        ("ffn_down", "mlp.fc2", Piece::All),
    ]],
    ..LLAMA
};

fn config(source: &Source) -> Result<Config, Error> {
    let (mut config, json) = (decoder(source)?, source.json);
    if json.bool("qk_layernorm")? == Some(true) {
        return json.refuse("qk_layernorm", "is true, which no published Phi is and this program does not run");
    }
    (config.norm, config.residual, config.gated) = (Norm::Layer, Residual::ParallelOneNorm, false);
    config.norm_eps = json.f32("layer_norm_eps")?.unwrap_or(1e-5);
    (config.qkv_bias, config.attn_output_bias, config.ffn_bias, config.head_bias) = (true, true, true, true);
    Ok(config)
}
