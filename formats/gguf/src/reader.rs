//! The header of one file: keys with typed values, and where each tensor is. Versions 2 and 3, little-endian.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use spm::Bytes;

use crate::error::{Error, Fault};
use crate::quants::GgmlType;

/// Longest key or tensor name.
const MAX_NAME: usize = 4096;
const DEFAULT_ALIGNMENT: usize = 32;

/// One file's header, and its bytes.
#[derive(Debug)]
pub(crate) struct GgufFile {
    pub(crate) keys: Keys,
    pub(crate) tensors: Vec<Tensor>,
}

/// A tensor's place, checked to lie inside the file.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) kind: GgmlType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) data: Bytes,
}

/// Keys and values; arrays stay in the file until they are asked for.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    values: HashMap<String, Value>,
}

#[derive(Clone, Debug)]
enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Array { kind: u32, len: usize, bytes: Bytes },
}

impl GgufFile {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        Self::from_bytes(Bytes::map(path)?, path)
    }

    pub(crate) fn from_bytes(bytes: Bytes, path: &Path) -> Result<Self, Error> {
        recognise(&bytes, path)?;
        parse(&bytes).map_err(|f| f.at(path))
    }
}

/// Tells a file of another kind by its first bytes, and says what to do with it.
fn recognise(bytes: &[u8], path: &Path) -> Result<(), Error> {
    let other = |found: &str| Err(Error::NotGguf { path: path.to_owned(), found: found.into() });
    match bytes {
        [] => other("it is empty; fetch it again"),
        [b'G', b'G', b'U', b'F', ..] => match bytes.get(4..8) {
            Some([2 | 3, 0, 0, 0]) => Ok(()),
            Some([1, 0, 0, 0]) => {
                other("it is of version 1, which was used for a few weeks in 2023; convert the model again")
            }
            Some([0, 0, 0, 2 | 3]) => other("it is big-endian; convert the model again on a little-endian machine"),
            Some(&[a, b, c, d]) => {
                let version = u32::from_le_bytes([a, b, c, d]);
                other(&format!("it is of version {version}, versions 2 and 3 are known; update this program"))
            }
            _ => other(&format!("it has {} bytes, a header 24; fetch it again", bytes.len())),
        },
        [b'g', b'g', b'm' | b'j' | b'l', ..] | [b'l' | b't', b'm' | b'j', b'g', b'g', ..] => {
            other("it is a ggml file from before GGUF; convert the model again")
        }
        [0x93, b'S', b'P', b'M', ..] => other("it is a sparse model file"),
        [b'<', ..] => other("it looks like a web page; the download failed, fetch it again"),
        [b'P', b'K', 3, 4, ..] => other("it is a zip archive; unpack it first"),
        _ if bytes.starts_with(b"version https://git-lfs") => {
            other("it is a git-lfs pointer; run `git lfs pull` to get the file itself")
        }
        _ if bytes.len() > 9 && bytes[8] == b'{' && bytes[3..8] == [0; 5] => other("it looks like a safetensors file"),
        _ => other("its first bytes are not those of one"),
    }
}

fn parse(bytes: &Bytes) -> Result<GgufFile, Fault> {
    let mut c = Cursor { place: "header".into(), bytes, position: 8 };
    let n_tensors = c.u64("number of tensors")?;
    let n_keys = c.u64("number of keys")?;
    c.check_count("tensors", n_tensors, 8 + 4 + 8 + 4 + 8)?;
    c.check_count("keys", n_keys, 8 + 4 + 1)?;
    let mut keys = Keys::default();
    for _ in 0..n_keys {
        let key = c.name("key")?;
        c.place = format!("key `{key}`");
        let kind = c.u32("type")?;
        let value = c.value(kind)?;
        if keys.values.insert(key.clone(), value).is_some() {
            return Err(Fault::key(&key, "occurs twice, expected once"));
        }
    }
    let alignment = alignment(&keys)?;
    c.place = "table of tensors".into();
    let places = (0..n_tensors).map(|_| parse_place(&mut c)).collect::<Result<Vec<_>, _>>()?;
    let data = c.position.checked_next_multiple_of(alignment).filter(|&d| d <= bytes.len() || places.is_empty());
    let data = data.ok_or_else(|| {
        Fault::new(
            "table of tensors",
            format!("ends at byte {} of {}; the file was cut, fetch it again", c.position, bytes.len()),
        )
    })?;
    let tensors = places.iter().map(|p| p.locate(bytes, data, alignment)).collect::<Result<Vec<_>, _>>()?;
    check_apart(&places)?;
    Ok(GgufFile { keys, tensors })
}

fn alignment(keys: &Keys) -> Result<usize, Fault> {
    const KEY: &str = "general.alignment";
    match keys.integer(KEY)? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(n) if n.is_power_of_two() && n <= 1 << 20 => Ok(n),
        Some(n) => Err(Fault::key(KEY, format!("is {n}, expected a power of two up to 1048576"))),
    }
}

/// An entry of the table of tensors.
struct Place {
    name: String,
    kind: GgmlType,
    rows: usize,
    cols: usize,
    offset: u64,
    len: u64,
}

