//! Header, metadata and tensor table of one GGUF file, read once and checked whole.
//!
//! What comes out is true: every tensor lies inside the file, apart from the others, with exactly the bytes
//! that its type and shape need. Each count is compared with the bytes left before anything is allocated for it.
//! Weights are not read here, and nothing here knows what a key means but `general.alignment`.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use spm::Bytes;

use crate::error::{Error, shown};
use crate::ggml_type::{GgmlType, name_of};
use crate::metadata::{Array, Kind, Value};
use crate::mistaken;

const MAGIC: [u8; 4] = *b"GGUF";
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 16;
const MAX_KEY_BYTES: u64 = 1 << 16;
/// ggml's own bound on a tensor's name.
const MAX_NAME_BYTES: u64 = 64;
const MAX_TEXT_BYTES: u64 = 4 << 20;
const MAX_DIM: u64 = 1 << 31;
const DEFAULT_ALIGNMENT: u64 = 32;
/// A key of no letters with a value of one byte; a tensor of no name with one dimension.
const LEAST_KEY_BYTES: u64 = 8 + 4 + 1;
const LEAST_TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// One GGUF file, mapped and checked.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    bytes: Bytes,
    version: u32,
    alignment: u64,
    metadata: BTreeMap<String, Value>,
    tensors: Vec<Tensor>,
}

/// One tensor of a file.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: GgmlType,
    /// Its dimensions, the fastest first, as in the file: `[cols, rows]`.
    pub dims: Vec<usize>,
    /// Where its bytes lie in the file.
    pub range: Range<usize>,
}

impl Tensor {
    /// Input features: the fastest dimension.
    pub fn cols(&self) -> usize {
        self.dims[0]
    }

    /// Output features: all other dimensions together.
    pub fn rows(&self) -> usize {
        self.dims[1..].iter().product()
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.range.len() / self.rows()
    }
}

