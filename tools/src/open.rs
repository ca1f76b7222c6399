//! Opens a model whatever its format, told by its first bytes and not by its name.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use gguf::GgufModel;
use spm::{Checkpoint, SparseModel, Vocabulary};

use crate::failure::Failure;

/// An open model.
pub enum AnyModel {
    /// A sparse model file.
    Sparse(Box<SparseModel>),
    /// A GGUF file.
    Gguf(Box<GgufModel>),
}

impl AnyModel {
    /// Opens `path`.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Ok(match begins_with_gguf(path) {
            true => AnyModel::Gguf(Box::new(GgufModel::open(path)?)),
            false => AnyModel::Sparse(Box::new(SparseModel::open(path)?)),
        })
    }

    /// What the rest of the workspace reads.
    pub fn checkpoint(&self) -> &dyn Checkpoint {
        match self {
            AnyModel::Sparse(model) => &**model,
            AnyModel::Gguf(model) => &**model,
        }
    }
}

/// Only the vocabulary: of a GGUF file that need not hold a model.
pub fn open_vocabulary(path: &Path) -> Result<Option<Vocabulary>, Failure> {
    Ok(match begins_with_gguf(path) {
        true => gguf::read_vocabulary(path)?,
        false => SparseModel::open(path)?.vocabulary().cloned(),
    })
}

/// Opening as a sparse model gives the better error for everything else, a missing file among them.
fn begins_with_gguf(path: &Path) -> bool {
    let is_file = std::fs::metadata(path).is_ok_and(|m| m.is_file());
    let mut start = [0; 4];
    is_file && File::open(path).and_then(|mut f| f.read_exact(&mut start)).is_ok() && &start == b"GGUF"
}
