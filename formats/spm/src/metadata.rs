//! Typed keys and values, and what is made of them: [`Config`], [`Infill`] and [`Provenance`].

use std::collections::BTreeMap;

use crate::config::Config;
use crate::cursor::{Cursor, push_short_text};
use crate::error::{Error, Fault};
use crate::infill::Infill;
use crate::rope::{LongRope, Rope, RopeLayout};
use crate::switches;

/// Where a model came from: what a reader needs to make the same file again.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Provenance {
    /// Name of the source file or folder, without its path.
    pub source: String,
    /// SHA-256 of the source file, in hexadecimal (of several: of their hashes, see the pruner).
    pub source_sha256: String,
    /// Pruning method, such as `wanda`.
    pub method: String,
    /// Sparsity asked for, 0 to 1.
    pub sparsity: f32,
    /// Pattern, such as `unstructured` or `2:4`.
    pub pattern: String,
    /// What was calibrated on: sources, language, windows, seed.
    pub calibration: String,
    /// SHA-256 of the calibration tokens, in hexadecimal.
    pub calibration_sha256: String,
    /// How the tokens of the head were chosen; empty if it has all.
    pub shortlist: String,
    /// Program and version that wrote the file.
    pub tool: String,
}

impl Provenance {
    fn fields(&mut self) -> [(&'static str, &mut String); 8] {
        [
            ("source.name", &mut self.source),
            ("source.sha256", &mut self.source_sha256),
            ("prune.method", &mut self.method),
            ("prune.pattern", &mut self.pattern),
            ("prune.calibration", &mut self.calibration),
            ("prune.calibration.sha256", &mut self.calibration_sha256),
            ("prune.shortlist", &mut self.shortlist),
            ("tool", &mut self.tool),
        ]
    }
}

/// A value of the metadata section.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    U64(u64),
    F32(f32),
    Text(String),
    F32s(Vec<f32>),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a truth value",
            Self::U64(_) => "an integer",
            Self::F32(_) => "a number",
            Self::Text(_) => "text",
            Self::F32s(_) => "numbers",
        }
    }
}

pub(crate) type Values = BTreeMap<String, Value>;

/// The metadata section of a file.
pub(crate) fn to_bytes(config: &Config, infill: Option<Infill>, provenance: &Provenance) -> Result<Vec<u8>, Fault> {
    let mut values = Values::new();
    put_config(config, &mut values);
    infill.unwrap_or_default().put(&mut values);
    for (key, text) in provenance.clone().fields() {
        values.insert(key.into(), Value::Text(std::mem::take(text)));
    }
    values.insert("prune.sparsity".into(), Value::F32(provenance.sparsity));
    let mut out = Vec::new();
    out.extend((values.len() as u32).to_le_bytes());
    for (key, value) in &values {
        push_short_text(&mut out, "metadata key", key)?;
        push_value(&mut out, value);
    }
    Ok(out)
}

/// Reads and checks the metadata section.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Config, Infill, Provenance), Fault> {
    let mut values = parse_values(bytes)?;
    let config = take_config(&mut values)?;
    let infill = Infill::take(&mut values)?;
    let mut provenance = Provenance::default();
    for (key, to) in provenance.fields() {
        if let Some(value) = values.remove(key) {
            *to = String::from_value(key, value)?;
        }
    }
    if let Some(value) = values.remove("prune.sparsity") {
        provenance.sparsity = f32::from_value("prune.sparsity", value)?;
    }
    // Anything may be noted in other groups; what the arithmetic depends on must be understood.
    if let Some(key) = values.keys().find(|k| k.starts_with("model.")) {
        return Err(Fault::new(
            format!("key `{key}`"),
            "unknown and necessary; update this program, or prune the model again",
        ));
    }
    Ok((config, infill, provenance))
}

