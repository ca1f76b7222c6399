//! What is known of the inputs of a matrix.

mod gram;
mod norms;

use std::sync::OnceLock;

use crate::linalg;

pub use gram::Gram;
pub use norms::ColumnNorms;

/// Damping of least squares on the inputs, of the mean of the diagonal: SparseGPT's.
const DAMP: f64 = 0.01;

/// What was gathered at a site: always the norms; products of features where the method asks for them.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Over all tokens.
    pub norms: ColumnNorms,
    /// `X^T X` over most tokens.
    pub gram: Option<Gram>,
    /// The same over the others, to judge what was made with the first; `None` where there are too few tokens to spare.
    pub held_out: Option<Gram>,
    /// Made when first asked for, once for all matrices of the site.
    damped: OnceLock<Option<Vec<f32>>>,
    factor: OnceLock<Option<Vec<f32>>>,
}

impl Inputs {
    /// Norms, and products over most tokens and over those held out.
    pub fn new(norms: ColumnNorms, gram: Option<Gram>, held_out: Option<Gram>) -> Self {
        Inputs { norms, gram, held_out, damped: OnceLock::new(), factor: OnceLock::new() }
    }

    /// `X^T X`, a little damped; `None` if products were not gathered.
    pub(crate) fn damped(&self) -> Option<&[f32]> {
        self.damped.get_or_init(|| Some(self.gram.as_ref()?.damped(DAMP))).as_deref()
    }

    /// As [`linalg::inverse_factor`] of it; `None` also if it has none.
    pub(crate) fn factor(&self) -> Option<&[f32]> {
        self.factor.get_or_init(|| linalg::inverse_factor(self.damped()?, self.norms.cols())).as_deref()
    }
}

impl From<ColumnNorms> for Inputs {
    fn from(norms: ColumnNorms) -> Self {
        Inputs::new(norms, None, None)
    }
}
