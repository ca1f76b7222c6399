//! Benches over the whole workspace, and the weights that they share.

use spm::encode::encode;
use spm::{Encoding, Mask, Matrix};

/// Random weights, of which a sparse encoding keeps `1 - sparsity` at random, an N:M encoding its share of each group.
///
/// # Panics
/// If the encoding cannot have this shape.
pub fn sparse_or_dense(encoding: Encoding, rows: usize, cols: usize, sparsity: f32) -> Matrix {
    let weights = noise(rows * cols);
    let dice = noise(2 * rows * cols).split_off(rows * cols);
    let mask = Mask::from_fn(rows, cols, |r, c| {
        let at = r * cols + c;
        match encoding.fixed_pattern() {
            None => dice[at] + 0.5 >= sparsity,
            Some((n, m)) => {
                let group = at / m * m;
                (group..group + m).filter(|&i| (dice[i], i) < (dice[at], at)).count() < n
            }
        }
    });
    encode(encoding, rows, cols, &weights, Some(&mask)).expect("a matrix of a real model's shape")
}

/// Values in -0.5..0.5 that look random, the same on every machine.
pub fn noise(n: usize) -> Vec<f32> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}
