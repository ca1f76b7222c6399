//! AVX-512 with VNNI and VBMI2: Intel since Ice Lake, AMD since Zen 4.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes. Weights are the unsigned side, moved up by a constant; what that
//! adds to a block is the constant times the sum of the block's activations, which every vector brings along.

use std::arch::x86_64::*;
use std::ops::Range;

use spm::matrix::SPARSE_Q4_LEVELS;
use spm::{BLOCK, Encoding, Matrix};

use super::kernel::{self, Codes, Isa, LANES, OVERRUN, PANEL, Scratch, Vector};
use super::{Aligned, Cached, Kernels, Queries, attention, avx2};
use crate::ops;

/// The kernels, if this CPU has what they need.
pub(super) fn detect() -> Option<&'static Kernels> {
    static KERNELS: Kernels = Kernels {
        name: "avx512",
        // SAFETY: handed out below only on a CPU that has the features of these functions.
        rows_i8: |m, rows, x, scratch, out| unsafe { rows_i8(m, rows, x, scratch, out) },
        // SAFETY: as above.
        rows_f32: |m, rows, x, scratch, out| unsafe { rows_f32(m, rows, x, scratch, out) },
        // SAFETY: as above.
        scores: |q, keys, scratch, out| unsafe { scores(q, keys, scratch, out) },
        // SAFETY: as above.
        mix: |q, values, scratch, weights, out| unsafe { mix(q, values, scratch, weights, out) },
        // SAFETY: as above.
        softmax: |scores, scale| unsafe { softmax(scores, scale) },
        // SAFETY: as above.
        swiglu: |gate, up| unsafe { swiglu(gate, up) },
        ..avx2::KERNELS
    };
    let found = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("popcnt");
    (found && avx2::detect().is_some()).then_some(&KERNELS)
}

struct Avx512;

