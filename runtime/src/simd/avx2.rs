//! AVX2 with FMA and F16C: x86 since 2013 (Haswell, Zen).

use std::arch::x86_64::*;
use std::ops::Range;

use half::f16;
use spm::levels::SPARSE_Q4_LEVELS;
use spm::{BLOCK, CHUNK, Matrix};

use super::chunks::bits_of;
use super::codes::Codes;
use super::kernel::{self, GROUP, Isa, LANES, Scratch, ahead};
use super::{Aligned, Cached, Kernels, Queries, attention, float, sum_lanes};
use crate::ops;

/// A safe pointer to a function of this file.
macro_rules! checked {
    ($function:ident($($arg:ident),*)) => {
        // SAFETY: reachable only through `KERNELS`, which is handed out only on a CPU that
        // has avx2, fma, f16c, popcnt and bmi1.
        |$($arg),*| unsafe { $function($($arg),*) }
    };
}

/// The kernels, if this CPU has what they need.
pub(super) fn detect() -> Option<&'static Kernels> {
    let found = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("bmi1");
    found.then_some(&KERNELS)
}

/// For ISAs that contain this one, too.
pub(super) static KERNELS: Kernels = Kernels {
    name: "avx2",
    tiled_from: usize::MAX,
    rows_i8: checked!(rows_i8(m, rows, x, scratch, out)),
    rows_f32: checked!(rows_f32(m, rows, x, scratch, out)),
    quantize: checked!(quantize(x, codes, scales, lifts)),
    scores: checked!(scores(q, keys, scratch, out)),
    mix: checked!(mix(q, values, scratch, weights, out)),
    softmax: checked!(softmax(scores, scale)),
    swiglu: checked!(swiglu(gate, up)),
    rms_norm: checked!(rms_norm(x, weight, eps, out)),
    store_f16: checked!(store_f16(x, out)),
};

/// This ISA, and with `VNNI` the one that has `vpdpbusd` besides: see `avx_vnni`.
pub(super) struct Avx2<const VNNI: bool>;

#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1")]
fn rows_i8(m: &Matrix, rows: Range<usize>, x: &Codes, scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe {
        match x.n() {
            ..=FEW => kernel::rows_few::<Avx2<false>>(m, rows, x, out),
            _ => kernel::rows_many::<Avx2<false>>(m, rows, x, scratch, out),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1")]
fn rows_f32(m: &Matrix, rows: Range<usize>, x: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe { float::rows_f32::<Avx2<false>>(m, rows, x, scratch, out) }
}

/// Vectors that are multiplied with a chunk in registers.
pub(super) const FEW: usize = 2;

/// For each mask byte: the places where its columns find their values, counted from the first value the byte uses,
/// 0x80 (which a byte shuffle turns into zero) where the mask has no bit; in `first` followed by how many bits there are,
/// eight times over, in `second` preceded by zeros. `first[a] + second[b]` are the places for both bytes.
#[repr(align(64))]
struct Places {
    first: [[u8; 16]; 256],
    second: [[u8; 16]; 256],
}

static PLACES: Places = places();

const fn places() -> Places {
    let mut table = Places { first: [[0x80; 16]; 256], second: [[0x80; 16]; 256] };
    let mut mask = 0;
    while mask < 256 {
        let (mut j, mut nth) = (0, 0);
        while j < 8 {
            table.second[mask][j] = 0;
            if mask >> j & 1 == 1 {
                table.first[mask][j] = nth;
                table.second[mask][8 + j] = nth;
                nth += 1;
            }
            j += 1;
        }
        while j < 16 {
            table.first[mask][j] = nth;
            j += 1;
        }
        mask += 1;
    }
    table
}

/// Values from `values` on spread over 32 columns, zeros where the mask has no bit; `values` moves on.
///
/// # Safety
/// AVX2; 48 readable bytes at `values`.
#[inline(always)]
unsafe fn expand(mask: u32, values: &mut *const u8) -> __m256i {
    let byte = |i: u32| (mask >> (8 * i) & 0xFF) as usize;
    // SAFETY: the caller's promise: at most 16 bits come before the second load.
    unsafe {
        let second = values.add((mask & 0xFFFF).count_ones() as usize);
        let first_places = load_two(PLACES.first[byte(0)].as_ptr(), PLACES.first[byte(2)].as_ptr());
        let second_places = load_two(PLACES.second[byte(1)].as_ptr(), PLACES.second[byte(3)].as_ptr());
        let kept = load_two(*values, second);
        *values = second.add((mask >> 16).count_ones() as usize);
        _mm256_shuffle_epi8(kept, _mm256_add_epi8(first_places, second_places))
    }
}

/// 16 bytes from each.
///
/// # Safety
/// AVX2; they are readable.
#[inline(always)]
unsafe fn load_two(low: *const u8, high: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu2_m128i(high.cast(), low.cast()) }
}

/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn low_nibbles(bytes: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_and_si256(bytes, _mm256_set1_epi8(15)) }
}

/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn high_nibbles(bytes: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { low_nibbles(_mm256_srli_epi16::<4>(bytes)) }
}

/// The levels of sparse q4, for `VNNI` raised by 128.
///
/// # Safety
/// AVX2; codes 0 to 15.
#[inline(always)]
unsafe fn levels<const VNNI: bool>(codes: __m256i) -> __m256i {
    // SAFETY: the caller's promise; there are 16 levels.
    unsafe {
        let table = raised::<VNNI>(_mm256_broadcastsi128_si256(_mm_loadu_si128(SPARSE_Q4_LEVELS.as_ptr().cast())));
        _mm256_shuffle_epi8(table, codes)
    }
}

/// For `VNNI` unsigned codes, 128 larger; and back.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn raised<const VNNI: bool>(codes: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { if VNNI { _mm256_xor_si256(codes, _mm256_set1_epi8(-128)) } else { codes } }
}

