//! A model's weights wherever they come from: `.spm`, GGUF, or a Hugging Face folder.

use crate::encode::encode_rows;
use crate::{Config, Encoding, Matrix, Vocabulary};

/// A model opened for reading. Opening checks everything; nothing here can fail afterwards but by a name
/// that does not exist.
pub trait Checkpoint: Send + Sync {
    /// The resolved shape.
    fn config(&self) -> &Config;

    /// The vocabulary; `None` when the source has none.
    fn vocabulary(&self) -> Option<&Vocabulary>;

    /// All tensors, in file order.
    fn tensors(&self) -> &[TensorInfo];

    /// The tensor called `name`.
    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors().iter().find(|t| t.name == name)
    }

    /// Expands `out.len() / cols` rows of tensor `name`, from `first_row` on, exactly as stored.
    ///
    /// Returns `None` if there is no such tensor, if `out` is not whole rows, or if they leave the tensor.
    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Option<()>;

    /// The tensor as a matrix the kernels multiply with: borrowed where the file has one of our encodings,
    /// else converted to the nearest (see each implementation).
    fn matrix(&self, name: &str) -> Option<Matrix>;

    /// Bytes of memory that [`Self::matrix`] takes, besides pages of a mapped file.
    fn matrix_bytes(&self, name: &str) -> Option<u64> {
        self.tensor(name).map(|info| info.bytes)
    }

    /// The tensor as a matrix that expands to exactly what is stored: f32 unless the file has one of our
    /// encodings, in which case implementations return [`Self::matrix`].
    fn exact_matrix(&self, name: &str) -> Option<Matrix> {
        let info = self.tensor(name)?;
        encode_rows(Encoding::F32, info.rows, info.cols, |r, row| self.read_rows(name, r, row))
    }

    /// The whole tensor expanded, `rows * cols` values, row-major.
    fn read_all(&self, name: &str) -> Option<Vec<f32>> {
        let info = self.tensor(name)?;
        let mut out = vec![0.0; info.rows * info.cols];
        self.read_rows(name, 0, &mut out)?;
        Some(out)
    }
}

/// What a file says of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// GGUF's name, such as `blk.3.ffn_gate.weight`.
    pub name: String,
    /// Output features; 1 for a vector.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Name of the encoding in the file, such as `sparse-q8` or `Q4_K`.
    pub encoding: String,
    /// Values that are stored; `rows * cols` when dense.
    pub kept: u64,
    /// Bytes in the file.
    pub bytes: u64,
}