/// From this many vectors on, putting rows into panels pays.
const PANEL_FROM: usize = 4;
/// Vectors that share the loads of a panel.
const TOKENS: usize = 8;
/// Codes as unsigned bytes are this much larger; so nibbles are by 8.
const SHIFT_BITS: u32 = 7;
const NIBBLE_SHIFT_BITS: u32 = 3;
/// How far ahead weights are prefetched, in bytes: far enough for DRAM, near enough to be there still.
const AHEAD: usize = 2048;

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
fn rows_i8(m: &Matrix, rows: Range<usize>, x: &Codes, scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe {
        match x.n() {
            1 => one_vector(m, rows, x.vector(0), scratch, out),
            n if n < PANEL_FROM => kernel::rows_i8::<Avx512>(m, rows, x, scratch, out),
            _ => panels(m, rows, x, scratch, out),
        }
    }
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
fn rows_f32(m: &Matrix, rows: Range<usize>, x: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe { kernel::rows_f32::<Avx512>(m, rows, x, scratch, out) }
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
fn scores(q: &Queries, keys: Cached, scratch: &mut Aligned<f32>, out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe { attention::scores::<Avx512>(q, keys, scratch, out) }
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
fn mix(q: &Queries, values: Cached, scratch: &mut Aligned<f32>, weights: &[f32], out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe { attention::mix::<Avx512>(q, values, scratch, weights, out) }
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
fn softmax(scores: &mut [f32], scale: f32) {
    ops::softmax(scores, scale);
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
fn swiglu(gate: &mut [f32], up: &[f32]) {
    ops::swiglu(gate, up);
}

/// Decoding: every row is multiplied as it is expanded.
///
/// # Safety
/// This ISA.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
#[inline]
unsafe fn one_vector(m: &Matrix, rows: Range<usize>, x: Vector, scratch: &mut Scratch, out: &mut [f32]) {
    scratch.fit(1, m.cols());
    let (blocks, padded) = (m.blocks(), m.blocks() * BLOCK);
    for (row, out) in rows.zip(out) {
        let row_scales = &m.scales()[row * blocks * 2..(row + 1) * blocks * 2];
        // SAFETY: only scales of the row are loaded.
        let scales = |b: usize| unsafe { load_scales(&row_scales[2 * b..]) };
        let range = m.row_range(row);
        let values = &m.values()[range.start..];
        // SAFETY: the ISA is the caller's promise. Every row may be read for a full row and OVERRUN bytes, which the
        // slices assert; `Sparse` moves on by at most a full row.
        unsafe {
            *out = match m.encoding() {
                Encoding::Q8 => {
                    let w = values[..padded + OVERRUN].as_ptr();
                    dot::<SHIFT_BITS>(blocks, scales, x, |i| {
                        prefetch(w.wrapping_add(64 * i + AHEAD));
                        unsigned(_mm512_loadu_si512(w.add(64 * i).cast()))
                    })
                }
                Encoding::Q4 => {
                    let w = values[..padded / 2 + OVERRUN].as_ptr();
                    dot::<NIBBLE_SHIFT_BITS>(blocks, scales, x, |i| {
                        prefetch(w.wrapping_add(32 * i + AHEAD));
                        nibbles(_mm256_loadu_si256(w.add(32 * i).cast()))
                    })
                }
                Encoding::SparseQ8 => {
                    let mut sparse = Sparse::new(m, row, values[..padded + OVERRUN].as_ptr());
                    dot::<SHIFT_BITS>(blocks, scales, x, |i| {
                        prefetch(sparse.values.wrapping_add(AHEAD));
                        unsigned(sparse.next(i, _mm512_setzero_si512()))
                    })
                }
                Encoding::SparseQ4 => {
                    let stored = range.len().min(padded / 2);
                    raised_levels(&values[..stored + OVERRUN], stored, &mut scratch.packed);
                    let mut sparse = Sparse::new(m, row, scratch.packed[..padded + OVERRUN].as_ptr().cast());
                    dot::<SHIFT_BITS>(blocks, scales, x, |i| sparse.next(i, _mm512_set1_epi8(-128)))
                }
                Encoding::F32 | Encoding::F16 | Encoding::SparseF16 => unreachable!("checked by Kernels::rows_i8"),
            };
        }
    }
}

/// The scaled dot product of a row of `blocks` blocks, `weights(i)` being its columns from `64 * i` on, raised by
/// `2^SHIFT_BITS`, and `scales(b)` the scales of up to eight blocks from `b` on, zeros after them.
///
/// # Safety
/// This ISA; `weights` may be called for every 64 columns, in order, and `scales` for every eight blocks.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
#[inline]
unsafe fn dot<const SHIFT_BITS: u32>(
    blocks: usize,
    scales: impl Fn(usize) -> __m256,
    x: Vector,
    mut weights: impl FnMut(usize) -> __m512i,
) -> f32 {
    assert!(x.scales.len() == blocks.next_multiple_of(LANES));
    assert!(x.sums.len() == x.scales.len() && x.codes.len() == x.scales.len() * BLOCK);
    let mut acc = _mm256_setzero_ps();
    // SAFETY: a group of 8 blocks is 256 codes and 8 sums and scales of `x`, which is padded to whole groups.
    unsafe {
        let mut group = |first: usize, registers: usize| {
            let mut dots = [_mm512_setzero_si512(); 4];
            for (i, dots) in (first / 2..).zip(&mut dots).take(registers) {
                let codes = _mm512_loadu_si512(x.codes.as_ptr().add(64 * i).cast());
                *dots = _mm512_dpbusd_epi32(*dots, weights(i), codes);
            }
            let raised = _mm256_loadu_si256(x.sums.as_ptr().add(first).cast());
            let dots =
                _mm256_sub_epi32(sum_blocks(dots), _mm256_sll_epi32(raised, _mm_cvtsi32_si128(SHIFT_BITS as i32)));
            let scales = _mm256_mul_ps(scales(first), _mm256_loadu_ps(x.scales.as_ptr().add(first)));
            acc = _mm256_add_ps(acc, _mm256_mul_ps(_mm256_cvtepi32_ps(dots), scales));
        };
        let whole = blocks / LANES * LANES;
        for first in (0..whole).step_by(LANES) {
            group(first, 4);
        }
        if whole < blocks {
            group(whole, (blocks - whole).div_ceil(2));
        }
        let mut lanes = [0.0; LANES];
        _mm256_storeu_ps(lanes.as_mut_ptr(), acc);
        super::sum_lanes(lanes)
    }
}

/// Up to eight scales, zeros after them.
///
/// # Safety
/// This ISA.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
#[inline]
unsafe fn load_scales(stored: &[u8]) -> __m256 {
    let there = if stored.len() >= 16 { 0xFF } else { (1u8 << (stored.len() / 2)) - 1 };
    // SAFETY: two bytes for each bit of `there`.
    unsafe { _mm256_cvtph_ps(_mm_maskz_loadu_epi16(there, stored.as_ptr().cast())) }
}

/// From eight blocks' partial sums, two blocks a register and eight sums a block, the eight blocks' sums.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
#[inline]
fn sum_blocks(d: [__m512i; 4]) -> __m256i {
    // Quarters of a register: the first two are its first block's.
    let halve = |a, b| {
        _mm512_add_epi32(_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b))
    };
    let (a, b) = (halve(d[0], d[1]), halve(d[2], d[3]));
    // In each quarter i: two partial sums of block i and two of block 4 + i, alternating.
    let pairs = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let sums = _mm512_add_epi32(pairs, _mm512_shuffle_epi32::<0b01_00_11_10>(pairs));
    let order = _mm512_castsi256_si512(_mm256_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13));
    _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, sums))
}

/// Signed codes as unsigned ones, 128 larger.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
#[inline]
fn unsigned(codes: __m512i) -> __m512i {
    _mm512_xor_si512(codes, _mm512_set1_epi8(-128))
}

/// 64 nibbles as bytes, low half first.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
#[inline]
fn nibbles(packed: __m256i) -> __m512i {
    let wide = _mm512_cvtepu8_epi16(packed);
    // (wide | wide << 4) & 0x0F in every byte
    _mm512_ternarylogic_epi32::<0xE0>(_mm512_set1_epi8(15), wide, _mm512_slli_epi16::<4>(wide))
}

/// The levels of `n` bytes of nibbles of a sparse row, raised by 128.
///
/// # Safety
/// This ISA; `bytes` has OVERRUN more than `n`, `out` room for `2 * n` and OVERRUN.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
#[inline]
unsafe fn raised_levels(bytes: &[u8], n: usize, out: &mut [i8]) {
    assert!(bytes.len() >= n + OVERRUN && out.len() >= 2 * n + OVERRUN);
    // SAFETY: a step of 32 bytes begins below `n`, so it ends below both lengths, asserted above.
    unsafe {
        let levels = unsigned(_mm512_broadcast_i32x4(_mm_loadu_si128(SPARSE_Q4_LEVELS.as_ptr().cast())));
        for i in (0..n).step_by(32) {
            prefetch(bytes.as_ptr().wrapping_add(i + AHEAD));
            let codes = nibbles(_mm256_loadu_si256(bytes.as_ptr().add(i).cast()));
            _mm512_storeu_si512(out.as_mut_ptr().add(2 * i).cast(), _mm512_shuffle_epi8(levels, codes));
        }
    }
}

/// Walks a sparse row, 64 columns at a time.
struct Sparse<'a> {
    mask: &'a [u8],
    values: *const u8,
}

