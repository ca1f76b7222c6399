//! AVX-512 with VNNI and VBMI2: Intel since Ice Lake, AMD since Zen 4.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes. Weights are the unsigned side, moved up by a constant; what that
//! adds to a block is the constant times the sum of the block's activations, which every vector brings along.

use std::arch::x86_64::*;
use std::ops::Range;

use spm::levels::{SPARSE_Q4_LEVELS, field_2_of_4, group_2_of_4};
use spm::{BLOCK, CHUNK, Matrix};

use super::avx2::{self, Avx2};
use super::codes::{Codes, TILE, Tile};
use super::kernel::{self, GROUP, Isa, LANES, PANEL, Scratch};
use super::{Aligned, Cached, Kernels, Queries, attention, float};
use crate::ops;

/// The kernels, if this CPU has what they need.
pub(super) fn detect() -> Option<&'static Kernels> {
    static KERNELS: Kernels = Kernels {
        name: "avx512",
        tiled_from: PANEL_FROM,
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
/// Codes as unsigned bytes are this much larger.
const RAISE: i8 = -128;

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

/// Adds the codes of two 2:4 chunks, raised, times the activations at their places: 8 bytes of places a chunk.
///
/// # Safety
/// This ISA; 16 bytes of places; 128 codes at every `x`.
#[inline(always)]
unsafe fn gather<const N: usize>(
    mut acc: [__m512i; N],
    places: *const u8,
    w: __m512i,
    x: [*const i8; N],
) -> [__m512i; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let stored = _mm512_castsi128_si512(_mm_loadu_si128(places.cast()));
        let stored = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1), stored);
        let fields = _mm512_multishift_epi64_epi8(_mm512_load_si512(FIELDS.0.as_ptr().cast()), stored);
        // The two bits of each, and where its four columns begin.
        let groups = _mm512_load_si512(GROUPS.0.as_ptr().cast());
        let columns = _mm512_ternarylogic_epi32::<0xEA>(fields, _mm512_set1_epi8(3), groups);
        for t in 0..N {
            let (first, second) = (_mm512_loadu_si512(x[t].cast()), _mm512_loadu_si512(x[t].add(CHUNK).cast()));
            let picked = _mm512_permutex2var_epi8(first, columns, second);
            // What raising the weights adds is taken back: 128 times the activations picked.
            let raised = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(-128), picked);
            acc[t] = _mm512_sub_epi32(_mm512_dpbusd_epi32(acc[t], w, picked), raised);
        }
        acc
    }
}

#[repr(align(64))]
struct Line([u8; 64]);

/// Of two 2:4 chunks, where in its chunk's bits each code has its place.
static FIELDS: Line = Line({
    let (mut all, mut j) = ([0; 64], 0);
    while j < 64 {
        all[j] = field_2_of_4(j % 32) as u8;
        j += 1;
    }
    all
});

/// Of two 2:4 chunks, the first of the four columns among which each code has its place.
static GROUPS: Line = Line({
    let (mut all, mut j) = ([0; 64], 0);
    while j < 64 {
        all[j] = (j / 32 * CHUNK + group_2_of_4(j % 32)) as u8;
        j += 1;
    }
    all
});

/// Prefill: 32 rows are expanded and turned so that a register holds four columns of each of 16, then multiplied with all
/// vectors, a tile of them at a time.
///
/// # Safety
/// This ISA.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
#[inline]
unsafe fn panels(m: &Matrix, rows: Range<usize>, x: &Codes, scratch: &mut Scratch, out: &mut [f32]) {
    scratch.fit(PANEL, m.cols());
    let size = x.stride() * PANEL;
    scratch.packed.fit(2 * size * BLOCK);
    scratch.scales.fit(2 * size);
    scratch.tile.fit(size);
    let n = x.n();
    for (first, out) in rows.step_by(2 * PANEL).zip(out.chunks_mut(2 * PANEL * n)) {
        let (upper, lower) = out.split_at_mut(out.len().min(PANEL * n));
        // SAFETY: the ISA is the caller's promise; scratch was fitted to two panels.
        unsafe {
            let Scratch { codes, packed, scales, tile } = scratch;
            let (there, following) = (first + upper.len() / n, first + (upper.len() + lower.len()) / n);
            turn_rows(m, first..there, x.stride(), codes, tile, packed, scales);
            if lower.is_empty() {
                times_all::<1>(m.blocks(), x, packed, scales, [upper]);
            } else {
                let (packed_lower, scales_lower) = (&mut packed[size * BLOCK..], &mut scales[size..]);
                turn_rows(m, there..following, x.stride(), codes, tile, packed_lower, scales_lower);
                times_all::<2>(m.blocks(), x, packed, scales, [upper, lower]);
            }
        }
    }
}

