//! Llama 2 and 3, SmolLM2, DeepSeek-Coder, CodeLlama, Mistral: everything llama.cpp calls `llama`.
//!
//! The converter has permuted the rows of the query and key projections for interleaved rotation.

use spm::{Config, RopeLayout};

use super::{Family, Source, decoder, window};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { architecture: "llama", config, takes: &[], fused: &[] };

/// Biases where the first layer has them, and a window in all layers if there is one.
pub(super) fn config(source: &Source) -> Result<Config, Error> {
    let has = |name: &str| source.tensor(&format!("blk.0.{name}.bias")).is_some();
    let mut config = decoder(source, RopeLayout::Interleaved)?;
    config.qkv_bias = has("attn_q");
    config.attn_output_bias = has("attn_output");
    config.ffn_bias = has("ffn_gate");
    window(source, &mut config, |_| true)?;
    Ok(config)
}
