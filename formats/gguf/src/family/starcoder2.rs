//! StarCoder2: LayerNorm, biases, a plain feed-forward block with GELU.

use spm::{Activation, Config, RopeLayout};

use super::{Family, Source, decoder, window, with_layer_norm};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { architecture: "starcoder2", config, takes: &[], fused: &[] };

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source, RopeLayout::Halves)?;
    with_layer_norm(source, &mut config);
    config.activation = Activation::GeluTanh;
    window(source, &mut config, |_| true)?;
    Ok(config)
}