/// The places of 32 codes of a 2:4 chunk, 0 to 15 in the 16 columns that each belongs to.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn places_2_of_4(places: u64) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (places as i32, (places >> 32) as i32);
        let fields = _mm256_setr_m128i(_mm_set1_epi32(low), _mm_set1_epi32(high));
        let fields = _mm256_srlv_epi32(fields, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
        let groups = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
        _mm256_or_si256(_mm256_and_si256(fields, _mm256_set1_epi8(3)), groups)
    }
}

/// 2:4 codes spread over their columns.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn spread_2_of_4(places: u64, codes: __m256i) -> [__m256i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let places = places_2_of_4(places);
        // Two codes of every four are of the first 32 columns, two of the others.
        let (first, one) = (_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12), _mm_set1_epi8(1));
        let second = _mm_add_epi8(first, _mm_set1_epi8(2));
        [
            _mm256_or_si256(spread(places, codes, first), spread(places, codes, _mm_add_epi8(first, one))),
            _mm256_or_si256(spread(places, codes, second), spread(places, codes, _mm_add_epi8(second, one))),
        ]
    }
}

/// For each column the code of the number that `of` says, if it is that code's place.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn spread(places: __m256i, codes: __m256i, of: __m128i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let of = _mm256_broadcastsi128_si256(of);
        let column = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
        let is_here = _mm256_cmpeq_epi8(_mm256_shuffle_epi8(places, of), column);
        _mm256_and_si256(is_here, _mm256_shuffle_epi8(codes, of))
    }
}

/// The activations at the places of a 2:4 chunk.
///
/// # Safety
/// AVX2; 64 codes at `x`.
#[inline(always)]
unsafe fn pick(places: __m256i, x: *const i8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let first = _mm256_shuffle_epi8(_mm256_loadu_si256(x.cast()), places);
        let second = _mm256_shuffle_epi8(_mm256_loadu_si256(x.add(BLOCK).cast()), places);
        _mm256_blend_epi16::<0b1010_1010>(first, second)
    }
}