/// Expands up to 16 rows and turns them: `packed` gets, for every four columns, block by block, those of 16 rows;
/// `scales`, for every block, those of 16 rows. What rows past the last get is of no matter.
///
/// # Safety
/// This ISA; `stride` is the row's blocks in whole groups.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
#[inline]
unsafe fn turn_rows(
    m: &Matrix,
    rows: Range<usize>,
    stride: usize,
    codes: &mut [i8],
    by_row: &mut [f32],
    packed: &mut [i8],
    scales: &mut [f32],
) {
    let (width, whole) = (stride * BLOCK, m.blocks() / LANES * LANES);
    assert!(codes.len() >= PANEL * width && packed.len() >= PANEL * width && scales.len() >= PANEL * stride);
    // SAFETY: the caller's promise; sizes are asserted above; a row is `width` codes, a multiple of 256, and `stride`
    // scales.
    unsafe {
        kernel::store_rows::<Avx512>(m, rows.clone(), width, codes);
        for c in 0..width / 64 {
            let rows =
                std::array::from_fn(|r| unsigned(_mm512_loadu_si512(codes.as_ptr().add(r * width + c * 64).cast())));
            for (i, columns) in turn(rows).into_iter().enumerate() {
                // The quads of a block of a whole group lie eight apart: together from here on.
                let quad = if 2 * c < whole { c / 4 * 64 + i % 8 * 8 + c % 4 * 2 + i / 8 } else { c * 16 + i };
                _mm512_storeu_si512(packed.as_mut_ptr().add(quad * 64).cast(), columns);
            }
        }
    }
    // SAFETY: as above.
    unsafe { turn_scales(m, rows, stride, by_row, scales) }
}

