//! Kernels: the few loops where the time goes, one file an instruction set.
//!
//! Possessing a [`Kernels`] is the proof that this CPU has its instructions: they are handed out by the
//! `detect` of an ISA file alone. [`available`] is the one list of ISAs; tests and benches iterate over it.
//!
//! **Arithmetic.** `portable` defines what every kernel computes. On the integer path (int8 weights times
//! int8 activations) every kernel gives the same bits: the dot product of a block of 32 is an exact integer;
//! block `b` is added to lane `b mod 8` as `lane += dot * (weight_scale * x_scale)`, multiplied and added
//! separately (not fused); the lanes are summed by `sum_lanes`. Norms follow the same rule with lane `i mod 8`;
//! attention sums in order of the index, see `attention`. Only the f32 product may fuse and so
//! may differ between ISAs in the last bits; inside one kernel it is the same for any batch size and any encoding of the same values.

// Loops over registers go over several arrays by one index, and have to be seen whole to be unrolled.
#![allow(clippy::needless_range_loop)]
// The portable kernels alone have no use for some of it.
#![cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]

mod aligned;
mod attention;
mod chunks;
mod codes;
mod float;
mod kernel;
mod portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx_vnni;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_dotprod;

use std::ops::Range;
use std::sync::OnceLock;

use half::f16;
use spm::Matrix;

pub use codes::Codes;
pub use kernel::Scratch;

pub(crate) use aligned::Aligned;
pub(crate) use attention::{Cached, KEY_BLOCK, Queries, SCALED, ScaledBytes};
pub(crate) use kernel::{PAD, PANEL};

/// As [`Kernels::quantize`].
type Quantize = fn(&[f32], &mut [i8], &mut [f32], &mut [i32]);

/// One instruction set's loops. Functions are private: callers go through the checked methods.
pub struct Kernels {
    name: &'static str,
    /// From how many vectors on they are wanted in tiles.
    tiled_from: usize,
    rows_i8: fn(&Matrix, Range<usize>, &Codes, &mut Scratch, &mut [f32]),
    rows_f32: fn(&Matrix, Range<usize>, &[f32], &mut Scratch, &mut [f32]),
    quantize: Quantize,
    scores: fn(&Queries, Cached, &mut Aligned<f32>, &mut [f32]),
    mix: fn(&Queries, Cached, &mut Aligned<f32>, &[f32], &mut [f32]),
    softmax: fn(&mut [f32], f32),
    swiglu: fn(&mut [f32], &[f32]),
    rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    store_f16: fn(&[f32], &mut [f16]),
}

/// The kernels this CPU can run, best first.
pub fn available() -> &'static [&'static Kernels] {
    static LIST: OnceLock<Vec<&'static Kernels>> = OnceLock::new();
    LIST.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        let found = [avx512::detect(), avx_vnni::detect(), avx2::detect(), portable::detect()];
        #[cfg(target_arch = "aarch64")]
        let found = [neon_dotprod::detect(), neon::detect(), portable::detect()];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let found = [portable::detect()];
        found.into_iter().flatten().collect()
    })
}

/// The kernels to use unless asked otherwise.
pub fn best() -> &'static Kernels {
    available()[0]
}

impl Kernels {
    /// Such as `avx2`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Rows `rows` of an integer-coded `weights` times `x.n()` int8 vectors. `out` is in panels of 16 rows: row `r`
    /// times vector `t` of a panel of `h` rows (the last may have fewer) is at `t * h + r` of the panel.
    ///
    /// # Panics
    /// If the shapes disagree or the encoding is not integer.
    pub fn rows_i8(&self, weights: &Matrix, rows: Range<usize>, x: &Codes, scratch: &mut Scratch, out: &mut [f32]) {
        assert!(weights.encoding().is_integer() && rows.end <= weights.rows());
        assert!(x.cols() == weights.cols() && out.len() == rows.len() * x.n());
        (self.rows_i8)(weights, rows, x, scratch, out);
    }

    /// Rows `rows` of `weights`, expanded to f32, times the vectors of `x`, each padded with zeros to
    /// [`padded`] columns; output as [`Self::rows_i8`].
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn rows_f32(&self, weights: &Matrix, rows: Range<usize>, x: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
        let stride = padded(weights.cols());
        assert!(rows.end <= weights.rows() && x.len().is_multiple_of(stride));
        assert_eq!(out.len(), rows.len() * (x.len() / stride));
        (self.rows_f32)(weights, rows, x, scratch, out);
    }

    /// `x` in blocks of 32 as codes and scales: `scale = max |x| / 127`, `code = round(x * (127 / max |x|))`,
    /// halves to even; `lifts` are -128 times the sums of the codes.
    pub(crate) fn quantize(&self, x: &[f32], codes: &mut [i8], scales: &mut [f32], lifts: &mut [i32]) {
        assert!(x.len().is_multiple_of(32) && codes.len() == x.len());
        assert!(scales.len() == x.len() / 32 && lifts.len() == scales.len());
        (self.quantize)(x, codes, scales, lifts);
    }

    /// See [`attention::scores`].
    pub(crate) fn scores(&self, queries: &Queries, keys: Cached, scratch: &mut Aligned<f32>, scores: &mut [f32]) {
        (self.scores)(queries, keys, scratch, scores);
    }

    /// See [`attention::mix`].
    pub(crate) fn mix(
        &self,
        queries: &Queries,
        values: Cached,
        scratch: &mut Aligned<f32>,
        weights: &[f32],
        out: &mut [f32],
    ) {
        (self.mix)(queries, values, scratch, weights, out);
    }

    /// See [`crate::ops::softmax`].
    pub(crate) fn softmax(&self, scores: &mut [f32], scale: f32) {
        (self.softmax)(scores, scale);
    }

    /// See [`crate::ops::swiglu`].
    pub(crate) fn swiglu(&self, gate: &mut [f32], up: &[f32]) {
        (self.swiglu)(gate, up);
    }

    /// See [`crate::ops::rms_norm`].
    pub(crate) fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        (self.rms_norm)(x, weight, eps, out);
    }

    /// Rounds to halves, to nearest even.
    pub(crate) fn store_f16(&self, x: &[f32], out: &mut [f16]) {
        assert_eq!(out.len(), x.len());
        (self.store_f16)(x, out);
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.name)
    }
}

/// Columns rounded up to whole registers, as the f32 product wants its vectors.
pub fn padded(cols: usize) -> usize {
    cols.next_multiple_of(PAD)
}

/// The order in which eight lanes are summed, everywhere.
pub(crate) fn sum_lanes(l: [f32; 8]) -> f32 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

#[cfg(test)]
mod tests;
