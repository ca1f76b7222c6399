//! What can be wrong with a file, said so that the reader knows what to do next.

use std::path::{Path, PathBuf};

/// Why a sparse model file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was being done, such as `open`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not a regular file.
    #[error("{}: not a regular file; give the path of a model file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The caller broke off.
    #[error("{}: the copy was broken off", path.display())]
    Interrupted {
        /// The file.
        path: PathBuf,
    },
    /// No memory for a copy of the file.
    #[error("{}: cannot get the {bytes} bytes of memory for a copy ({source}); map the file instead", path.display())]
    OutOfMemory {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of another kind.
    #[error("{}: not a sparse model file: {found}", path.display())]
    NotSpm {
        /// The file.
        path: PathBuf,
        /// What it looks like, and what to do with it.
        found: String,
    },
    /// A file of a version that this reader does not know.
    #[error("{}: version {version} of the sparse model file, this program reads version {known}; update it, or prune the model again", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What the file says.
        version: u32,
        /// What this reader knows.
        known: u32,
    },
    /// Something in the file contradicts the specification.
    #[error("{}: {place}: {problem}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The section, tensor or key.
        place: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// Bytes do not have the checksum that the file states.
    #[error("{}: {place}: checksum is {computed}, the file says {stored}; the file is damaged, fetch or make it again", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The section or tensor.
        place: String,
        /// The file's own checksum.
        stored: String,
        /// The checksum of the bytes.
        computed: String,
    },
    /// A field of the model's shape is out of bounds.
    #[error("model shape: `{key}` is {value}, expected {expected}")]
    Config {
        /// The field.
        key: &'static str,
        /// What the file says.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// The file to be written exists.
    #[error("{}: already exists; {advice}", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
    },
    /// Another process is writing the file.
    #[error("{}: another process is writing it; wait for its end, or give another name", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The file to be written is one of those being read.
    #[error("{}: is the source itself; give the output another name", path.display())]
    IsSource {
        /// The file.
        path: PathBuf,
    },
    /// A tensor cannot be written, or not in this place.
    #[error("tensor `{name}`: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }
}

/// A contradiction inside a file; [`Fault::at`] adds which file.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) place: String,
    pub(crate) problem: String,
}

impl Fault {
    pub(crate) fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Fault { place: place.into(), problem: problem.into() }
    }

    pub(crate) fn at(self, path: &Path) -> Error {
        Error::Corrupt { path: path.to_owned(), place: self.place, problem: self.problem }
    }
}
