//! A GGUF file, whole or split, seen as a [`spm::Checkpoint`].
//!
//! ```text
//! reader   bytes -> keys, values, tensor places     every length checked before it is used
//! split    one file or several -> all tensors
//! quants   ggml's blocks -> f32, bit for bit as ggml does
//! family/  keys -> Config, one file a model family
//! model    all of it as a Checkpoint
//! ```
//!
//! The header is read by our own checked reader. The `gguf-rs` crate is a dependency of the tests only, where it says
//! what it sees in valid files: it panics on some damaged ones, allocates by counts it has not checked, cuts long
//! arrays short, has wrong sizes for some types, and reads a byte at a time; none of that can be contained from outside.
#![forbid(clippy::unwrap_used)]

mod error;
mod family;
mod model;
mod quants;
mod reader;
mod split;
mod vocabulary;
pub mod writer;

pub use error::Error;
pub use model::GgufModel;
pub use quants::GgmlType;
pub use vocabulary::read_vocabulary;
