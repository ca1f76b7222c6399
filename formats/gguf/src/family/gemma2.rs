//! Gemma 2: norms before and after each block, soft caps, a window in every other layer.

use spm::Config;

use super::{Family, Source, gemma, window};
use crate::error::Error;

pub(super) const FAMILY: Family = Family {
    architecture: "gemma2",
    config,
    takes: &["attn_logit_softcapping", "final_logit_softcapping"],
    fused: &[],
};

/// Layers of the one size that scales scores by the model's width.
const LAYERS_OF_27B: usize = 46;

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = gemma::config(source)?;
    config.post_norms = true;
    config.scales.attention_cap = Some(source.f32("attn_logit_softcapping")?.unwrap_or(50.0));
    config.scales.logits_cap = Some(source.f32("final_logit_softcapping")?.unwrap_or(30.0));
    scale_by_width(&mut config, LAYERS_OF_27B);
    window(source, &mut config, |layer| layer % 2 == 0)?;
    Ok(config)
}

/// In a model of so many layers a score is divided by the root of the width a head, not of a head's own width. Files do not
/// say so.
pub(super) fn scale_by_width(config: &mut Config, layers: usize) {
    if config.n_layers == layers && config.n_heads > 0 {
        config.scales.attention = Some(1.0 / ((config.dim / config.n_heads) as f32).sqrt());
    }
}
