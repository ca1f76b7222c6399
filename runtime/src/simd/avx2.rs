//! AVX2 with FMA and F16C: x86 since 2013 (Haswell, Zen).

use std::arch::x86_64::*;
use std::ops::Range;

use half::f16;
use spm::{BLOCK, Matrix};

use super::kernel::{self, Codes, Isa, LANES, Scratch, Vector};
use super::{Aligned, Cached, Kernels, Queries, attention, sum_lanes};
use crate::ops;

/// A safe pointer to a function of this file.
macro_rules! checked {
    ($function:ident($($arg:ident),*)) => {
        // SAFETY: reachable only through `KERNELS`, which is handed out only on a CPU that
        // has avx2, fma and f16c.
        |$($arg),*| unsafe { $function($($arg),*) }
    };
}

/// The kernels, if this CPU has what they need.
pub(super) fn detect() -> Option<&'static Kernels> {
    let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    found.then_some(&KERNELS)
}

/// For ISAs that contain this one, too.
pub(super) static KERNELS: Kernels = Kernels {
    name: "avx2",
    rows_i8: checked!(rows_i8(m, rows, x, scratch, out)),
    rows_f32: checked!(rows_f32(m, rows, x, scratch, out)),
    quantize: checked!(quantize(x, codes, scales)),
    scores: checked!(scores(q, keys, scratch, out)),
    mix: checked!(mix(q, values, scratch, weights, out)),
    softmax: checked!(softmax(scores, scale)),
    swiglu: checked!(swiglu(gate, up)),
    rms_norm: checked!(rms_norm(x, weight, eps, out)),
    store_f16: checked!(store_f16(x, out)),
};

struct Avx2;

