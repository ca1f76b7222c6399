//! What was done to each tensor.

use spm::Encoding;

/// The outcome of a pruning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The matrices of the decoder layers, in the order they were written.
    pub tensors: Vec<TensorReport>,
    /// Bytes of all tensors, embedding, head and norms included.
    pub bytes: u64,
    /// Calibration tokens that were run; 0 when the method needs none.
    pub tokens: u64,
}

/// One matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorReport {
    /// GGUF's name.
    pub name: String,
    /// How it is stored.
    pub encoding: Encoding,
    /// Weights that are stored.
    pub kept: u64,
    /// Weights the dense matrix has.
    pub total: u64,
    /// Bytes of the tensor.
    pub bytes: u64,
    /// `||(W - W') X|| / ||W X||` on the tokens held out, or where none were on those of the calibration; `W'` is what is
    /// stored, rounding included. Where only the norms of inputs are known, inputs are taken as uncorrelated:
    /// `sqrt(sum (W - W')_ij^2 ||X_j||^2 / sum W_ij^2 ||X_j||^2)`. Without statistics all norms count as 1.
    pub relative_error: f64,
}

impl Report {
    /// Weights that are stored in the decoder layers.
    pub fn kept(&self) -> u64 {
        self.tensors.iter().map(|t| t.kept).sum()
    }

    /// Weights the dense decoder layers have.
    pub fn total(&self) -> u64 {
        self.tensors.iter().map(|t| t.total).sum()
    }

    /// Fraction of the decoder layers' weights that is gone.
    pub fn sparsity(&self) -> f64 {
        gone(self.kept(), self.total())
    }
}

impl TensorReport {
    /// Fraction of the weights that is gone.
    pub fn sparsity(&self) -> f64 {
        gone(self.kept, self.total)
    }
}

fn gone(kept: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { 1.0 - kept as f64 / total as f64 }
}
