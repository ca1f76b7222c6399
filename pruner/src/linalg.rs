//! Dense linear algebra on slices, by `faer`, cut into parts of a fixed size so that results do not depend on threads.
//!
//! Matrices are column after column. A weight matrix `o x d`, row after row, is its transpose `d x o`, column after column.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::triangular_inverse::invert_upper_triangular;
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::error::Error;

/// Columns that a thread takes at a time.
const SHARE: usize = 128;

/// Which factor of a product is taken transposed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transpose {
    Neither,
    Left,
    Right,
}

/// Zeros, or an error instead of an abort.
pub(crate) fn zeroed(what: &'static str, len: usize) -> Result<Vec<f32>, Error> {
    let mut all = Vec::new();
    reserve(&mut all, what, len)?;
    all.resize(len, 0.0);
    Ok(all)
}

/// Room for `len` more numbers and no others, or an error instead of an abort.
pub(crate) fn reserve(numbers: &mut Vec<f32>, what: &'static str, len: usize) -> Result<(), Error> {
    let out_of_memory = |_| Error::OutOfMemory { what, bytes: len.saturating_mul(4) };
    numbers.try_reserve_exact(len).map_err(out_of_memory)
}

/// `data` as columns of `rows`.
pub(crate) fn columns(data: &[f32], rows: usize) -> MatRef<'_, f32> {
    MatRef::from_column_major_slice(data, rows, data.len() / rows)
}

/// The same to write to.
pub(crate) fn columns_mut(data: &mut [f32], rows: usize) -> MatMut<'_, f32> {
    let cols = data.len() / rows;
    MatMut::from_column_major_slice_mut(data, rows, cols)
}

/// `out += a b` on this thread.
pub(crate) fn multiply_add(out: MatMut<f32>, a: MatRef<f32>, b: MatRef<f32>, transpose: Transpose) {
    add_scaled_product(out, a, b, transpose, 1.0);
}

/// `out -= a b` on this thread.
pub(crate) fn multiply_sub(out: MatMut<f32>, a: MatRef<f32>, b: MatRef<f32>, transpose: Transpose) {
    add_scaled_product(out, a, b, transpose, -1.0);
}

/// `out += factor a b` on this thread.
pub(crate) fn add_scaled_product(out: MatMut<f32>, a: MatRef<f32>, b: MatRef<f32>, transpose: Transpose, factor: f32) {
    match transpose {
        Transpose::Neither => matmul(out, Accum::Add, a, b, factor, Par::Seq),
        Transpose::Left => matmul(out, Accum::Add, a.transpose(), b, factor, Par::Seq),
        Transpose::Right => matmul(out, Accum::Add, a, b.transpose(), factor, Par::Seq),
    }
}

/// `out = a x` for a square `a` (`d x d`) and columns `x`.
pub(crate) fn times(a: &[f32], d: usize, x: &[f32], out: &mut [f32]) {
    let a = columns(a, d);
    out.par_chunks_mut(SHARE * d).zip(x.par_chunks(SHARE * d)).for_each(|(out, x)| {
        matmul(columns_mut(out, d), Accum::Replace, a, columns(x, d), 1.0, Par::Seq);
    });
}

/// Copies what is below the diagonal above it.
pub(crate) fn mirror(a: &mut [f32], d: usize) {
    const TILE: usize = 64;
    for row in (0..d).step_by(TILE) {
        for col in (0..=row).step_by(TILE) {
            for j in col..(col + TILE).min(d) {
                for i in row.max(j + 1)..(row + TILE).min(d) {
                    a[i * d + j] = a[j * d + i];
                }
            }
        }
    }
}

/// `L` of `A = L L^T`.
pub(crate) struct Cholesky {
    d: usize,
    lower: Vec<f32>,
}

impl Cholesky {
    /// Factors `a`, symmetric, of which the part below the diagonal is read; `None` if it is not positive definite.
    pub(crate) fn new(mut a: Vec<f32>, d: usize) -> Option<Self> {
        for first in (0..d).step_by(SHARE) {
            let width = SHARE.min(d - first);
            let (done, rest) = a.split_at_mut((first + width) * d);
            let mut panel = columns_mut(&mut done[first * d..], d).subrows_mut(first, d - first);
            let (mut corner, mut below) = panel.as_mut().split_at_row_mut(width);
            factor_corner(corner.as_mut())?;
            // Rows below it, as columns: solved by the corner that was just made.
            solve_lower_triangular_in_place(corner.as_ref(), below.as_mut().transpose_mut(), Par::Seq);
            let below = below.as_ref();
            rest.par_chunks_mut(SHARE * d).enumerate().for_each(|(i, columns)| {
                let (top, cols) = (i * SHARE, columns.len() / d);
                let out = columns_mut(columns, d).submatrix_mut(first + width + top, 0, d - first - width - top, cols);
                multiply_sub(out, below.subrows(top, below.nrows() - top), below.subrows(top, cols), Transpose::Right);
            });
        }
        Some(Cholesky { d, lower: a })
    }

