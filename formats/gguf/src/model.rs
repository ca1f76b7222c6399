//! A GGUF model, of one file or several, as a [`Checkpoint`].
//!
//! `matrix` borrows F32 and F16 from the file and hands all else to `requantize`, which works row by row, so that no
//! weight matrix is ever expanded as a whole.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use spm::encode::encode_rows;
use spm::{Bytes, Checkpoint, Config, Encoding, Matrix, TensorInfo, Vocabulary, matrix};

use crate::dequant::expand;
use crate::error::Error;
use crate::family;
use crate::fused;
use crate::ggml_type::GgmlType;
use crate::reader::{GgufFile, Tensor};
use crate::requantize::{lossless, repack, to_q8};
use crate::{split, tokenizer};

/// An opened and fully checked GGUF model.
#[derive(Debug)]
pub struct GgufModel {
    shards: Vec<GgufFile>,
    paths: Vec<PathBuf>,
    name: String,
    config: Config,
    vocabulary: Option<Vocabulary>,
    tensors: Vec<TensorInfo>,
    /// For each tensor: which shard, and where in it. Fused ones are several here.
    places: Vec<(usize, Tensor)>,
    by_name: HashMap<String, usize>,
}

impl GgufModel {
    /// Opens the model at `path`, a single file or the first of several.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let shards = split::open_all(path)?;
        let (family, config) = family::resolve(&shards)?;
        let vocabulary = tokenizer::read(&shards[0])?;
        let places = fused::split(&shards, family.fused, &config);
        let model = GgufModel {
            paths: shards.iter().map(|s| s.path().to_owned()).collect(),
            name: name(&shards[0]),
            by_name: places.iter().zip(0..).map(|((_, t), i)| (t.name.clone(), i)).collect(),
            tensors: places.iter().map(|(_, t)| info(t)).collect(),
            places,
            shards,
            config,
            vocabulary,
        };
        model.check_vocabulary()?;
        model.check_tensors()?;
        Ok(model)
    }

    /// The files of the model, in order.
    pub fn shard_paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The text under a metadata key.
    pub fn metadata_str(&self, key: &str) -> Option<&str> {
        self.shards[0].metadata().get(key)?.as_str()
    }

    /// What the model calls itself, or the file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn check_vocabulary(&self) -> Result<(), Error> {
        let Some(vocabulary) = &self.vocabulary else {
            return Ok(());
        };
        let (have, rows) = (vocabulary.tokens.len(), self.config.vocab_size);
        if have != rows {
            let problem = format!("has {rows} rows for a vocabulary of {have} tokens; convert the model again");
            return Err(Error::tensor(&self.paths[0], "token_embd.weight", problem));
        }
        Ok(())
    }

    /// Every tensor that the decoder needs is there in its shape, and there is none that it would ignore.
    fn check_tensors(&self) -> Result<(), Error> {
        let needed = self.config.tensors();
        for (name, rows, cols) in &needed {
            let refuse = |problem: String| Err(Error::tensor(&self.paths[0], name, problem));
            let Some((_, tensor)) = self.place(name) else {
                return refuse(format!(
                    "is missing, expected {rows}x{cols}; the file is incomplete: download it again"
                ));
            };
            if (tensor.rows(), tensor.cols()) != (*rows, *cols) {
                let (r, c) = (tensor.rows(), tensor.cols());
                return refuse(format!("is {r}x{c}, expected {rows}x{cols} by the metadata; the file is damaged"));
            }
        }
        let needed: std::collections::HashSet<&str> = needed.iter().map(|(name, ..)| name.as_str()).collect();
        match self.tensors.iter().find(|t| !needed.contains(t.name.as_str()) && !family::is_extra(&t.name)) {
            None => Ok(()),
            Some(extra) => {
                let problem = "has no place in a decoder of this architecture, which would run wrongly without it";
                Err(Error::tensor(&self.paths[0], &extra.name, problem))
            }
        }
    }

    fn place(&self, name: &str) -> Option<(&GgufFile, &Tensor)> {
        let (shard, tensor) = self.places.get(*self.by_name.get(name)?)?;
        Some((self.shards.get(*shard)?, tensor))
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
        &self.tensors
    }

    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.by_name.get(name)?)
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Option<()> {
        let (file, tensor) = self.place(name)?;
        read_rows(file, tensor, first_row, out)
    }

    /// Exactly what is stored from F32, F16, Q8_0, Q5_0, IQ4_NL and Q4_0, and vectors, which become f32; Q4_1 and
    /// Q5_1 as f16; every other type as q8.
    fn matrix(&self, name: &str) -> Option<Matrix> {
        let (file, tensor) = self.place(name)?;
        if keeps_all(tensor) {
            return self.exact_matrix(name);
        }
        if has_minimum_a_block(tensor.kind) {
            return as_halves(file, tensor);
        }
        to_q8(tensor.kind, tensor.rows(), tensor.cols(), data(file, tensor)?)
    }

    fn matrix_bytes(&self, name: &str) -> Option<u64> {
        let (_, tensor) = self.place(name)?;
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let encoding = match tensor.kind {
            _ if rows == 1 => Encoding::F32,
            GgmlType::F32 | GgmlType::F16 => return Some(0),
            kind if has_minimum_a_block(kind) => Encoding::F16,
            kind => lossless(kind).unwrap_or(Encoding::Q8),
        };
        matrix::byte_len(encoding, rows, cols, 0).map(|n| n as u64)
    }

    fn exact_matrix(&self, name: &str) -> Option<Matrix> {
        let (file, tensor) = self.place(name)?;
        match tensor.kind {
            GgmlType::F32 => borrow(file, tensor, Encoding::F32),
            _ if tensor.rows() == 1 => expanded(file, tensor),
            GgmlType::F16 => borrow(file, tensor, Encoding::F16),
            kind if lossless(kind).is_some() => repack(kind, tensor.rows(), tensor.cols(), data(file, tensor)?),
            _ => expanded(file, tensor),
        }
    }
}

