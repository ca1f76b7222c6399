//! ADMM with a mask that grows (Boza: Fast and Effective Weight Update for Pruned Large Language Models, 2024): the weights
//! `Z` of the wanted sparsity that lose least of `||X W - X Z||`, by alternating between a least-squares step and keeping the
//! largest.
//!
//! With `n = sqrt(diag G)`, features are scaled to norm one: `A = G / (n n^T) + damp I`, and `rho = 1`. Then for 20
//! iterations: `X = (A + rho I)^-1 (A X0 + rho (Z - U))`, mask = the largest of `|X + U|` (for the first 15, the sparsity
//! rising to the wanted one with a cube), `Z = (X + U)` where kept, `U += X - Z`.
//!
//! The damping is what generalizes: too little of it fits the calibration tokens alone. So a few are tried and judged on
//! tokens that were held out; and where none beats Wanda there, the mask and the weights are Wanda's.

use rayon::prelude::*;
use spm::Mask;

use super::{Job, Method, Needs, wanda};
use crate::error::Error;
use crate::linalg::{self, Cholesky};
use crate::pattern::{Group, Pattern};
use crate::statistics::Gram;

pub(super) struct Admm;

const ITERATIONS: usize = 20;
/// In how many of them the mask changes.
const MASKED: usize = 15;
/// Tried where there are tokens to judge by.
const DAMPS: [f32; 3] = [0.03, 0.1, 0.3];

impl Method for Admm {
    fn name(&self) -> &'static str {
        "admm"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn group(&self) -> Group {
        Group::Matrix
    }

    /// Two triangular solves an iteration and damping.
    fn cost(&self, cols: usize) -> u64 {
        (DAMPS.len() * ITERATIONS * cols) as u64
    }

    fn prune(&self, job: &mut Job<'_>) -> Result<Mask, Error> {
        let (inputs, gram) = (job.inputs(self)?, job.gram(self)?);
        let scaled = Scaled::new(gram, job.weights);
        let Some(held_out) = &inputs.held_out else {
            let (weights, mask) = scaled.solve(job, damp_of(gram))?;
            job.weights.copy_from_slice(&weights);
            return Ok(mask);
        };
        let mut best = wandas(job)?;
        job.fell_back = true;
        let mut least = held_out.relative_error(job.weights, &best.0);
        for damp in DAMPS {
            let found = scaled.solve(job, damp)?;
            let error = held_out.relative_error(job.weights, &found.0);
            if error < least {
                (best, least) = (found, error);
                job.fell_back = false;
            }
        }
        job.weights.copy_from_slice(&best.0);
        Ok(best.1)
    }
}

/// By the tokens there are for each input feature.
fn damp_of(gram: &Gram) -> f32 {
    if gram.tokens() < 16 * gram.cols() as u64 { 0.3 } else { 0.1 }
}

fn wandas(job: &mut Job<'_>) -> Result<(Vec<f32>, Mask), Error> {
    let mask = wanda::Wanda.prune(job)?;
    let mut weights = job.weights.to_vec();
    clear(&mask, &mut weights);
    Ok((weights, mask))
}

/// The problem with input features scaled to norm one.
struct Scaled {
    d: usize,
    /// `G / (n n^T)`, without damping.
    products: Vec<f32>,
    /// `W n`.
    weights: Vec<f32>,
    /// `n`; 0 where a feature never is anything.
    norms: Vec<f32>,
}

impl Scaled {
    fn new(gram: &Gram, weights: &[f32]) -> Self {
        let d = gram.cols();
        let norms: Vec<f32> = gram.diagonal().iter().map(|g| g.sqrt() as f32).collect();
        let inverse: Vec<f32> = norms.iter().map(|&n| if n > 0.0 { 1.0 / n } else { 0.0 }).collect();
        let mut products = gram.products().to_vec();
        for (column, a) in products.chunks_exact_mut(d).zip(&inverse) {
            column.iter_mut().zip(&inverse).for_each(|(g, b)| *g *= a * b);
        }
        let scaled = weights.chunks_exact(d).flat_map(|row| row.iter().zip(&norms).map(|(w, n)| w * n));
        Scaled { d, products, weights: scaled.collect(), norms }
    }

    /// The pruned weights and their mask.
    fn solve(&self, job: &Job<'_>, damp: f32) -> Result<(Vec<f32>, Mask), Error> {
        let d = self.d;
        let mut system = self.products.clone();
        (0..d).for_each(|j| system[j * d + j] += damp);
        let mut target = vec![0.0; self.weights.len()];
        linalg::times(&system, d, &self.weights, &mut target);
        (0..d).for_each(|j| system[j * d + j] += 1.0);
        let factor = Cholesky::new(system, d).ok_or_else(|| job.not_definite())?;

        let mut mask = Mask::all(job.shape.0, d);
        let mut x = self.weights.clone();
        let mut z = vec![0.0; x.len()];
        let mut u = vec![0.0; x.len()];
        for iteration in 0..ITERATIONS {
            // The sum of X and U is where Z comes from, and U is what is left of it.
            x.par_iter_mut().zip(&u).for_each(|(x, u)| *x += u);
            if iteration < MASKED {
                let sizes: Vec<f32> = x.par_iter().map(|x| x.abs()).collect();
                mask = rising(job.pattern, iteration).select(job.group(&Admm), job.tensor, &sizes, job.shape)?;
            }
            z.copy_from_slice(&x);
            clear(&mask, &mut z);
            u.par_iter_mut().zip(&x).zip(&z).for_each(|((u, x), z)| *u = x - z);
            if iteration + 1 < ITERATIONS {
                let terms = target.par_iter().zip(&z).zip(&u);
                x.par_iter_mut().zip(terms).for_each(|(x, ((target, z), u))| *x = target + (z - u));
                factor.solve(&mut x);
            }
        }
        for row in z.chunks_exact_mut(d) {
            row.iter_mut().zip(&self.norms).for_each(|(z, n)| *z = if *n > 0.0 { *z / n } else { 0.0 });
        }
        Ok((z, mask))
    }
}

/// What is to be pruned after this iteration: less at first, all of it from the last but few on.
fn rising(pattern: Pattern, iteration: usize) -> Pattern {
    let left = 1.0 - (iteration + 1) as f64 / MASKED as f64;
    match pattern {
        Pattern::Unstructured { sparsity } => Pattern::Unstructured { sparsity: sparsity - sparsity * left.powi(3) },
        fixed => fixed,
    }
}

/// Zeros where nothing is kept.
fn clear(mask: &Mask, weights: &mut [f32]) {
    weights.par_chunks_mut(mask.cols()).enumerate().for_each(|(row, weights)| mask.clear(row, weights));
}
