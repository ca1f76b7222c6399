//! Phi-2: both blocks read the stream through one norm, biases everywhere, the head's too.

use spm::{Activation, Config, Residual, RopeLayout};

use super::{Family, Source, decoder, with_layer_norm};
use crate::error::Error;
use crate::fused;

pub(super) const FAMILY: Family = Family { architecture: "phi2", config, takes: &[], fused: &[fused::QKV] };

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source, RopeLayout::Halves)?;
    with_layer_norm(source, &mut config);
    config.activation = Activation::GeluTanh;
    config.residual = Residual::ParallelOneNorm;
    config.head_bias = source.tensor("output.bias").is_some();
    Ok(config)
}
