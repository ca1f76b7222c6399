//! GPT-2: learned positions instead of rotation, LayerNorm, biases.

use spm::{Activation, Config, LayerKind, LayerRope, RopeLayout};

use super::{Family, Source, decoder, with_layer_norm};
use crate::error::Error;
use crate::fused;

pub(super) const FAMILY: Family = Family { architecture: "gpt2", config, takes: &[], fused: &[fused::QKV] };

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source, RopeLayout::Halves)?;
    with_layer_norm(source, &mut config);
    config.activation = Activation::GeluTanh;
    config.learned_positions = true;
    let none = LayerKind { rope: LayerRope::None, ..LayerKind::default() };
    config.layers = vec![none; config.n_layers.min(spm::limits::LAYERS)];
    Ok(config)
}
