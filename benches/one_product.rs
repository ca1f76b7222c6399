//! One product, to be watched from outside: `benches/arm-model` counts the instructions of its loops.
//!
//! `one-product KERNEL ENCODING ROWS COLUMNS VECTORS`: half of a sparse encoding's weights are kept.

use kernel_benches::{noise, sparse_or_dense};
use runtime::simd::{self, Codes, Kernels, Scratch};
use spm::Encoding;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, encoding, sizes @ ..] = &args[..] else { panic!("KERNEL ENCODING ROWS COLUMNS VECTORS") };
    let found = simd::available().iter().find(|k| k.name() == kernel);
    let kernels: &Kernels = found.expect("a kernel of this CPU");
    let encoding = Encoding::ALL.into_iter().find(|e| e.name() == encoding).expect("an encoding");
    let sizes: Vec<usize> = sizes.iter().map(|n| n.parse().expect("a number")).collect();
    let [rows, cols, n] = sizes[..] else { panic!("ROWS COLUMNS VECTORS") };

    let (matrix, x) = (sparse_or_dense(encoding, rows, cols, 0.5), noise(n * cols));
    let (mut scratch, mut out) = (Scratch::default(), vec![0.0; rows * n]);
    if encoding.is_integer() {
        let codes = Codes::from_f32(kernels, &x, cols);
        kernels.rows_i8(&matrix, 0..rows, &codes, &mut scratch, &mut out);
    } else {
        kernels.rows_f32(&matrix, 0..rows, &x, &mut scratch, &mut out);
    }
    assert!(out.iter().all(|v| v.is_finite()), "a product that is not a number");
}