/// Adds 2:4 codes, not raised, times the activations at their places.
///
/// # Safety
/// AVX2 (and AVX-VNNI); 64 codes at every `x`.
#[inline(always)]
unsafe fn gather<const VNNI: bool, const N: usize>(
    mut acc: [__m256i; N],
    places: u64,
    w: __m256i,
    x: [*const i8; N],
) -> [__m256i; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let places = places_2_of_4(places);
        for t in 0..N {
            let picked = pick(places, x[t]);
            // Activations are never -128, so that their magnitude may be the unsigned side.
            acc[t] = add_products::<VNNI>(acc[t], _mm256_abs_epi8(picked), _mm256_sign_epi8(w, picked));
        }
        acc
    }
}

/// 16 bytes of nibbles: the low ones, then the high ones.
///
/// # Safety
/// AVX2; 16 readable bytes.
#[inline(always)]
unsafe fn low_then_high(values: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let both = _mm256_broadcastsi128_si256(_mm_loadu_si128(values.cast()));
        low_nibbles(_mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 4, 4)))
    }
}

impl<const VNNI: bool> Isa for Avx2<VNNI> {
    const FEW: usize = FEW;
    type Chunk = [__m256i; 2];
    type Acc = __m256i;
    type Dots = [__m256i; 2];
    type Lanes = __m256;

