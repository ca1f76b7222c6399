//! A from-scratch decoder for sparse code models.
//!
//! It runs what a [`spm::Checkpoint`] says and knows no model family by name. It does not print, read the
//! environment, or end the process.

mod engine;
mod error;
mod kv_cache;
mod linear;
mod model;
mod ops;
mod pool;
mod session;
pub mod simd;
mod transformer;

pub use engine::{Engine, EngineOptions, Precision};
pub use error::Error;
pub use kv_cache::{KvCache, KvType};
pub use model::Model;
pub use session::{Session, SessionOptions};
pub use transformer::{Layer, LayerIo, Workspace, embed};
