//! Gemma 1 and CodeGemma: embeddings times the root of the width, GeGLU. The converter has added one to all norms.

use spm::{Activation, Config, RopeLayout};

use super::{Family, Source, decoder};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { architecture: "gemma", config, takes: &[], fused: &[] };

/// What all Gemmas have.
pub(super) fn config(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source, RopeLayout::Halves)?;
    config.activation = Activation::GeluTanh;
    config.scales.embedding = (config.dim as f32).sqrt();
    Ok(config)
}
