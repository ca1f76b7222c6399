//! SparseGPT (Frantar, Alistarh: SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, 2023): in blocks of
//! 128 columns, prune the lowest `w^2 / U_jj^2` of the block and make up for each in the columns after it.
//!
//! `H = G + 0.01 mean(diag G) I`; inputs that never are anything lose their weights.

use spm::Mask;

use super::{Job, Method, Needs};
use crate::compensate::{BLOCK, Fix, sweep};
use crate::error::Error;
use crate::linalg;
use crate::pattern::{Group, Pattern};
use crate::statistics::Gram;

pub(super) struct SparseGpt;

/// Of the mean of the diagonal.
pub(crate) const DAMP: f64 = 0.01;

impl Method for SparseGpt {
    fn name(&self) -> &'static str {
        "sparsegpt"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn cost(&self, cols: usize) -> u64 {
        cols as u64
    }

    fn prune(&self, job: &mut Job<'_>) -> Result<Mask, Error> {
        let inputs = job.inputs(self)?;
        let gram = inputs.gram.as_ref().ok_or(Error::NoCalibration { method: self.name() })?;
        let (rows, d) = job.shape;
        let u = linalg::inverse_factor(&damped(gram, DAMP), d).ok_or_else(|| job.not_definite())?;
        for row in job.weights.chunks_exact_mut(d) {
            row.iter_mut().zip(gram.diagonal()).for_each(|(w, g)| *w = if *g > 0.0 { *w } else { 0.0 });
        }
        let diagonal: Vec<f32> = (0..d).map(|j| u[j * d + j]).collect();
        let mut prune =
            Prune { job_rows: rows, pattern: job.pattern, group: job.group, diagonal, kept: vec![true; rows * d], d };
        sweep(job.weights, d, &u, &mut prune);
        let kept = |row: usize, col: usize| match job.pattern {
            // Chosen row by row while sweeping: what is left of a weight tells.
            Pattern::KeepNofM { .. } => job.weights[row * d + col] != 0.0,
            Pattern::Unstructured { .. } => prune.kept[row * d + col],
        };
        Ok(Mask::from_fn(rows, d, kept))
    }
}

/// `G` and `damp` of the mean of its diagonal; 1 where a feature never is anything.
pub(crate) fn damped(gram: &Gram, damp: f64) -> Vec<f32> {
    let d = gram.cols();
    let mean = gram.diagonal().iter().sum::<f64>() / d as f64;
    let mut h = gram.products().to_vec();
    for (j, g) in gram.diagonal().iter().enumerate() {
        h[j * d + j] = if *g > 0.0 { (g + damp * mean) as f32 } else { mean.max(1.0) as f32 };
    }
    h
}

struct Prune {
    job_rows: usize,
    pattern: Pattern,
    group: Option<Group>,
    /// `U_jj`.
    diagonal: Vec<f32>,
    kept: Vec<bool>,
    d: usize,
}

impl Prune {
    fn score(&self, col: usize, w: f32) -> f32 {
        (w / self.diagonal[col]).powi(2)
    }
}

impl Fix for Prune {
    fn begin(&mut self, first: usize, weights: &[f32]) {
        let Pattern::Unstructured { .. } = self.pattern else { return };
        let width = weights.len() / self.job_rows;
        let scores: Vec<f32> = weights.iter().enumerate().map(|(at, w)| self.score(first + at % width, *w)).collect();
        let group = self.group.unwrap_or(Group::Matrix);
        for (at, kept) in self.pattern.keep(group, &scores, width).into_iter().enumerate() {
            self.kept[at / width * self.d + first + at % width] = kept;
        }
    }

    fn fix(&self, row: usize, first: usize, i: usize, weights: &[f32], kept: &mut [bool; BLOCK]) -> f32 {
        let is_kept = match self.pattern {
            Pattern::Unstructured { .. } => self.kept[row * self.d + first + i],
            // Groups do not cross blocks: every M up to 32 that divides 128 does not, others are cut as at a row's end.
            Pattern::KeepNofM { m, .. } => {
                if i.is_multiple_of(m) {
                    let group = i..(i + m).min(weights.len());
                    let scores: Vec<f32> = group.clone().map(|j| self.score(first + j, weights[j])).collect();
                    kept[group].copy_from_slice(&self.pattern.keep(Group::Row, &scores, scores.len()));
                }
                kept[i]
            }
        };
        if is_kept { weights[i] } else { 0.0 }
    }
}
