//! NEON with dot products: Cortex-A76 (Raspberry Pi 5) and later. One instruction sums four products.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::ops::Range;

use spm::{BLOCK, Matrix};

use super::Kernels;
use super::codes::{Codes, TILE, Tile};
use super::kernel::{self, Isa, LANES, PANEL, Scratch};
use super::neon::{self, Neon};

/// The kernels, if this CPU has what they need.
pub(super) fn detect() -> Option<&'static Kernels> {
    static KERNELS: Kernels = Kernels {
        name: "neon-dotprod",
        tiled_from: FEW + 1,
        // SAFETY: handed out below only on a CPU that has the features of this function.
        rows_i8: |m, rows, x, scratch, out| unsafe { rows_i8(m, rows, x, scratch, out) },
        ..neon::KERNELS
    };
    is_aarch64_feature_detected!("dotprod").then_some(&KERNELS)
}

/// Up to this many vectors are multiplied with a chunk in registers; for more, putting rows into panels pays.
const FEW: usize = Neon::<true>::FEW;
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

/// The same, of two registers of weights, with the same four codes of `x` for all lanes.
#[target_feature(enable = "dotprod")]
#[inline]
fn sdot_lane<const LANE: i32>(acc: [int32x4_t; 2], w: [int8x16_t; 2], x: int8x16_t) -> [int32x4_t; 2] {
    let [mut first, mut second] = acc;
    // SAFETY: reads and writes registers only; the feature is this function's.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]", inout(vreg) first, in(vreg) w[0], in(vreg) x, const LANE,
            options(pure, nomem, nostack, preserves_flags));
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]", inout(vreg) second, in(vreg) w[1], in(vreg) x, const LANE,
            options(pure, nomem, nostack, preserves_flags));
    }
    [first, second]
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
/// all vectors, eight rows and a tile of vectors at a time.
///
/// # Safety
/// This ISA.
#[target_feature(enable = "dotprod")]
#[inline]
unsafe fn panels(m: &Matrix, rows: Range<usize>, x: &Codes, scratch: &mut Scratch, out: &mut [f32]) {
    scratch.fit(PANEL, m.cols());
    let (n, size) = (x.n(), x.stride() * TALL);
    scratch.packed.fit(PANEL / TALL * size * BLOCK);
    for (first, out) in rows.step_by(PANEL).zip(out.chunks_mut(PANEL * n)) {
        let height = out.len() / n;
        // SAFETY: the ISA is the caller's promise; scratch was fitted to a panel.
        unsafe {
            turn_rows(m, first, height, x.stride(), scratch);
            for top in (0..height).step_by(TALL) {
                let part = top / TALL * size;
                let (codes, scales) = (&scratch.packed[part * BLOCK..], &scratch.scales[part..]);
                for first in (0..n).step_by(TILE) {
                    let part = Part { codes, scales, blocks: m.blocks(), top, height, tile: x.tile(first / TILE) };
                    let out = &mut out[first * height..];
                    match n - first {
                        1 | 2 => part.times::<2>(out),
                        3 | 4 => part.times::<4>(out),
                        _ => part.times::<TILE>(out),
                    }
                }
            }
        }
    }
}