fn put_config(c: &Config, values: &mut Values) {
    let mut put = |key: &str, value| values.insert(format!("model.{key}"), value);
    put("layers", Value::U64(c.n_layers as u64));
    put("dim", Value::U64(c.dim as u64));
    put("hidden_dim", Value::U64(c.hidden_dim as u64));
    put("heads", Value::U64(c.n_heads as u64));
    put("kv_heads", Value::U64(c.n_kv_heads as u64));
    put("head_dim", Value::U64(c.head_dim as u64));
    put("vocab_size", Value::U64(c.vocab_size as u64));
    put("context_length", Value::U64(c.context_len as u64));
    put("norm_eps", Value::F32(c.norm_eps));
    put_rope("model.rope", &c.rope, values);
    let mut put = |key: &str, value| values.insert(format!("model.{key}"), value);
    put("tied_head", Value::Bool(c.tied_head));
    put("qkv_bias", Value::Bool(c.qkv_bias));
    switches::put(c, values);
}

/// The keys of a rotary embedding, which begin with `prefix`.
pub(crate) fn put_rope(prefix: &str, rope: &Rope, values: &mut Values) {
    let mut put = |key: &str, value| values.insert(format!("{prefix}.{key}"), value);
    put("base", Value::F32(rope.base));
    put("dims", Value::U64(rope.dims as u64));
    put("layout", Value::Text(layout_name(rope.layout).into()));
    put("freq_factors", Value::F32s(rope.freq_factors.clone()));
    put("attn_scale", Value::F32(rope.attn_scale));
    if let Some(long) = &rope.long {
        put("long.trained", Value::U64(long.trained as u64));
        put("long.freq_factors", Value::F32s(long.freq_factors.clone()));
    }
}

/// Takes them out again.
pub(crate) fn take_rope(values: &mut Values, prefix: &str) -> Result<Rope, Fault> {
    let key = |name: &str| format!("{prefix}.{name}");
    let layout = key("layout");
    Ok(Rope {
        base: take(values, &key("base"))?,
        dims: take(values, &key("dims"))?,
        layout: parse_layout(&layout, &take::<String>(values, &layout)?)?,
        freq_factors: take(values, &key("freq_factors"))?,
        attn_scale: take(values, &key("attn_scale"))?,
        long: take_long(values, &key("long"))?,
    })
}

fn take_long(values: &mut Values, prefix: &str) -> Result<Option<LongRope>, Fault> {
    if !values.keys().any(|key| key.starts_with(prefix)) {
        return Ok(None);
    }
    let key = |name: &str| format!("{prefix}.{name}");
    Ok(Some(LongRope { trained: take(values, &key("trained"))?, freq_factors: take(values, &key("freq_factors"))? }))
}

fn take_config(values: &mut Values) -> Result<Config, Fault> {
    let v = values;
    let (layers, dim, hidden_dim) = (take(v, "model.layers")?, take(v, "model.dim")?, take(v, "model.hidden_dim")?);
    let mut config = Config::new(layers, dim, hidden_dim, take(v, "model.heads")?, take(v, "model.kv_heads")?);
    config.head_dim = take(v, "model.head_dim")?;
    config.vocab_size = take(v, "model.vocab_size")?;
    config.context_len = take(v, "model.context_length")?;
    config.norm_eps = take(v, "model.norm_eps")?;
    config.rope = take_rope(v, "model.rope")?;
    config.tied_head = take(v, "model.tied_head")?;
    config.qkv_bias = take(v, "model.qkv_bias")?;
    switches::take(v, &mut config)?;
    match config.validate() {
        Ok(()) => Ok(config),
        Err(Error::Config { key, value, expected }) => {
            Err(Fault::new(format!("model shape, `{key}`"), format!("is {value}, expected {expected}")))
        }
        Err(other) => Err(Fault::new("model shape", other.to_string())),
    }
}

fn layout_name(layout: RopeLayout) -> &'static str {
    match layout {
        RopeLayout::Interleaved => "interleaved",
        RopeLayout::Halves => "halves",
    }
}

