//! Granite 3, dense: Llama with four multipliers.

use spm::Config;

use super::{Family, Source, llama};
use crate::error::Error;

pub(super) const FAMILY: Family = Family {
    architecture: "granite",
    config,
    takes: &["attention.scale", "embedding_scale", "residual_scale", "logit_scale"],
    fused: &[],
};

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = llama::config(source)?;
    // Zero stands for none.
    let scale = |name: &str| Ok::<_, Error>(source.f32(name)?.filter(|scale| *scale != 0.0));
    config.scales.embedding = scale("embedding_scale")?.unwrap_or(1.0);
    config.scales.residual = scale("residual_scale")?.unwrap_or(1.0);
    config.scales.attention = scale("attention.scale")?;
    config.scales.logits = 1.0 / scale("logit_scale")?.unwrap_or(1.0);
    Ok(config)
}
