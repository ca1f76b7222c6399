//! GPT-NeoX and Pythia: both blocks read the stream as it comes, part of each head turns, and queries, keys and values lie
//! together head by head.

use spm::{Config, Norm, Residual};

use super::names::{NORMS, Names, Piece};
use super::{Family, Source, decoder, is_tied};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { model_type: "gpt_neox", config, names: NAMES };

const NAMES: Names = Names {
    root: "gpt_neox.",
    outside: &[
        ("token_embd", "gpt_neox.embed_in"),
        ("output_norm", "gpt_neox.final_layer_norm"),
        ("output", "embed_out"),
    ],
    layers: "gpt_neox.layers",
    inside: &[
        NORMS,
        &[
            ("attn_q", "attention.query_key_value", Piece::QueryOfHeads),
            ("attn_k", "attention.query_key_value", Piece::KeyOfHeads),
            ("attn_v", "attention.query_key_value", Piece::ValueOfHeads),
            ("attn_output", "attention.dense", Piece::All),
            ("ffn_up", "mlp.dense_h_to_4h", Piece::All),
            ("ffn_down", "mlp.dense_4h_to_h", Piece::All),
        ],
    ],
    transposed: false,
    norm_plus: 0.0,
};

fn config(source: &Source) -> Result<Config, Error> {
    let (mut config, json) = (decoder(source)?, source.json);
    // Each head has keys and values of its own.
    config.n_kv_heads = config.n_heads;
    config.norm_eps = json.f32("layer_norm_eps")?.unwrap_or(1e-5);
    let is_parallel = json.bool("use_parallel_residual")?.unwrap_or(true);
    config.residual = if is_parallel { Residual::Parallel } else { Residual::Serial };
    (config.norm, config.gated, config.ffn_bias) = (Norm::Layer, false, true);
    let has_biases = json.bool("attention_bias")?.unwrap_or(true);
    (config.qkv_bias, config.attn_output_bias) = (has_biases, has_biases);
    config.tied_head = is_tied(source, "embed_out.weight")?;
    Ok(config)
}
