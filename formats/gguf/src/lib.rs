//! A GGUF file seen as a checkpoint.
//!
//! [`open`] reads GGUF version 2 or 3, whole or split, checks all of it, and gives a [`GgufModel`], which is a
//! [`spm::Checkpoint`]. Families are in `family/`, one file each; the types of ggml that are read, in
//! [`GgmlType`]. [`Imatrix`] reads llama.cpp's importance matrices. Writing is for tests and for models made from nothing ([`GgufWriter`]).
//!
//! # Why not gguf-rs
//!
//! The named crate for this is gguf-rs. It is used here as the oracle of a test (`tests/models/gguf_rs.rs`: same keys,
//! names, types, shapes and offsets) and nowhere else, because its faults (version 0.1.8) lie in the very part a reader
//! would use it for and cannot be contained from outside:
//!
//! - It panics on bytes that a file may hold (a tensor type it does not know, an `i32` file type), so every call
//!   would need `catch_unwind`, which does nothing in programs built to abort on panic.
//! - Its tensor sizes are wrong for BF16, IQ4_NL, the integer types and others, and it accepts duplicate names,
//!   ragged rows, alignment 24 and tensors past the end of the file: all that has to be checked again here.
//! - Its usual constructor keeps three entries of each tokenizer array; values become JSON, which has no NaN
//!   and no bytes that are not UTF-8.
//! - It reads unbuffered, about 759,000 system calls for a vocabulary of 152,000 tokens, and keeps the whole
//!   vocabulary in memory as JSON.
#![forbid(clippy::unwrap_used, unsafe_code)]

mod dequant;
mod error;
mod family;
mod fused;
mod ggml_type;
mod imatrix;
mod keys;
mod metadata;
mod mistaken;
mod model;
mod q8_scale;
mod reader;
mod requantize;
mod split;
mod stream;
mod tokenizer;
mod writer;

use std::path::Path;

pub use dequant::expand;
pub use error::Error;
pub use ggml_type::GgmlType;
pub use imatrix::{Imatrix, InputSums};
pub use metadata::{Array, Kind, Value};
pub use model::GgufModel;
pub use reader::{GgufFile, Tensor};
pub use stream::{GgufStream, TensorPlan};
pub use writer::{GgufWriter, quantize};

/// Opens the model at `path`, a single file or the first of several.
pub fn open(path: &Path) -> Result<GgufModel, Error> {
    GgufModel::open(path)
}

/// Reads only the vocabulary of the file at `path`, which need not hold a model; `None` if it has none.
pub fn read_vocabulary(path: &Path) -> Result<Option<spm::Vocabulary>, Error> {
    tokenizer::read(&GgufFile::open(path)?)
}