impl GgufFile {
    /// Maps and checks the file at `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let bytes = Bytes::map(path).map_err(Error::File)?;
        let mut c = Cursor { path, bytes: &bytes, at: 0 };
        let version = check_start(&mut c)?;
        let n_tensors = c.count("the number of tensors", MAX_TENSORS, LEAST_TENSOR_BYTES)?;
        let n_keys = c.count("the number of metadata keys", MAX_KEYS, LEAST_KEY_BYTES)?;
        let metadata = read_metadata(&mut c, n_keys)?;
        let alignment = alignment(path, &metadata)?;
        let mut tensors = read_tensors(&mut c, n_tensors)?;
        place(&mut tensors, &c, alignment)?;
        let tensors = tensors.into_iter().map(|t| t.tensor).collect();
        Ok(GgufFile { path: path.to_owned(), version, alignment, metadata, tensors, bytes })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The container's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Tensors start at multiples of this many bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// All metadata, by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The whole file.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

fn check_start(c: &mut Cursor) -> Result<u32, Error> {
    if !c.bytes.starts_with(&MAGIC) {
        return Err(mistaken::describe(c.path, c.bytes));
    }
    c.at = MAGIC.len();
    let version = c.u32("the version")?;
    let refuse = |found: String| Err(Error::Version { path: c.path.to_owned(), found });
    match version {
        2 | 3 => Ok(version),
        // Versions are small, so only a swapped one has its low half empty.
        v if v != 0 && v & 0xFFFF == 0 => refuse(format!("big-endian GGUF version {}", v.swap_bytes())),
        v => refuse(format!("GGUF version {v}")),
    }
}

fn read_metadata(c: &mut Cursor, n_keys: u64) -> Result<BTreeMap<String, Value>, Error> {
    let mut metadata = BTreeMap::new();
    for _ in 0..n_keys {
        let key = c.text("a metadata key", MAX_KEY_BYTES)?;
        let refuse = |problem: &str| Err(Error::key(c.path, &key, problem));
        if key.is_empty() {
            return refuse("is empty; the file is damaged");
        }
        if metadata.contains_key(&key) {
            return refuse("occurs twice; the file is damaged or was made by a faulty converter");
        }
        let value = read_value(c, &key)?;
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn read_value(c: &mut Cursor, key: &str) -> Result<Value, Error> {
    let what = format!("the value of `{}`", shown(key));
    let what = what.as_str();
    Ok(match read_kind(c, key, what)? {
        Kind::U8 => Value::Unsigned(u8::from_le_bytes(c.array(what)?).into()),
        Kind::U16 => Value::Unsigned(u16::from_le_bytes(c.array(what)?).into()),
        Kind::U32 => Value::Unsigned(u32::from_le_bytes(c.array(what)?).into()),
        Kind::U64 => Value::Unsigned(u64::from_le_bytes(c.array(what)?)),
        Kind::I8 => Value::Signed(i8::from_le_bytes(c.array(what)?).into()),
        Kind::I16 => Value::Signed(i16::from_le_bytes(c.array(what)?).into()),
        Kind::I32 => Value::Signed(i32::from_le_bytes(c.array(what)?).into()),
        Kind::I64 => Value::Signed(i64::from_le_bytes(c.array(what)?)),
        Kind::F32 => Value::Float(f32::from_le_bytes(c.array(what)?).into()),
        Kind::F64 => Value::Float(f64::from_le_bytes(c.array(what)?)),
        Kind::Bool => Value::Bool(read_bool(c, key, what)?),
        Kind::String => Value::Text(c.text(what, MAX_TEXT_BYTES)?),
        Kind::Array => Value::Array(read_array(c, key, what)?),
    })
}

fn read_kind(c: &mut Cursor, key: &str, what: &str) -> Result<Kind, Error> {
    let n = c.u32(what)?;
    let unknown = || Error::key(c.path, key, format!("has value type {n}, expected 0 to 12; the file is damaged"));
    Kind::from_number(n).ok_or_else(unknown)
}

fn read_bool(c: &mut Cursor, key: &str, what: &str) -> Result<bool, Error> {
    match c.array::<1>(what)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [n] => Err(Error::key(c.path, key, format!("is a truth value of {n}, expected 0 or 1; the file is damaged"))),
    }
}

fn read_array(c: &mut Cursor, key: &str, what: &str) -> Result<Array, Error> {
    let kind = read_kind(c, key, what)?;
    if kind == Kind::Array {
        return Err(Error::key(
            c.path,
            key,
            "is an array of arrays, which GGUF writers do not make; the file is damaged",
        ));
    }
    let len = c.u64(what)?;
    let need = len.saturating_mul(kind.least_bytes());
    if need > c.left() {
        return Err(c.truncated(what, need));
    }
    let start = c.at;
    if kind == Kind::String {
        for _ in 0..len {
            let n = c.u64(what)?;
            c.take(what, n)?;
        }
    } else {
        c.take(what, need)?;
    }
    let bytes = c.bytes.slice(start..c.at).ok_or_else(|| c.truncated(what, need))?;
    let len = usize::try_from(len).map_err(|_| c.truncated(what, need))?;
    Ok(Array::new(kind, len, bytes))
}

fn alignment(path: &Path, metadata: &BTreeMap<String, Value>) -> Result<u64, Error> {
    const KEY: &str = "general.alignment";
    let Some(value) = metadata.get(KEY) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    match value {
        Value::Unsigned(n @ 8..=65536) if n.is_power_of_two() => Ok(*n),
        other => Err(Error::key(
            path,
            KEY,
            format!("is {}, expected a power of two from 8 to 65536; the file is damaged", other.describe()),
        )),
    }
}

/// A tensor whose place in the file is not known yet.
struct Unplaced {
    tensor: Tensor,
    offset: u64,
    size: u64,
}

fn read_tensors(c: &mut Cursor, n_tensors: u64) -> Result<Vec<Unplaced>, Error> {
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..n_tensors {
        let entry = read_tensor(c)?;
        if !names.insert(entry.tensor.name.clone()) {
            let problem = "occurs twice; the file is damaged or was made by a faulty converter";
            return Err(Error::tensor(c.path, &entry.tensor.name, problem));
        }
        tensors.push(entry);
    }
    Ok(tensors)
}

fn read_tensor(c: &mut Cursor) -> Result<Unplaced, Error> {
    let name = c.text("a tensor's name", MAX_NAME_BYTES)?;
    let what = format!("the entry of tensor `{}`", shown(&name));
    let refuse = |problem: String| Error::tensor(c.path, &name, problem);
    if name.is_empty() {
        return Err(refuse("has no name; the file is damaged".into()));
    }
    let n_dims = c.u32(&what)?;
    if !(1..=4).contains(&n_dims) {
        return Err(Error::tensor(
            c.path,
            &name,
            format!("has {n_dims} dimensions, expected 1 to 4; the file is damaged"),
        ));
    }
    let dims = (0..n_dims).map(|_| c.u64(&what)).collect::<Result<Vec<u64>, Error>>()?;
    let kind = c.u32(&what)?;
    let offset = c.u64(&what)?;
    let kind = known_type(kind).map_err(|problem| Error::tensor(c.path, &name, problem))?;
    let size = byte_size(kind, &dims).map_err(|problem| Error::tensor(c.path, &name, problem))?;
    let dims = dims.into_iter().map(|d| d as usize).collect();
    Ok(Unplaced { tensor: Tensor { name, kind, dims, range: 0..0 }, offset, size })
}

fn known_type(n: u32) -> Result<GgmlType, String> {
    let supported = || GgmlType::ALL.map(GgmlType::name).join(", ");
    GgmlType::from_number(n).ok_or_else(|| match name_of(n) {
        Some(name) => format!(
            "is stored as {name}, which this program does not read; re-quantize the model to one of {}",
            supported()
        ),
        None => format!("has ggml type {n}, which is not known; known are {}", supported()),
    })
}

fn byte_size(kind: GgmlType, dims: &[u64]) -> Result<u64, String> {
    if let Some(bad) = dims.iter().find(|d| !(1..=MAX_DIM).contains(*d)) {
        return Err(format!("has shape {dims:?}: {bad} is not from 1 to {MAX_DIM}; the file is damaged"));
    }
    let (block, bytes) = (kind.block_len() as u64, kind.block_bytes() as u64);
    if !dims[0].is_multiple_of(block) {
        return Err(format!(
            "has rows of {} values, which are not whole blocks of {block} as {} needs; the file is damaged",
            dims[0],
            kind.name()
        ));
    }
    let rows = dims[1..].iter().try_fold(1u64, |n, d| n.checked_mul(*d));
    rows.and_then(|n| n.checked_mul(dims[0] / block * bytes))
        .filter(|n| usize::try_from(*n).is_ok())
        .ok_or_else(|| format!("has shape {dims:?}, whose size does not fit; the file is damaged"))
}

/// Finds where each tensor lies; refuses what leaves the file or lies on another.
fn place(entries: &mut [Unplaced], c: &Cursor, alignment: u64) -> Result<(), Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let file_len = c.bytes.len() as u64;
    let data = (c.at as u64).next_multiple_of(alignment);
    for e in entries.iter_mut() {
        let refuse = |problem| Err(Error::tensor(c.path, &e.tensor.name, problem));
        if !e.offset.is_multiple_of(alignment) {
            return refuse(format!(
                "starts at offset {}, not a multiple of the alignment {alignment}; the file is damaged",
                e.offset
            ));
        }
        let start = data.checked_add(e.offset).filter(|start| *start <= file_len);
        let end = start.and_then(|start| start.checked_add(e.size)).filter(|end| *end <= file_len);
        let (Some(start), Some(end)) = (start, end) else {
            return refuse(format!(
                "needs {} bytes at offset {} of the data, which has {}; the file is cut short: download it again",
                e.size,
                e.offset,
                file_len.saturating_sub(data)
            ));
        };
        e.tensor.range = start as usize..end as usize;
    }
    refuse_overlap(entries, c.path)
}

fn refuse_overlap(entries: &[Unplaced], path: &Path) -> Result<(), Error> {
    let mut sorted: Vec<&Tensor> = entries.iter().map(|e| &e.tensor).collect();
    sorted.sort_by_key(|t| t.range.start);
    for pair in sorted.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            let problem = format!(
                "starts at byte {}, inside tensor `{}`, which ends at {}; the file is damaged",
                pair[1].range.start,
                shown(&pair[0].name),
                pair[0].range.end
            );
            return Err(Error::tensor(path, &pair[1].name, problem));
        }
    }
    Ok(())
}

