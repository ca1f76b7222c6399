//! AVX-512 with VNNI and VBMI2: Intel since Ice Lake, AMD since Zen 4.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes. Weights are the unsigned side, moved up by a constant; what that
//! adds to a block is the constant times the sum of the block's activations, which every vector brings along.

use std::arch::x86_64::*;
use std::ops::Range;

use spm::levels::SPARSE_Q4_LEVELS;
use spm::{BLOCK, Matrix};

use super::avx2::{self, Avx2};
use super::kernel::{self, Codes, GROUP, Isa, LANES, PANEL, Scratch, Vector};
use super::{Aligned, Cached, Kernels, Queries, attention, float};
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
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("popcnt");
    (found && avx2::detect().is_some()).then_some(&KERNELS)
}

struct Avx512;

/// From this many vectors on, putting rows into panels pays.
const PANEL_FROM: usize = 8;
/// Vectors that share the loads of a panel.
const TOKENS: usize = 8;
/// Codes as unsigned bytes are this much larger.
const RAISE: i8 = -128;
const SHIFT_BITS: u32 = 7;

/// 16 levels, raised, four times over: a byte permutation by six bits then needs only four of them right.
#[repr(align(64))]
struct Levels([i8; 64]);

static SPARSE_LEVELS: Levels = raised(SPARSE_Q4_LEVELS);
static Q4_LEVELS: Levels = raised([-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7]);
static Q5_LEVELS: Levels = raised([-16, -15, -14, -13, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1]);

const fn raised(levels: [i8; 16]) -> Levels {
    let mut table = [0; 64];
    let mut i = 0;
    while i < 64 {
        table[i] = levels[i % 16].wrapping_add(RAISE);
        i += 1;
    }
    Levels(table)
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
fn rows_i8(m: &Matrix, rows: Range<usize>, x: &Codes, scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe {
        match x.n() {
            ..PANEL_FROM => kernel::rows_few::<Avx512>(m, rows, x, out),
            _ => panels(m, rows, x, scratch, out),
        }
    }
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
fn rows_f32(m: &Matrix, rows: Range<usize>, x: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe { float::rows_f32::<Avx512>(m, rows, x, scratch, out) }
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
fn scores(q: &Queries, keys: Cached, scratch: &mut Aligned<f32>, out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe { attention::scores::<Avx512>(q, keys, scratch, out) }
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
fn mix(q: &Queries, values: Cached, scratch: &mut Aligned<f32>, weights: &[f32], out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe { attention::mix::<Avx512>(q, values, scratch, weights, out) }
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
fn softmax(scores: &mut [f32], scale: f32) {
    ops::softmax(scores, scale);
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
fn swiglu(gate: &mut [f32], up: &[f32]) {
    ops::swiglu(gate, up);
}

/// From eight blocks' partial sums, two blocks a register and eight sums a block, the eight blocks' sums.
///
/// # Safety
/// This ISA.
#[inline(always)]
unsafe fn sum_blocks(d: [__m512i; 4]) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        // Quarters of a register: the first two are its first block's.
        let (a, b) = (halve(d[0], d[1]), halve(d[2], d[3]));
        // In each quarter i: two partial sums of block i and two of block 4 + i, alternating.
        let pairs = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let sums = _mm512_add_epi32(pairs, _mm512_shuffle_epi32::<0b01_00_11_10>(pairs));
        let order = _mm512_castsi256_si512(_mm256_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13));
        _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, sums))
    }
}

/// # Safety
/// This ISA.
#[inline(always)]
unsafe fn halve(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
        _mm512_add_epi32(even, _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b))
    }
}

/// Signed codes as unsigned ones, 128 larger, and back.
///
/// # Safety
/// This ISA.
#[inline(always)]
unsafe fn unsigned(codes: __m512i) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_xor_si512(codes, _mm512_set1_epi8(RAISE)) }
}

/// Loads 64 bytes for `vpexpandb`. The compiler would make the load a part of that instruction, which AMD's cores then
/// run as microcode, four times slower (Zen 5); the empty instruction keeps them apart.
///
/// # Safety
/// This ISA; 64 readable bytes.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load_apart(from: *const u8) -> __m512i {
    // SAFETY: the caller's promise; no instruction is added.
    unsafe {
        let mut loaded = _mm512_loadu_si512(from.cast());
        std::arch::asm!("/* {0} */", inout(zmm_reg) loaded, options(pure, nomem, nostack, preserves_flags));
        loaded
    }
}

/// The levels at the low four bits of each byte.
///
/// # Safety
/// This ISA.
#[inline(always)]
unsafe fn levels(table: &Levels, codes: __m512i) -> __m512i {
    // SAFETY: the caller's promise; the table is 64 bytes.
    unsafe { _mm512_permutexvar_epi8(codes, _mm512_load_si512(table.0.as_ptr().cast())) }
}

