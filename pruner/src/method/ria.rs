//! RIA (Zhang, Bai, Lin, Zhao, Hou, Cannistraci: Plug-and-Play: An Efficient Post-training Pruning Method for Large Language
//! Models, 2024): the score of a weight is its share of what its output and its input have, times the square root of the norm
//! of the input it meets: `(|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) * ||X_j||_2^0.5`. Kept weights are not changed.

use spm::Mask;

use super::{Job, Method, Needs};
use crate::error::Error;

pub(super) struct Ria;

impl Method for Ria {
    fn name(&self) -> &'static str {
        "ria"
    }

    fn needs(&self) -> Needs {
        Needs::ColumnNorms
    }

    fn prune(&self, job: &mut Job<'_>) -> Result<Mask, Error> {
        let roots: Vec<f32> = job.norms(self)?.iter().map(|n| n.sqrt()).collect();
        let cols = roots.len();
        let mut columns = vec![0.0f64; cols];
        for row in job.weights.chunks_exact(cols) {
            columns.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(w.abs()));
        }
        let mut scores = Vec::with_capacity(job.weights.len());
        for row in job.weights.chunks_exact(cols) {
            let of_row: f64 = row.iter().map(|w| f64::from(w.abs())).sum();
            scores.extend(row.iter().zip(&columns).zip(&roots).map(|((w, of_column), root)| {
                let share = |of: f64| if of > 0.0 { f64::from(w.abs()) / of } else { 0.0 };
                ((share(of_row) + share(*of_column)) * f64::from(*root)) as f32
            }));
        }
        job.select(self, &scores)
    }
}
