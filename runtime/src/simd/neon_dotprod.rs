//! NEON with dot products: Cortex-A76 (Raspberry Pi 5) and later. One instruction sums four products.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::ops::Range;

use spm::{BLOCK, Matrix};

use super::Kernels;
use super::kernel::{self, Codes, Isa, LANES, PANEL, Scratch, Vector};
use super::neon::{self, Neon};

/// The kernels, if this CPU has what they need.
pub(super) fn detect() -> Option<&'static Kernels> {
    static KERNELS: Kernels = Kernels {
        name: "neon-dotprod",
        // SAFETY: handed out below only on a CPU that has the features of this function.
        rows_i8: |m, rows, x, scratch, out| unsafe { rows_i8(m, rows, x, scratch, out) },
        ..neon::KERNELS
    };
    is_aarch64_feature_detected!("dotprod").then_some(&KERNELS)
}

/// Up to this many vectors are multiplied with a chunk in registers; for more, putting rows into panels pays.
const FEW: usize = Neon::<true>::FEW;
/// Vectors that share the loads of a panel.
const TOKENS: usize = 4;
/// Rows of a panel whose sums are in registers together: two registers of four.
const TALL: usize = 8;

/// `acc` and, in each lane, four products. (By hand: the intrinsic is not stable.)
#[target_feature(enable = "dotprod")]
#[inline]
pub(super) fn sdot(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: reads and writes registers only; the feature is this function's.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) acc, in(vreg) w, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// The same with four codes of `x` for all lanes.
#[target_feature(enable = "dotprod")]
#[inline]
fn sdot_lane<const LANE: i32>(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: reads and writes registers only; the feature is this function's.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]", inout(vreg) acc, in(vreg) w, in(vreg) x, const LANE,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

#[target_feature(enable = "dotprod")]
fn rows_i8(m: &Matrix, rows: Range<usize>, x: &Codes, scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: this function's target feature and what is baseline are the ISA.
    unsafe {
        match x.n() {
            ..=FEW => kernel::rows_few::<Neon<true>>(m, rows, x, out),
            _ => panels(m, rows, x, scratch, out),
        }
    }
}

/// Prefill: 16 rows are expanded and turned so that a register holds four columns of four of them, then multiplied with
/// all vectors.
///
/// # Safety
/// This ISA.
#[target_feature(enable = "dotprod")]
#[inline]
unsafe fn panels(m: &Matrix, rows: Range<usize>, x: &Codes, scratch: &mut Scratch, out: &mut [f32]) {
    scratch.fit(PANEL, m.cols());
    scratch.fit_packed(PANEL, m.cols());
    let (blocks, width) = (m.blocks(), x.stride() * BLOCK);
    for (first, out) in rows.step_by(PANEL).zip(out.chunks_mut(PANEL * x.n())) {
        let height = out.len() / x.n();
        // SAFETY: the ISA is the caller's promise; scratch was fitted to a panel.
        unsafe {
            turn_rows(m, first, height, x.stride(), scratch);
            for top in (0..height).step_by(TALL) {
                let part = Part {
                    codes: &scratch.packed[top * width..(top + TALL) * width],
                    scales: &scratch.scales[top * x.stride()..(top + TALL) * x.stride()],
                    blocks,
                    top,
                    height,
                };
                let mut t = 0;
                while t < x.n() {
                    t += match x.n() - t {
                        1 => part.times::<1>(x, t, out),
                        2 => part.times::<2>(x, t, out),
                        3 => part.times::<3>(x, t, out),
                        _ => part.times::<TOKENS>(x, t, out),
                    };
                }
            }
        }
    }
}

/// Expands `height` rows and turns them: `packed` gets, for every eight rows, every four columns of each; `scales`, for
/// every eight rows, those of every block. What rows past `height` get is of no matter.
///
/// # Safety
/// This ISA; scratch was fitted to a panel; `stride` is the row's blocks in whole groups.
#[target_feature(enable = "dotprod")]
#[inline]
unsafe fn turn_rows(m: &Matrix, first: usize, height: usize, stride: usize, scratch: &mut Scratch) {
    let Scratch { codes, packed, scales, .. } = scratch;
    let width = stride * BLOCK;
    assert!(codes.len() >= PANEL * width && packed.len() >= PANEL * width && scales.len() >= PANEL * stride);
    // SAFETY: the caller's promise; sizes are asserted above; a row is `width` codes, a multiple of 256.
    unsafe {
        kernel::store_rows::<Neon<true>>(m, first..first + height, width, codes);
        for quad in (0..height.next_multiple_of(4)).step_by(4) {
            // Registers of four rows, and of the four after them, take turns.
            let to = packed.as_mut_ptr().add(quad / TALL * TALL * width + quad % TALL * 4);
            for c in (0..width).step_by(16) {
                let at = codes.as_ptr().add(quad * width + c);
                let rows = std::array::from_fn(|r| vreinterpretq_s32_s8(vld1q_s8(at.add(r * width))));
                for (i, columns) in turn(rows).into_iter().enumerate() {
                    vst1q_s8(to.add((c / 4 + i) * 4 * TALL), vreinterpretq_s8_s32(columns));
                }
            }
        }
    }
    for r in 0..height {
        let (row, to) = (m.scales(first + r), &mut scales[r / TALL * TALL * stride..][..TALL * stride]);
        to.chunks_exact_mut(TALL).take(m.blocks()).enumerate().for_each(|(b, to)| to[r % TALL] = row.get(b));
    }
}

/// Lane `r` of result `i` is lane `i` of `rows[r]`.
#[target_feature(enable = "neon")]
#[inline]
fn turn(rows: [int32x4_t; 4]) -> [int32x4_t; 4] {
    let pairs = |a, b| (vtrn1q_s32(a, b), vtrn2q_s32(a, b));
    let (even, odd) = (pairs(rows[0], rows[1]), pairs(rows[2], rows[3]));
    let wide = |v| vreinterpretq_s64_s32(v);
    [
        vreinterpretq_s32_s64(vtrn1q_s64(wide(even.0), wide(odd.0))),
        vreinterpretq_s32_s64(vtrn1q_s64(wide(even.1), wide(odd.1))),
        vreinterpretq_s32_s64(vtrn2q_s64(wide(even.0), wide(odd.0))),
        vreinterpretq_s32_s64(vtrn2q_s64(wide(even.1), wide(odd.1))),
    ]
}

/// Eight rows of a panel, turned.
struct Part<'a> {
    codes: &'a [i8],
    scales: &'a [f32],
    blocks: usize,
    /// The first of them in the panel, and how many rows that has.
    top: usize,
    height: usize,
}

impl Part<'_> {
    /// Multiplies with `N` vectors from `first` on and says how many that were; `out[t * height + r]` is row `r` of the
    /// panel times vector `t`.
    ///
    /// # Safety
    /// This ISA; the panel is of the vectors' width.
    #[target_feature(enable = "dotprod")]
    #[inline]
    unsafe fn times<const N: usize>(&self, x: &Codes, first: usize, out: &mut [f32]) -> usize {
        let vectors: [Vector; N] = std::array::from_fn(|t| x.vector(first + t));
        assert!(self.codes.len() >= self.blocks * BLOCK * TALL && self.scales.len() >= self.blocks * TALL);
        assert!(self.blocks <= x.stride());
        let mut lanes = [[[vdupq_n_f32(0.0); 2]; N]; LANES];
        for (lane, sums) in lanes.iter_mut().enumerate() {
            let mut acc = [[vdupq_n_f32(0.0); 2]; N];
            for b in (lane..self.blocks).step_by(LANES) {
                // SAFETY: the caller's promise; blocks stay below `self.blocks`, sizes are asserted above.
                unsafe {
                    let mut dots = [[vdupq_n_s32(0); 2]; N];
                    for h in 0..2 {
                        let w = self.codes.as_ptr().add((2 * b + h) * 16 * TALL);
                        let xs = vectors.map(|x| vld1q_s8(x.codes.as_ptr().add((2 * b + h) * 16)));
                        add_columns::<0, N>(&mut dots, w, &xs);
                        add_columns::<1, N>(&mut dots, w, &xs);
                        add_columns::<2, N>(&mut dots, w, &xs);
                        add_columns::<3, N>(&mut dots, w, &xs);
                    }
                    let scales = self.scales.as_ptr().add(b * TALL);
                    let w_scales = [vld1q_f32(scales), vld1q_f32(scales.add(4))];
                    for ((dots, x), acc) in dots.iter().zip(&vectors).zip(&mut acc) {
                        let x_scale = *x.scales.get_unchecked(b);
                        for ((dots, w_scale), acc) in dots.iter().zip(w_scales).zip(acc) {
                            let scale = vmulq_n_f32(w_scale, x_scale);
                            *acc = vaddq_f32(*acc, vmulq_f32(vcvtq_f32_s32(*dots), scale));
                        }
                    }
                }
            }
            *sums = acc;
        }
        for (t, out) in out[first * self.height..].chunks_exact_mut(self.height).take(N).enumerate() {
            let mut rows = [0.0; TALL];
            for (half, to) in rows.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let l = |i: usize| lanes[i][t][half];
                // The order of `sum_lanes`.
                let even = vaddq_f32(vaddq_f32(l(0), l(4)), vaddq_f32(l(2), l(6)));
                let odd = vaddq_f32(vaddq_f32(l(1), l(5)), vaddq_f32(l(3), l(7)));
                // SAFETY: four singles.
                unsafe { vst1q_f32(to.as_mut_ptr(), vaddq_f32(even, odd)) };
            }
            let there = TALL.min(self.height - self.top);
            out[self.top..self.top + there].copy_from_slice(&rows[..there]);
        }
        N
    }
}

/// Adds the products of four columns of eight rows, the `Q`-th four at `w`, with those of `N` vectors.
///
/// # Safety
/// This ISA; 16 columns of eight rows are at `w`.
#[target_feature(enable = "dotprod")]
#[inline]
unsafe fn add_columns<const Q: i32, const N: usize>(dots: &mut [[int32x4_t; 2]; N], w: *const i8, x: &[int8x16_t; N]) {
    // SAFETY: the caller's promise.
    unsafe {
        let w = w.add(Q as usize * 4 * TALL);
        let w = [vld1q_s8(w), vld1q_s8(w.add(16))];
        for (dots, x) in dots.iter_mut().zip(x) {
            dots[0] = sdot_lane::<Q>(dots[0], w[0], *x);
            dots[1] = sdot_lane::<Q>(dots[1], w[1], *x);
        }
    }
}
