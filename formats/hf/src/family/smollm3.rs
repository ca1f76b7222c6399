//! SmolLM3: Llama in which every fourth layer has no rotary embedding.

use spm::{Config, LayerKind, LayerRope};

use super::{Family, Source, llama, names, qwen2};
use crate::error::{Error, shown};

pub(super) const FAMILY: Family = Family { model_type: "smollm3", config, names: names::LLAMA };

fn config(source: &Source) -> Result<Config, Error> {
    const KEY: &str = "no_rope_layers";
    let (mut config, json) = (llama::config(source)?, source.json);
    qwen2::window_from(source, &mut config)?;
    config.layers.resize(config.n_layers.min(spm::limits::LAYERS), LayerKind::default());
    let every = json.count("no_rope_layer_interval")?.unwrap_or(4).max(1);
    let listed = json.list(KEY)?;
    for (i, kind) in config.layers.iter_mut().enumerate() {
        // In spite of its name, a 1 in the list is a layer that turns.
        let turns = match listed {
            None => !(i + 1).is_multiple_of(every),
            Some(list) => match list.get(i).and_then(|v| v.as_u64()) {
                Some(turns @ 0..=1) => turns == 1,
                _ => {
                    let entry = list.get(i).map_or("missing".into(), |v| shown(&v.to_string()));
                    return json.refuse(KEY, format!("entry {i} is {entry}, expected 0 or 1 for each layer"));
                }
            },
        };
        kind.rope = if turns { LayerRope::Main } else { LayerRope::None };
    }
    Ok(config)
}
