//! What can be wrong with a file, said so that the reader knows what to do next.

use std::path::PathBuf;

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
}
