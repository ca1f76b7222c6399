//! What can be wrong with a folder, said so that the reader knows what to do next.

use std::path::{Path, PathBuf};

/// Why a Hugging Face folder could not be opened. Every message names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused, or a path is not a regular file.
    #[error(transparent)]
    File(#[from] spm::Error),
    /// The folder lacks something, or has it in a form that is not read.
    #[error("{}: {problem}", path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong, and the next step.
        problem: String,
    },
    /// A JSON file has a key that is missing or says something that cannot be.
    #[error("{}: key `{key}`: {problem}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong, with the numbers and the next step.
        problem: String,
    },
    /// A model family that is not run.
    #[error("{}: model type `{model_type}` {reason}", path.display())]
    Family {
        /// The file.
        path: PathBuf,
        /// What the file says.
        model_type: String,
        /// Why not, and what is run.
        reason: String,
    },
    /// A tensor is missing, out of place, or of a kind that is not read.
    #[error("{}: tensor `{tensor}`: {problem}", path.display())]
    Tensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong, with the numbers and the next step.
        problem: String,
    },
    /// A field of the model's shape is out of bounds.
    #[error("{}: {source}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Which field, and what is allowed.
        source: spm::Error,
    },
}

impl Error {
    pub(crate) fn folder(path: &Path, problem: impl Into<String>) -> Self {
        Error::Folder { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn key(path: &Path, key: &str, problem: impl Into<String>) -> Self {
        Error::Key { path: path.to_owned(), key: key.to_owned(), problem: problem.into() }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, problem: impl Into<String>) -> Self {
        Error::Tensor { path: path.to_owned(), tensor: shown(tensor), problem: problem.into() }
    }

    /// Whether the operating system is to blame, not the folder.
    pub fn is_io(&self) -> bool {
        matches!(self, Error::File(spm::Error::Io { .. }))
    }
}

/// Text of a stranger as part of a message: short, and without control characters.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 80;
    text.chars().take(MOST).map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}
