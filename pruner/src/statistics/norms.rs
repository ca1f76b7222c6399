//! The norm of every input feature of a matrix.
//!
//! Sums are f64 and added token by token, window by window, so they do not depend on batches or threads.

/// Sums of squares of `cols` input features over all tokens seen.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnNorms {
    sums: Vec<f64>,
    tokens: u64,
}

impl ColumnNorms {
    /// No tokens yet.
    pub fn new(cols: usize) -> Self {
        ColumnNorms { sums: vec![0.0; cols], tokens: 0 }
    }

    /// Sums of squares of each feature over `tokens` tokens that were seen elsewhere; `None` if one is no sum of squares.
    pub fn from_squares(sums: Vec<f64>, tokens: u64) -> Option<Self> {
        sums.iter().all(|s| s.is_finite() && *s >= 0.0).then_some(ColumnNorms { sums, tokens })
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.sums.len()
    }

    /// Tokens seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Counts the inputs `x` (`n x cols`), one row a token.
    pub fn add(&mut self, x: &[f32]) {
        for token in x.chunks_exact(self.sums.len()) {
            self.tokens += 1;
            for (sum, &v) in self.sums.iter_mut().zip(token) {
                *sum += f64::from(v) * f64::from(v);
            }
        }
    }

    /// Counts the tokens that `other` has seen.
    pub fn merge(&mut self, other: &ColumnNorms) {
        assert_eq!(self.cols(), other.cols(), "columns");
        self.tokens += other.tokens;
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, more)| *sum += more);
    }

    /// Sum of squares of feature `j` for each `j`.
    pub fn squares(&self) -> &[f64] {
        &self.sums
    }

    /// `||X_j||_2` of every feature, as f32.
    pub fn norms(&self) -> Vec<f32> {
        self.sums.iter().map(|s| s.sqrt() as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_squares_in_f64() {
        let (n, cols) = (500, 7);
        let x: Vec<f32> = (0..n * cols).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 37.0 - 12.0).collect();
        let mut norms = ColumnNorms::new(cols);
        norms.add(&x[..100 * cols]);
        norms.add(&x[100 * cols..]);
        assert_eq!(norms.tokens(), n as u64);
        for j in 0..cols {
            let expected: f64 = (0..n).map(|t| f64::from(x[t * cols + j]).powi(2)).sum();
            assert!((norms.squares()[j] - expected).abs() <= 1e-12 * expected, "column {j}");
            assert_eq!(norms.norms()[j], norms.squares()[j].sqrt() as f32);
        }
        assert_eq!(ColumnNorms::from_squares(norms.squares().to_vec(), n as u64), Some(norms));
        assert_eq!(ColumnNorms::from_squares(vec![1.0, -1.0], 1), None);
        assert_eq!(ColumnNorms::from_squares(vec![f64::NAN], 1), None);
    }

    #[test]
    fn one_large_token_does_not_swallow_small_ones() {
        // In f32 the sum would stay at 1e8: 1 is below half its last place.
        let mut norms = ColumnNorms::new(1);
        norms.add(&[1e4]);
        (0..1000).for_each(|_| norms.add(&[1.0]));
        assert_eq!(norms.squares(), [1e8 + 1000.0]);
    }
}