fn parse_place(c: &mut Cursor) -> Result<Place, Fault> {
    let name = c.name("tensor name")?;
    c.place = format!("tensor `{name}`");
    let n_dims = c.u32("number of dimensions")?;
    if !(1..=4).contains(&n_dims) {
        return Err(c.fault(format!("{n_dims} dimensions, expected 1 to 4")));
    }
    let dims = (0..n_dims).map(|_| c.u64("dimension")).collect::<Result<Vec<_>, _>>()?;
    let number = c.u32("type")?;
    let offset = c.u64("offset")?;
    let kind = GgmlType::from_number(number).ok_or_else(|| {
        let known: Vec<&str> = GgmlType::ALL.iter().map(|t| t.name()).collect();
        c.fault(format!("type number {number} is unknown; known are {}", known.join(", "))).unsupported()
    })?;
    let limit = 1u64 << 31;
    if let Some(dim) = dims.iter().find(|d| **d == 0 || **d > limit) {
        return Err(c.fault(format!("a dimension of {dim}, expected 1 to {limit}")));
    }
    let rows = dims[1..].iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(|n| *n <= limit);
    let rows = rows.ok_or_else(|| c.fault(format!("dimensions {dims:?} are too large")))?;
    let (rows, cols) = (rows as usize, dims[0] as usize);
    let len = kind.row_bytes(cols).and_then(|n| n.checked_mul(rows)).ok_or_else(|| {
        c.fault(format!("rows of {cols} columns, expected a multiple of {} for {}", kind.block_len(), kind.name()))
    })?;
    Ok(Place { name, kind, rows, cols, offset, len: len as u64 })
}

impl Place {
    fn locate(&self, bytes: &Bytes, data: usize, alignment: usize) -> Result<Tensor, Fault> {
        let Place { offset, len, .. } = *self;
        if !offset.is_multiple_of(alignment as u64) {
            return Err(Fault::tensor(&self.name, format!("begins at {offset}, expected a multiple of {alignment}")));
        }
        let range = usize::try_from(offset).ok().and_then(|o| {
            let from = data.checked_add(o)?;
            Some(from..from.checked_add(usize::try_from(len).ok()?)?)
        });
        let found = range.and_then(|range| bytes.slice(range));
        let found = found.ok_or_else(|| {
            let have = bytes.len() - data.min(bytes.len());
            Fault::tensor(
                &self.name,
                format!("{len} bytes from {offset} on, the file has {have} of data; it was cut, fetch it again"),
            )
        })?;
        Ok(Tensor { name: self.name.clone(), kind: self.kind, rows: self.rows, cols: self.cols, data: found })
    }
}

/// No two tensors share bytes or a name.
fn check_apart(places: &[Place]) -> Result<(), Fault> {
    let mut order: Vec<&Place> = places.iter().collect();
    order.sort_by_key(|p| p.offset);
    for pair in order.windows(2) {
        let end = pair[0].offset.saturating_add(pair[0].len);
        if end > pair[1].offset {
            return Err(Fault::tensor(
                &pair[1].name,
                format!("begins at {} before `{}` ends at {end}", pair[1].offset, pair[0].name),
            ));
        }
    }
    order.sort_by(|a, b| a.name.cmp(&b.name));
    match order.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(Fault::tensor(&pair[0].name, "occurs twice, expected once")),
        None => Ok(()),
    }
}

impl Keys {
    /// A whole number that is not negative.
    pub(crate) fn integer(&self, key: &str) -> Result<Option<usize>, Fault> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Integer(n)) => usize::try_from(*n)
                .map(Some)
                .map_err(|_| Fault::key(key, format!("is {n}, expected a number from 0 to {}", usize::MAX))),
            Some(other) => Err(wrong_type(key, other, "an integer")),
        }
    }

    pub(crate) fn float(&self, key: &str) -> Result<Option<f32>, Fault> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(*x as f32)),
            Some(Value::Integer(n)) => Ok(Some(*n as f32)),
            Some(other) => Err(wrong_type(key, other, "a number")),
        }
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, Fault> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(wrong_type(key, other, "a truth value")),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, Fault> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(key, other, "text")),
        }
    }

    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<String>>, Fault> {
        self.array(key, "texts", |kind| kind == STRING, |c, _| c.string("element"))
    }

    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, Fault> {
        self.array(key, "numbers", is_number, |c, kind| match c.scalar(kind)? {
            Value::Float(x) => Ok(x as f32),
            Value::Integer(n) => Ok(n as f32),
            other => Err(wrong_type(key, &other, "numbers")),
        })
    }

    pub(crate) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, Fault> {
        self.array(key, "integers", is_number, |c, kind| match c.scalar(kind)? {
            Value::Integer(n) => {
                i64::try_from(n).map_err(|_| Fault::key(key, format!("has the element {n}, expected a smaller one")))
            }
            other => Err(wrong_type(key, &other, "integers")),
        })
    }

    pub(crate) fn is_array(&self, key: &str) -> bool {
        matches!(self.values.get(key), Some(Value::Array { .. }))
    }

    fn array<T>(
        &self,
        key: &str,
        what: &str,
        fits: impl Fn(u32) -> bool,
        element: impl Fn(&mut Cursor, u32) -> Result<T, Fault>,
    ) -> Result<Option<Vec<T>>, Fault> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Array { kind, len, bytes }) if fits(*kind) => {
                let mut c = Cursor { place: format!("key `{key}`"), bytes, position: 0 };
                (0..*len).map(|_| element(&mut c, *kind)).collect::<Result<_, _>>().map(Some)
            }
            Some(other) => Err(wrong_type(key, other, &format!("an array of {what}"))),
        }
    }
}

