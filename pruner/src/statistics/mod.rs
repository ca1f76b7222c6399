//! What is known of the inputs of a matrix.

mod gram;
mod norms;
mod wanted;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::linalg;

pub use gram::Gram;
pub use norms::ColumnNorms;
pub(crate) use wanted::Outputs;
pub use wanted::{Beside, HeldOut, Wanted};

/// Damping of least squares on the inputs, of the mean of the diagonal: SparseGPT's.
const DAMP: f64 = 0.01;

/// What was gathered at a site: always the norms; products of features where the method asks for them.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Over all tokens.
    pub norms: ColumnNorms,
    /// `X^T X` over most tokens.
    pub gram: Option<Gram>,
    /// What is wanted of the outputs over the same tokens; `None` where the dense model is not followed, and those of the
    /// dense weights are.
    pub wanted: Option<Wanted>,
    /// The other tokens, to judge what was made with most; `None` where there are too few to spare.
    pub held_out: Option<HeldOut>,
    /// How much the outputs of a tensor weigh, where that is known.
    pub importance: BTreeMap<String, Vec<f32>>,
    /// Made when first asked for, once for all matrices of the site.
    damped: OnceLock<Option<Vec<f32>>>,
    factor: OnceLock<Option<Vec<f32>>>,
}

impl Inputs {
    /// Norms, and products over most tokens and the tokens held out.
    pub fn new(norms: ColumnNorms, gram: Option<Gram>, wanted: Option<Wanted>, held_out: Option<HeldOut>) -> Self {
        Inputs {
            norms,
            gram,
            wanted,
            held_out,
            importance: BTreeMap::new(),
            damped: OnceLock::new(),
            factor: OnceLock::new(),
        }
    }

    /// What is to be added to `X^T X W` of the dense weights, `o x d`, so that it leads to the outputs that are wanted; see
    /// [`Wanted`]. `None` if it leads there anyway.
    pub(crate) fn shift(&self, dense: &[f32]) -> Option<Vec<f32>> {
        let (gram, wanted) = self.gram.as_ref().zip(self.wanted.as_ref())?;
        Some(wanted.shift(dense, &gram.times(dense)))
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
        Inputs::new(norms, None, None, None)
    }
}
