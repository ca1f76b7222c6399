//! AVX2 with AVX-VNNI: Intel without AVX-512 since Alder Lake, AMD since Zen 5. One instruction sums four products.

use std::arch::is_x86_feature_detected;
use std::ops::Range;

use spm::Matrix;

use super::Kernels;
use super::avx2::{self, Avx2, FEW};
use super::codes::Codes;
use super::kernel::{self, Scratch};

/// The kernels, if this CPU has what they need.
pub(super) fn detect() -> Option<&'static Kernels> {
    static KERNELS: Kernels = Kernels {
        name: "avx-vnni",
        // SAFETY: handed out below only on a CPU that has the features of this function.
        rows_i8: |m, rows, x, scratch, out| unsafe { rows_i8(m, rows, x, scratch, out) },
        ..avx2::KERNELS
    };
    (is_x86_feature_detected!("avxvnni") && avx2::detect().is_some()).then_some(&KERNELS)
}

#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1,avxvnni")]
fn rows_i8(m: &Matrix, rows: Range<usize>, x: &Codes, scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe {
        match x.n() {
            ..=FEW => kernel::rows_few::<Avx2<true>>(m, rows, x, out),
            _ => kernel::rows_many::<Avx2<true>>(m, rows, x, scratch, out),
        }
    }
}
