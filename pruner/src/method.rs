//! Pruning methods: one file each, one list.

mod magnitude;
mod wanda;

use spm::Mask;

use crate::error::Error;
use crate::pattern::{Group, Pattern};
use crate::statistics::ColumnNorms;

/// Every method, in the order they are offered.
pub static METHODS: [&dyn Method; 2] = [&wanda::Wanda, &magnitude::Magnitude];

/// A way to decide which weights of a matrix go, and perhaps to change those that stay.
pub trait Method: Send + Sync {
    /// What people call it.
    fn name(&self) -> &'static str;

    /// Statistics that must have been gathered before.
    fn needs(&self) -> Needs;

    /// Chooses the mask of one matrix, and may change its weights.
    fn prune(&self, job: &mut Job<'_>) -> Result<Mask, Error>;
}

/// Statistics a method needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// None: the model is not run at all.
    Nothing,
    /// The norm of every input feature.
    ColumnNorms,
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
    pub inputs: Option<&'a ColumnNorms>,
    /// How much is to go, and in which shape.
    pub pattern: Pattern,
    /// Among which weights scores are compared.
    pub group: Group,
}

/// The method called `name`.
pub fn by_name(name: &str) -> Result<&'static dyn Method, Error> {
    let known = || METHODS.iter().map(|m| format!("`{}`", m.name())).collect::<Vec<_>>().join(" or ");
    METHODS.into_iter().find(|m| m.name() == name).ok_or_else(|| Error::option("method", name, known()))
}

impl Job<'_> {
    /// Input norms `||X_j||_2`; an error if there are none.
    fn norms(&self, method: &dyn Method) -> Result<Vec<f32>, Error> {
        let inputs = self.inputs.ok_or(Error::NoCalibration { method: method.name() })?;
        assert_eq!(inputs.cols(), self.shape.1, "columns of `{}`", self.tensor);
        Ok(inputs.norms())
    }

    /// The mask that keeps the highest of `scores`.
    fn select(&self, scores: &[f32]) -> Result<Mask, Error> {
        self.pattern.select(self.group, self.tensor, scores, self.shape)
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
        assert_eq!(message, "method `wand`: expected `wanda` or `magnitude`");
    }
}
