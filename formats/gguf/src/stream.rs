//! A GGUF file that is written tensor by tensor, so that it may be larger than memory.

use std::collections::VecDeque;
use std::io::{self, Write};

use crate::ggml_type::GgmlType;

/// A tensor that a file will have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlan {
    /// Its name.
    pub(crate) name: String,
    /// Its dimensions, the fastest first.
    pub(crate) dims: Vec<usize>,
    /// How it is stored.
    pub(crate) kind: GgmlType,
    /// How many bytes that takes.
    pub(crate) bytes: usize,
}

impl TensorPlan {
    /// A tensor of `dims`, the fastest first; `None` if its rows are not whole blocks or it is too large to count.
    pub fn new(name: &str, dims: &[usize], kind: GgmlType) -> Option<Self> {
        let (first, others) = dims.split_first()?;
        let rows = others.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
        let bytes = kind.row_bytes(*first)?.checked_mul(rows)?;
        Some(TensorPlan { name: name.to_owned(), dims: dims.to_owned(), kind, bytes })
    }
}

/// A file whose tensors are being written; see [`crate::GgufWriter::stream`].
pub struct GgufStream<W: Write> {
    out: W,
    alignment: usize,
    planned: VecDeque<TensorPlan>,
}

impl<W: Write> GgufStream<W> {
    /// Writes `header`, which says what `tensors` there will be and is padded to `alignment`.
    pub(crate) fn begin(mut out: W, header: &[u8], alignment: usize, tensors: &[TensorPlan]) -> io::Result<Self> {
        out.write_all(header)?;
        Ok(GgufStream { out, alignment, planned: tensors.iter().cloned().collect() })
    }

    /// Writes the next tensor, in the order planned. Errors if it has another number of bytes than planned.
    pub fn push(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let Some(plan) = self.planned.pop_front() else {
            return Err(io::Error::other(format!("tensor `{name}` was not planned; plan it before the stream begins")));
        };
        if plan.name != name || plan.bytes != bytes.len() {
            let (have, need) = (bytes.len(), plan.bytes);
            let problem =
                format!("{have} bytes of tensor `{name}`, expected {need} of `{}`: push as planned", plan.name);
            return Err(io::Error::other(problem));
        }
        self.out.write_all(bytes)?;
        let gap = bytes.len().next_multiple_of(self.alignment) - bytes.len();
        self.out.write_all(&vec![0; gap])
    }

    /// Flushes and returns the output. Errors if a planned tensor was not written.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some(plan) = self.planned.pop_front() {
            return Err(io::Error::other(format!("tensor `{}` was planned and not pushed", plan.name)));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}
