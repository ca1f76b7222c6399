//! Qwen2, Qwen2.5 and Qwen2.5-Coder.

use spm::{Config, RopeLayout};

use super::{Family, Source, decoder};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { architecture: "qwen2", config, takes: &[], fused: &[] };

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source, RopeLayout::Halves)?;
    config.qkv_bias = true;
    Ok(config)
}