    #[inline(always)]
    unsafe fn q8(codes: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let second = _mm256_loadu_si256(codes.add(BLOCK).cast());
            [raised::<VNNI>(_mm256_loadu_si256(codes.cast())), raised::<VNNI>(second)]
        }
    }

    #[inline(always)]
    unsafe fn q4(nibbles: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let (n, zero) = (_mm256_loadu_si256(nibbles.cast()), raised::<VNNI>(_mm256_set1_epi8(-8)));
            [_mm256_add_epi8(low_nibbles(n), zero), _mm256_add_epi8(high_nibbles(n), zero)]
        }
    }

    #[inline(always)]
    unsafe fn q5(bits: u64, nibbles: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let n = _mm256_loadu_si256(nibbles.cast());
            let of_byte = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let (first, second) = (bits as i32, (bits >> 32) as i32);
            let first = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(first), of_byte), bit);
            let second = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(second), of_byte), bit);
            // A nibble without the fifth bit is 16 less: its high half all ones.
            let high = _mm256_set1_epi8(-16);
            let first = _mm256_andnot_si256(_mm256_cmpeq_epi8(first, bit), high);
            let second = _mm256_andnot_si256(_mm256_cmpeq_epi8(second, bit), high);
            let (first, second) = (_mm256_or_si256(low_nibbles(n), first), _mm256_or_si256(high_nibbles(n), second));
            [raised::<VNNI>(first), raised::<VNNI>(second)]
        }
    }

    #[inline(always)]
    unsafe fn sparse_q8(mask: u64, values: &mut *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let (first, second) = (expand(mask as u32, values), expand((mask >> 32) as u32, values));
            [raised::<VNNI>(first), raised::<VNNI>(second)]
        }
    }

    #[inline(always)]
    unsafe fn sparse_q4<const HIGH: bool>(mask: u64, values: &mut *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's promise. What is not kept is code 0, which is level 0.
        unsafe {
            let (first, second) = (expand(mask as u32, values), expand((mask >> 32) as u32, values));
            match HIGH {
                true => [levels::<VNNI>(high_nibbles(first)), levels::<VNNI>(high_nibbles(second))],
                false => [levels::<VNNI>(low_nibbles(first)), levels::<VNNI>(low_nibbles(second))],
            }
        }
    }

    #[inline(always)]
    unsafe fn sparse_q4_shared(mask: u64, low: *const u8, high: *const u8) -> [__m256i; 2] {
        let (mut low, mut high) = (low, high);
        // SAFETY: the caller's promise.
        unsafe {
            let (first, second) = (expand(mask as u32, &mut low), expand((mask >> 32) as u32, &mut high));
            [levels::<VNNI>(low_nibbles(first)), levels::<VNNI>(high_nibbles(second))]
        }
    }

    #[inline(always)]
    unsafe fn q8_keep_2_of_4(places: u64, values: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let [first, second] = spread_2_of_4(places, _mm256_loadu_si256(values.cast()));
            [raised::<VNNI>(first), raised::<VNNI>(second)]
        }
    }

    #[inline(always)]
    unsafe fn q4_keep_2_of_4(places: u64, values: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let [first, second] = spread_2_of_4(places, levels::<false>(low_then_high(values)));
            [raised::<VNNI>(first), raised::<VNNI>(second)]
        }
    }

    #[inline(always)]
    unsafe fn store(chunk: [__m256i; 2], codes: *mut i8) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_si256(codes.cast(), raised::<VNNI>(chunk[0]));
            _mm256_storeu_si256(codes.add(BLOCK).cast(), raised::<VNNI>(chunk[1]));
        }
    }

    #[inline(always)]
    unsafe fn start(lifts: *const i32, gathers: bool) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { if VNNI && !gathers { _mm256_loadu_si256(lifts.cast()) } else { _mm256_setzero_si256() } }
    }

    #[inline(always)]
    unsafe fn multiply_add(acc: __m256i, chunk: [__m256i; 2], x: *const i8) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { add_block::<VNNI>(add_block::<VNNI>(acc, chunk[0], x), chunk[1], x.add(BLOCK)) }
    }

    #[inline(always)]
    unsafe fn gather_q8<const N: usize>(
        mut acc: [__m256i; N],
        places: *const u8,
        values: *const u8,
        x: [*const i8; N],
    ) -> [__m256i; N] {
        // SAFETY: the caller's promise.
        unsafe {
            for c in 0..2 {
                let w = _mm256_loadu_si256(values.add(32 * c).cast());
                acc = gather::<VNNI, N>(acc, bits_of(places, c), w, ahead(x, c * CHUNK));
            }
        }
        acc
    }

    #[inline(always)]
    unsafe fn gather_q4<const N: usize>(
        mut acc: [__m256i; N],
        places: *const u8,
        values: *const u8,
        x: [*const i8; N],
    ) -> [__m256i; N] {
        // SAFETY: the caller's promise.
        unsafe {
            for c in 0..2 {
                let w = levels::<false>(low_then_high(values.add(16 * c)));
                acc = gather::<VNNI, N>(acc, bits_of(places, c), w, ahead(x, c * CHUNK));
            }
        }
        acc
    }

    #[inline(always)]
    unsafe fn multiply(chunk: [__m256i; 2], x: *const i8) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let zero = _mm256_setzero_si256();
            [add_block::<VNNI>(zero, chunk[0], x), add_block::<VNNI>(zero, chunk[1], x.add(BLOCK))]
        }
    }

    #[inline(always)]
    unsafe fn no_dots() -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    unsafe fn no_lanes() -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn half_scales(stored: *const u8, n: usize) -> __m256 {
        const THERE: [u16; 16] =
            [0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: the caller's promise; eight numbers of the table are loaded, from the first to the ninth on.
        unsafe {
            let there = _mm_loadu_si128(THERE.as_ptr().add(8 - n.min(8)).cast());
            _mm256_cvtph_ps(_mm_and_si128(_mm_loadu_si128(stored.cast()), there))
        }
    }

    #[inline(always)]
    unsafe fn byte_scales(stored: *const u8, factor: f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            let codes = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(stored.cast())));
            _mm256_mul_ps(_mm256_set1_ps(factor), codes)
        }
    }

    #[inline(always)]
    unsafe fn add_group(lanes: __m256, acc: __m256i, w_scales: __m256, x_scales: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            let scales = _mm256_mul_ps(w_scales, _mm256_loadu_ps(x_scales));
            _mm256_add_ps(lanes, _mm256_mul_ps(_mm256_cvtepi32_ps(acc), scales))
        }
    }

    #[inline(always)]
    unsafe fn add_last_group(
        lanes: __m256,
        dots: &[[__m256i; 2]; GROUP],
        w_scales: __m256,
        x_scales: *const f32,
        lifts: *const i32,
    ) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            let [[a, b], [c, d], [e, f], [g, h]] = *dots;
            let sums = _mm256_add_epi32(Self::start(lifts, false), sum_each([a, b, c, d, e, f, g, h]));
            Self::add_group(lanes, sums, w_scales, x_scales)
        }
    }

    #[inline(always)]
    unsafe fn store_lanes(lanes: __m256, out: &mut [f32; LANES]) {
        // SAFETY: the caller's promise; there are eight.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), lanes) }
    }

    #[inline(always)]
    unsafe fn sum(lanes: __m256) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { sum8(lanes) }
    }

    #[inline(always)]
    fn prefetch(at: *const u8) {
        // SAFETY: a hint, which any address may be given; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn dots_f32<const R: usize, const N: usize>(w: &[f32], x: &[f32], stride: usize) -> [[f32; N]; R] {
        assert!(w.len() >= R * stride && x.len() >= N * stride && stride.is_multiple_of(8));
        let mut out = [[0.0; N]; R];
        // SAFETY: `k + 8 <= stride`, and both slices have that many rows, asserted above.
        unsafe {
            let mut acc = [[_mm256_setzero_ps(); N]; R];
            for k in (0..stride).step_by(8) {
                let mut xs = [_mm256_setzero_ps(); N];
                for (t, x8) in xs.iter_mut().enumerate() {
                    *x8 = _mm256_loadu_ps(x.as_ptr().add(t * stride + k));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let w8 = _mm256_loadu_ps(w.as_ptr().add(r * stride + k));
                    for (acc, x8) in acc.iter_mut().zip(xs) {
                        *acc = _mm256_fmadd_ps(w8, x8, *acc);
                    }
                }
            }
            for (out, acc) in out.iter_mut().zip(acc) {
                for (out, acc) in out.iter_mut().zip(acc) {
                    *out = sum8(acc);
                }
            }
        }
        out
    }

    #[inline(always)]
    unsafe fn load_f16(halves: &[u8], out: &mut [f32]) {
        assert!(halves.len() >= out.len() * 2);
        let whole = out.len() / 8 * 8;
        for i in (0..whole).step_by(8) {
            // SAFETY: `i + 8 <= out.len()`, two bytes each, asserted above.
            unsafe {
                let halves = _mm_loadu_si128(halves.as_ptr().add(2 * i).cast());
                _mm256_storeu_ps(out.as_mut_ptr().add(i), _mm256_cvtph_ps(halves));
            }
        }
        for i in whole..out.len() {
            out[i] = f16::from_le_bytes([halves[2 * i], halves[2 * i + 1]]).to_f32();
        }
    }

    #[inline(always)]
    unsafe fn expand_f16(mask: &[u8], halves: *const u8, out: &mut [f32]) {
        assert!(out.len() >= mask.len() * 8);
        let (mut halves, mut out) = (halves, out.as_mut_ptr());
        for &bits in mask {
            // SAFETY: `halves` advances by at most 16 bytes a mask byte, so that it stays inside what the caller lets
            // be read; `out` writes 8 values a mask byte, asserted.
            unsafe {
                let places = _mm_loadl_epi64(PLACES.first[usize::from(bits)].as_ptr().cast());
                // Place p of a half is bytes 2p and 2p + 1; 0x80, no half, stays negative.
                let low = _mm_adds_epi8(places, places);
                let pairs = _mm_unpacklo_epi8(low, _mm_or_si128(low, _mm_set1_epi8(1)));
                let kept = _mm_shuffle_epi8(_mm_loadu_si128(halves.cast()), pairs);
                _mm256_storeu_ps(out, _mm256_cvtph_ps(kept));
                halves = halves.add(2 * bits.count_ones() as usize);
                out = out.add(8);
            }
        }
    }
}