#[target_feature(enable = "avx2,fma,f16c")]
fn rows_i8(m: &Matrix, rows: Range<usize>, x: &Codes, scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe { kernel::rows_i8::<Avx2>(m, rows, x, scratch, out) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows_f32(m: &Matrix, rows: Range<usize>, x: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe { kernel::rows_f32::<Avx2>(m, rows, x, scratch, out) }
}

/// For each mask byte the eight places where its columns find their values, counted from the first value
/// the byte uses; 0x80 (which a byte shuffle turns into zero) where the mask has no bit.
static PLACES: [[u8; 8]; 256] = places();

const fn places() -> [[u8; 8]; 256] {
    let mut table = [[0x80; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut j, mut nth) = (0, 0);
        while j < 8 {
            if mask >> j & 1 == 1 {
                table[mask][j] = nth;
                nth += 1;
            }
            j += 1;
        }
        mask += 1;
    }
    table
}

impl Isa for Avx2 {
    #[inline(always)]
    unsafe fn expand_i8(mask: &[u8], values: *const i8, codes: &mut [i8]) {
        assert!(codes.len() >= mask.len() * 8);
        let mut values = values;
        let mut out = codes.as_mut_ptr();
        for &bits in mask {
            // SAFETY: `values` advances by at most 8 a byte, so that it stays inside the full row that the
            // caller lets be read, plus the 8 bytes of this load; `out` writes 8 codes a mask byte, asserted.
            unsafe {
                let place = _mm_loadl_epi64(PLACES[usize::from(bits)].as_ptr().cast());
                let kept = _mm_loadl_epi64(values.cast());
                _mm_storel_epi64(out.cast(), _mm_shuffle_epi8(kept, place));
                values = values.add(bits.count_ones() as usize);
                out = out.add(8);
            }
        }
    }

    #[inline(always)]
    unsafe fn unpack_nibbles(nibbles: &[u8], levels: &[i8; 16], codes: &mut [i8]) {
        assert!(codes.len() >= nibbles.len() * 2);
        let whole = nibbles.len() / 16 * 16;
        // SAFETY: 16 levels; 16 nibble bytes are read and 32 codes written at a time, asserted above.
        unsafe {
            let levels = _mm_loadu_si128(levels.as_ptr().cast());
            let low_half = _mm_set1_epi8(15);
            for i in (0..whole).step_by(16) {
                let packed = _mm_loadu_si128(nibbles.as_ptr().add(i).cast());
                let low = _mm_shuffle_epi8(levels, _mm_and_si128(packed, low_half));
                let high = _mm_shuffle_epi8(levels, _mm_and_si128(_mm_srli_epi16::<4>(packed), low_half));
                let out = codes.as_mut_ptr().add(2 * i);
                _mm_storeu_si128(out.cast(), _mm_unpacklo_epi8(low, high));
                _mm_storeu_si128(out.add(16).cast(), _mm_unpackhi_epi8(low, high));
            }
        }
        for (i, byte) in nibbles.iter().enumerate().skip(whole) {
            codes[2 * i] = levels[usize::from(byte & 15)];
            codes[2 * i + 1] = levels[usize::from(byte >> 4)];
        }
    }

    #[inline(always)]
    unsafe fn dot_i8(w: &[i8], w_scales: &[f32], x: Vector) -> f32 {
        let blocks = w.len() / BLOCK;
        assert!(x.codes.len() >= w.len() && w_scales.len() >= blocks.next_multiple_of(LANES));
        assert_eq!(w_scales.len(), x.scales.len());
        // SAFETY: block indices stay below `blocks`; scales are padded to whole groups, asserted above.
        unsafe {
            let mut acc = _mm256_setzero_ps();
            for first in (0..blocks).step_by(LANES) {
                let mut dots = [_mm256_setzero_si256(); LANES];
                for (b, dot) in (first..blocks).zip(&mut dots) {
                    *dot = dot_block(w.as_ptr().add(b * BLOCK), x.codes.as_ptr().add(b * BLOCK));
                }
                let ws = _mm256_loadu_ps(w_scales.as_ptr().add(first));
                let xs = _mm256_loadu_ps(x.scales.as_ptr().add(first));
                let dots = _mm256_cvtepi32_ps(sum_each(dots));
                acc = _mm256_add_ps(acc, _mm256_mul_ps(dots, _mm256_mul_ps(ws, xs)));
            }
            sum8(acc)
        }
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
                let places = _mm_loadl_epi64(PLACES[usize::from(bits)].as_ptr().cast());
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

/// Eight partial sums of a block's 32 products. `|w|` is unsigned and takes -128; `x` is never -128, so
/// moving the sign of `w` to `x` cannot overflow, nor can 2 * 128 * 127 overflow an i16.
///
/// # Safety
/// AVX2; 32 readable bytes at both pointers.
#[inline(always)]
unsafe fn dot_block(w: *const i8, x: *const i8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let w = _mm256_loadu_si256(w.cast());
        let x = _mm256_loadu_si256(x.cast());
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
        _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
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
        let quad = |a, b, c, d| _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let (front, back) = (quad(v[0], v[1], v[2], v[3]), quad(v[4], v[5], v[6], v[7]));
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

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize(x: &[f32], codes: &mut [i8], scales: &mut [f32]) {
    let magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFF_FFFF));
    for ((x, codes), scale) in x.chunks_exact(BLOCK).zip(codes.chunks_exact_mut(BLOCK)).zip(scales) {
        // SAFETY: a block is 32 floats in and 32 bytes out.
        unsafe {
            let v = [0, 8, 16, 24].map(|i| _mm256_loadu_ps(x.as_ptr().add(i)));
            let a = v.map(|v| _mm256_and_ps(v, magnitude));
            let mut l = [0.0f32; 8];
            _mm256_storeu_ps(l.as_mut_ptr(), _mm256_max_ps(_mm256_max_ps(a[0], a[1]), _mm256_max_ps(a[2], a[3])));
            let max = l.iter().fold(0.0f32, |m, &v| m.max(v));
            *scale = max / 127.0;
            let inverse = _mm256_set1_ps(if max > 0.0 { 127.0 / max } else { 0.0 });
            let q = v.map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)));
            let packed = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            _mm256_storeu_si256(codes.as_mut_ptr().cast(), _mm256_permutevar8x32_epi32(packed, order));
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn scores(q: &Queries, keys: Cached, scratch: &mut Aligned<f32>, out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe { attention::scores::<Avx2>(q, keys, scratch, out) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn mix(q: &Queries, values: Cached, scratch: &mut Aligned<f32>, weights: &[f32], out: &mut [f32]) {
    // SAFETY: this function's target features are the ISA.
    unsafe { attention::mix::<Avx2>(q, values, scratch, weights, out) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn softmax(scores: &mut [f32], scale: f32) {
    ops::softmax(scores, scale);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn swiglu(gate: &mut [f32], up: &[f32]) {
    ops::swiglu(gate, up);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    ops::rms_norm(x, weight, eps, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
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
