//! Phi-3, Phi-3.5-mini and Phi-4-mini: queries, keys and values in one tensor, gate and up in another.

use spm::{Config, RopeLayout};

use super::{Family, Source, decoder, window};
use crate::error::Error;
use crate::fused;

pub(super) const FAMILY: Family =
    Family { architecture: "phi3", config, takes: &[], fused: &[fused::QKV, fused::GATE_UP] };

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source, RopeLayout::Halves)?;
    window(source, &mut config, |_| true)?;
    Ok(config)
}
