//! What was done to each tensor, and what may have made the result worse than need be.

use std::fmt;

use spm::Encoding;

use crate::stream::Site;

/// Tokens for each input feature below which the products of features are mostly noise.
pub(crate) const TOKENS_A_FEATURE: u64 = 8;

/// Relative error above which a matrix no longer does what it did.
const LARGE_ERROR: f64 = 0.5;

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

/// What may have made a model worse than need be.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// Too few calibration tokens for the products of a site's features, in every layer.
    FewTokens {
        /// The site.
        site: Site,
        /// Tokens that were run.
        tokens: u64,
        /// Input features.
        features: usize,
        /// Windows of the length there was that would be enough.
        windows: u64,
    },
    /// Matrices that lose more than half of their outputs.
    LargeError {
        /// How many.
        matrices: usize,
        /// Of the worst: its name.
        worst: String,
        /// And its relative error.
        relative_error: f64,
    },
    /// Matrices where the method's own answer was worse than Wanda's on the tokens held out, so Wanda's was taken.
    FellBack {
        /// GGUF's names.
        tensors: Vec<String>,
    },
    /// All calibration text is one document.
    OneDocument {
        /// Tokens of it.
        tokens: usize,
    },
}

impl Warning {
    /// A word for programs, such as `few_tokens`.
    pub fn kind(&self) -> &'static str {
        match self {
            Warning::FewTokens { .. } => "few_tokens",
            Warning::LargeError { .. } => "large_error",
            Warning::FellBack { .. } => "fell_back",
            Warning::OneDocument { .. } => "one_document",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::FewTokens { site, tokens, features, windows } => write!(
                f,
                "{tokens} calibration tokens for the {features} features of {}, where {} would be enough: use \
                 --nsamples {windows}",
                site.name(),
                TOKENS_A_FEATURE * *features as u64
            ),
            Warning::LargeError { matrices, worst, relative_error } => write!(
                f,
                "{matrices} matrices have a relative error above {LARGE_ERROR}, the worst {worst} with \
                 {relative_error:.2}: use a lower --sparsity, a method that updates weights (--method admm), or leave \
                 them dense with --ignore"
            ),
            Warning::FellBack { tensors } => write!(
                f,
                "{} matrices were pruned by Wanda, which was better on the tokens held out, {} among them: more \
                 calibration text may help (--nsamples)",
                tensors.len(),
                tensors.first().map_or("", String::as_str)
            ),
            Warning::OneDocument { tokens } => write!(
                f,
                "all {tokens} calibration tokens are of one document: give --calib more files, or a folder of them"
            ),
        }
    }
}

fn gone(kept: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { 1.0 - kept as f64 / total as f64 }
}