/// Expands `height` rows and turns them: `packed` gets, for every eight rows, block by block every four columns of each;
/// `scales`, for every eight rows, those of every block. What rows past `height` get is of no matter.
///
/// # Safety
/// This ISA; scratch was fitted to a panel; `stride` is the row's blocks in whole groups.
#[target_feature(enable = "dotprod")]
#[inline]
unsafe fn turn_rows(m: &Matrix, first: usize, height: usize, stride: usize, scratch: &mut Scratch) {
    scratch.tile.fit(PANEL * stride);
    let Scratch { codes, packed, scales, tile: by_row } = scratch;
    let (width, whole) = (stride * BLOCK, m.blocks() / LANES * LANES);
    assert!(codes.len() >= PANEL * width && packed.len() >= PANEL * width && scales.len() >= PANEL * stride);
    // SAFETY: the caller's promise; sizes are asserted above; a row is `width` codes, a multiple of 256.
    unsafe {
        kernel::store_rows::<Neon<true>>(m, first..first + height, width, codes);
        let (codes, packed) = (codes.as_ptr(), packed.as_mut_ptr());
        for top in (0..height.next_multiple_of(4)).step_by(4) {
            // Registers of four rows, and of the four after them, take turns.
            let to = packed.add(top / TALL * TALL * width + top % TALL * 4);
            for c in (0..width).step_by(16) {
                let at = codes.add(top * width + c);
                let rows = [0, 1, 2, 3].map(|r| vreinterpretq_s32_s8(vld1q_s8(at.add(r * width))));
                // The quads of a block of a whole group lie eight apart: together from here on.
                let quad = c / 4;
                let is_whole = quad < whole * 8;
                let (quad, step) =
                    if is_whole { (quad / 64 * 64 + quad % 8 * 8 + quad % 64 / 8, 8) } else { (quad, 1) };
                for (i, columns) in turn(rows).into_iter().enumerate() {
                    vst1q_s8(to.add((quad + i * step) * 4 * TALL), vreinterpretq_s8_s32(columns));
                }
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { kernel::store_scales::<Neon<true>>(m, first..first + height, stride, by_row) };
    for (r, of_row) in by_row.chunks_exact(stride).take(height).enumerate() {
        let to = &mut scales[r / TALL * TALL * stride..][..TALL * stride];
        to.chunks_exact_mut(TALL).zip(of_row).for_each(|(to, scale)| to[r % TALL] = *scale);
    }
}

/// Lane `r` of result `i` is lane `i` of `rows[r]`.
#[target_feature(enable = "neon")]
#[inline]
fn turn(rows: [int32x4_t; 4]) -> [int32x4_t; 4] {
    let wide = |v| vreinterpretq_s64_s32(v);
    let (even, odd) = (wide(vtrn1q_s32(rows[0], rows[1])), wide(vtrn2q_s32(rows[0], rows[1])));
    let (even_below, odd_below) = (wide(vtrn1q_s32(rows[2], rows[3])), wide(vtrn2q_s32(rows[2], rows[3])));
    [
        vreinterpretq_s32_s64(vtrn1q_s64(even, even_below)),
        vreinterpretq_s32_s64(vtrn1q_s64(odd, odd_below)),
        vreinterpretq_s32_s64(vtrn2q_s64(even, even_below)),
        vreinterpretq_s32_s64(vtrn2q_s64(odd, odd_below)),
    ]
}

/// Eight rows of a panel, turned, and a tile of vectors.
struct Part<'a> {
    codes: &'a [i8],
    scales: &'a [f32],
    blocks: usize,
    /// The first of them in the panel, and how many rows that has.
    top: usize,
    height: usize,
    tile: Tile<'a>,
}

impl Part<'_> {
    /// Multiplies with the first `N` vectors of the tile, or as many as there are; `out[t * height + r]` is row `r` of
    /// the panel times vector `t`.
    ///
    /// # Safety
    /// This ISA.
    #[target_feature(enable = "dotprod")]
    #[inline]
    unsafe fn times<const N: usize>(&self, out: &mut [f32]) {
        let blocks = self.blocks;
        assert!(self.codes.len() >= blocks * BLOCK * TALL && self.scales.len() >= blocks * TALL && N <= TILE);
        assert!(self.tile.codes.len() >= blocks * BLOCK * TILE && self.tile.scales.len() >= blocks * TILE);
        let mut lanes = [[[vdupq_n_f32(0.0); 2]; TILE]; LANES];
        for (lane, sums) in lanes.iter_mut().enumerate() {
            let mut acc = [[vdupq_n_f32(0.0); 2]; TILE];
            for b in (lane..blocks).step_by(LANES) {
                // SAFETY: the ISA is the caller's promise; blocks stay below `blocks`, sizes are asserted above.
                acc = unsafe { self.add_block::<N>(b, acc) };
            }
            *sums = acc;
        }
        for (t, out) in out.chunks_exact_mut(self.height).take(N).enumerate() {
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
    }

    /// Adds the products of block `b`, scaled, to the sums of the first `N` vectors: two, four or all six.
    ///
    /// # Safety
    /// This ISA; the rows and the tile have such a block.
    #[target_feature(enable = "dotprod")]
    #[inline]
    unsafe fn add_block<const N: usize>(&self, b: usize, sums: [[float32x4_t; 2]; TILE]) -> [[float32x4_t; 2]; TILE] {
        let mut sums = sums;
        // SAFETY: the caller's promise.
        unsafe {
            let w = self.codes.as_ptr().add(b * BLOCK * TALL);
            let x = self.tile.codes.as_ptr().add(b * BLOCK * TILE);
            let mut dots = [[vdupq_n_s32(0); 2]; TILE];
            for k in [0, 4] {
                let (w, x) = (w.add(k * 4 * TALL), x.add(k * 4 * TILE));
                add_quad::<N>(&mut dots, w, x);
                add_quad::<N>(&mut dots, w.add(4 * TALL), x.add(4 * TILE));
                add_quad::<N>(&mut dots, w.add(8 * TALL), x.add(8 * TILE));
                add_quad::<N>(&mut dots, w.add(12 * TALL), x.add(12 * TILE));
            }
            let scales = self.scales.as_ptr().add(b * TALL);
            let w_scales = [vld1q_f32(scales), vld1q_f32(scales.add(4))];
            let x_scales = self.tile.scales.as_ptr().add(b * TILE);
            for t in 0..N {
                let x_scale = *x_scales.add(t);
                let add = |half: usize| {
                    let scale = vmulq_n_f32(w_scales[half], x_scale);
                    vaddq_f32(sums[t][half], vmulq_f32(vcvtq_f32_s32(dots[t][half]), scale))
                };
                sums[t] = [add(0), add(1)];
            }
        }
        sums
    }
}

/// Adds the products of four columns, of eight rows at `w` and of the first `N` vectors of a tile at `x`.
///
/// # Safety
/// This ISA; they are there.
#[target_feature(enable = "dotprod")]
#[inline]
unsafe fn add_quad<const N: usize>(dots: &mut [[int32x4_t; 2]; TILE], w: *const i8, x: *const i8) {
    // SAFETY: the caller's promise.
    unsafe {
        let w = [vld1q_s8(w), vld1q_s8(w.add(16))];
        // Four vectors, then two. Written out, so that all sums are in registers.
        let near = vld1q_s8(x);
        dots[0] = sdot_lane::<0>(dots[0], w, near);
        dots[1] = sdot_lane::<1>(dots[1], w, near);
        if N > 2 {
            dots[2] = sdot_lane::<2>(dots[2], w, near);
            dots[3] = sdot_lane::<3>(dots[3], w, near);
        }
        if N > 4 {
            let far = vcombine_s8(vld1_s8(x.add(16)), vdup_n_s8(0));
            dots[4] = sdot_lane::<0>(dots[4], w, far);
            dots[5] = sdot_lane::<1>(dots[5], w, far);
        }
    }
}