/// Adds sums of four of 32 products. Without `VNNI`, `|w|` is the unsigned side and takes -128; `x` is never -128, so
/// moving the sign of `w` to `x` cannot overflow, nor can 2 * 128 * 127 overflow an i16. With it `w` is raised already.
///
/// # Safety
/// AVX2, with `VNNI` AVX-VNNI; 32 readable bytes at `x`.
#[inline(always)]
unsafe fn add_block<const VNNI: bool>(acc: __m256i, w: __m256i, x: *const i8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let x = _mm256_loadu_si256(x.cast());
        match VNNI {
            true => add_products::<VNNI>(acc, w, x),
            false => add_products::<VNNI>(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w)),
        }
    }
}

/// Adds sums of four products each.
///
/// # Safety
/// AVX2, with `VNNI` AVX-VNNI; without it two products must fit an i16.
#[inline(always)]
unsafe fn add_products<const VNNI: bool>(acc: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        if VNNI {
            return _mm256_dpbusd_avx_epi32(acc, unsigned, signed);
        }
        let pairs = _mm256_maddubs_epi16(unsigned, signed);
        _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// Lane `i` of the result is the sum of the lanes of `v[i]`.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn sum_each(v: [__m256i; 8]) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let front = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
        let back = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
        let low = _mm256_permute2x128_si256::<0x20>(front, back);
        let high = _mm256_permute2x128_si256::<0x31>(front, back);
        _mm256_add_epi32(low, high)
    }
}

