//! How many of a benchmark's problems a model solves: it writes programs, and they are run with their tests.
//!
//! `items` reads the problems, `protocol` asks the model and cuts what it writes, `program` makes a program of that,
//! `sandbox` runs it, `verdict` judges it, `results` keeps it, `summary` and `compare` count. `bench` takes them through all that, `run` is the whole.

pub mod args;
mod bench;
pub mod compare;
pub mod items;
pub mod language;
pub mod program;
pub mod protocol;
pub mod results;
mod run;
pub mod sandbox;
pub mod summary;
pub mod toolchain;
pub mod verdict;

pub use args::PassArgs;
pub use run::run;
