//! Qwen3, dense: heads of queries and keys are normalised, and as wide as the file says.

use spm::Config;

use super::{Family, Source, attention_biases, decoder, names, qwen2};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { model_type: "qwen3", config, names: names::LLAMA };

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source)?;
    config.qk_norm = true;
    attention_biases(source.json, &mut config)?;
    qwen2::window_from(source, &mut config)?;
    Ok(config)
}
