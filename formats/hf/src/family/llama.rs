//! Llama 2 and 3, SmolLM2, DeepSeek-Coder, CodeLlama: what calls itself `llama`.

use spm::Config;

use super::{Family, Source, attention_biases, decoder, names};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { model_type: "llama", config, names: names::LLAMA };

pub(super) fn config(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source)?;
    attention_biases(source.json, &mut config)?;
    config.ffn_bias = source.json.bool("mlp_bias")?.unwrap_or(false);
    Ok(config)
}
