//! Granite 3, dense: Llama with four multipliers.

use spm::Config;

use super::{Family, Source, llama, names};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { model_type: "granite", config, names: names::LLAMA };

fn config(source: &Source) -> Result<Config, Error> {
    let (mut config, json) = (llama::config(source)?, source.json);
    config.scales.embedding = json.f32("embedding_multiplier")?.unwrap_or(1.0);
    config.scales.residual = json.f32("residual_multiplier")?.unwrap_or(1.0);
    // The default of transformers, not the usual one.
    config.scales.attention = Some(json.f32("attention_multiplier")?.unwrap_or(1.0));
    config.scales.logits = 1.0 / json.f32("logits_scaling")?.unwrap_or(1.0);
    Ok(config)
}
