//! Phi-3, Phi-3.5-mini and Phi-4-mini: queries, keys and values in one tensor, gate and up in another.

use spm::Config;

use super::names::{LLAMA, NORMS, Names, Piece};
use super::{Family, Source, decoder, window};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { model_type: "phi3", config, names: NAMES };

const NAMES: Names = Names {
    inside: &[
        NORMS,
        &[
            ("attn_q", "self_attn.qkv_proj", Piece::Query),
            ("attn_k", "self_attn.qkv_proj", Piece::Key),
            ("attn_v", "self_attn.qkv_proj", Piece::Value),
            ("attn_output", "self_attn.o_proj", Piece::All),
            ("ffn_gate", "mlp.gate_up_proj", Piece::Gate),
            ("ffn_up", "mlp.gate_up_proj", Piece::Up),
            ("ffn_down", "mlp.down_proj", Piece::All),
        ],
    ],
    ..LLAMA
};

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source)?;
    window(source.json, &mut config, |_| true)?;
    Ok(config)
}
