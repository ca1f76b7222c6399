//! The sweep of SparseGPT and GPTQ: column by column weights are fixed, and what that changes in the outputs is made up
//! for by the columns that are still free.
//!
//! Frantar, Alistarh: SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, 2023, algorithm 1; with `U`
//! of `H^-1 = U^T U`: `e = (w_i - q_i) / U_ii`, then `w_j -= e U_ij` for every later column `j`, in blocks of 128 columns.

use rayon::prelude::*;

use crate::linalg::{self, Transpose};

/// Columns of a block.
pub(crate) const BLOCK: usize = 128;
/// Rows that a thread takes at a time.
const SHARE: usize = 64;

/// Decides what becomes of a block's weights.
pub(crate) trait Fix: Sync {
    /// Called before the block of columns from `first` on, with its weights as they are now, a row after the other.
    fn begin(&mut self, first: usize, weights: &[f32]);

    /// What weight `row`, `first + i` is fixed to. `weights` is the row's part of the block: fixed before `i`, as it is now
    /// from there on. `kept` is a note a column for later calls in the same row and block.
    fn fix(&self, row: usize, first: usize, i: usize, weights: &[f32], kept: &mut [bool; BLOCK]) -> f32;
}

/// Fixes every column of `weights` (rows of `d`), with `u` from [`linalg::inverse_factor`].
pub(crate) fn sweep(weights: &mut [f32], d: usize, u: &[f32], fix: &mut dyn Fix) {
    let rows = weights.len() / d;
    for first in (0..d).step_by(BLOCK) {
        let width = BLOCK.min(d - first);
        let mut block: Vec<f32> = weights.chunks_exact(d).flat_map(|row| &row[first..first + width]).copied().collect();
        fix.begin(first, &block);
        let mut errors = vec![0.0; rows * width];
        let corner = corner(u, d, first, width);
        let fix = &*fix;
        let shares = block.par_chunks_mut(SHARE * width).zip(errors.par_chunks_mut(SHARE * width));
        shares.enumerate().for_each(|(share, (block, errors))| {
            let rows = block.chunks_exact_mut(width).zip(errors.chunks_exact_mut(width));
            for (r, (row, errors)) in rows.enumerate() {
                fix_row(share * SHARE + r, first, row, errors, &corner, fix);
            }
        });
        let rest = first + width;
        weights
            .par_chunks_mut(SHARE * d)
            .zip(block.par_chunks(SHARE * width))
            .zip(errors.par_chunks(SHARE * width))
            .for_each(|((weights, block), errors)| {
                for (row, fixed) in weights.chunks_exact_mut(d).zip(block.chunks_exact(width)) {
                    row[first..rest].copy_from_slice(fixed);
                }
                if rest < d {
                    let upper = linalg::columns(u, d).submatrix(first, rest, width, d - rest);
                    let mut weights = linalg::columns_mut(weights, d);
                    let rows = weights.ncols();
                    let later = weights.as_mut().submatrix_mut(rest, 0, d - rest, rows);
                    linalg::multiply_sub(later, upper, linalg::columns(errors, width), Transpose::Left);
                }
            });
    }
}

/// Rows and columns from `first` on of `u`, `width` of each, a row after the other: read as often as there are rows of weights.
fn corner(u: &[f32], d: usize, first: usize, width: usize) -> Vec<f32> {
    (first..first + width).flat_map(|row| (first..first + width).map(move |col| u[col * d + row])).collect()
}

fn fix_row(row: usize, first: usize, weights: &mut [f32], errors: &mut [f32], corner: &[f32], fix: &dyn Fix) {
    let mut kept = [true; BLOCK];
    let width = weights.len();
    for (i, of_error) in corner.chunks_exact(width).enumerate() {
        let fixed = fix.fix(row, first, i, weights, &mut kept);
        let error = (weights[i] - fixed) / of_error[i];
        weights[i] = fixed;
        errors[i] = error;
        if error != 0.0 {
            let later = weights[i + 1..].iter_mut().zip(&of_error[i + 1..]);
            later.for_each(|(w, u)| *w -= error * u);
        }
    }
}
