//! What can be wrong with a GGUF file, said so that the reader knows what to do next.

use std::path::{Path, PathBuf};

/// Why a GGUF file could not be opened. Every message names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused, or the path is not a regular file.
    #[error(transparent)]
    File(spm::Error),
    /// Some other kind of file.
    #[error("{}: {what}, not a GGUF model; {next}", path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What to do.
        next: &'static str,
    },
    /// A GGUF version or byte order that is not read.
    #[error("{}: {found} is not supported, only little-endian versions 2 and 3; convert the model again with a current llama.cpp", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What the file says.
        found: String,
    },
    /// The file ends, or claims to hold more than it does.
    #[error("{}: {what} at byte {at} needs {need} bytes and the file has {left} left; it is cut short or damaged: download it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: String,
        /// Where it begins.
        at: u64,
        /// Bytes it needs.
        need: u64,
        /// Bytes there are.
        left: u64,
    },
    /// A text is too long or not UTF-8.
    #[error("{}: {what} at byte {at} {problem}; the file is damaged", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: String,
        /// Where it begins.
        at: u64,
        /// What is wrong.
        problem: String,
    },
    /// A field of the header is out of bounds.
    #[error("{}: {field} is {value}, expected {expected}; it is cut short or damaged: download it again", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What it says.
        value: u64,
        /// What is allowed.
        expected: String,
    },
    /// A metadata key is missing or says something that cannot be.
    #[error("{}: key `{key}`: {problem}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong, with the numbers and the next step.
        problem: String,
    },
    /// A tensor is missing, out of place, or of a kind that is not read.
    #[error("{}: tensor `{tensor}`: {problem}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong, with the numbers and the next step.
        problem: String,
    },
    /// No reader for this model family.
    #[error("{}: architecture `{architecture}` {reason}; this program runs: {known}", path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What the file says.
        architecture: String,
        /// Why not.
        reason: &'static str,
        /// The families there are.
        known: String,
    },
    /// The shape that the metadata gives is no decoder's.
    #[error("{}: {source}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Which field.
        source: spm::Error,
    },
    /// The parts of a split model do not belong together.
    #[error("{}: {problem}", path.display())]
    Split {
        /// The part.
        path: PathBuf,
        /// What is wrong, with the next step.
        problem: String,
    },
}

impl Error {
    /// Whether the operating system refused, rather than the file being wrong.
    pub fn is_io(&self) -> bool {
        matches!(self, Error::File(spm::Error::Io { .. }))
    }

    pub(crate) fn key(path: &Path, key: &str, problem: impl Into<String>) -> Self {
        Error::Key { path: path.to_owned(), key: shown(key), problem: problem.into() }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, problem: impl Into<String>) -> Self {
        Error::Tensor { path: path.to_owned(), tensor: shown(tensor), problem: problem.into() }
    }
}

/// `text` from a file as it may be shown on a terminal: no control characters, not too long.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let mut out: String = text.chars().take(MOST).flat_map(printable).collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}

fn printable(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}
