//! The keys of what sets families apart. A file has only those that differ from the plain decoder of [`Config::new`]: files
//! of plain decoders are what they were before there were any, and a reader that does not know a key refuses the file.

use crate::config::{Activation, Config, LayerKind, LayerRope, Norm, Residual, Scales};
use crate::error::Fault;
use crate::metadata::{self, FromValue, Value, Values, put_rope, take_rope};

/// The names of what there is to choose from.
type Names<T> = &'static [(T, &'static str)];

const NORMS: Names<Norm> = &[(Norm::Rms, "rms"), (Norm::Layer, "layer")];
const ACTIVATIONS: Names<Activation> =
    &[(Activation::Silu, "silu"), (Activation::GeluTanh, "gelu-tanh"), (Activation::Gelu, "gelu")];
const RESIDUALS: Names<Residual> =
    &[(Residual::Serial, "serial"), (Residual::Parallel, "parallel"), (Residual::ParallelOneNorm, "parallel-one-norm")];
/// Of a layer; its text has a character for each.
const WINDOWS: Names<bool> = &[(false, "-"), (true, "w")];
const ROPES: Names<LayerRope> = &[(LayerRope::Main, "m"), (LayerRope::Local, "l"), (LayerRope::None, "-")];

const LOCAL_ROPE: &str = "model.local_rope";

/// Writes the switches of `c` that are not a plain decoder's.
pub(crate) fn put(c: &Config, values: &mut Values) {
    put_name("model.norm", NORMS, c.norm, values);
    put_name("model.activation", ACTIVATIONS, c.activation, values);
    put_name("model.residual", RESIDUALS, c.residual, values);
    put_layers("model.window.layers", WINDOWS, c.layers.iter().map(|kind| kind.windowed), values);
    put_layers("model.rope.layers", ROPES, c.layers.iter().map(|kind| kind.rope), values);
    let mut c = c.clone();
    for (key, flag, plain) in flags(&mut c) {
        if *flag != plain {
            values.insert(key.into(), Value::Bool(*flag));
        }
    }
    for (key, factor) in factors(&mut c.scales) {
        if *factor != 1.0 {
            values.insert(key.into(), Value::F32(*factor));
        }
    }
    for (key, factor) in choices(&mut c.scales) {
        factor.map(|factor| values.insert(key.into(), Value::F32(factor)));
    }
    c.window.map(|window| values.insert("model.window".into(), Value::U64(window as u64)));
    if let Some(rope) = &c.local_rope {
        put_rope(LOCAL_ROPE, rope, values);
    }
}

/// Takes them out again; what is not there is as in a plain decoder.
pub(crate) fn take(values: &mut Values, c: &mut Config) -> Result<(), Fault> {
    take_name("model.norm", NORMS, &mut c.norm, values)?;
    take_name("model.activation", ACTIVATIONS, &mut c.activation, values)?;
    take_name("model.residual", RESIDUALS, &mut c.residual, values)?;
    take_layers(values, c)?;
    for (key, flag, _) in flags(c) {
        *flag = optional(key, values)?.unwrap_or(*flag);
    }
    for (key, factor) in factors(&mut c.scales) {
        *factor = optional(key, values)?.unwrap_or(*factor);
    }
    for (key, factor) in choices(&mut c.scales) {
        *factor = optional(key, values)?;
    }
    c.window = optional("model.window", values)?;
    if values.keys().any(|key| key.starts_with(LOCAL_ROPE)) {
        c.local_rope = Some(take_rope(values, LOCAL_ROPE)?);
    }
    Ok(())
}

