//! A from-scratch decoder for sparse code models.
//!
//! It runs what a [`spm::Checkpoint`] says and knows no model family by name. It does not print, read the
//! environment, or end the process.

mod activation;
mod attention;
mod engine;
mod error;
pub mod ffi;
mod generate;
mod kv_cache;
pub mod likelihood;
mod linear;
mod model;
mod norm;
mod ops;
mod pool;
mod sampler;
mod session;
mod sessions;
pub mod simd;
mod text;
mod tokenizer;
mod transformer;

pub use engine::{Engine, EngineOptions, Precision};
pub use error::Error;
pub use generate::{Event, Finish, GenerateOptions, Generated, generate};
pub use kv_cache::{KvCache, KvType};
pub use model::Model;
pub use sampler::{Sampler, SamplerOptions};
pub use session::{Session, SessionOptions};
pub use sessions::Sessions;
pub use text::{PieceDecoder, StopStrings};
pub use tokenizer::{OtherFile, Special, Splitter, Surroundings, Tokenizer};
pub use transformer::{Layer, LayerIo, Workspace, embed, load_positions};
