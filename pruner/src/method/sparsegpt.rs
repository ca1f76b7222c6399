//! SparseGPT (Frantar, Alistarh: SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, 2023): in blocks of
//! 128 columns, prune the lowest `w^2 / U_jj^2` of the block and make up for each in the columns after it.
//!
//! `H = G + 0.01 mean(diag G) I`; inputs that never are anything lose their weights.

use spm::Mask;

use super::{Job, Method, Needs};
use crate::compensate::{BLOCK, Fix, sweep};
use crate::error::Error;
use crate::pattern::{Group, Pattern};

pub(super) struct SparseGpt;

impl Method for SparseGpt {
    fn name(&self) -> &'static str {
        "sparsegpt"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn group(&self) -> Group {
        Group::Matrix
    }

    fn cost(&self, (_, cols): (usize, usize)) -> u64 {
        cols as u64
    }

    fn prune(&self, job: &mut Job<'_>) -> Result<Mask, Error> {
        let (inputs, gram) = (job.inputs(self)?, job.gram(self)?);
        let (rows, d) = job.shape;
        let u = inputs.factor().ok_or_else(|| job.not_definite())?;
        for row in job.weights.chunks_exact_mut(d) {
            row.iter_mut().zip(gram.diagonal()).for_each(|(w, g)| *w = if *g > 0.0 { *w } else { 0.0 });
        }
        let diagonal: Vec<f32> = (0..d).map(|j| u[j * d + j]).collect();
        let group = job.group(self);
        let mut prune = Prune { rows, pattern: job.pattern, group, diagonal, kept: vec![true; rows * d], d };
        sweep(job.weights, d, u, &mut prune);
        let kept = |row: usize, col: usize| match job.pattern {
            // Chosen row by row while sweeping: what is left of a weight tells.
            Pattern::KeepNofM { .. } => job.weights[row * d + col] != 0.0,
            Pattern::Unstructured { .. } => prune.kept[row * d + col],
        };
        Ok(Mask::from_fn(rows, d, kept))
    }
}

struct Prune {
    rows: usize,
    pattern: Pattern,
    group: Group,
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
        let width = weights.len() / self.rows;
        let scores: Vec<f32> = weights.iter().enumerate().map(|(at, w)| self.score(first + at % width, *w)).collect();
        for (at, kept) in self.pattern.keep_of_block(self.group, &scores, first, width).into_iter().enumerate() {
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
