//! Gemma 2: norms before and after each block, soft caps, a window in every other layer.

use spm::Config;

use super::{Family, Source, gemma, names, window};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { model_type: "gemma2", config, names: names::GEMMA2 };

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = shared(source)?;
    window(source.json, &mut config, |layer| layer % 2 == 0)?;
    Ok(config)
}

/// What Gemma 2 and 3 have.
pub(super) fn shared(source: &Source) -> Result<Config, Error> {
    let (mut config, json) = (gemma::shared(source)?, source.json);
    config.post_norms = true;
    config.scales.attention = json.f32("query_pre_attn_scalar")?.map(|scalar| 1.0 / scalar.sqrt());
    config.scales.attention_cap = json.f32("attn_logit_softcapping")?;
    config.scales.logits_cap = json.f32("final_logit_softcapping")?;
    Ok(config)
}
