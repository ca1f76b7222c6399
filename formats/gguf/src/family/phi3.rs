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
    if source.tensor(super::rope::SHORT).is_some() {
        let trained = source.count("rope.scaling.original_context_length")?.unwrap_or(config.context_len);
        config.context_len = config.context_len.min(trained);
    }
    Ok(config)
}