/// Steps from a minimum that a symmetric scale hits badly: as q8, SmolLM2's Q4_1 is 0.5 off in a logit, and llama.cpp's
/// own rounding 0.4.
fn has_minimum_a_block(kind: GgmlType) -> bool {
    matches!(kind, GgmlType::Q4_1 | GgmlType::Q5_1)
}

fn as_halves(file: &GgufFile, tensor: &Tensor) -> Option<Matrix> {
    encode_rows(Encoding::F16, tensor.rows(), tensor.cols(), |r, row| read_rows(file, tensor, r, row))
}

/// Whether `exact_matrix` gives a matrix fit for kernels. A vector is for other use, and always f32.
fn keeps_all(tensor: &Tensor) -> bool {
    tensor.rows() == 1 || matches!(tensor.kind, GgmlType::F32 | GgmlType::F16) || lossless(tensor.kind).is_some()
}

fn read_rows(file: &GgufFile, tensor: &Tensor, first_row: usize, out: &mut [f32]) -> Option<()> {
    let n = out.len() / tensor.cols();
    if !out.len().is_multiple_of(tensor.cols()) || first_row.checked_add(n)? > tensor.rows() {
        return None;
    }
    let start = first_row * tensor.row_bytes();
    expand(tensor.kind, data(file, tensor)?.get(start..start + n * tensor.row_bytes())?, out);
    Some(())
}

fn expanded(file: &GgufFile, tensor: &Tensor) -> Option<Matrix> {
    encode_rows(Encoding::F32, tensor.rows(), tensor.cols(), |r, row| read_rows(file, tensor, r, row))
}

/// The tensor's own bytes as a matrix; copied only if the file ends before the slack that kernels may read.
fn borrow(file: &GgufFile, tensor: &Tensor, encoding: Encoding) -> Option<Matrix> {
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let len = tensor.range.len().checked_add(matrix::slack(encoding, cols)?)?;
    let end = tensor.range.start.checked_add(len)?;
    let bytes = file.bytes().slice(tensor.range.start..end).or_else(|| {
        let mut copy = Vec::with_capacity(len);
        copy.extend(data(file, tensor)?);
        copy.resize(len, 0);
        Some(Bytes::from(copy))
    })?;
    Matrix::new(encoding, rows, cols, bytes, None).ok()
}

fn data<'a>(file: &'a GgufFile, tensor: &Tensor) -> Option<&'a [u8]> {
    file.bytes().get(tensor.range.clone())
}

fn info(tensor: &Tensor) -> TensorInfo {
    TensorInfo {
        name: tensor.name.clone(),
        rows: tensor.rows(),
        cols: tensor.cols(),
        encoding: tensor.kind.name().to_owned(),
        kept: tensor.rows() as u64 * tensor.cols() as u64,
        bytes: tensor.range.len() as u64,
    }
}

fn name(file: &GgufFile) -> String {
    let key = ["general.name", "general.basename"].iter().find_map(|k| file.metadata().get(*k)?.as_str());
    let stem = || file.path().file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    key.filter(|n| !n.is_empty()).map_or_else(stem, str::to_owned)
}
