//! StarCoder2: LayerNorm, biases everywhere, a plain feed-forward block with GELU.

use spm::{Config, Norm};

use super::names::{LLAMA, NORMS, Names, Piece, SELF_ATTENTION};
use super::{Family, Source, decoder, window};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { model_type: "starcoder2", config, names: NAMES };

const NAMES: Names = Names {
    inside: &[NORMS, SELF_ATTENTION, &[("ffn_up", "mlp.c_fc", Piece::All), ("ffn_down", "mlp.c_proj", Piece::All)]],
    ..LLAMA
};

fn config(source: &Source) -> Result<Config, Error> {
    let (mut config, json) = (decoder(source)?, source.json);
    (config.norm, config.gated) = (Norm::Layer, false);
    config.norm_eps = json.f32("norm_epsilon")?.unwrap_or(1e-5);
    let has_biases = json.bool("use_bias")?.unwrap_or(true);
    (config.qkv_bias, config.attn_output_bias, config.ffn_bias) = (has_biases, has_biases, has_biases);
    window(json, &mut config, |_| true)?;
    Ok(config)
}
