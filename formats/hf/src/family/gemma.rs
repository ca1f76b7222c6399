//! Gemma 1 and CodeGemma: embeddings times the root of the width, GeGLU, norms stored less one.

use spm::{Activation, Config};

use super::names::{LLAMA, Names};
use super::{Family, Source, decoder};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { model_type: "gemma", config, names: NAMES };

const NAMES: Names = Names { norm_plus: 1.0, ..LLAMA };

fn config(source: &Source) -> Result<Config, Error> {
    shared(source)
}

/// What all Gemmas have. The first files say `gelu` and mean its approximation.
pub(super) fn shared(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source)?;
    config.activation = match source.json.text("hidden_activation")? {
        Some(_) => super::activation(source.json, "hidden_activation")?,
        None => Activation::GeluTanh,
    };
    config.tied_head = source.json.bool("tie_word_embeddings")?.unwrap_or(true);
    config.scales.embedding = (config.dim as f32).sqrt();
    super::attention_biases(source.json, &mut config)?;
    Ok(config)
}
