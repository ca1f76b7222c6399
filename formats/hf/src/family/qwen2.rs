//! Qwen2, Qwen2.5 and Qwen2.5-Coder: biases of queries, keys and values; a window only where it is asked for.

use spm::Config;

use super::{Family, Source, decoder, names, window};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { model_type: "qwen2", config, names: names::LLAMA };

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source)?;
    config.qkv_bias = true;
    window_from(source, &mut config)?;
    Ok(config)
}

/// From layer `max_window_layers` on, if windows are used at all.
pub(super) fn window_from(source: &Source, config: &mut Config) -> Result<(), Error> {
    let json = source.json;
    if json.bool("use_sliding_window")? != Some(true) {
        return Ok(());
    }
    let first = json.count("max_window_layers")?.unwrap_or(0);
    window(json, config, |layer| layer >= first)
}
