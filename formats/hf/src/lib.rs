//! A Hugging Face folder seen as a checkpoint: `config.json`, `*.safetensors`, whole or in shards, and
//! `tokenizer.json`.
//!
//! [`open`] reads the folder, checks all of it, and gives an [`HfModel`], which is a [`spm::Checkpoint`] with GGUF's tensor
//! names. Families are in `family/`, one file each: which keys of `config.json` they have, and what their tensors are
//! called. Weights stay in the mapped files; fused tensors are split and transposed ones turned as their rows are read.
#![forbid(clippy::unwrap_used, unsafe_code)]

mod error;
mod family;
mod folder;
mod json;
mod model;
mod place;
mod shard;
mod tokenizer;

use std::path::Path;

pub use error::Error;
pub use model::HfModel;

/// Opens the model in the folder `path`.
pub fn open(path: &Path) -> Result<HfModel, Error> {
    HfModel::open(path)
}
