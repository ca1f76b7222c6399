//! The least-squares weights on a given mask, by conjugate gradients: `min ||Y - X Z||^2` over `Z` zero where nothing is
//! kept. Jacobi-preconditioned, all rows at once, residuals projected to the support in every step (Meng et al.: ALPS, 2024).

use rayon::prelude::*;
use spm::Mask;

use crate::linalg;

const STEPS: usize = 30;

/// Improves `weights` (rows of `d`, zero where `mask` keeps nothing) towards the outputs of `dense`, moved by `shift` as of
/// [`crate::statistics::Inputs::shift`]; `gram` is damped.
pub(crate) fn refit(weights: &mut [f32], dense: &[f32], shift: Option<&[f32]>, mask: &Mask, gram: &[f32]) {
    let d = mask.cols();
    let inverse: Vec<f32> = (0..d).map(|j| if gram[j * d + j] > 0.0 { 1.0 / gram[j * d + j] } else { 0.0 }).collect();
    let lost: Vec<f32> = dense.iter().zip(&*weights).map(|(w, z)| w - z).collect();
    let mut residual = vec![0.0; lost.len()];
    linalg::times(gram, d, &lost, &mut residual);
    if let Some(shift) = shift {
        residual.par_iter_mut().zip(shift).for_each(|(r, s)| *r += s);
    }
    project(&mut residual, mask, d);
    let mut direction = preconditioned(&residual, &inverse, d);
    let mut sizes: Vec<f64> = dots(&residual, &direction, d);
    let mut product = lost;
    for _ in 0..STEPS {
        linalg::times(gram, d, &direction, &mut product);
        let curvatures = dots(&direction, &product, d);
        let steps: Vec<f32> = sizes.iter().zip(&curvatures).map(|(s, c)| ratio(*s, *c)).collect();
        add_scaled(weights, &direction, &steps, d);
        let back: Vec<f32> = steps.iter().map(|s| -s).collect();
        add_scaled(&mut residual, &product, &back, d);
        project(&mut residual, mask, d);
        let next = preconditioned(&residual, &inverse, d);
        let next_sizes = dots(&residual, &next, d);
        let keep: Vec<f32> = next_sizes.iter().zip(&sizes).map(|(n, s)| ratio(*n, *s)).collect();
        direction.par_chunks_mut(d).zip(next.par_chunks(d)).zip(&keep).for_each(|((direction, next), keep)| {
            direction.iter_mut().zip(next).for_each(|(d, n)| *d = n + keep * *d);
        });
        sizes = next_sizes;
    }
}

/// 0 where a row is done.
fn ratio(a: f64, b: f64) -> f32 {
    if b > 0.0 && a > 0.0 { (a / b) as f32 } else { 0.0 }
}

fn dots(a: &[f32], b: &[f32], d: usize) -> Vec<f64> {
    let rows = a.par_chunks(d).zip(b.par_chunks(d));
    rows.map(|(a, b)| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()).collect()
}

fn add_scaled(to: &mut [f32], from: &[f32], factors: &[f32], d: usize) {
    to.par_chunks_mut(d).zip(from.par_chunks(d)).zip(factors).for_each(|((to, from), factor)| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
    });
}

fn project(rows: &mut [f32], mask: &Mask, d: usize) {
    rows.par_chunks_mut(d).enumerate().for_each(|(r, row)| mask.clear(r, row));
}

fn preconditioned(rows: &[f32], inverse: &[f32], d: usize) -> Vec<f32> {
    rows.chunks_exact(d).flat_map(|row| row.iter().zip(inverse).map(|(r, i)| r * i)).collect()
}
