//! ADMM with a mask that grows (Boza: Fast and Effective Weight Update for Pruned Large Language Models, 2024): the weights
//! `Z` of the wanted sparsity that lose least of `||Y - X Z||`, by alternating between a least-squares step and keeping the
//! largest.
//!
//! With `n = sqrt(diag G)`, features are scaled to norm one: `A = G / (n n^T) + damp I`, and `rho = 1`. Then for 20
//! iterations: `X = (A + rho I)^-1 (B + rho (Z - U))`, mask = the largest of `|X + U|` (for the first 15, the sparsity
//! rising to the wanted one with a cube), `Z = (X + U)` where kept, `U += X - Z`. Where it is known how much outputs weigh,
//! their rows are compared by that many times their size.
//!
//! As published, `B = A X0` with the dense weights `X0`, so that `Y` is what they make of the inputs. Where the dense model is
//! followed, `B` moves `Y` towards its outputs; see [`crate::statistics::Wanted`].
//!
//! The damping is what generalizes: too little of it fits the calibration tokens alone. So a few are tried on some of the rows
//! and judged on tokens that were held out; and where none beats Wanda there, the mask and the weights are Wanda's.

use rayon::prelude::*;
use spm::Mask;

use super::{Job, Method, Needs, wanda};
use crate::error::Error;
use crate::linalg::{Cholesky, zeroed};
use crate::pattern::{Group, Pattern};
use crate::statistics::{Gram, HeldOut, Inputs, Outputs};

pub(super) struct Admm;

const ITERATIONS: usize = 20;
/// In how many of them the mask changes.
const MASKED: usize = 15;
/// Tried where there are tokens to judge by,
const DAMPS: [f32; 3] = [0.03, 0.1, 0.3];
/// on about so many rows at equal distances: losses differ little between them, and rows are what a solve costs.
const TRIED: usize = 128;

impl Method for Admm {
    fn name(&self) -> &'static str {
        "admm"
    }

    fn needs(&self) -> Needs {
        Needs::DenseOutputs
    }

    /// Outputs of some models, such as those with massive activations, differ a thousandfold in size, and not in what they do.
    fn group(&self) -> Group {
        Group::Row
    }

    /// Two triangular solves an iteration, for all rows and for some of them with every damping, and the factors for them.
    fn cost(&self, (rows, cols): (usize, usize)) -> u64 {
        let (rows, cols, damps) = (rows as u64, cols as u64, DAMPS.len() as u64);
        let solved = rows + damps * rows.min(TRIED as u64);
        let factors = (1 + damps) * cols * cols / 6;
        (ITERATIONS as u64 * cols * solved + factors) / rows.max(1)
    }

    fn prune(&self, job: &mut Job<'_>) -> Result<Mask, Error> {
        let (inputs, gram) = (job.inputs(self)?, job.gram(self)?);
        let problem = Problem::new(gram, inputs, job);
        let damp = match &inputs.held_out {
            Some(held_out) => problem.choose(job, held_out)?,
            None => Some(damp_of(gram)),
        };
        match damp {
            None => {
                job.fell_back = true;
                wanda::Wanda.prune(job)
            }
            Some(damp) => {
                let (weights, kept) = problem.solve(job, damp, 1)?;
                job.weights.copy_from_slice(&weights);
                let cols = job.shape.1;
                Ok(Mask::from_fn(job.shape.0, cols, |row, col| kept[row * cols + col]))
            }
        }
    }
}

/// By the tokens there are for each input feature.
fn damp_of(gram: &Gram) -> f32 {
    if gram.tokens() < 16 * gram.cols() as u64 { 0.3 } else { 0.1 }
}

/// The problem with input features scaled to norm one.
struct Problem<'a> {
    d: usize,
    gram: &'a Gram,
    /// `1 / n`; 0 where a feature never is anything.
    inverse: Vec<f32>,
    /// `X0`, a row an output.
    dense: Vec<f32>,
    /// `B` without damping.
    target: Vec<f32>,
}

impl<'a> Problem<'a> {
    fn new(gram: &'a Gram, inputs: &Inputs, job: &Job<'_>) -> Self {
        let norms: Vec<f32> = gram.diagonal().iter().map(|g| g.sqrt() as f32).collect();
        let inverse: Vec<f32> = norms.iter().map(|&n| if n > 0.0 { 1.0 / n } else { 0.0 }).collect();
        let mut target = gram.times(job.weights);
        if let Some(shift) = inputs.wanted.as_ref().map(|w| w.shift(job.weights, &target)) {
            target.iter_mut().zip(&shift).for_each(|(t, s)| *t += s);
        }
        let mut dense = job.weights.to_vec();
        scale(&mut dense, &norms);
        scale(&mut target, &inverse);
        Problem { d: gram.cols(), gram, inverse, dense, target }
    }

