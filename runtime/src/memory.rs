//! How much memory a model and a session will take, told before any of it is.

use spm::{Checkpoint, SparseModel};

use crate::session::{Session, SessionOptions};

/// Bytes, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeeded {
    /// The file: its own pages, which the system can drop and read again, or a copy.
    pub file: u64,
    /// What loading allocates beside: the tokenizer, norms, where sparse rows begin.
    pub model: u64,
    /// What a session allocates: keys, values, scratch.
    pub session: u64,
}

impl MemoryNeeded {
    /// For the model in `file`, run on `threads` threads, and one session.
    pub fn new(file: &SparseModel, threads: usize, options: &SessionOptions) -> Self {
        MemoryNeeded {
            file: file.file_len(),
            model: of_model(file),
            session: Session::memory_needed(file.config(), options, threads) as u64,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.file.saturating_add(self.allocated())
    }

    /// What cannot be dropped and read again, if the file is mapped.
    pub fn allocated(&self) -> u64 {
        self.model.saturating_add(self.session)
    }
}

fn of_model(file: &SparseModel) -> u64 {
    let rows: usize = file.tensors().iter().filter(|t| t.rows > 1).map(|t| t.rows).sum();
    let norms: usize = file.tensors().iter().filter(|t| t.rows == 1).map(|t| t.cols).sum();
    let vocabulary = file.vocabulary().map_or(0, |v| {
        let text: usize = v.tokens.iter().map(String::len).sum();
        // While a file is opened, tokens and merges as they are in it; then tables that find them by text and by pair.
        text + v.tokens.len() * TOKEN + v.merges.len() * MERGE
    });
    (4 * rows + 4 * norms + vocabulary) as u64
}

/// Bytes of a token's string and of its places in the tables.
const TOKEN: usize = 72;
/// Bytes of a merge in the file's list and in the table.
const MERGE: usize = 40;