fn wrong_type(key: &str, found: &Value, expected: &str) -> Fault {
    let found = match found {
        Value::Integer(_) => "an integer".to_owned(),
        Value::Float(_) => "a number".to_owned(),
        Value::Bool(_) => "a truth value".to_owned(),
        Value::Text(_) => "text".to_owned(),
        Value::Array { kind, .. } => format!("an array of type {kind}"),
    };
    Fault::key(key, format!("is {found}, expected {expected}"))
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

fn is_number(kind: u32) -> bool {
    kind <= 12 && !matches!(kind, 7 | STRING | ARRAY)
}

/// Bytes of a value whose size does not depend on its content.
fn fixed_size(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

struct Cursor<'a> {
    place: String,
    bytes: &'a Bytes,
    position: usize,
}

impl Cursor<'_> {
    fn take(&mut self, what: &str, len: usize) -> Result<Range<usize>, Fault> {
        let left = self.bytes.len() - self.position;
        if len > left {
            return Err(
                self.fault(format!("{what} needs {len} bytes, {left} are left; the file was cut or is damaged"))
            );
        }
        let from = self.position;
        self.position += len;
        Ok(from..self.position)
    }

    fn number<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        let range = self.take(what, N)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[range]);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        self.number(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        self.number(what).map(u64::from_le_bytes)
    }

    /// Refuses to believe a count of things that cannot all be there.
    fn check_count(&self, what: &str, n: u64, each: usize) -> Result<usize, Fault> {
        let left = self.bytes.len() - self.position;
        match usize::try_from(n).ok().filter(|n| *n <= left / each) {
            Some(n) => Ok(n),
            None => Err(self.fault(format!("{n} {what} of at least {each} bytes, but {left} bytes are left"))),
        }
    }

    fn string(&mut self, what: &str) -> Result<String, Fault> {
        let len = self.u64(what)?;
        let len = self.check_count("bytes of text", len, 1)?;
        let range = self.take(what, len)?;
        match std::str::from_utf8(&self.bytes[range]) {
            Ok(text) => Ok(text.to_owned()),
            Err(e) => Err(self.fault(format!("{what} is not UTF-8 from byte {} on", e.valid_up_to()))),
        }
    }

    fn name(&mut self, what: &str) -> Result<String, Fault> {
        let name = self.string(what)?;
        match name.len() {
            1..=MAX_NAME => Ok(name),
            len => Err(self.fault(format!("{what} of {len} bytes, expected 1 to {MAX_NAME}"))),
        }
    }

    fn value(&mut self, kind: u32) -> Result<Value, Fault> {
        match kind {
            STRING => self.string("text").map(Value::Text),
            ARRAY => self.array(),
            _ => self.scalar(kind),
        }
    }

    fn scalar(&mut self, kind: u32) -> Result<Value, Fault> {
        let what = "value";
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.number(what)?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.number(what)?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.number(what)?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.number(what)?).into()),
            4 => Value::Integer(self.u32(what)?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.number(what)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.number(what)?).into()),
            7 => match self.number(what)? {
                [b @ 0..=1] => Value::Bool(b == 1),
                [other] => return Err(self.fault(format!("truth value {other}, expected 0 or 1"))),
            },
            10 => Value::Integer(self.u64(what)?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.number(what)?).into()),
            12 => Value::Float(f64::from_le_bytes(self.number(what)?)),
            other => return Err(self.fault(format!("value type {other}, expected 0 to 12"))),
        })
    }

    fn array(&mut self) -> Result<Value, Fault> {
        let kind = self.u32("element type")?;
        let n = self.u64("array length")?;
        let from = self.position;
        let len = match fixed_size(kind) {
            Some(size) => {
                let len = self.check_count("elements", n, size)?;
                self.take("array", len * size)?;
                len
            }
            None if kind == STRING => {
                let len = self.check_count("texts", n, 8)?;
                for _ in 0..len {
                    let bytes = self.u64("element")?;
                    let bytes = self.check_count("bytes of text", bytes, 1)?;
                    self.take("element", bytes)?;
                }
                len
            }
            None => return Err(self.fault(format!("array of elements of type {kind}, expected 0 to 8 or 10 to 12"))),
        };
        let bytes = self.bytes.slice(from..self.position).ok_or_else(|| self.fault("array leaves the file"))?;
        Ok(Value::Array { kind, len, bytes })
    }

    fn fault(&self, problem: impl Into<String>) -> Fault {
        Fault::new(self.place.clone(), problem)
    }
}
