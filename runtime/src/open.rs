//! From a file to a model that reads and writes text.

use std::path::Path;
use std::sync::Arc;

use spm::{Checkpoint, Load, SparseModel};

use crate::engine::EngineOptions;
use crate::error::Error;
use crate::model::Model;
use crate::tokenizer::Tokenizer;

/// What a model keeps of the file that it was opened from, beside the weights.
pub struct Source {
    /// Of the file's vocabulary.
    pub tokenizer: Tokenizer,
    /// BLAKE3 of the file's contents in hexadecimal.
    pub identity: String,
    /// Bytes of the file.
    pub file_len: u64,
}

impl Model {
    /// Opens the sparse model file at `path`, to run on all cores.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>, Error> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self::open_with(path, Load::Mmap, &EngineOptions { threads, ..EngineOptions::default() })
    }

    /// The same with the file's bytes loaded, and the model run, as told.
    pub fn open_with(path: impl AsRef<Path>, load: Load, options: &EngineOptions) -> Result<Arc<Self>, Error> {
        Self::from_sparse(&SparseModel::open_with(path.as_ref(), load)?, options)
    }

    /// The same from an open file. It must have a vocabulary.
    pub fn from_sparse(file: &SparseModel, options: &EngineOptions) -> Result<Arc<Self>, Error> {
        let tokenizer = Tokenizer::new(file.vocabulary().ok_or(Error::NoVocabulary)?)?;
        let source = Source { tokenizer, identity: file.identity(), file_len: file.file_len() };
        Ok(Arc::new(Model::load(file, options)?.with_source(source)))
    }
}
