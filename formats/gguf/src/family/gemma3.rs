//! Gemma 3, text: normalised heads instead of Gemma 2's caps; five layers of six have a window and a rotation of their own.

use spm::{Config, LayerKind, LayerRope, Rope};

use super::{Family, Source, gemma, gemma2, window};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { architecture: "gemma3", config, takes: &[], fused: &[] };

/// Layers of the one size that scales scores by the model's width.
const LAYERS_OF_27B: usize = 62;

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = gemma::config(source)?;
    (config.post_norms, config.qk_norm) = (true, true);
    gemma2::scale_by_width(&mut config, LAYERS_OF_27B);
    window(source, &mut config, |layer| !(layer + 1).is_multiple_of(6))?;
    let base = source.f32("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let local = Rope::new(base, config.rope.dims, config.rope.layout);
    config.local_rope = config.window.is_some().then_some(local);
    let of_kind = |kind: &LayerKind| if kind.windowed { LayerRope::Local } else { LayerRope::Main };
    config.layers.iter_mut().for_each(|kind| kind.rope = of_kind(kind));
    Ok(config)
}
