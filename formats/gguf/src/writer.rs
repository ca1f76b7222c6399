//! Writes small GGUF files: for tests, and to give other engines exactly the weights that we run.

use half::f16;

use crate::quants::GgmlType;

/// A GGUF file being put together in memory.
#[derive(Clone, Debug)]
pub struct GgufWriter {
    n_keys: u64,
    keys: Vec<u8>,
    n_tensors: u64,
    table: Vec<u8>,
    data: Vec<u8>,
    alignment: usize,
}

/// A value of a key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Value<'a> {
    /// A 32-bit unsigned integer.
    U32(u32),
    /// A single.
    F32(f32),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(&'a str),
    /// An array of text.
    Texts(Vec<&'a str>),
    /// An array of singles.
    F32s(&'a [f32]),
    /// An array of 32-bit integers.
    I32s(&'a [i32]),
}

impl Default for GgufWriter {
    fn default() -> Self {
        GgufWriter { n_keys: 0, keys: Vec::new(), n_tensors: 0, table: Vec::new(), data: Vec::new(), alignment: 32 }
    }
}

impl GgufWriter {
    /// Appends a key.
    pub fn key(&mut self, key: &str, value: &Value) -> &mut Self {
        self.n_keys += 1;
        push_text(&mut self.keys, key);
        let out = &mut self.keys;
        let mut array = |kind: u32, len: usize| {
            out.extend(9u32.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((len as u64).to_le_bytes());
        };
        match value {
            Value::Texts(all) => array(8, all.len()),
            Value::F32s(all) => array(6, all.len()),
            Value::I32s(all) => array(5, all.len()),
            Value::U32(_) => out.extend(4u32.to_le_bytes()),
            Value::F32(_) => out.extend(6u32.to_le_bytes()),
            Value::Bool(_) => out.extend(7u32.to_le_bytes()),
            Value::Text(_) => out.extend(8u32.to_le_bytes()),
        }
        match value {
            Value::U32(n) => out.extend(n.to_le_bytes()),
            Value::F32(x) => out.extend(x.to_le_bytes()),
            Value::Bool(b) => out.push(u8::from(*b)),
            Value::Text(text) => push_text(out, text),
            Value::Texts(all) => all.iter().for_each(|t| push_text(out, t)),
            Value::F32s(all) => all.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Value::I32s(all) => all.iter().for_each(|n| out.extend(n.to_le_bytes())),
        }
        self
    }

    /// Appends a tensor of `dims` (columns first) whose bytes are already in ggml's form.
    pub fn tensor_bytes(&mut self, name: &str, dims: &[u64], kind: GgmlType, bytes: &[u8]) -> &mut Self {
        self.data.resize(self.data.len().next_multiple_of(self.alignment), 0);
        self.n_tensors += 1;
        push_text(&mut self.table, name);
        self.table.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| self.table.extend(d.to_le_bytes()));
        self.table.extend((kind as u32).to_le_bytes());
        self.table.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self
    }

    /// Appends a tensor of f32 values (`rows x cols`; one row makes a vector) as F32, F16, or Q8_0.
    ///
    /// # Panics
    /// On another type, or if `cols` is not whole blocks: this is for callers that know their tensors.
    pub fn tensor(&mut self, name: &str, rows: usize, cols: usize, kind: GgmlType, values: &[f32]) -> &mut Self {
        assert_eq!(values.len(), rows * cols, "{name}");
        let dims = if rows == 1 { vec![cols as u64] } else { vec![cols as u64, rows as u64] };
        let bytes: Vec<u8> = match kind {
            GgmlType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            GgmlType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            GgmlType::Q8_0 => {
                assert!(cols.is_multiple_of(32), "{name}: {cols} columns");
                values.as_chunks::<32>().0.iter().flat_map(q8_0).collect()
            }
            other => panic!("{name}: cannot write {}", other.name()),
        };
        self.tensor_bytes(name, &dims, kind, &bytes)
    }

    /// The finished file, version 3.
    pub fn finish(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(self.n_tensors.to_le_bytes());
        out.extend(self.n_keys.to_le_bytes());
        out.extend(&self.keys);
        out.extend(&self.table);
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn q8_0(block: &[f32; 32]) -> Vec<u8> {
    let (scale, codes) = spm::encode::q8_block(block);
    scale.to_le_bytes().into_iter().chain(codes.map(|c| c as u8)).collect()
}