impl<'a> Sparse<'a> {
    fn new(m: &'a Matrix, row: usize, values: *const u8) -> Self {
        Sparse { mask: kernel::mask_of_row(m, row), values }
    }

    /// The codes of the columns from `64 * i` on, `none` where the mask has no bit.
    ///
    /// # Safety
    /// This ISA; called for every `i` in order; a full row and 64 bytes are readable at the first values.
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
    #[inline]
    unsafe fn next(&mut self, i: usize, none: __m512i) -> __m512i {
        let mask = &self.mask[8 * i..];
        let bits = match mask {
            [b0, b1, b2, b3, b4, b5, b6, b7, ..] => u64::from_le_bytes([*b0, *b1, *b2, *b3, *b4, *b5, *b6, *b7]),
            // An odd number of blocks.
            _ => u64::from(u32::from_le_bytes([mask[0], mask[1], mask[2], mask[3]])),
        };
        prefetch(mask.as_ptr().wrapping_add(AHEAD / 4));
        // SAFETY: the values passed so far are as many as the mask's bits, at most as many as its columns.
        unsafe {
            let codes = _mm512_mask_expand_epi8(none, bits, _mm512_loadu_si512(self.values.cast()));
            self.values = self.values.add(bits.count_ones() as usize);
            codes
        }
    }
}