/// `scales` gets, for every block, those of 16 rows; `by_row` is where they lie meanwhile.
///
/// # Safety
/// This ISA; both have room for a panel of `stride` blocks a row.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
#[inline]
unsafe fn turn_scales(m: &Matrix, rows: Range<usize>, stride: usize, by_row: &mut [f32], scales: &mut [f32]) {
    assert!(by_row.len() >= PANEL * stride && scales.len() >= PANEL * stride);
    // SAFETY: the caller's promise; a step is eight blocks of 16 rows, of which there are `stride / 8`.
    unsafe {
        kernel::store_scales::<Avx512>(m, rows, stride, by_row);
        for b in (0..stride).step_by(LANES) {
            let mut eight = [_mm512_setzero_si512(); PANEL];
            for (r, eight) in eight.iter_mut().enumerate() {
                *eight = _mm512_zextsi256_si512(_mm256_loadu_si256(by_row.as_ptr().add(r * stride + b).cast()));
            }
            for (i, of_rows) in turn(eight).into_iter().take(LANES).enumerate() {
                _mm512_storeu_si512(scales.as_mut_ptr().add((b + i) * PANEL).cast(), of_rows);
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

/// `R` panels of 16 rows, turned, times all vectors; `out[t * height + r]` of each panel.
///
/// # Safety
/// This ISA; panels and vectors are as wide, `packed` and `scales` hold them a vector's blocks apart.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
#[inline]
unsafe fn times_all<const R: usize>(blocks: usize, x: &Codes, packed: &[i8], scales: &[f32], mut out: [&mut [f32]; R]) {
    for first in (0..x.n()).step_by(TILE) {
        let panels = Panels::<R> { packed, scales, blocks, stride: x.stride(), tile: x.tile(first / TILE) };
        // SAFETY: the caller's promise.
        unsafe {
            match x.n() - first {
                1 => panels.times::<1>(x.n(), first, &mut out),
                2 => panels.times::<2>(x.n(), first, &mut out),
                3 => panels.times::<3>(x.n(), first, &mut out),
                4 => panels.times::<4>(x.n(), first, &mut out),
                5 => panels.times::<5>(x.n(), first, &mut out),
                _ => panels.times::<TILE>(x.n(), first, &mut out),
            }
        }
    }
}

/// Panels of 16 rows each, and a tile of vectors.
struct Panels<'a, const R: usize> {
    packed: &'a [i8],
    scales: &'a [f32],
    blocks: usize,
    stride: usize,
    tile: Tile<'a>,
}

impl<const R: usize> Panels<'_, R> {
    /// Multiplies with the first `N` vectors of the tile, which are those from `first` on of `n`.
    ///
    /// # Safety
    /// This ISA; the panels are of the vectors' width.
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
    #[inline]
    unsafe fn times<const N: usize>(&self, n: usize, first: usize, out: &mut [&mut [f32]; R]) {
        let size = self.stride * PANEL;
        assert!(self.packed.len() >= R * size * BLOCK && self.scales.len() >= R * size && self.blocks <= self.stride);
        let numbers = self.stride * TILE;
        assert!(self.tile.codes.len() >= numbers * BLOCK && self.tile.scales.len() >= numbers);
        assert!(self.tile.lifts.len() >= numbers && N <= TILE);
        let mut lanes = [[[_mm512_setzero_ps(); N]; R]; LANES];
        for (lane, sums) in lanes.iter_mut().enumerate() {
            for b in (lane..self.blocks).step_by(LANES) {
                // SAFETY: the ISA is the caller's promise; blocks stay below `self.blocks`, sizes are asserted above.
                unsafe { self.add_block(b, sums) };
            }
        }
        let add = |a: __m512, b: __m512| _mm512_add_ps(a, b);
        for (p, out) in out.iter_mut().enumerate() {
            let height = out.len() / n;
            assert!(height <= PANEL);
            let there = ((1u32 << height) - 1) as __mmask16;
            for (t, out) in out[first * height..].chunks_exact_mut(height).take(N).enumerate() {
                let l = |i: usize| lanes[i][p][t];
                // The order of `sum_lanes`.
                let even = add(add(l(0), l(4)), add(l(2), l(6)));
                let odd = add(add(l(1), l(5)), add(l(3), l(7)));
                // SAFETY: `out` is `height` numbers.
                unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), there, add(even, odd)) };
            }
        }
    }

    /// Adds the products of block `b`, scaled, to `sums`.
    ///
    /// # Safety
    /// This ISA; panels and tile have such a block.
    #[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,popcnt")]
    #[inline]
    unsafe fn add_block<const N: usize>(&self, b: usize, sums: &mut [[__m512; N]; R]) {
        let size = self.stride * PANEL;
        // SAFETY: the caller's promise.
        unsafe {
            let lifts = self.tile.lifts.as_ptr().add(b * TILE);
            let mut dots = [[_mm512_setzero_si512(); N]; R];
            for t in 0..N {
                let lift = _mm512_set1_epi32(*lifts.add(t));
                for dots in &mut dots {
                    dots[t] = lift;
                }
            }
            let (w, x) =
                (self.packed.as_ptr().add(b * 512), self.tile.codes.as_ptr().add(b * BLOCK * TILE).cast::<i32>());
            for k in 0..8 {
                let mut four_of_rows = [_mm512_setzero_si512(); R];
                for p in 0..R {
                    four_of_rows[p] = _mm512_loadu_si512(w.add(p * size * BLOCK + k * 64).cast());
                }
                for t in 0..N {
                    let four = _mm512_set1_epi32(x.add(k * TILE + t).read_unaligned());
                    for p in 0..R {
                        dots[p][t] = _mm512_dpbusd_epi32(dots[p][t], four_of_rows[p], four);
                    }
                }
            }
            let x_scales = self.tile.scales.as_ptr().add(b * TILE);
            for p in 0..R {
                let w_scales = _mm512_loadu_ps(self.scales.as_ptr().add(p * size + b * PANEL));
                for t in 0..N {
                    let scale = _mm512_mul_ps(w_scales, _mm512_set1_ps(*x_scales.add(t)));
                    sums[p][t] = _mm512_add_ps(sums[p][t], _mm512_mul_ps(_mm512_cvtepi32_ps(dots[p][t]), scale));
                }
            }
        }
    }
}

