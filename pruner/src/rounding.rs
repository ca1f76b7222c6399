//! From pruned weights to the codes that are stored, with the mask fixed: what rounding a weight changes in the outputs is
//! made up for in the others.
//!
//! First the sweep of GPTQ (Frantar, Ashkboos, Hoefler, Alistarh: GPTQ: Accurate Post-Training Quantization for Generative
//! Pre-trained Transformers, 2023) over kept weights. Then coordinate descent (as in Behdin et al.: QuantEase, 2023) on
//! `||Y - X Q||^2` itself, `Y` being the outputs of the dense weights or those wanted instead: scales and codes in turn, each set to the best there is while all
//! else stays.

use rayon::prelude::*;
use spm::encode::RowEncoder;
use spm::{BLOCK, Encoding, Mask, Matrix, RowGrid, ShapeError};

use crate::compensate::{self, Fix, sweep};
use crate::linalg::{self, Transpose};

/// Rounds of coordinate descent over all columns.
const ROUNDS: usize = 4;
/// Rows that a thread takes at a time.
const SHARE: usize = 64;

/// What is to be rounded.
pub(crate) struct Rounding<'a> {
    pub(crate) encoding: Encoding,
    pub(crate) shape: (usize, usize),
    /// The weights whose outputs are wanted.
    pub(crate) dense: &'a [f32],
    /// How other outputs are wanted instead, as of [`crate::statistics::Inputs::shift`].
    pub(crate) shift: Option<&'a [f32]>,
    /// Those to start from, zero where not kept.
    pub(crate) pruned: &'a [f32],
    pub(crate) mask: &'a Mask,
    /// `X^T X`, a little damped: `d x d`.
    pub(crate) gram: &'a [f32],
    /// As [`linalg::inverse_factor`] of it.
    pub(crate) factor: &'a [f32],
}

impl Rounding<'_> {
    /// The stored matrix.
    pub(crate) fn round(&self) -> Result<Matrix, ShapeError> {
        let d = self.shape.1;
        let importance: Vec<f32> = (0..d).map(|j| self.gram[j * d + j]).collect();
        let mut grids: Vec<RowGrid> =
            self.pruned.par_chunks(d).map(|row| RowGrid::fit(self.encoding, row, &importance)).collect();
        let mut weights = self.pruned.to_vec();
        sweep(&mut weights, d, self.factor, &mut ToGrid { grids: &grids, mask: self.mask });
        self.descend(&mut weights, &mut grids);
        self.encode(&weights, &grids)
    }

    /// Coordinate descent on codes and scales.
    fn descend(&self, weights: &mut [f32], grids: &mut [RowGrid]) {
        let d = self.shape.1;
        // What is lost, times G: half the gradient.
        let lost: Vec<f32> = weights.iter().zip(self.dense).map(|(q, w)| q - w).collect();
        let mut gradient = vec![0.0; lost.len()];
        linalg::times(self.gram, d, &lost, &mut gradient);
        drop(lost);
        if let Some(shift) = self.shift {
            gradient.par_iter_mut().zip(shift).for_each(|(g, s)| *g -= s);
        }
        for _ in 0..ROUNDS {
            let rows = weights.par_chunks_mut(SHARE * d).zip(gradient.par_chunks_mut(SHARE * d));
            let changed: usize = rows
                .zip(grids.par_chunks_mut(SHARE))
                .enumerate()
                .map(|(share, ((weights, gradient), grids))| self.descend_rows(share * SHARE, weights, gradient, grids))
                .sum();
            if changed == 0 {
                break;
            }
        }
    }

    /// One round over some rows from `top` on; says how many numbers changed.
    fn descend_rows(&self, top: usize, weights: &mut [f32], gradient: &mut [f32], grids: &mut [RowGrid]) -> usize {
        let d = self.shape.1;
        let mut changed = 0;
        for first in (0..d).step_by(compensate::BLOCK) {
            let width = compensate::BLOCK.min(d - first);
            let mut steps = vec![0.0; weights.len() / d * width];
            let rows = weights.chunks_exact_mut(d).zip(gradient.chunks_exact(d)).zip(grids.iter_mut());
            for ((r, ((row, gradient), grid)), steps) in rows.enumerate().zip(steps.chunks_exact_mut(width)) {
                let mut block = RowBlock {
                    gram: self.gram,
                    d,
                    first,
                    kept: self.mask.row(top + r),
                    weights: &mut row[first..first + width],
                    gradient: gradient[first..first + width].to_vec(),
                    steps,
                };
                changed += block.descend(grid);
            }
            let columns = linalg::columns(self.gram, d).submatrix(0, first, d, width);
            let steps = linalg::columns(&steps, width);
            linalg::multiply_add(linalg::columns_mut(gradient, d), columns, steps, Transpose::Neither);
        }
        changed
    }

    fn encode(&self, weights: &[f32], grids: &[RowGrid]) -> Result<Matrix, ShapeError> {
        let (rows, d) = self.shape;
        let mut encoder = RowEncoder::new(self.encoding, rows, d)?;
        for (r, (row, grid)) in weights.chunks_exact(d).zip(grids).enumerate() {
            let codes: Vec<u8> = row.iter().enumerate().map(|(col, w)| grid.nearest(col, *w).0).collect();
            encoder.push_codes(grid, &codes, self.mask.row(r))?;
        }
        encoder.finish()
    }
}

