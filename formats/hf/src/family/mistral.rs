//! Mistral: Llama with a window in every layer, in its first version.

use spm::Config;

use super::{Family, Source, decoder, names, window};
use crate::error::Error;

pub(super) const FAMILY: Family = Family { model_type: "mistral", config, names: names::LLAMA };

fn config(source: &Source) -> Result<Config, Error> {
    let mut config = decoder(source)?;
    window(source.json, &mut config, |_| true)?;
    Ok(config)
}