/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn sum8(lanes: __m256) -> f32 {
    let mut l = [0.0; 8];
    // SAFETY: the caller's promise; eight floats are written.
    unsafe { _mm256_storeu_ps(l.as_mut_ptr(), lanes) };
    sum_lanes(l)
}

#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1")]
fn quantize(x: &[f32], codes: &mut [i8], scales: &mut [f32], lifts: &mut [i32]) {
    let magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFF_FFFF));
    let blocks = x.chunks_exact(BLOCK).zip(codes.chunks_exact_mut(BLOCK));
    for ((x, codes), (scale, lift)) in blocks.zip(scales.iter_mut().zip(lifts)) {
        // SAFETY: a block is 32 floats in and 32 bytes out.
        unsafe {
            let v = [0, 8, 16, 24].map(|i| _mm256_loadu_ps(x.as_ptr().add(i)));
            let a = v.map(|v| _mm256_and_ps(v, magnitude));
            let max = max8(_mm256_max_ps(_mm256_max_ps(a[0], a[1]), _mm256_max_ps(a[2], a[3])));
            *scale = max / 127.0;
            let inverse = _mm256_set1_ps(if max > 0.0 { 127.0 / max } else { 0.0 });
            let q = v.map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)));
            let total = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
            *lift = -128 * sum8_i32(total);
            let packed = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            _mm256_storeu_si256(codes.as_mut_ptr().cast(), _mm256_permutevar8x32_epi32(packed, order));
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1")]
#[inline]
fn max8(v: __m256) -> f32 {
    let m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps::<1>(m, m)))
}

#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1")]
#[inline]
fn sum8_i32(v: __m256i) -> i32 {
    let s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let s = _mm_add_epi32(s, _mm_shuffle_epi32::<0b01_00_11_10>(s));
    _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32::<1>(s)))
}

#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1")]
fn scores(q: &Queries, keys: Cached, scratch: &mut Aligned<f32>, out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe { attention::scores::<Avx2<false>>(q, keys, scratch, out) }
}

#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1")]
fn mix(q: &Queries, values: Cached, scratch: &mut Aligned<f32>, weights: &[f32], out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe { attention::mix::<Avx2<false>>(q, values, scratch, weights, out) }
}

#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1")]
fn softmax(scores: &mut [f32], scale: f32) {
    ops::softmax(scores, scale);
}

#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1")]
fn swiglu(gate: &mut [f32], up: &[f32]) {
    ops::swiglu(gate, up);
}

#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    ops::rms_norm(x, weight, eps, out);
}

#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1")]
fn store_f16(x: &[f32], out: &mut [f16]) {
    let whole = x.len() / 8 * 8;
    for i in (0..whole).step_by(8) {
        // SAFETY: `i + 8` is within both, equally long by Kernels::store_f16.
        unsafe {
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr().add(i)));
            _mm_storeu_si128(out.as_mut_ptr().add(i).cast(), halves);
        }
    }
    out[whole..].iter_mut().zip(&x[whole..]).for_each(|(o, x)| *o = f16::from_f32(*x));
}