/// Key, place, and value of a plain decoder.
fn flags(c: &mut Config) -> [(&'static str, &mut bool, bool); 7] {
    [
        ("model.attn_output_bias", &mut c.attn_output_bias, false),
        ("model.ffn_bias", &mut c.ffn_bias, false),
        ("model.ffn_gated", &mut c.gated, true),
        ("model.head_bias", &mut c.head_bias, false),
        ("model.learned_positions", &mut c.learned_positions, false),
        ("model.post_norms", &mut c.post_norms, false),
        ("model.qk_norm", &mut c.qk_norm, false),
    ]
}

fn factors(s: &mut Scales) -> [(&'static str, &mut f32); 3] {
    [
        ("model.scale.embedding", &mut s.embedding),
        ("model.scale.logits", &mut s.logits),
        ("model.scale.residual", &mut s.residual),
    ]
}

fn choices(s: &mut Scales) -> [(&'static str, &mut Option<f32>); 3] {
    [
        ("model.scale.attention", &mut s.attention),
        ("model.softcap.attention", &mut s.attention_cap),
        ("model.softcap.logits", &mut s.logits_cap),
    ]
}

fn put_name<T: Copy + PartialEq + Default>(key: &str, names: Names<T>, value: T, values: &mut Values) {
    if value != T::default() {
        values.insert(key.into(), Value::Text(name_of(names, value).into()));
    }
}

fn put_layers<T: Copy + PartialEq + Default>(
    key: &str,
    names: Names<T>,
    of_layers: impl Iterator<Item = T> + Clone,
    values: &mut Values,
) {
    if of_layers.clone().any(|value| value != T::default()) {
        values.insert(key.into(), Value::Text(of_layers.map(|value| name_of(names, value)).collect()));
    }
}

fn name_of<T: Copy + PartialEq>(names: Names<T>, value: T) -> &'static str {
    names.iter().find(|(known, _)| *known == value).map_or("", |(_, name)| name)
}

fn take_name<T: Copy>(key: &str, names: Names<T>, to: &mut T, values: &mut Values) -> Result<(), Fault> {
    if let Some(name) = optional::<String>(key, values)? {
        *to = parse(key, names, &name)?;
    }
    Ok(())
}

fn take_layers(values: &mut Values, c: &mut Config) -> Result<(), Fault> {
    let windowed = take_each("model.window.layers", WINDOWS, c.n_layers, values)?;
    let ropes = take_each("model.rope.layers", ROPES, c.n_layers, values)?;
    if windowed.is_none() && ropes.is_none() {
        return Ok(());
    }
    c.layers = vec![LayerKind::default(); c.n_layers];
    c.layers.iter_mut().zip(windowed.unwrap_or_default()).for_each(|(kind, windowed)| kind.windowed = windowed);
    c.layers.iter_mut().zip(ropes.unwrap_or_default()).for_each(|(kind, rope)| kind.rope = rope);
    Ok(())
}

/// What a text says of each of `n` layers.
fn take_each<T: Copy>(key: &str, names: Names<T>, n: usize, values: &mut Values) -> Result<Option<Vec<T>>, Fault> {
    let Some(text) = optional::<String>(key, values)? else { return Ok(None) };
    let found = text.chars().count();
    if found != n {
        return Err(Fault::new(format!("key `{key}`"), format!("has {found} characters, expected {n}, one a layer")));
    }
    let mut utf8 = [0; 4];
    text.chars().map(|c| parse(key, names, c.encode_utf8(&mut utf8))).collect::<Result<_, _>>().map(Some)
}

fn parse<T: Copy>(key: &str, names: Names<T>, name: &str) -> Result<T, Fault> {
    let unknown = || {
        let known = names.iter().map(|(_, name)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Fault::new(format!("key `{key}`"), format!("is `{name}`, expected one of {known}"))
    };
    names.iter().find(|(_, known)| *known == name).map(|(value, _)| *value).ok_or_else(unknown)
}

fn optional<T: FromValue>(key: &str, values: &mut Values) -> Result<Option<T>, Fault> {
    values.contains_key(key).then(|| metadata::take(values, key)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rope::{Rope, RopeLayout};

    fn unusual() -> Config {
        let mut c = Config::new(3, 64, 160, 4, 2);
        (c.norm, c.activation, c.residual) = (Norm::Layer, Activation::GeluTanh, Residual::Parallel);
        (c.gated, c.qk_norm, c.post_norms, c.learned_positions) = (false, true, true, true);
        (c.attn_output_bias, c.ffn_bias, c.head_bias) = (true, true, true);
        c.scales = Scales {
            embedding: 8.0,
            residual: 0.5,
            attention: Some(0.25),
            logits: 0.125,
            attention_cap: Some(50.0),
            logits_cap: Some(30.0),
        };
        c.window = Some(16);
        c.local_rope = Some(Rope::new(1e4, 16, RopeLayout::Halves));
        let kind = |windowed, rope| LayerKind { windowed, rope };
        c.layers = vec![kind(true, LayerRope::Local), kind(false, LayerRope::None), kind(false, LayerRope::Main)];
        c
    }

    #[test]
    fn switches_come_back() {
        let (config, mut values) = (unusual(), Values::new());
        put(&config, &mut values);
        assert_eq!(values["model.window.layers"], Value::Text("w--".into()));
        assert_eq!(values["model.rope.layers"], Value::Text("l-m".into()));
        let mut found = Config::new(3, 64, 160, 4, 2);
        assert_eq!(take(&mut values, &mut found).err().map(|fault| fault.problem), None);
        assert_eq!(found, config);
        assert!(values.is_empty(), "{values:?}");
    }

    #[test]
    fn a_plain_decoder_has_none() {
        let mut values = Values::new();
        put(&Config::new(3, 64, 160, 4, 2), &mut values);
        assert!(values.is_empty(), "{values:?}");
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (key, text, expected) in [
            ("model.norm", "batch", "is `batch`, expected one of `rms`, `layer`"),
            ("model.window.layers", "w-", "has 2 characters, expected 3, one a layer"),
            ("model.rope.layers", "mmx", "is `x`, expected one of `m`, `l`, `-`"),
        ] {
            let mut values = Values::from([(key.to_owned(), Value::Text(text.into()))]);
            let fault =
                take(&mut values, &mut Config::new(3, 64, 160, 4, 2)).err().map(|fault| (fault.place, fault.problem));
            assert_eq!(fault, Some((format!("key `{key}`"), expected.to_owned())));
        }
    }
}
