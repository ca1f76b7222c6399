//! Pruning methods: one file each, one list.

mod admm;
mod magnitude;
#[cfg(test)]
mod reference;
mod ria;
mod sparsegpt;
mod wanda;

use spm::Mask;

use crate::error::Error;
use crate::pattern::{Group, Pattern};
use crate::statistics::{Gram, Inputs};

/// Every method, in the order they are offered.
pub static METHODS: [&dyn Method; 5] =
    [&wanda::Wanda, &admm::Admm, &sparsegpt::SparseGpt, &ria::Ria, &magnitude::Magnitude];

/// A way to decide which weights of a matrix go, and perhaps to change those that stay.
pub trait Method: Send + Sync {
    /// What people call it.
    fn name(&self) -> &'static str;

    /// Statistics that must have been gathered before.
    fn needs(&self) -> Needs;

    /// Among which weights it compares unless told otherwise.
    fn group(&self) -> Group {
        Group::Row
    }

    /// Work of its own for a weight of a matrix of `(rows, cols)`, in multiply-adds of the calibration's products.
    fn cost(&self, _shape: (usize, usize)) -> u64 {
        0
    }

    /// Chooses the mask of one matrix, and may change its weights.
    fn prune(&self, job: &mut Job<'_>) -> Result<Mask, Error>;
}

/// Statistics a method needs, each more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// None: the model is not run at all.
    Nothing,
    /// The norm of every input feature.
    ColumnNorms,
    /// The products of all pairs of input features.
    Gram,
    /// These, and what the dense model makes of the same tokens.
    DenseOutputs,
}

/// One matrix to prune.
pub struct Job<'a> {
    /// GGUF's name.
    pub tensor: &'a str,
    /// Output and input features.
    pub shape: (usize, usize),
    /// `rows x cols`, row-major.
    pub weights: &'a mut [f32],
    /// What is known of its inputs; present if the method needs it.
    pub inputs: Option<&'a Inputs>,
    /// How much each output weighs when rows are compared; `None` if all weigh the same.
    pub importance: Option<&'a [f32]>,
    /// How much is to go, and in which shape.
    pub pattern: Pattern,
    /// Among which weights scores are compared; `None` for the method's own choice.
    pub group: Option<Group>,
    /// Set by a method whose own answer was worse than Wanda's, which it gives instead.
    pub fell_back: bool,
}

/// The method called `name`.
pub fn by_name(name: &str) -> Result<&'static dyn Method, Error> {
    let known = || METHODS.iter().map(|m| format!("`{}`", m.name())).collect::<Vec<_>>().join(" or ");
    METHODS.into_iter().find(|m| m.name() == name).ok_or_else(|| Error::option("method", name, known()))
}

impl<'a> Job<'a> {
    /// Input norms `||X_j||_2`; an error if there are none.
    fn norms(&self, method: &dyn Method) -> Result<Vec<f32>, Error> {
        let norms = &self.inputs(method)?.norms;
        assert_eq!(norms.cols(), self.shape.1, "columns of `{}`", self.tensor);
        Ok(norms.norms())
    }

    /// What is known of the inputs; an error if that is nothing.
    fn inputs(&self, method: &dyn Method) -> Result<&'a Inputs, Error> {
        self.inputs.ok_or(Error::NoCalibration { method: method.name() })
    }

    /// Products of the inputs; an error if there are none.
    fn gram(&self, method: &dyn Method) -> Result<&'a Gram, Error> {
        self.inputs(method)?.gram.as_ref().ok_or(Error::NoCalibration { method: method.name() })
    }

    /// Among which weights `method` compares.
    fn group(&self, method: &dyn Method) -> Group {
        self.group.unwrap_or(method.group())
    }

    /// For inputs whose products are no matrix that can be factored.
    fn not_definite(&self) -> Error {
        Error::NotDefinite { tensor: self.tensor.to_owned() }
    }

    /// The mask that keeps the highest of `scores`.
    fn select(&self, method: &dyn Method, scores: &[f32]) -> Result<Mask, Error> {
        self.pattern.select(self.group(method), self.tensor, scores, self.shape)
    }
}

impl std::fmt::Debug for dyn Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Method({})", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_name() {
        for method in METHODS {
            assert_eq!(by_name(method.name()).unwrap().name(), method.name());
        }
        let message = by_name("wand").unwrap_err().to_string();
        assert_eq!(message, "method `wand`: expected `wanda` or `admm` or `sparsegpt` or `ria` or `magnitude`");
    }
}
