//! The C face of the library. `include/sparse_run.h` is made of these files: their comments are what users in C read.
//!
//! Rules: every pointer that C may get wrong is checked for null before use, handles for what they are, lengths before a
//! slice is made of them; no panic crosses into C; options begin with their size, so that programs compiled against an
//! older header go on working.
//!
//! # Safety
//! The promises that callers make are the same for all functions, and stand at the top of the header: pointers are null
//! or valid for what is documented, texts end in a zero byte, handles come from the library and are not used after they
//! were freed.
#![allow(clippy::missing_safety_doc)] // Said above, once; comments of functions are the header's.

pub mod callbacks;
pub mod generate;
pub mod model;
pub mod options;
mod pointers;
mod reserve;
pub mod session;
pub mod state;
pub mod status;
#[cfg(test)]
mod tests;
#[cfg(unix)]
mod thread;
pub mod tokens;
pub mod version;
