//! Wanda (Sun, Liu, Bair, Kolter: A Simple and Effective Pruning Approach for Large Language Models, 2023):
//! the score of a weight is its size times the norm of the input it meets, `|W_ij| * ||X_j||_2`.
//!
//! The published code divides the squared norms by the number of samples: a factor common to a whole matrix,
//! which changes no comparison. Kept weights are not changed.

use spm::Mask;

use super::{Job, Method, Needs};
use crate::error::Error;

pub(super) struct Wanda;

impl Method for Wanda {
    fn name(&self) -> &'static str {
        "wanda"
    }

    fn needs(&self) -> Needs {
        Needs::ColumnNorms
    }

    fn prune(&self, job: &mut Job<'_>) -> Result<Mask, Error> {
        let norms = job.norms(self)?;
        let rows = job.weights.chunks_exact(norms.len());
        let scores: Vec<f32> = rows.flat_map(|row| row.iter().zip(&norms).map(|(w, n)| w.abs() * n)).collect();
        job.select(self, &scores)
    }
}