#[inline(always)]
fn prefetch(at: *const u8) {
    // SAFETY: a hint, which any address may be given; SSE is part of x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

/// Prefill: 16 rows are expanded and turned so that a register holds four columns of each, then multiplied with all
/// vectors.
///
/// # Safety
/// This ISA.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
#[inline]
unsafe fn panels(m: &Matrix, rows: Range<usize>, x: &Codes, scratch: &mut Scratch, out: &mut [f32]) {
    scratch.fit(PANEL, m.cols());
    let blocks = m.blocks();
    for (first, out) in rows.step_by(PANEL).zip(out.chunks_mut(PANEL * x.n())) {
        let height = out.len() / x.n();
        // SAFETY: the ISA is the caller's promise; scratch was fitted to a panel.
        unsafe {
            turn_rows(m, first, height, x.stride(), scratch);
            let panel = Panel { codes: &scratch.packed, scales: &scratch.scales, blocks, height };
            let mut t = 0;
            while t < x.n() {
                let out = &mut out[t * height..];
                t += match x.n() - t {
                    1 => panel.times::<1>(x, t, out),
                    2 => panel.times::<2>(x, t, out),
                    3 => panel.times::<3>(x, t, out),
                    4 => panel.times::<4>(x, t, out),
                    5..TOKENS => panel.times::<5>(x, t, out),
                    _ => panel.times::<TOKENS>(x, t, out),
                };
            }
        }
    }
}

/// Expands `height` rows and turns them: `packed` gets, for every four columns, those of 16 rows; `scales`, for every
/// block, those of 16 rows. What rows past `height` get is of no matter.
///
/// # Safety
/// This ISA; scratch was fitted to a panel; `stride` is the row's blocks in whole groups.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
#[inline]
unsafe fn turn_rows(m: &Matrix, first: usize, height: usize, stride: usize, scratch: &mut Scratch) {
    let Scratch { codes, packed, scales, .. } = scratch;
    let width = stride * BLOCK;
    assert!(codes.len() >= PANEL * width && packed.len() >= PANEL * width && scales.len() >= PANEL * stride);
    // SAFETY: the caller's promise; sizes are asserted above; a row is `width` codes, a multiple of 256, and `stride`
    // scales, a multiple of 8.
    unsafe {
        let mut row_scales = [[0.0; LANES]; PANEL];
        for r in 0..height {
            kernel::expand_row::<Avx512>(m, first + r, &mut codes[r * width..], packed);
        }
        for c in (0..width).step_by(64) {
            let rows = std::array::from_fn(|r| unsigned(_mm512_loadu_si512(codes.as_ptr().add(r * width + c).cast())));
            for (i, columns) in turn(rows).into_iter().enumerate() {
                _mm512_storeu_si512(packed.as_mut_ptr().add((c / 4 + i) * 64).cast(), columns);
            }
        }
        let stored = m.scales();
        for b in (0..stride).step_by(LANES) {
            let n = LANES.min(m.blocks() - b);
            for (r, scales) in row_scales.iter_mut().take(height).enumerate() {
                let at = ((first + r) * m.blocks() + b) * 2;
                Avx512::load_f16(&stored[at..at + 2 * n], &mut scales[..n]);
            }
            for i in 0..n {
                for (r, row) in row_scales.iter().enumerate() {
                    scales[(b + i) * PANEL + r] = row[i];
                }
            }
        }
    }
}

/// Lane `r` of result `i` is lane `i` of `rows[r]`.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
#[inline]
fn turn(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut pairs = rows;
    for (pair, rows) in pairs.chunks_exact_mut(2).zip(rows.chunks_exact(2)) {
        pair[0] = _mm512_unpacklo_epi32(rows[0], rows[1]);
        pair[1] = _mm512_unpackhi_epi32(rows[0], rows[1]);
    }
    // Quarter k of fours[4 * i + j]: column 4k + j of rows 4i to 4i + 3.
    let mut fours = pairs;
    for (four, pairs) in fours.chunks_exact_mut(4).zip(pairs.chunks_exact(4)) {
        four[0] = _mm512_unpacklo_epi64(pairs[0], pairs[2]);
        four[1] = _mm512_unpackhi_epi64(pairs[0], pairs[2]);
        four[2] = _mm512_unpacklo_epi64(pairs[1], pairs[3]);
        four[3] = _mm512_unpackhi_epi64(pairs[1], pairs[3]);
    }
    let mut columns = rows;
    for j in 0..4 {
        let even = |a, b| _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
        let odd = |a, b| _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b);
        let (a, b) = (even(fours[j], fours[4 + j]), odd(fours[j], fours[4 + j]));
        let (c, d) = (even(fours[8 + j], fours[12 + j]), odd(fours[8 + j], fours[12 + j]));
        (columns[j], columns[8 + j]) = (even(a, c), odd(a, c));
        (columns[4 + j], columns[12 + j]) = (even(b, d), odd(b, d));
    }
    columns
}