/// 32 bytes, then the same shifted down by a nibble.
///
/// # Safety
/// This ISA; 32 readable bytes.
#[inline(always)]
unsafe fn low_then_high(nibbles: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let both = _mm512_broadcast_i64x4(_mm256_loadu_si256(nibbles.cast()));
        _mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4))
    }
}

/// # Safety
/// This ISA.
#[inline(always)]
unsafe fn join(halves: [__m256i; 2]) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_inserti64x4::<1>(_mm512_castsi256_si512(halves[0]), halves[1]) }
}

/// Sums of gathered chunks, where those of whole ones are.
///
/// # Safety
/// This ISA.
#[inline(always)]
unsafe fn joined<const N: usize>(sums: [[__m256i; 2]; N]) -> [__m512i; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut dots = [_mm512_setzero_si512(); N];
        for t in 0..N {
            dots[t] = join(sums[t]);
        }
        dots
    }
}

/// Prefill: 16 rows are expanded and turned so that a register holds four columns of each, then multiplied with all
/// vectors.
///
/// # Safety
/// This ISA.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
#[inline]
unsafe fn panels(m: &Matrix, rows: Range<usize>, x: &Codes, scratch: &mut Scratch, out: &mut [f32]) {
    scratch.fit(PANEL, m.cols());
    scratch.fit_packed(PANEL, m.cols());
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
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
#[inline]
unsafe fn turn_rows(m: &Matrix, first: usize, height: usize, stride: usize, scratch: &mut Scratch) {
    let Scratch { codes, packed, scales, .. } = scratch;
    let width = stride * BLOCK;
    assert!(codes.len() >= PANEL * width && packed.len() >= PANEL * width && scales.len() >= PANEL * stride);
    // SAFETY: the caller's promise; sizes are asserted above; a row is `width` codes, a multiple of 256, and `stride`
    // scales, a multiple of 8.
    unsafe {
        let mut row_scales = [[0.0; LANES]; PANEL];
        kernel::store_rows::<Avx512>(m, first..first + height, width, codes);
        for c in (0..width).step_by(64) {
            let rows = std::array::from_fn(|r| unsigned(_mm512_loadu_si512(codes.as_ptr().add(r * width + c).cast())));
            for (i, columns) in turn(rows).into_iter().enumerate() {
                _mm512_storeu_si512(packed.as_mut_ptr().add((c / 4 + i) * 64).cast(), columns);
            }
        }
        for b in (0..stride).step_by(LANES) {
            for (r, to) in row_scales.iter_mut().take(height).enumerate() {
                let scales = m.scales(first + r);
                to.iter_mut()
                    .enumerate()
                    .for_each(|(i, to)| *to = if b + i < m.blocks() { scales.get(b + i) } else { 0.0 });
            }
            for i in 0..LANES {
                for (r, row) in row_scales.iter().enumerate() {
                    scales[(b + i) * PANEL + r] = row[i];
                }
            }
        }
    }
}

/// Lane `r` of result `i` is lane `i` of `rows[r]`.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
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
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
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
    type Chunk = __m512i;
    type Dots = __m512i;
    type Lanes = __m256;

    #[inline(always)]
    unsafe fn q8(codes: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { unsigned(_mm512_loadu_si512(codes.cast())) }
    }

    #[inline(always)]
    unsafe fn q4(nibbles: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { levels(&Q4_LEVELS, low_then_high(nibbles)) }
    }

    #[inline(always)]
    unsafe fn q5(bits: u64, nibbles: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let below = levels(&Q5_LEVELS, low_then_high(nibbles));
            _mm512_mask_add_epi8(below, bits, below, _mm512_set1_epi8(16))
        }
    }

    #[inline(always)]
    unsafe fn sparse_q8(mask: u64, values: &mut *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let kept = _mm512_maskz_expand_epi8(mask, load_apart(*values));
            *values = values.add(mask.count_ones() as usize);
            unsigned(kept)
        }
    }

    #[inline(always)]
    unsafe fn sparse_q4<const HIGH: bool>(mask: u64, values: &mut *const u8) -> __m512i {
        // SAFETY: the caller's promise. What is not kept is code 0, which is level 0.
        unsafe {
            let stored = load_apart(*values);
            let stored = if HIGH { _mm512_srli_epi16::<4>(stored) } else { stored };
            *values = values.add(mask.count_ones() as usize);
            levels(&SPARSE_LEVELS, _mm512_maskz_expand_epi8(mask, stored))
        }
    }

    #[inline(always)]
    unsafe fn sparse_q4_shared(mask: u64, low: *const u8, high: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let high = _mm512_srli_epi16::<4>(load_apart(high));
            let first = _mm512_maskz_expand_epi8(mask & 0xFFFF_FFFF, load_apart(low));
            levels(&SPARSE_LEVELS, _mm512_mask_expand_epi8(first, mask & !0xFFFF_FFFF, high))
        }
    }

    #[inline(always)]
    unsafe fn q8_keep_16_of_32(mask: u64, values: *const u8) -> __m512i {
        // SAFETY: the caller's promise. Each block's 16 values are the next 16.
        unsafe {
            let stored = _mm512_zextsi256_si512(_mm256_loadu_si256(values.cast()));
            unsigned(_mm512_maskz_expand_epi8(mask, stored))
        }
    }

    #[inline(always)]
    unsafe fn q4_keep_16_of_32(mask: u64, values: *const u8) -> __m512i {
        // SAFETY: the caller's promise. As above, once the high nibbles are moved behind the low ones.
        unsafe {
            let both = _mm256_broadcastsi128_si256(_mm_loadu_si128(values.cast()));
            let stored = _mm512_zextsi256_si512(_mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 4, 4)));
            levels(&SPARSE_LEVELS, _mm512_maskz_expand_epi8(mask, stored))
        }
    }

    #[inline(always)]
    unsafe fn q8_keep_2_of_4(places: u64, values: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { unsigned(join(Avx2::<false>::q8_keep_2_of_4(places, values))) }
    }

    #[inline(always)]
    unsafe fn q4_keep_2_of_4(places: u64, values: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { unsigned(join(Avx2::<false>::q4_keep_2_of_4(places, values))) }
    }

    #[inline(always)]
    unsafe fn store(chunk: __m512i, codes: *mut i8) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(codes.cast(), unsigned(chunk)) }
    }

    #[inline(always)]
    unsafe fn multiply(chunk: __m512i, x: *const i8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_dpbusd_epi32(_mm512_setzero_si512(), chunk, _mm512_loadu_si512(x.cast())) }
    }

    #[inline(always)]
    unsafe fn gather_q8<const N: usize>(places: u64, values: *const u8, x: [*const i8; N]) -> [__m512i; N] {
        // SAFETY: the caller's promise.
        unsafe { joined(Avx2::<false>::gather_q8(places, values, x)) }
    }

    #[inline(always)]
    unsafe fn gather_q4<const N: usize>(places: u64, values: *const u8, x: [*const i8; N]) -> [__m512i; N] {
        // SAFETY: the caller's promise.
        unsafe { joined(Avx2::<false>::gather_q4(places, values, x)) }
    }

    #[inline(always)]
    unsafe fn no_dots() -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn no_lanes() -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn half_scales(stored: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(stored.cast())) }
    }

    #[inline(always)]
    unsafe fn byte_scales(stored: *const u8, factor: f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { Avx2::<false>::byte_scales(stored, factor) }
    }

    #[inline(always)]
    unsafe fn add_group(
        acc: __m256,
        dots: &[__m512i; GROUP],
        gathered: bool,
        w_scales: __m256,
        x_scales: *const f32,
        x_sums: *const i32,
    ) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = sum_blocks(*dots);
            if !gathered {
                let raised = _mm256_slli_epi32::<{ SHIFT_BITS as i32 }>(_mm256_loadu_si256(x_sums.cast()));
                sums = _mm256_sub_epi32(sums, raised);
            }
            let scales = _mm256_mul_ps(w_scales, _mm256_loadu_ps(x_scales));
            _mm256_add_ps(acc, _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scales))
        }
    }

    #[inline(always)]
    unsafe fn sum(lanes: __m256) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { Avx2::<false>::sum(lanes) }
    }

    #[inline(always)]
    fn prefetch(at: *const u8) {
        Avx2::<false>::prefetch(at);
    }

    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
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

    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
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

    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
    #[inline]
    unsafe fn expand_f16(mask: &[u8], halves: *const u8, out: &mut [f32]) {
        assert!(mask.len().is_multiple_of(4) && out.len() >= mask.len() * 8);
        let mut halves = halves;
        for (bits, out) in mask.as_chunks::<4>().0.iter().zip(out.chunks_exact_mut(BLOCK)) {
            let bits = u32::from_le_bytes(*bits);
            // SAFETY: `halves` moves on by two bytes a bit, so it stays inside the full row that the caller lets be
            // read, and 64 bytes after it; 32 values are written.
            unsafe {
                Self::prefetch(halves.wrapping_add(2048));
                let kept = _mm512_maskz_expand_epi16(bits, load_apart(halves));
                _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(_mm512_castsi512_si256(kept)));
                let high = _mm512_extracti64x4_epi64::<1>(kept);
                _mm512_storeu_ps(out.as_mut_ptr().add(16), _mm512_cvtph_ps(high));
                halves = halves.add(2 * bits.count_ones() as usize);
            }
        }
    }
}