fn parse_layout(key: &str, name: &str) -> Result<RopeLayout, Fault> {
    let known = [RopeLayout::Interleaved, RopeLayout::Halves];
    known
        .into_iter()
        .find(|l| layout_name(*l) == name)
        .ok_or_else(|| Fault::new(format!("key `{key}`"), format!("is `{name}`, expected `interleaved` or `halves`")))
}

/// Takes out a value that must be there.
pub(crate) fn take<T: FromValue>(values: &mut Values, key: &str) -> Result<T, Fault> {
    let value =
        values.remove(key).ok_or_else(|| Fault::new(format!("key `{key}`"), "is missing; the file is incomplete"))?;
    T::from_value(key, value)
}

/// A value as a type.
pub(crate) trait FromValue: Sized {
    const EXPECTED: &'static str;
    fn convert(value: &Value) -> Option<Self>;

    fn from_value(key: &str, value: Value) -> Result<Self, Fault> {
        Self::convert(&value).ok_or_else(|| {
            Fault::new(format!("key `{key}`"), format!("is {}, expected {}", value.kind(), Self::EXPECTED))
        })
    }
}

macro_rules! from_value {
    ($type:ty, $expected:literal, $pattern:pat => $result:expr) => {
        impl FromValue for $type {
            const EXPECTED: &'static str = $expected;
            fn convert(value: &Value) -> Option<Self> {
                match value {
                    $pattern => $result,
                    _ => None,
                }
            }
        }
    };
}

from_value!(bool, "a truth value", Value::Bool(b) => Some(*b));
from_value!(usize, "an integer of this machine's size", Value::U64(n) => usize::try_from(*n).ok());
from_value!(f32, "a number", Value::F32(x) => Some(*x));
from_value!(String, "text", Value::Text(t) => Some(t.clone()));
from_value!(Vec<f32>, "numbers", Value::F32s(v) => Some(v.clone()));

fn push_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Bool(b) => out.extend([1, u8::from(*b)]),
        Value::U64(n) => {
            out.push(2);
            out.extend(n.to_le_bytes());
        }
        Value::F32(x) => {
            out.push(3);
            out.extend(x.to_le_bytes());
        }
        Value::Text(text) => {
            out.push(4);
            out.extend((text.len() as u32).to_le_bytes());
            out.extend(text.as_bytes());
        }
        Value::F32s(all) => {
            out.push(5);
            out.extend((all.len() as u32).to_le_bytes());
            all.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
    }
}

fn parse_values(bytes: &[u8]) -> Result<Values, Fault> {
    let mut c = Cursor::new("metadata", bytes);
    let count = c.count("keys", 4)?;
    let mut values = Values::new();
    for _ in 0..count {
        let key = c.short_text("key")?;
        if let Some((last, _)) = values.last_key_value()
            && key <= last.as_str()
        {
            return Err(c.fault(format!("key `{key}` after `{last}`, expected ascending order")));
        }
        let value = parse_value(&mut c, key)?;
        values.insert(key.to_owned(), value);
    }
    c.end()?;
    Ok(values)
}

fn parse_value(c: &mut Cursor, key: &str) -> Result<Value, Fault> {
    let bad = |problem: String| Fault::new(format!("key `{key}`"), problem);
    Ok(match c.u8("type of a value")? {
        1 => match c.u8(key)? {
            b @ 0..=1 => Value::Bool(b == 1),
            other => return Err(bad(format!("truth value {other}, expected 0 or 1"))),
        },
        2 => Value::U64(c.u64(key)?),
        3 => Value::F32(c.f32(key)?),
        4 => {
            let len = c.count("bytes of text", 1)?;
            Value::Text(c.text(key, len)?.to_owned())
        }
        5 => {
            let len = c.count("numbers", 4)?;
            Value::F32s((0..len).map(|_| c.f32(key)).collect::<Result<_, _>>()?)
        }
        other => return Err(bad(format!("value type {other}, expected 1 to 5"))),
    })
}