/// Rounds every column of the sweep to the nearest code.
struct ToGrid<'a> {
    grids: &'a [RowGrid],
    mask: &'a Mask,
}

impl Fix for ToGrid<'_> {
    fn begin(&mut self, _first: usize, _weights: &[f32]) {}

    fn fix(&self, row: usize, first: usize, i: usize, weights: &[f32], _kept: &mut [bool; compensate::BLOCK]) -> f32 {
        match self.mask.is_kept(row, first + i) {
            true => self.grids[row].nearest(first + i, weights[i]).1,
            false => 0.0,
        }
    }
}

/// Some columns of a row.
struct RowBlock<'a> {
    gram: &'a [f32],
    d: usize,
    first: usize,
    kept: &'a [u8],
    weights: &'a mut [f32],
    /// Half the gradient, as it is now.
    gradient: Vec<f32>,
    /// What was added to the weights.
    steps: &'a mut [f32],
}

impl RowBlock<'_> {
    fn descend(&mut self, grid: &mut RowGrid) -> usize {
        let mut changed = 0;
        for start in (0..self.weights.len()).step_by(BLOCK) {
            changed += usize::from(self.rescale(grid, start, (start + BLOCK).min(self.weights.len())));
        }
        for i in 0..self.weights.len() {
            let col = self.first + i;
            let curvature = self.entry(i, i);
            if self.kept[col / 8] >> (col % 8) & 1 == 0 || curvature <= 0.0 {
                continue;
            }
            let (_, value) = grid.nearest(col, self.weights[i] - self.gradient[i] / curvature);
            let step = value - self.weights[i];
            // Rounding to the nearest never makes it worse but for the last bits.
            if step != 0.0 && step * (2.0 * self.gradient[i] + step * curvature) < 0.0 {
                self.add(i, step);
                changed += 1;
            }
        }
        changed
    }

    /// Moves the scale of the block of columns `start..end` to where it loses least with the codes as they are.
    fn rescale(&mut self, grid: &mut RowGrid, start: usize, end: usize) -> bool {
        let block = (self.first + start) / BLOCK;
        let scale = grid.scale(block);
        if scale == 0.0 {
            return false;
        }
        // Along the weights themselves: a factor for all of them.
        let slope: f32 = (start..end).map(|i| self.weights[i] * self.gradient[i]).sum();
        let mut curvature = 0.0;
        for i in start..end {
            let w = self.weights[i];
            if w != 0.0 {
                curvature += w * (start..end).map(|j| self.entry(j, i) * self.weights[j]).sum::<f32>();
            }
        }
        if curvature <= 0.0 {
            return false;
        }
        let found = grid.set_scale(block, scale * (1.0 - slope / curvature));
        let change = found / scale - 1.0;
        if change == 0.0 || found == 0.0 || change * (2.0 * slope + change * curvature) >= 0.0 {
            grid.set_scale(block, scale);
            return false;
        }
        for i in start..end {
            let step = self.weights[i] * change;
            if step != 0.0 {
                self.add(i, step);
            }
        }
        true
    }

    fn add(&mut self, i: usize, step: f32) {
        self.weights[i] += step;
        self.steps[i] += step;
        let at = (self.first + i) * self.d + self.first;
        let column = &self.gram[at..at + self.gradient.len()];
        self.gradient.iter_mut().zip(column).for_each(|(g, a)| *g += a * step);
    }

    fn entry(&self, i: usize, j: usize) -> f32 {
        self.gram[(self.first + j) * self.d + self.first + i]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::noise;
    use crate::refit::refit;
    use crate::statistics::Gram;

    const ROWS: usize = 20;
    const COLS: usize = 320;

    fn gram() -> Gram {
        let raw = noise(900 * COLS, 5);
        let mix = |x: &[f32], j: usize| (x[j] + 0.7 * x[(j + 1) % COLS] + 0.4 * x[j / 3]) * (1.0 + (j % 5) as f32);
        let x: Vec<f32> =
            raw.chunks_exact(COLS).flat_map(|x| (0..COLS).map(|j| mix(x, j)).collect::<Vec<_>>()).collect();
        let mut gram = Gram::new(COLS).unwrap();
        gram.add(&x);
        gram.finish();
        gram
    }

    fn mask(encoding: Encoding) -> Mask {
        Mask::from_fn(ROWS, COLS, |r, c| !encoding.is_sparse() || (c + c / 4 + r) % 2 == 0)
    }

    fn kept(dense: &[f32], mask: &Mask) -> Vec<f32> {
        dense.iter().enumerate().map(|(i, w)| if mask.is_kept(i / COLS, i % COLS) { *w } else { 0.0 }).collect()
    }

    fn error(gram: &Gram, dense: &[f32], stored: &Matrix) -> f64 {
        let mut found = vec![0.0; dense.len()];
        stored.read_rows(0, &mut found).unwrap();
        gram.relative_error(dense, &found)
    }

    #[test]
    fn compensated_rounding_loses_less_in_every_encoding() {
        let (gram, dense) = (gram(), noise(ROWS * COLS, 6));
        let damped = gram.damped(0.01);
        let factor = linalg::inverse_factor(&damped, COLS).unwrap();
        for encoding in Encoding::ALL.into_iter().filter(|e| e.is_integer()) {
            let mask = mask(encoding);
            let pruned = kept(&dense, &mask);
            let shape = (ROWS, COLS);
            let nearest = spm::encode::encode(encoding, ROWS, COLS, &pruned, Some(&mask)).unwrap();
            let rounding = Rounding {
                encoding,
                shape,
                dense: &dense,
                shift: None,
                pruned: &pruned,
                mask: &mask,
                gram: &damped,
                factor: &factor,
            };
            let compensated = rounding.round().unwrap();
            let (ours, theirs) = (error(&gram, &dense, &compensated), error(&gram, &dense, &nearest));
            // Where 8 bits were enough, what is gained is the refit that the sweep is.
            assert!(ours < 0.9 * theirs, "{}: {ours}, nearest {theirs}", encoding.name());
            assert_eq!(compensated.kept(), nearest.kept(), "{}", encoding.name());
        }
    }

    /// The normal equations on the support, row by row, by Gaussian elimination in f64.
    #[test]
    fn a_refit_is_the_least_squares_solution_of_its_mask() {
        let (gram, dense) = (gram(), noise(2 * COLS, 6));
        let damped = gram.damped(0.01);
        let mask = Mask::from_fn(2, COLS, |r, c| (c * 7 + r) % 3 == 0);
        let mut found = kept(&dense, &mask);
        refit(&mut found, &dense, None, &mask, &damped);
        let entry = |i: usize, j: usize| f64::from(damped[j * COLS + i]);
        for (r, row) in dense.chunks_exact(COLS).enumerate() {
            let support: Vec<usize> = (0..COLS).filter(|c| mask.is_kept(r, *c)).collect();
            let mut system: Vec<Vec<f64>> = support
                .iter()
                .map(|&i| {
                    let right = (0..COLS).map(|j| entry(i, j) * f64::from(row[j])).sum();
                    support.iter().map(|&j| entry(i, j)).chain([right]).collect()
                })
                .collect();
            for k in 0..support.len() {
                for i in k + 1..support.len() {
                    let factor = system[i][k] / system[k][k];
                    (k..=support.len()).for_each(|j| system[i][j] -= factor * system[k][j]);
                }
            }
            let mut exact = vec![0.0; COLS];
            for k in (0..support.len()).rev() {
                let known: f64 = (k + 1..support.len()).map(|j| system[k][j] * exact[support[j]]).sum();
                exact[support[k]] = (system[k][support.len()] - known) / system[k][k];
            }
            let exact: Vec<f32> = exact.iter().map(|v| *v as f32).collect();
            let (ours, best) = (gram.relative_error(row, &found[r * COLS..][..COLS]), gram.relative_error(row, &exact));
            assert!(ours <= 1.01 * best, "{ours}, {best} is possible");
        }
    }
}
