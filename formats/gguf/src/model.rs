//! A GGUF model as a checkpoint: shapes checked when it is opened, tensors expanded row by row.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use spm::encode::RowEncoder;
use spm::matrix::{self, PLANE_ALIGN};
use spm::{BLOCK, Bytes, Checkpoint, Config, Encoding, Matrix, TensorInfo, Vocabulary, row_bytes};

use crate::error::{Error, Fault};
use crate::quants::GgmlType;
use crate::reader::Tensor;
use crate::{family, split, vocabulary};

/// Tensors that some converters add and that nothing here needs.
const NOT_WEIGHTS: &[&str] = &["rope_freqs.weight"];

/// An open GGUF model.
pub struct GgufModel {
    paths: Vec<PathBuf>,
    config: Config,
    vocabulary: Option<Vocabulary>,
    infos: Vec<TensorInfo>,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
}

impl GgufModel {
    /// Maps and checks the file; of a split model the first, which finds the others beside it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let whole = split::open(path)?;
        let at = |f: Fault| f.at(path);
        let config = family::config(&whole.keys, &whole.tensors).map_err(at)?;
        check_tensors(&whole.tensors, &config).map_err(at)?;
        let vocabulary = vocabulary::read(&whole.keys).map_err(at)?;
        if let Some(v) = &vocabulary {
            check_vocabulary(v, &config).map_err(at)?;
        }
        Ok(GgufModel {
            paths: whole.paths,
            config,
            vocabulary,
            infos: whole.tensors.iter().map(info).collect(),
            by_name: whole.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect(),
            tensors: whole.tensors,
        })
    }

    /// The files that make up the model.
    pub fn shard_paths(&self) -> &[PathBuf] {
        &self.paths
    }

    fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(*self.by_name.get(name)?)
    }
}

impl Checkpoint for GgufModel {
    fn config(&self) -> &Config {
        &self.config
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.vocabulary.as_ref()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.infos
    }

    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.infos.get(*self.by_name.get(name)?)
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Option<()> {
        let t = self.find(name)?;
        let n = out.len() / t.cols;
        if !out.len().is_multiple_of(t.cols) || first_row.checked_add(n)? > t.rows {
            return None;
        }
        let row = t.kind.row_bytes(t.cols)?;
        t.kind.expand(t.data.get(first_row * row..(first_row + n) * row)?, out);
        Some(())
    }

    /// Q8_0 and Q4_0 as they are, F32 and F16 too; all others as q8, which loses little against them.
    fn matrix(&self, name: &str) -> Option<Matrix> {
        let t = self.find(name)?;
        match t.kind {
            GgmlType::Q8_0 => same_blocks(t, Encoding::Q8, |codes, out| out.copy_from_slice(codes)),
            GgmlType::Q4_0 => same_blocks(t, Encoding::Q4, in_order),
            GgmlType::F32 => self.encode(t, Encoding::F32),
            GgmlType::F16 => self.encode(t, Encoding::F16),
            _ => self.encode(t, Encoding::Q8),
        }
    }
}

impl GgufModel {
    fn encode(&self, t: &Tensor, encoding: Encoding) -> Option<Matrix> {
        let mut encoder = RowEncoder::new(encoding, t.rows, t.cols).ok()?;
        let everything = vec![0xFF; row_bytes(t.cols)];
        let mut row = vec![0.0; t.cols];
        for r in 0..t.rows {
            self.read_rows(&t.name, r, &mut row)?;
            encoder.push(&row, &everything).ok()?;
        }
        encoder.finish().ok()
    }
}

/// Takes ggml's blocks (scale, codes) apart into our planes without changing a code.
fn same_blocks(t: &Tensor, encoding: Encoding, codes: impl Fn(&[u8], &mut [u8])) -> Option<Matrix> {
    let blocks = t.rows * t.cols.div_ceil(BLOCK);
    let len = matrix::byte_len(encoding, t.rows, t.cols, 0)?.checked_add(matrix::slack(encoding, t.cols)?)?;
    let mut bytes = vec![0; len];
    let (scales, values) = bytes.split_at_mut((2 * blocks).next_multiple_of(PLANE_ALIGN));
    let code_bytes = t.kind.block_bytes() - 2;
    let planes = scales.chunks_exact_mut(2).zip(values.chunks_exact_mut(code_bytes));
    for (block, (scale, out)) in t.data.chunks_exact(t.kind.block_bytes()).zip(planes) {
        scale.copy_from_slice(&block[..2]);
        codes(&block[2..], out);
    }
    Matrix::new(encoding, t.rows, t.cols, Bytes::from(bytes), None).ok()
}

/// ggml keeps code `i` beside code `i + 16`; we keep neighbours together.
fn in_order(codes: &[u8], out: &mut [u8]) {
    let nibble = |i: usize| codes[i % 16] >> (i / 16 * 4) & 15;
    out.iter_mut().enumerate().for_each(|(i, o)| *o = nibble(2 * i) | nibble(2 * i + 1) << 4);
}

fn info(t: &Tensor) -> TensorInfo {
    TensorInfo {
        name: t.name.clone(),
        rows: t.rows,
        cols: t.cols,
        encoding: t.kind.name().to_owned(),
        kept: t.rows as u64 * t.cols as u64,
        bytes: t.data.len() as u64,
    }
}

/// The tensors are those that a decoder of this shape has, in the right shapes. One more would mean that the
/// model computes something else.
fn check_tensors(tensors: &[Tensor], config: &Config) -> Result<(), Fault> {
    let mut expected: HashMap<String, (usize, usize)> =
        config.tensors().into_iter().map(|(name, rows, cols)| (name, (rows, cols))).collect();
    for t in tensors.iter().filter(|t| !NOT_WEIGHTS.contains(&t.name.as_str())) {
        let Some((rows, cols)) = expected.remove(&t.name) else {
            return Err(Fault::tensor(&t.name, "is not part of a model of this family and shape").unsupported());
        };
        if (t.rows, t.cols) != (rows, cols) {
            return Err(Fault::tensor(
                &t.name,
                format!("is {}x{}, the model's shape needs {rows}x{cols}", t.rows, t.cols),
            ));
        }
    }
    match expected.keys().min() {
        Some(name) => Err(Fault::tensor(name, "is missing; the file is incomplete")),
        None => Ok(()),
    }
}

fn check_vocabulary(v: &Vocabulary, config: &Config) -> Result<(), Fault> {
    let (n, rows) = (v.tokens.len(), config.vocab_size);
    match n {
        0 => Err(Fault::key("tokenizer.ggml.tokens", "has no tokens")),
        n if n > rows => Err(Fault::key("tokenizer.ggml.tokens", format!("has {n} tokens, the embedding {rows} rows"))),
        _ => Ok(()),
    }
}