/// 16 rows, turned.
struct Panel<'a> {
    codes: &'a [i8],
    scales: &'a [f32],
    blocks: usize,
    height: usize,
}

impl Panel<'_> {
    /// Multiplies with `N` vectors from `first` on and says how many that were; `out[t * height + r]`.
    ///
    /// # Safety
    /// This ISA; the panel is of the vectors' width.
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
    #[inline]
    unsafe fn times<const N: usize>(&self, x: &Codes, first: usize, out: &mut [f32]) -> usize {
        let vectors: [Vector; N] = std::array::from_fn(|t| x.vector(first + t));
        assert!(self.codes.len() >= self.blocks * BLOCK * PANEL && self.scales.len() >= self.blocks * PANEL);
        assert!(self.blocks <= x.stride() && out.len() >= N * self.height && self.height <= PANEL);
        let mut lanes = [[_mm512_setzero_ps(); N]; LANES];
        // SAFETY: the caller's promise; blocks stay below `self.blocks`, sizes are asserted above.
        unsafe {
            for (lane, sums) in lanes.iter_mut().enumerate() {
                let mut acc = [_mm512_setzero_ps(); N];
                for b in (lane..self.blocks).step_by(LANES) {
                    let mut dots = [_mm512_setzero_si512(); N];
                    for q in b * 8..b * 8 + 8 {
                        let w = _mm512_loadu_si512(self.codes.as_ptr().add(q * 64).cast());
                        for (dots, x) in dots.iter_mut().zip(&vectors) {
                            let four = x.codes.as_ptr().add(q * 4).cast::<i32>().read_unaligned();
                            *dots = _mm512_dpbusd_epi32(*dots, w, _mm512_set1_epi32(four));
                        }
                    }
                    let w_scales = _mm512_loadu_ps(self.scales.as_ptr().add(b * PANEL));
                    for ((dots, x), acc) in dots.iter().zip(&vectors).zip(&mut acc) {
                        let raised = _mm512_set1_epi32(x.sums.get_unchecked(b) << SHIFT_BITS);
                        let scale = _mm512_mul_ps(w_scales, _mm512_set1_ps(*x.scales.get_unchecked(b)));
                        let dots = _mm512_cvtepi32_ps(_mm512_sub_epi32(*dots, raised));
                        *acc = _mm512_add_ps(*acc, _mm512_mul_ps(dots, scale));
                    }
                }
                *sums = acc;
            }
            let there = ((1u32 << self.height) - 1) as __mmask16;
            let add = |a: __m512, b: __m512| _mm512_add_ps(a, b);
            for (t, out) in out.chunks_exact_mut(self.height).take(N).enumerate() {
                let l = |i: usize| lanes[i][t];
                // The order of `sum_lanes`.
                let even = add(add(l(0), l(4)), add(l(2), l(6)));
                let odd = add(add(l(1), l(5)), add(l(3), l(7)));
                _mm512_mask_storeu_ps(out.as_mut_ptr(), there, add(even, odd));
            }
        }
        N
    }
}

