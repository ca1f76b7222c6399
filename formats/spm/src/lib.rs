//! The sparse model file.
#![forbid(clippy::unwrap_used)]

mod bytes;
mod checkpoint;
mod config;
pub mod encode;
mod encoding;
mod error;
mod mask;
pub mod matrix;
mod tokenizer;

pub use bytes::Bytes;
pub use checkpoint::{Checkpoint, TensorInfo};
pub use config::{Config, Rope, RopeLayout, limits};
pub use encoding::{BLOCK, Encoding};
pub use error::Error;
pub use mask::{Mask, row_bytes};
pub use matrix::{Matrix, ShapeError};
pub use tokenizer::{TokenType, TokenizerKind, Vocabulary};
