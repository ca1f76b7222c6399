//! Llama 2 and 3, SmolLM2, DeepSeek-Coder, CodeLlama, Mistral: everything llama.cpp calls `llama`.
//!
//! The converter has permuted the rows of the query and key projections for interleaved rotation.

use spm::{Config, RopeLayout};

use super::{Family, Source, decoder};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { architecture: "llama", config };

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source, RopeLayout::Interleaved)?;
    config.qkv_bias = source.tensor("blk.0.attn_q.bias").is_some();
    Ok(config)
}
