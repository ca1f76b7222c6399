//! Cycles per 32 dense weights of every kernel on every encoding, weights and vectors in the first-level cache.
//!
//! `cargo bench -p kernel-benches --bench cycles` prints a markdown table. A cycle is taken from a chain of shifts and
//! exclusive ors, each of which waits one cycle for the last, timed next to each measurement; the least of many tries
//! counts, so other programs disturb little. With `--test` every product runs once.
#![allow(missing_docs, reason = "a program")]
#![allow(clippy::print_stdout, reason = "a program")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use kernel_benches::{noise, sparse_or_dense};
use runtime::simd::{self, Codes, Kernels, Scratch};
use spm::{Encoding, Matrix};

/// Vectors and shape: a wide row and one of SmolLM2's for one vector, a few vectors, two panels of rows for many.
const CASES: [(usize, (usize, usize)); 4] = [(1, (8, 2048)), (1, (28, 576)), (4, (8, 2048)), (96, (32, 1024))];
const SPARSITIES: [f32; 2] = [0.5, 0.7];
const TRIES: usize = 400;

fn main() {
    let once = std::env::args().any(|a| a == "--test");
    let kernels = simd::available();
    let names: Vec<_> = kernels.iter().map(|k| k.name()).collect();
    println!("| encoding | pruned | bits a weight | columns | vectors | {} |", names.join(" | "));
    println!("|---|---|---|---|---|{}", "---|".repeat(names.len()));
    for encoding in Encoding::ALL.into_iter().filter(|e| e.is_integer()) {
        let sparsities = if encoding.has_row_starts() { &SPARSITIES[..] } else { &SPARSITIES[..1] };
        for &sparsity in sparsities {
            for (n, (rows, cols)) in CASES {
                let matrix = sparse_or_dense(encoding, rows, cols, sparsity);
                let row: Vec<_> = kernels.iter().map(|k| cell(k, &matrix, n, once)).collect();
                let pruned = if encoding.is_sparse() { format!("{:.0} %", sparsity * 100.0) } else { "-".into() };
                let bits = matrix.byte_len() as f64 * 8.0 / (rows * cols) as f64;
                println!("| {} | {pruned} | {bits:.2} | {cols} | {n} | {} |", encoding.name(), row.join(" | "));
            }
        }
    }
}

/// Cycles per 32 weights and vector.
fn cell(kernels: &'static Kernels, matrix: &Matrix, n: usize, once: bool) -> String {
    let codes = Codes::from_f32(kernels, &noise(n * matrix.cols()), matrix.cols());
    let (mut scratch, mut out) = (Scratch::default(), vec![0.0; matrix.rows() * n]);
    let mut run = || kernels.rows_i8(black_box(matrix), 0..matrix.rows(), &codes, &mut scratch, &mut out);
    if once {
        run();
        return "ran".into();
    }
    let repeats = 64usize.div_ceil(n);
    let mut product = Duration::MAX;
    let mut cycle = f64::MAX;
    for _ in 0..TRIES {
        cycle = cycle.min(seconds_of_a_cycle());
        let start = Instant::now();
        (0..repeats).for_each(|_| run());
        product = product.min(start.elapsed());
    }
    let blocks = (matrix.rows() * matrix.cols() / 32 * n * repeats) as f64;
    format!("{:.2}", product.as_secs_f64() / cycle / blocks)
}

fn seconds_of_a_cycle() -> f64 {
    const STEPS: u64 = 4000;
    let start = Instant::now();
    let step = |x: u64, _| {
        let x = x ^ x << 13;
        x ^ x >> 7
    };
    black_box((0..STEPS).fold(black_box(1u64), step));
    start.elapsed().as_secs_f64() / (4 * STEPS) as f64
}
