//! GPT-NeoX and Pythia: both blocks read the stream as it comes, and part of each head turns. The converter has put all
//! queries before all keys before all values.

use spm::{Activation, Config, Residual, RopeLayout};

use super::{Family, Source, decoder, with_layer_norm};
use crate::error::Error;
use crate::fused;

pub(super) const FAMILY: Family = Family { architecture: "gptneox", config, takes: &[], fused: &[fused::QKV] };

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source, RopeLayout::Halves)?;
    with_layer_norm(source, &mut config);
    config.activation = Activation::Gelu;
    let is_parallel = source.keys.bool(&source.key("use_parallel_residual"))?.unwrap_or(true);
    config.residual = if is_parallel { Residual::Parallel } else { Residual::Serial };
    Ok(config)
}
