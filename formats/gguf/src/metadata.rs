//! Metadata values as a GGUF file stores them.
//!
//! Scalars are copied out; arrays stay in the mapped file and are walked on demand, so a vocabulary costs
//! nothing until it is asked for. The file may change under the map: every walk checks its bounds again.

use spm::Bytes;

/// One metadata value.
#[derive(Clone, Debug)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Either float; an f32 is widened exactly.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// Values of one kind.
    Array(Array),
}

impl Value {
    /// The value as an unsigned integer, if it is one (a signed one that is not negative counts).
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Unsigned(v) => Some(*v),
            Value::Signed(v) => u64::try_from(*v).ok(),
            _ => None,
        }
    }

    /// The value as f32, if it is a float.
    pub fn as_f32(&self) -> Option<f32> {
        if let Value::Float(v) = self { Some(*v as f32) } else { None }
    }

    /// The value as a truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(v) = self { Some(*v) } else { None }
    }

    /// The value as text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Text(v) = self { Some(v) } else { None }
    }

    /// The value as an array, if it is one.
    pub fn as_array(&self) -> Option<&Array> {
        if let Value::Array(v) = self { Some(v) } else { None }
    }

    /// What the value is, in words for an error.
    pub fn describe(&self) -> String {
        match self {
            Value::Unsigned(v) => v.to_string(),
            Value::Signed(v) => v.to_string(),
            Value::Float(v) => v.to_string(),
            Value::Bool(v) => v.to_string(),
            Value::Text(v) => format!("the text `{}`", crate::error::shown(v)),
            Value::Array(v) => format!("an array of {} {}", v.len, v.kind.name()),
        }
    }
}

/// A metadata array, still in the file.
#[derive(Clone, Debug)]
pub struct Array {
    kind: Kind,
    len: usize,
    bytes: Bytes,
}

impl Array {
    pub(crate) fn new(kind: Kind, len: usize, bytes: Bytes) -> Self {
        Array { kind, len, bytes }
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the elements are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The elements of an array of strings; an element that is not UTF-8 or not whole is `None`.
    pub fn strings(&self) -> Option<impl Iterator<Item = Option<&str>>> {
        let mut rest: &[u8] = &self.bytes;
        let next = move |_| {
            let (len, after) = rest.split_first_chunk::<8>()?;
            let text = after.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
            rest = &after[text.len()..];
            std::str::from_utf8(text).ok()
        };
        (self.kind == Kind::String).then(|| (0..self.len).map(next))
    }

    /// The elements of an array of integers, or of truth values as 0 and 1. Values past `i64` saturate.
    pub fn integers(&self) -> Option<Vec<i64>> {
        let b: &[u8] = &self.bytes;
        Some(match self.kind {
            Kind::U8 | Kind::Bool => b.iter().map(|&v| i64::from(v)).collect(),
            Kind::I8 => b.iter().map(|&v| i64::from(v as i8)).collect(),
            Kind::U16 => chunks(b, |v| i64::from(u16::from_le_bytes(v))),
            Kind::I16 => chunks(b, |v| i64::from(i16::from_le_bytes(v))),
            Kind::U32 => chunks(b, |v| i64::from(u32::from_le_bytes(v))),
            Kind::I32 => chunks(b, |v| i64::from(i32::from_le_bytes(v))),
            Kind::U64 => chunks(b, |v| i64::try_from(u64::from_le_bytes(v)).unwrap_or(i64::MAX)),
            Kind::I64 => chunks(b, i64::from_le_bytes),
            Kind::F32 | Kind::F64 | Kind::String | Kind::Array => return None,
        })
    }

    /// The elements of an array of floats.
    pub fn floats(&self) -> Option<Vec<f32>> {
        match self.kind {
            Kind::F32 => Some(chunks(&self.bytes, f32::from_le_bytes)),
            Kind::F64 => Some(chunks(&self.bytes, |v| f64::from_le_bytes(v) as f32)),
            _ => None,
        }
    }
}

fn chunks<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|c| value(*c)).collect()
}

/// The kind of a metadata value, with GGUF's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// `u8`.
    U8 = 0,
    /// `i8`.
    I8 = 1,
    /// `u16`.
    U16 = 2,
    /// `i16`.
    I16 = 3,
    /// `u32`.
    U32 = 4,
    /// `i32`.
    I32 = 5,
    /// `f32`.
    F32 = 6,
    /// One byte, 0 or 1.
    Bool = 7,
    /// Length and UTF-8 bytes.
    String = 8,
    /// Kind, length and elements.
    Array = 9,
    /// `u64`.
    U64 = 10,
    /// `i64`.
    I64 = 11,
    /// `f64`.
    F64 = 12,
}

impl Kind {
    const ALL: [(Kind, &'static str); 13] = [
        (Kind::U8, "u8"),
        (Kind::I8, "i8"),
        (Kind::U16, "u16"),
        (Kind::I16, "i16"),
        (Kind::U32, "u32"),
        (Kind::I32, "i32"),
        (Kind::F32, "f32"),
        (Kind::Bool, "bool"),
        (Kind::String, "string"),
        (Kind::Array, "array"),
        (Kind::U64, "u64"),
        (Kind::I64, "i64"),
        (Kind::F64, "f64"),
    ];

    /// The kind with this number in a file.
    pub fn from_number(n: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(n).ok()?).map(|(kind, _)| *kind)
    }

    /// The kind's name.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The least bytes that a value of this kind takes.
    pub(crate) fn least_bytes(self) -> u64 {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 | Kind::String => 8,
            Kind::Array => 12,
        }
    }
}
