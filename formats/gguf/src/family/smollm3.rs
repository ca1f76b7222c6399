//! SmolLM3: Llama in which every fourth layer has no rotary embedding, which the file does not say.

use spm::{Config, LayerKind, LayerRope};

use super::{Family, Source, llama};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { architecture: "smollm3", config, takes: &[], fused: &[] };

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = llama::config(source)?;
    config.layers.resize(config.n_layers.min(spm::limits::LAYERS), LayerKind::default());
    config.layers.iter_mut().skip(3).step_by(4).for_each(|kind| kind.rope = LayerRope::None);
    Ok(config)
}
