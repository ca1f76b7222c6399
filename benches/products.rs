//! Matrix times vectors: every kernel of this machine x every encoding x the shapes of real models.
//!
//! `cargo bench -p kernel-benches` measures; `cargo bench -p kernel-benches -- --test` runs each once.
//! The reported element rate is dense weights per second on one thread.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kernel_benches::{noise, sparse_or_dense};
use runtime::simd::{self, Codes, Kernels, Scratch};
use spm::{Encoding, Matrix};

/// SmolLM2-135M's and Qwen2.5-0.5B's up projections.
const SHAPES: [(usize, usize); 2] = [(1536, 576), (4864, 896)];
/// One token (decode), a few (speculation), a batch (prefill).
const BATCHES: [usize; 3] = [1, 4, 64];

fn products(c: &mut Criterion) {
    for (rows, cols) in SHAPES {
        for encoding in Encoding::ALL {
            let matrix = sparse_or_dense(encoding, rows, cols, 0.5);
            for n in BATCHES {
                let mut group = c.benchmark_group(format!("{}/{rows}x{cols}/{n}", encoding.name()));
                group.throughput(Throughput::Elements((rows * cols * n) as u64));
                for kernels in simd::available() {
                    let mut run = product(kernels, &matrix, n);
                    group.bench_function(BenchmarkId::from_parameter(kernels.name()), |b| b.iter(&mut run));
                }
            }
        }
    }
}

fn product<'a>(kernels: &'static Kernels, matrix: &'a Matrix, n: usize) -> impl FnMut() -> f32 + 'a {
    let x = noise(n * matrix.cols());
    let codes = Codes::from_f32(kernels, &x, matrix.cols());
    let (mut scratch, mut out) = (Scratch::default(), vec![0.0; matrix.rows() * n]);
    move || {
        if matrix.encoding().is_integer() {
            kernels.rows_i8(matrix, 0..matrix.rows(), &codes, &mut scratch, &mut out);
        } else {
            // The shapes above are whole registers wide, so the vectors need no padding.
            kernels.rows_f32(matrix, 0..matrix.rows(), &x, &mut scratch, &mut out);
        }
        out[0]
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
