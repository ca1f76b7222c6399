//! A from-scratch decoder for sparse code models.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("python.spm");
//! # spm::synthetic::SyntheticModel::tiny(1).write(&path, spm::Encoding::SparseQ4)?;
//! use sparse_run::{GenerateOptions, Model, Session, SessionOptions};
//!
//! let model = Model::open(&path)?;
//! let mut session = Session::new(&model, &SessionOptions { context: 512, ..Default::default() })?;
//! for piece in session.pieces("def fib", &GenerateOptions::default())? {
//!     print!("{}", piece?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A [`Model`] does not change and is shared by any number of sessions and threads; a [`Session`] is one text. What a session
//! has read already of a prompt is not read again, and its state can be saved ([`Session::save`]). [`MemoryNeeded`] tells
//! what both will take before they are loaded.
//!
//! It runs what a [`spm::Checkpoint`] says and knows no model family by name. It does not print, read the
//! environment, or end the process.

mod activation;
mod attention;
mod engine;
mod error;
mod generate;
mod kv_cache;
pub mod likelihood;
mod linear;
mod memory;
mod model;
mod norm;
mod open;
mod ops;
mod pieces;
mod pool;
mod sampler;
mod session;
mod sessions;
pub mod simd;
mod state;
mod text;
mod tokenizer;
mod transformer;

pub use engine::{Engine, EngineOptions, Precision};
pub use error::Error;
pub use generate::{Event, Finish, GenerateOptions, Generated, PROMPT_STEP, Step, Writer, generate};
pub use kv_cache::{KvCache, KvType};
pub use memory::MemoryNeeded;
pub use model::Model;
pub use open::Source;
pub use pieces::Pieces;
pub use pool::{Join, Spawn, spawn};
pub use sampler::{Sampler, SamplerOptions};
pub use session::{Session, SessionOptions};
pub use sessions::Sessions;
pub use text::{PieceDecoder, StopStrings};
pub use tokenizer::{OtherFile, Special, Splitter, Surroundings, Tokenizer};
pub use transformer::{Layer, LayerIo, Workspace, embed, load_positions};
