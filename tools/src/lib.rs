//! What the command-line programs share. This is the only crate that prints, parses arguments, reads the
//! environment or ends the process.

pub mod bench;
pub mod bootstrap;
pub mod calibration;
pub mod chat;
pub mod choice;
pub mod cli;
pub mod compare;
pub mod docs;
pub mod dump;
pub mod eval;
pub mod evaluate;
pub mod exact;
pub mod failure;
pub mod fingerprint;
pub mod imatrix;
pub mod infill;
pub mod inspect;
pub mod jsonl;
pub mod lexical;
pub mod memory;
pub mod new_file;
pub mod notes;
pub mod open;
pub mod overlap;
pub mod own_text;
pub mod page;
pub mod pass;
pub mod png;
pub mod process;
pub mod profile;
pub mod progress;
pub mod prune;
pub mod report;
pub mod stats;
pub mod subjects;
pub mod svg;
pub mod synth;
pub mod writer;

pub use failure::{Failure, run};