    /// Replaces the columns `x` by `A^-1 x`.
    pub(crate) fn solve(&self, x: &mut [f32]) {
        let lower = columns(&self.lower, self.d);
        x.par_chunks_mut(SHARE * self.d).for_each(|x| {
            let mut x = columns_mut(x, self.d);
            solve_lower_triangular_in_place(lower, x.as_mut(), Par::Seq);
            solve_upper_triangular_in_place(lower.transpose(), x.as_mut(), Par::Seq);
        });
    }
}

/// Factors a small matrix on this thread; `None` if it is not positive definite.
fn factor_corner(corner: MatMut<f32>) -> Option<()> {
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f32>(corner.nrows(), Par::Seq, Default::default()));
    let stack = MemStack::new(&mut memory);
    cholesky_in_place(corner, Default::default(), Par::Seq, stack, Default::default()).ok().map(|_| ())
}

/// `U`, upper triangular, of `A^-1 = U^T U`: row `i` of it is how an error in feature `i` is best made up for by the
/// features after it, all before being fixed. Column after column.
///
/// From the factor of `A` with its features in reverse order: `A = M M^T` with `M` upper triangular, and `U = M^-1`. So
/// the inverse itself is never formed.
pub(crate) fn inverse_factor(a: &[f32], d: usize) -> Option<Vec<f32>> {
    // All of a square in reverse is its rows and its columns in reverse.
    let mut reversed = a.to_vec();
    reversed.reverse();
    let mut upper = Cholesky::new(reversed, d)?.lower;
    upper.reverse();
    upper.par_chunks_exact_mut(d).enumerate().for_each(|(j, column)| column[j + 1..].fill(0.0));
    invert_upper(&mut upper, d);
    Some(upper)
}

/// Inverts an upper triangular matrix where it is, a panel of columns after the other: `-V u V'` above its corner, with `V`
/// the inverse so far and `V'` the corner's.
fn invert_upper(u: &mut [f32], d: usize) {
    const PART: usize = 32;
    for first in (0..d).step_by(SHARE) {
        let width = SHARE.min(d - first);
        let (done, rest) = u.split_at_mut(first * d);
        let mut panel = columns_mut(&mut rest[..width * d], d);
        let (above, below) = panel.as_mut().split_at_row_mut(first);
        let mut corner = below.subrows_mut(0, width);
        let mut inverse = vec![0.0; width * width];
        let mut inverse = columns_mut(&mut inverse, width);
        invert_upper_triangular(inverse.as_mut(), corner.as_ref(), Par::Seq);
        corner.copy_from(inverse.as_ref());
        if first == 0 {
            continue;
        }
        let mut product = vec![0.0; first * width];
        let done = columns(done, d).subrows(0, first);
        let above_now = above.as_ref();
        product.par_chunks_mut(PART * first).enumerate().for_each(|(i, out)| {
            let cols = out.len() / first;
            let (out, from) = (columns_mut(out, first), above_now.subcols(i * PART, cols));
            let (upper, all) = (BlockStructure::TriangularUpper, BlockStructure::Rectangular);
            triangular::matmul(out, all, Accum::Replace, done, upper, from, all, -1.0, Par::Seq);
        });
        matmul(above, Accum::Replace, columns(&product, first), inverse.as_ref(), 1.0, Par::Seq);
    }
}

/// Numbers of a normal distribution, the same for the same seed.
#[cfg(test)]
pub(crate) fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut random = crate::rng::SplitMix::new(seed);
    let mut uniform = || (random.next() >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
    (0..n).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 1.4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `X^T X + I`, of noise.
    fn positive_definite(d: usize) -> Vec<f32> {
        let x = noise(2 * d * d, 1);
        let product = |i: usize, j: usize| -> f32 { (0..2 * d).map(|t| x[t * d + i] * x[t * d + j]).sum() };
        (0..d * d).map(|at| product(at / d, at % d) + f32::from(at / d == at % d)).collect()
    }

    #[test]
    fn solves() {
        for d in [70, 3 * SHARE + 5] {
            let a = positive_definite(d);
            let x = noise(200 * d, 2);
            let mut product = vec![0.0; x.len()];
            times(&a, d, &x, &mut product);
            Cholesky::new(a, d).unwrap().solve(&mut product);
            assert!(product.iter().zip(&x).all(|(p, x)| (p - x).abs() < 1e-3));
        }
    }

    /// `U A U^T` is the identity, as `A = U^-1 U^-T`.
    #[test]
    fn factors_the_inverse() {
        for d in [70, 2 * SHARE + 5] {
            let a = positive_definite(d);
            let u = inverse_factor(&a, d).unwrap();
            let entry = |row: usize, col: usize| f64::from(u[col * d + row]);
            for i in 0..d {
                let row: Vec<f64> = a.chunks(d).map(|a| (i..d).map(|k| entry(i, k) * f64::from(a[k])).sum()).collect();
                for j in 0..d {
                    let sum: f64 = (j..d).map(|l| row[l] * entry(j, l)).sum();
                    assert!((sum - f64::from(u8::from(i == j))).abs() < 1e-3, "{i} {j}: {sum}");
                    assert!(i <= j || entry(i, j) == 0.0);
                }
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_no_factor() {
        assert!(Cholesky::new(vec![1.0, 2.0, 2.0, 1.0], 2).is_none());
        assert!(inverse_factor(&[0.0; 4], 2).is_none());
    }
}
