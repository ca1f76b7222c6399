//! Qwen3, dense: heads of queries and keys are normalised, and as wide as the file says.

use spm::{Config, RopeLayout};

use super::{Family, Source, decoder};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { architecture: "qwen3", config, takes: &[], fused: &[] };

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source, RopeLayout::Halves)?;
    config.qk_norm = true;
    Ok(config)
}