    /// The damping that loses least on tokens held out; `None` if all lose more than Wanda.
    fn choose(&self, job: &Job<'_>, held_out: &HeldOut) -> Result<Option<f32>, Error> {
        let step = (job.shape.0 / TRIED).max(1);
        let of = Outputs { step, weights: job.importance };
        let mut dense = self.every(step, &self.dense);
        let sizes: Vec<f32> = dense.iter().map(|w| w.abs()).collect();
        let wandas = job.pattern.choose(job.group(&wanda::Wanda), job.tensor, &sizes, self.d)?;
        scale(&mut dense, &self.inverse);
        let mut pruned = dense.clone();
        pruned.iter_mut().zip(wandas).for_each(|(w, kept)| *w = if kept { *w } else { 0.0 });
        let mut least = held_out.relative_loss(&dense, &pruned, of);
        let mut best = None;
        for damp in DAMPS {
            let (found, _) = self.solve(job, damp, step)?;
            let error = held_out.relative_loss(&dense, &found, of);
            if error < least {
                (best, least) = (Some(damp), error);
            }
        }
        Ok(best)
    }

    /// The pruned weights of every `step`-th row, and which of them are kept.
    fn solve(&self, job: &Job<'_>, damp: f32, step: usize) -> Result<(Vec<f32>, Vec<bool>), Error> {
        let factor = self.factor(damp).ok_or_else(|| job.not_definite())?;
        // The sum of X and U: Z where it is kept, U elsewhere.
        let mut sum = self.every(step, &self.dense);
        let mut target = self.every(step, &self.target);
        target.iter_mut().zip(&sum).for_each(|(t, x0)| *t += damp * x0);
        let mut x = zeroed("ADMM's weights", sum.len())?;
        let mut kept = Vec::new();
        for iteration in 0..ITERATIONS {
            if iteration < MASKED {
                let pattern = rising(job.pattern, iteration);
                kept = pattern.choose(job.group(&Admm), job.tensor, &self.scores(job, &sum, step), self.d)?;
            }
            if iteration + 1 < ITERATIONS {
                right_side(&mut x, &target, &sum, &kept);
                factor.solve(&mut x);
                add_solved(&mut sum, &x, &kept);
            }
        }
        sum.iter_mut().zip(&kept).for_each(|(z, kept)| *z = if *kept { *z } else { 0.0 });
        scale(&mut sum, &self.inverse);
        Ok((sum, kept))
    }

    /// Of `A + rho I`.
    fn factor(&self, damp: f32) -> Option<Cholesky> {
        let mut system = self.gram.products().to_vec();
        system.par_chunks_exact_mut(self.d).zip(&self.inverse).enumerate().for_each(|(j, (column, a))| {
            column.iter_mut().zip(&self.inverse).for_each(|(g, b)| *g *= a * b);
            column[j] += damp + 1.0;
        });
        Cholesky::new(system, self.d)
    }

    /// How large the weights of every `step`-th row are, times how much their outputs weigh.
    fn scores(&self, job: &Job<'_>, weights: &[f32], step: usize) -> Vec<f32> {
        let mut scores: Vec<f32> = weights.iter().map(|w| w.abs()).collect();
        if let Some(importance) = job.importance {
            let rows = scores.par_chunks_exact_mut(self.d).enumerate();
            rows.for_each(|(row, scores)| scores.iter_mut().for_each(|s| *s *= importance[row * step]));
        }
        scores
    }

    /// Every `step`-th row.
    fn every(&self, step: usize, rows: &[f32]) -> Vec<f32> {
        let rows: Vec<&[f32]> = rows.chunks_exact(self.d).step_by(step).collect();
        rows.concat()
    }
}

/// Numbers that a thread takes at a time.
const SHARE: usize = 1 << 14;

/// `B + rho (Z - U)` into `x`; `sum` is `Z` where kept and `U` elsewhere, and `rho` is 1.
fn right_side(x: &mut [f32], target: &[f32], sum: &[f32], kept: &[bool]) {
    let of = target.par_chunks(SHARE).zip(sum.par_chunks(SHARE)).zip(kept.par_chunks(SHARE));
    x.par_chunks_mut(SHARE).zip(of).for_each(|(x, ((target, sum), kept))| {
        let of = target.iter().zip(sum).zip(kept);
        x.iter_mut().zip(of).for_each(|(x, ((t, sum), kept))| *x = if *kept { t + sum } else { t - sum });
    });
}

/// `Z = X + U` where kept, where `U` becomes 0, and `U += X` elsewhere, where `Z` is 0.
fn add_solved(sum: &mut [f32], x: &[f32], kept: &[bool]) {
    let of = x.par_chunks(SHARE).zip(kept.par_chunks(SHARE));
    sum.par_chunks_mut(SHARE).zip(of).for_each(|(sum, (x, kept))| {
        let of = x.iter().zip(kept);
        sum.iter_mut().zip(of).for_each(|(sum, (x, kept))| *sum = if *kept { *x } else { *sum + x });
    });
}

/// Multiplies every row by `factors`.
fn scale(rows: &mut [f32], factors: &[f32]) {
    let rows = rows.par_chunks_exact_mut(factors.len());
    rows.for_each(|row| row.iter_mut().zip(factors).for_each(|(v, factor)| *v *= factor));
}

/// What is to be pruned after this iteration: less at first, all of it from the last but few on.
fn rising(pattern: Pattern, iteration: usize) -> Pattern {
    let left = 1.0 - (iteration + 1) as f64 / MASKED as f64;
    match pattern {
        Pattern::Unstructured { sparsity } => Pattern::Unstructured { sparsity: sparsity - sparsity * left.powi(3) },
        fixed => fixed,
    }
}
