#![doc = include_str!("../README.md")]
#![forbid(clippy::unwrap_used)]

mod bytes;
mod checkpoint;
pub mod claim;
mod config;
mod cursor;
mod dense;
pub mod encode;
mod encoding;
mod error;
mod file;
mod grid;
mod header;
mod infill;
pub mod levels;
mod mask;
pub mod matrix;
mod metadata;
pub mod order;
mod rope;
mod row_scaled;
mod shortlist;
mod switches;
pub mod synthetic;
mod tensor_table;
mod tokenizer;
mod validate;
mod vocabulary_codec;
mod writer;

pub use bytes::{Bytes, Load, Watch};
pub use checkpoint::{Checkpoint, TensorInfo};
pub use config::{Activation, Config, LayerKind, LayerRope, Norm, POSITIONS, Residual, Scales, limits};
pub use dense::DensePlanes;
pub use encoding::{BLOCK, CHUNK, Encoding, ScaleKind};
pub use error::Error;
pub use file::SparseModel;
pub use grid::RowGrid;
pub use infill::Infill;
pub use mask::{Mask, row_bytes};
pub use matrix::{Matrix, RowScales, ShapeError};
pub use metadata::Provenance;
pub use rope::{Llama3, LongRope, Rope, RopeLayout, Yarn};
pub use shortlist::{Shortlist, needed_tokens};
pub use tokenizer::{TokenType, TokenizerKind, Vocabulary, scores_of_merges};
pub use writer::{SealedFile, SpmWriter, WriterOptions, folder_of};
