//! The Gram matrix of the inputs, `G = X^T X`: all that a layer's squared error depends on.

use rayon::prelude::*;

use crate::error::Error;
use crate::linalg::{self, Transpose};

/// Columns of `G` that are updated together. Fixed, so that sums do not depend on threads.
const PANEL: usize = 128;

/// `X^T X` of `d` input features over all tokens seen: f32, but for the diagonal, whose sums are f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    d: usize,
    /// `d x d`; the part below the diagonal while tokens are added, all of it after `finish`.
    products: Vec<f32>,
    diagonal: Vec<f64>,
    tokens: u64,
}

impl Gram {
    /// No tokens yet; an error if there is no memory for `d x d` numbers.
    pub fn new(d: usize) -> Result<Self, Error> {
        Ok(Gram { d, products: linalg::zeroed("a Gram matrix", d * d)?, diagonal: vec![0.0; d], tokens: 0 })
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.d
    }

    /// Tokens seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// `d x d`, symmetric.
    pub fn products(&self) -> &[f32] {
        &self.products
    }

    /// Sums of squares of each feature.
    pub fn diagonal(&self) -> &[f64] {
        &self.diagonal
    }

    /// Counts the inputs `x` (`n x d`), one row a token, on the threads of the current pool.
    pub fn add(&mut self, x: &[f32]) {
        let d = self.d;
        let n = x.len() / d;
        self.tokens += n as u64;
        for token in x.chunks_exact(d) {
            self.diagonal.iter_mut().zip(token).for_each(|(sum, &v)| *sum += f64::from(v) * f64::from(v));
        }
        self.products.par_chunks_mut(PANEL * d).enumerate().for_each(|(i, panel)| {
            let (first, width) = (i * PANEL, panel.len() / d);
            let x = linalg::columns(x, d);
            let mut panel = linalg::columns_mut(panel, d);
            let below = panel.as_mut().submatrix_mut(first, 0, d - first, width);
            linalg::multiply_add(
                below,
                x.submatrix(first, 0, d - first, n),
                x.submatrix(first, 0, width, n),
                Transpose::Right,
            );
        });
    }

    /// Completes the matrix after the last token.
    pub fn finish(&mut self) {
        let d = self.d;
        for (j, sum) in self.diagonal.iter().enumerate() {
            self.products[j * d + j] = *sum as f32;
        }
        linalg::mirror(&mut self.products, d);
    }

    /// The products, `damp` of the mean of the diagonal added to it; 1 where a feature never is anything.
    pub(crate) fn damped(&self, damp: f64) -> Vec<f32> {
        let d = self.d;
        let mean = self.diagonal.iter().sum::<f64>() / d as f64;
        let mut h = self.products.clone();
        for (j, g) in self.diagonal.iter().enumerate() {
            h[j * d + j] = if *g > 0.0 { (g + damp * mean) as f32 } else { mean.max(1.0) as f32 };
        }
        h
    }

    /// `X^T X w` of every row `w` of `rows` (`o x d`).
    pub(crate) fn times(&self, rows: &[f32]) -> Vec<f32> {
        let mut products = vec![0.0; rows.len()];
        linalg::times(&self.products, self.d, rows, &mut products);
        products
    }

    /// `||X w||^2` of every row `w` of `rows` (`o x d`), summed.
    pub fn energy(&self, rows: &[f32]) -> f64 {
        let products = self.times(rows);
        let parts = rows.par_chunks(self.d).zip(products.par_chunks(self.d));
        let of_rows: Vec<f64> = parts.map(|(w, p)| w.iter().zip(p).map(|(w, p)| f64::from(w * p)).sum()).collect();
        of_rows.into_iter().sum::<f64>().max(0.0)
    }

    /// `||X (W - W')||^2 / ||X W||^2`; 0 where there is nothing to lose.
    pub fn relative_error(&self, dense: &[f32], pruned: &[f32]) -> f64 {
        let lost: Vec<f32> = dense.iter().zip(pruned).map(|(a, b)| a - b).collect();
        let all = self.energy(dense);
        if all > 0.0 { self.energy(&lost) / all } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::noise;

    #[test]
    fn sums_products_as_f64_does() {
        let (n, d) = (700, 150);
        let x = noise(n * d, 3);
        let mut gram = Gram::new(d).unwrap();
        gram.add(&x[..400 * d]);
        gram.add(&x[400 * d..]);
        gram.finish();
        assert_eq!(gram.tokens(), n as u64);
        for i in 0..d {
            for j in 0..d {
                let expected: f64 = (0..n).map(|t| f64::from(x[t * d + i]) * f64::from(x[t * d + j])).sum();
                let found = f64::from(gram.products()[i * d + j]);
                assert!((found - expected).abs() <= 1e-3, "{i} {j}: {found}, expected {expected}");
            }
        }
        let w = noise(3 * d, 4);
        let outputs = |w: &[f32], t: usize| -> f64 { (0..d).map(|j| f64::from(x[t * d + j] * w[j])).sum() };
        let expected: f64 = w.chunks(d).map(|w| (0..n).map(|t| outputs(w, t).powi(2)).sum::<f64>()).sum();
        assert!((gram.energy(&w) - expected).abs() <= 1e-4 * expected);
        assert!((gram.relative_error(&w, &vec![0.0; 3 * d]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn threads_change_nothing() {
        let (n, d) = (130, 300);
        let x = noise(n * d, 9);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut gram = Gram::new(d).unwrap();
                gram.add(&x);
                gram.finish();
                gram
            })
        };
        assert!(on(1) == on(3));
    }
}
