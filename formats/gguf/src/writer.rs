//! Writes GGUF version 3 files of dense tensors: for tests and for making models from nothing.
//!
//! A small file is built in memory; a large one is begun with [`GgufWriter::stream`], which takes one tensor at a time.
//! This is no converter.

use std::io::{self, Write};
use std::path::Path;

use half::f16;

use crate::ggml_type::GgmlType;
use crate::metadata::Kind;
use crate::stream::{GgufStream, TensorPlan};

/// A GGUF file being built.
#[derive(Clone, Debug)]
pub struct GgufWriter {
    alignment: usize,
    n_keys: u64,
    metadata: Vec<u8>,
    tensors: Vec<(TensorPlan, Vec<u8>)>,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufWriter {
    /// A file with no keys and no tensors.
    pub fn new() -> Self {
        GgufWriter { alignment: 32, n_keys: 0, metadata: Vec::new(), tensors: Vec::new() }
    }

    /// Aligns tensors to `n` bytes and says so in the metadata.
    pub fn alignment(&mut self, n: u32) -> &mut Self {
        self.alignment = n as usize;
        self.u32("general.alignment", n)
    }

    /// Adds a number.
    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.value(key, Kind::U32, &value.to_le_bytes())
    }

    /// Adds a number of 16 bits, as split files have.
    pub fn u16(&mut self, key: &str, value: u16) -> &mut Self {
        self.value(key, Kind::U16, &value.to_le_bytes())
    }

    /// Adds a signed number.
    pub fn i32(&mut self, key: &str, value: i32) -> &mut Self {
        self.value(key, Kind::I32, &value.to_le_bytes())
    }

    /// Adds a float.
    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.value(key, Kind::F32, &value.to_le_bytes())
    }

    /// Adds a truth value.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.value(key, Kind::Bool, &[value.into()])
    }

    /// Adds text.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.value(key, Kind::String, &text(value))
    }

    /// Adds an array of texts.
    pub fn texts<S: AsRef<str>>(&mut self, key: &str, values: &[S]) -> &mut Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| text(v.as_ref())).collect();
        self.array(key, Kind::String, values.len(), &bytes)
    }

    /// Adds an array of floats.
    pub fn floats(&mut self, key: &str, values: &[f32]) -> &mut Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(key, Kind::F32, values.len(), &bytes)
    }

    /// Adds an array of signed numbers.
    pub fn integers(&mut self, key: &str, values: &[i32]) -> &mut Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(key, Kind::I32, values.len(), &bytes)
    }

    /// Adds a tensor of `dims`, the fastest first, stored as F32, F16, Q8_0 or Q4_0; `None` for another type, a
    /// wrong number of values, or rows that are not whole blocks.
    pub fn tensor(&mut self, name: &str, dims: &[usize], kind: GgmlType, values: &[f32]) -> Option<&mut Self> {
        let plan = TensorPlan::new(name, dims, kind)?;
        if dims.iter().product::<usize>() != values.len() {
            return None;
        }
        self.tensors.push((plan, quantize(kind, values)?));
        Some(self)
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let plans: Vec<_> = self.tensors.iter().map(|(plan, _)| plan.clone()).collect();
        let mut out = self.header(&plans);
        for (_, bytes) in &self.tensors {
            out.extend(bytes);
            out.resize(out.len().next_multiple_of(self.alignment), 0);
        }
        out
    }

    /// Writes keys and table of a file of `tensors` to `out`; their bytes then follow one by one.
    ///
    /// Tensors added with [`Self::tensor`] are no part of it.
    pub fn stream<W: Write>(&self, tensors: &[TensorPlan], out: W) -> io::Result<GgufStream<W>> {
        GgufStream::begin(out, &self.header(tensors), self.alignment, tensors)
    }

    /// All that comes before the tensors' bytes, padded.
    fn header(&self, tensors: &[TensorPlan]) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend(self.n_keys.to_le_bytes());
        out.extend(&self.metadata);
        let mut offset = 0;
        for tensor in tensors {
            out.extend(text(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| out.extend((*d as u64).to_le_bytes()));
            out.extend((tensor.kind as u32).to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += tensor.bytes.next_multiple_of(self.alignment);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out
    }

    /// Writes the file to `path`.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, self.to_bytes())
    }

    fn array(&mut self, key: &str, kind: Kind, len: usize, bytes: &[u8]) -> &mut Self {
        let mut value = (kind as u32).to_le_bytes().to_vec();
        value.extend((len as u64).to_le_bytes());
        value.extend(bytes);
        self.value(key, Kind::Array, &value)
    }

    fn value(&mut self, key: &str, kind: Kind, bytes: &[u8]) -> &mut Self {
        self.n_keys += 1;
        self.metadata.extend(text(key));
        self.metadata.extend((kind as u32).to_le_bytes());
        self.metadata.extend(bytes);
        self
    }
}

fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
}

/// The bytes of whole rows of `values` as F32, F16, Q8_0, Q5_0 or Q4_0, rounded as ggml's reference does; `None` for
/// another type. What is left after the last whole block is lost.
pub fn quantize(kind: GgmlType, values: &[f32]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(values.len().div_ceil(kind.block_len()) * kind.block_bytes());
    let blocks = values.as_chunks().0;
    match kind {
        GgmlType::F32 => values.iter().for_each(|v| out.extend(v.to_le_bytes())),
        GgmlType::F16 => values.iter().for_each(|v| out.extend(f16::from_f32(*v).to_le_bytes())),
        GgmlType::Q8_0 => blocks.iter().for_each(|b| out.extend(q8_0(b))),
        GgmlType::Q5_0 => blocks.iter().for_each(|b| out.extend(q5_0(b))),
        GgmlType::Q4_0 => blocks.iter().for_each(|b| out.extend(q4_0(b))),
        _ => return None,
    }
    Some(out)
}

fn q8_0(block: &[f32; 32]) -> [u8; 34] {
    let d = block.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut out = [0; 34];
    out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    out[2..].iter_mut().zip(block).for_each(|(o, v)| *o = (v * inverse).round() as i8 as u8);
    out
}

fn q5_0(block: &[f32; 32]) -> [u8; 22] {
    let (d, codes) = from_extreme(block, 16.0);
    let high = codes.iter().rev().fold(0u32, |bits, c| bits << 1 | u32::from(c >> 4));
    let mut out = [0; 22];
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..6].copy_from_slice(&high.to_le_bytes());
    put_nibbles(&mut out[6..], &codes);
    out
}

fn q4_0(block: &[f32; 32]) -> [u8; 18] {
    let (d, codes) = from_extreme(block, 8.0);
    let mut out = [0; 18];
    out[..2].copy_from_slice(&d.to_le_bytes());
    put_nibbles(&mut out[2..], &codes);
    out
}

/// The scale that gives the weight furthest from zero the code 0, and all codes, `half` being zero's.
fn from_extreme(block: &[f32; 32], half: f32) -> (f16, [u8; 32]) {
    let d = block.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m }) / -half;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let codes = block.map(|v| (v * inverse + (half + 0.5)).clamp(0.0, 2.0 * half - 1.0) as u8);
    (f16::from_f32(d), codes)
}

/// The lower four bits of codes `j` and `j + 16` in byte `j`.
fn put_nibbles(out: &mut [u8], codes: &[u8; 32]) {
    let (low, high) = codes.split_at(16);
    out.iter_mut().zip(low.iter().zip(high)).for_each(|(o, (l, h))| *o = l & 15 | h << 4);
}