impl Isa for Avx512 {
    const WIDE: bool = true;

    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
    #[inline]
    unsafe fn expand_i8(mask: &[u8], values: *const i8, codes: &mut [i8]) {
        assert!(codes.len() >= mask.len() * 8 + OVERRUN);
        let mut row = Sparse { mask, values: values.cast() };
        for i in 0..mask.len().div_ceil(8) {
            // SAFETY: `next` is called in order; a step writes 64 codes and begins inside the row.
            unsafe {
                prefetch(row.values.wrapping_add(AHEAD));
                let expanded = row.next(i, _mm512_setzero_si512());
                _mm512_storeu_si512(codes.as_mut_ptr().add(64 * i).cast(), expanded);
            }
        }
    }

    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
    #[inline]
    unsafe fn unpack_nibbles(nibble_bytes: &[u8], levels: &[i8; 16], codes: &mut [i8]) {
        assert!(codes.len() >= nibble_bytes.len() * 2 + OVERRUN);
        // SAFETY: only bytes that are there are loaded; a step writes 64 codes and begins inside `codes` less OVERRUN.
        unsafe {
            let levels = _mm512_broadcast_i32x4(_mm_loadu_si128(levels.as_ptr().cast()));
            for (i, bytes) in nibble_bytes.chunks(32).enumerate() {
                let there = u32::MAX >> (32 - bytes.len());
                let codes_of = nibbles(_mm256_maskz_loadu_epi8(there, bytes.as_ptr().cast()));
                _mm512_storeu_si512(codes.as_mut_ptr().add(64 * i).cast(), _mm512_shuffle_epi8(levels, codes_of));
            }
        }
    }

    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
    #[inline]
    unsafe fn dot_i8(w: &[i8], w_scales: &[f32], x: Vector) -> f32 {
        assert!(w_scales.len() >= x.scales.len());
        // SAFETY: scales are padded to whole groups; only codes that are there are loaded.
        unsafe {
            let scales = |b: usize| _mm256_loadu_ps(w_scales[b..b + LANES].as_ptr());
            dot::<SHIFT_BITS>(w.len() / BLOCK, scales, x, |i| {
                let left = &w[64 * i..];
                let there = if left.len() >= 64 { u64::MAX } else { u64::from(u32::MAX) };
                unsigned(_mm512_maskz_loadu_epi8(there, left.as_ptr()))
            })
        }
    }

    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
    #[inline]
    unsafe fn dots_f32<const R: usize, const N: usize>(w: &[f32], x: &[f32], stride: usize) -> [[f32; N]; R] {
        assert!(w.len() >= R * stride && x.len() >= N * stride && stride.is_multiple_of(16));
        let mut acc = [[_mm512_setzero_ps(); N]; R];
        // SAFETY: `k + 16 <= stride`, and both slices have that many rows, asserted above.
        unsafe {
            for k in (0..stride).step_by(16) {
                let xs: [__m512; N] = std::array::from_fn(|t| _mm512_loadu_ps(x.as_ptr().add(t * stride + k)));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let w = _mm512_loadu_ps(w.as_ptr().add(r * stride + k));
                    for (acc, x) in acc.iter_mut().zip(xs) {
                        *acc = _mm512_fmadd_ps(w, x, *acc);
                    }
                }
            }
        }
        acc.map(|row| row.map(|lanes| _mm512_reduce_add_ps(lanes)))
    }

    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
    #[inline]
    unsafe fn load_f16(halves: &[u8], out: &mut [f32]) {
        assert!(halves.len() >= out.len() * 2);
        for (i, out) in out.chunks_mut(16).enumerate() {
            let there = (u32::MAX >> (32 - out.len())) as __mmask16;
            // SAFETY: only halves and singles that are there are touched, asserted above.
            unsafe {
                let halves = _mm256_maskz_loadu_epi16(there, halves.as_ptr().add(32 * i).cast());
                _mm512_mask_storeu_ps(out.as_mut_ptr(), there, _mm512_cvtph_ps(halves));
            }
        }
    }

    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt")]
    #[inline]
    unsafe fn expand_f16(mask: &[u8], halves: *const u8, out: &mut [f32]) {
        assert!(mask.len().is_multiple_of(4) && out.len() >= mask.len() * 8);
        let mut halves = halves;
        for (bits, out) in mask.as_chunks::<4>().0.iter().zip(out.chunks_exact_mut(BLOCK)) {
            let bits = u32::from_le_bytes(*bits);
            // SAFETY: `halves` moves on by two bytes a bit, so it stays inside the full row that the caller lets be
            // read, and 64 bytes after it; 32 values are written.
            unsafe {
                prefetch(halves.wrapping_add(AHEAD));
                let kept = _mm512_maskz_expand_epi16(bits, _mm512_loadu_si512(halves.cast()));
                _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(_mm512_castsi512_si256(kept)));
                let high = _mm512_extracti64x4_epi64::<1>(kept);
                _mm512_storeu_ps(out.as_mut_ptr().add(16), _mm512_cvtph_ps(high));
                halves = halves.add(2 * bits.count_ones() as usize);
            }
        }
    }
}
