//! What is known of the inputs of a matrix.

mod gram;
mod norms;

pub use gram::Gram;
pub use norms::ColumnNorms;

/// What was gathered at a site: always the norms; products of features where the method asks for them.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Over all tokens.
    pub norms: ColumnNorms,
    /// `X^T X` over most tokens.
    pub gram: Option<Gram>,
    /// The same over the others, to judge what was made with the first; `None` where there are too few tokens to spare.
    pub held_out: Option<Gram>,
}

impl From<ColumnNorms> for Inputs {
    fn from(norms: ColumnNorms) -> Self {
        Inputs { norms, gram: None, held_out: None }
    }
}
