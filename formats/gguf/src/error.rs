//! What can be wrong with a GGUF file, said so that the reader knows what to do next.

use std::path::{Path, PathBuf};

/// Why a GGUF file could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be mapped.
    #[error(transparent)]
    File(#[from] spm::Error),
    /// A file of another kind, or a part of one.
    #[error("{}: not a GGUF file: {found}", path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// What it looks like, and what to do with it.
        found: String,
    },
    /// Something in the file contradicts the format.
    #[error("{}: {place}: {problem}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The key or tensor.
        place: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// The file is sound, but not one that this program can use.
    #[error("{}: {place}: {problem}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key or tensor.
        place: String,
        /// What was found, and what would do.
        problem: String,
    },
}

impl Error {
    /// Whether the operating system refused, rather than the file being wrong.
    pub fn is_io(&self) -> bool {
        matches!(self, Error::File(spm::Error::Io { .. }))
    }
}

/// A contradiction inside a file; [`Fault::at`] adds which file.
#[derive(Debug)]
pub(crate) struct Fault {
    place: String,
    problem: String,
    unsupported: bool,
}

impl Fault {
    pub(crate) fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Fault { place: place.into(), problem: problem.into(), unsupported: false }
    }

    pub(crate) fn key(key: &str, problem: impl Into<String>) -> Self {
        Self::new(format!("key `{key}`"), problem)
    }

    pub(crate) fn tensor(name: &str, problem: impl Into<String>) -> Self {
        Self::new(format!("tensor `{name}`"), problem)
    }

    /// Not wrong, but beyond this program.
    pub(crate) fn unsupported(mut self) -> Self {
        self.unsupported = true;
        self
    }

    pub(crate) fn at(self, path: &Path) -> Error {
        let (path, Fault { place, problem, unsupported }) = (path.to_owned(), self);
        match unsupported {
            true => Error::Unsupported { path, place, problem },
            false => Error::Corrupt { path, place, problem },
        }
    }
}