/// A place in the file from which values are taken one after another.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, what: &str, n: u64) -> Result<&'a [u8], Error> {
        if n > self.left() {
            return Err(self.truncated(what, n));
        }
        let start = self.at;
        self.at += n as usize;
        Ok(&self.bytes[start..self.at])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Error> {
        let bytes = self.take(what, N as u64)?;
        bytes.try_into().map_err(|_| self.truncated(what, N as u64))
    }

    fn u32(&mut self, what: &str) -> Result<u32, Error> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, Error> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A number of things that take at least `least` bytes each, all of which must still come.
    fn count(&mut self, field: &'static str, most: u64, least: u64) -> Result<u64, Error> {
        let value = self.u64(field)?;
        let most = most.min(self.left() / least);
        if value > most {
            let expected = format!("at most {most} in a file of {} bytes", self.bytes.len());
            return Err(Error::Header { path: self.path.to_owned(), field, value, expected });
        }
        Ok(value)
    }

    fn text(&mut self, what: &str, most: u64) -> Result<String, Error> {
        let (path, at) = (self.path, self.at as u64);
        let refuse = |problem| Err(Error::Text { path: path.to_owned(), what: what.to_owned(), at, problem });
        let len = self.u64(what)?;
        if len > self.left() {
            return Err(self.truncated(what, len));
        }
        if len > most {
            return refuse(format!("has {len} bytes, expected at most {most}"));
        }
        match std::str::from_utf8(self.take(what, len)?) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => refuse("is not UTF-8".to_owned()),
        }
    }

    fn truncated(&self, what: &str, need: u64) -> Error {
        Error::Truncated {
            path: self.path.to_owned(),
            what: what.to_owned(),
            at: self.at as u64,
            need,
            left: self.left(),
        }
    }
}