impl Isa for Avx512 {
    const WIDE: bool = true;
    type Chunk = __m512i;
    type Acc = __m512i;
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
    unsafe fn start(lifts: *const i32, gathers: bool) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            if gathers { _mm512_setzero_si512() } else { _mm512_zextsi256_si512(_mm256_loadu_si256(lifts.cast())) }
        }
    }

    #[inline(always)]
    unsafe fn multiply_add(acc: __m512i, chunk: __m512i, x: *const i8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_dpbusd_epi32(acc, chunk, _mm512_loadu_si512(x.cast())) }
    }

    #[inline(always)]
    unsafe fn gather_q8<const N: usize>(
        acc: [__m512i; N],
        places: *const u8,
        values: *const u8,
        x: [*const i8; N],
    ) -> [__m512i; N] {
        // SAFETY: the caller's promise.
        unsafe { gather(acc, places, unsigned(_mm512_loadu_si512(values.cast())), x) }
    }

    #[inline(always)]
    unsafe fn gather_q4<const N: usize>(
        acc: [__m512i; N],
        places: *const u8,
        values: *const u8,
        x: [*const i8; N],
    ) -> [__m512i; N] {
        // SAFETY: the caller's promise.
        unsafe {
            // Of each chunk 16 bytes: the low nibbles, then the high ones.
            let stored = _mm512_castsi256_si512(_mm256_loadu_si256(values.cast()));
            let twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), stored);
            let codes = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
            gather(acc, places, levels(&SPARSE_LEVELS, codes), x)
        }
    }

    #[inline(always)]
    unsafe fn multiply(chunk: __m512i, x: *const i8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_dpbusd_epi32(_mm512_setzero_si512(), chunk, _mm512_loadu_si512(x.cast())) }
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
    unsafe fn half_scales(stored: *const u8, n: usize) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_maskz_loadu_epi16(((1u32 << n) - 1) as u8, stored.cast())) }
    }

    #[inline(always)]
    unsafe fn byte_scales(stored: *const u8, factor: f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { Avx2::<false>::byte_scales(stored, factor) }
    }

    #[inline(always)]
    unsafe fn add_group(lanes: __m256, acc: __m512i, w_scales: __m256, x_scales: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            let sums = _mm256_add_epi32(_mm512_castsi512_si256(acc), _mm512_extracti64x4_epi64::<1>(acc));
            Avx2::<false>::add_group(lanes, sums, w_scales, x_scales)
        }
    }

    #[inline(always)]
    unsafe fn add_last_group(
        lanes: __m256,
        dots: &[__m512i; GROUP],
        w_scales: __m256,
        x_scales: *const f32,
        lifts: *const i32,
    ) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            let sums = _mm256_add_epi32(sum_blocks(*dots), _mm256_loadu_si256(lifts.cast()));
            Avx2::<false>::add_group(lanes, sums, w_scales, x_scales)
        }
    }

    #[inline(always)]
    unsafe fn store_lanes(lanes: __m256, out: &mut [f32; LANES]) {
        // SAFETY: the caller's promise.
        unsafe { Avx2::<false>::store_lanes(lanes, out) }
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
