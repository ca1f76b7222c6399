//! Gemma 3, text: Gemma 2 with normalised heads instead of caps, and rotation of its own in the windowed layers.

use spm::{Config, LayerKind, LayerRope};

use super::{Family, Source, gemma2, names, rope, window};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { model_type: "gemma3_text", config, names: names::GEMMA2 };

fn config(source: &Source) -> Result<Config, Error> {
    let (mut config, json) = (gemma2::shared(source)?, source.json);
    config.qk_norm = true;
    let every = json.count("sliding_window_pattern")?.or(json.count("_sliding_window_pattern")?).unwrap_or(6).max(1);
    window(json, &mut config, |layer| !(layer + 1).is_multiple_of(every))?;
    resolve_ropes(source, &mut config)?;
    let of_kind = |kind: &LayerKind| if kind.windowed { LayerRope::Local } else { LayerRope::Main };
    config.layers.iter_mut().for_each(|kind| kind.rope = of_kind(kind));
    Ok(config)
}

/// Newer files have parameters for each kind of layer, older ones a base of their own for the windowed layers.
fn resolve_ropes(source: &Source, config: &mut Config) -> Result<(), Error> {
    let json = source.json;
    let by_kind = json.object("rope_parameters")?;
    let of = |kind: &str| by_kind.map_or(Ok(None), |all| all.object(kind));
    if let Some(full) = of("full_attention")? {
        rope::resolve_with(json, Some(full), 1e6, config)?;
    } else {
        rope::resolve_with(json, json.object("rope_scaling")?, 1e6, config)?;
    }
    let base = json.f32("rope_local_base_freq")?.unwrap_or(10_000.0);
    let mut local = config.rope.clone();
    local.freq_factors.clear();
    local.base = match of("sliding_attention")? {
        Some(sliding) => sliding.f32("rope_theta")?.unwrap_or(base),
        None => base,
    };
    config.local_rope = config.window.is_some().then_some(local);
    Ok(())
}
