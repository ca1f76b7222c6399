//! The reference kernels, on `wide`: what every other file must compute. Runs on any CPU.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use spm::levels::{SPARSE_Q4_LEVELS, field_2_of_4, group_2_of_4};
use spm::{BLOCK, CHUNK, Matrix};
use wide::{f32x8, i8x16, i16x16, i32x8};

use super::chunks::bits_of;
use super::codes::Codes;
use super::kernel::{self, GROUP, Isa, LANES, OVERRUN, Scratch};
use super::{Kernels, attention, float, sum_lanes};
use crate::ops;

pub(super) fn detect() -> Option<&'static Kernels> {
    static KERNELS: Kernels = Kernels {
        name: "portable",
        tiled_from: usize::MAX,
        rows_i8,
        rows_f32,
        quantize,
        // SAFETY: this ISA needs nothing of the CPU.
        scores: |q, keys, scratch, out| unsafe { attention::scores::<Portable>(q, keys, scratch, out) },
        // SAFETY: as above.
        mix: |q, values, scratch, weights, out| unsafe {
            attention::mix::<Portable>(q, values, scratch, weights, out);
        },
        softmax: ops::softmax,
        swiglu: ops::swiglu,
        rms_norm: ops::rms_norm,
        store_f16: |x, out| out.convert_from_f32_slice(x),
    };
    Some(&KERNELS)
}

struct Portable;

fn rows_i8(m: &Matrix, rows: Range<usize>, x: &Codes, scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: this ISA needs nothing of the CPU.
    unsafe {
        match x.n() {
            ..=Portable::FEW => kernel::rows_few::<Portable>(m, rows, x, out),
            _ => kernel::rows_many::<Portable>(m, rows, x, scratch, out),
        }
    }
}

fn rows_f32(m: &Matrix, rows: Range<usize>, x: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: this ISA needs nothing of the CPU.
    unsafe { float::rows_f32::<Portable>(m, rows, x, scratch, out) }
}

/// Spreads codes over the columns whose bits are set; `code(n)` is the n-th.
fn expand(mut mask: u64, code: impl Fn(usize) -> i8) -> [i8; CHUNK] {
    let mut codes = [0; CHUNK];
    let mut nth = 0;
    while mask != 0 {
        codes[mask.trailing_zeros() as usize % CHUNK] = code(nth);
        mask &= mask - 1;
        nth += 1;
    }
    codes
}

/// The nibbles of 32 bytes, the low ones first.
fn nibbles(bytes: &[u8; BLOCK]) -> [u8; CHUNK] {
    let mut codes = [0; CHUNK];
    let (low, high) = codes.split_at_mut(BLOCK);
    low.iter_mut().zip(bytes).for_each(|(c, b)| *c = b & 15);
    high.iter_mut().zip(bytes).for_each(|(c, b)| *c = b >> 4);
    codes
}

/// Sums of two products each of 64 codes: of 16 codes in a row a result.
fn pairs(chunk: &[i8; CHUNK], x: &[u8; CHUNK]) -> [i32x8; 4] {
    let mut sums = [i32x8::ZERO; 4];
    for ((sums, w), x) in sums.iter_mut().zip(chunk.as_chunks::<16>().0).zip(x.as_chunks::<16>().0) {
        let (w, x) = (i8x16::from(*w), i8x16::from(x.map(|x| x as i8)));
        *sums = i16x16::from(w).dot(i16x16::from(x));
    }
    sums
}

/// # Safety
/// `N` bytes at `at`.
unsafe fn bytes<const N: usize>(at: *const u8) -> [u8; N] {
    // SAFETY: the caller's promise; bytes have no alignment.
    unsafe { at.cast::<[u8; N]>().read() }
}

fn level<const HIGH: bool>(byte: u8) -> i8 {
    SPARSE_Q4_LEVELS[usize::from(if HIGH { byte >> 4 } else { byte & 15 })]
}

/// # Safety
/// Eight numbers at `x_scales`.
unsafe fn add_scaled(lanes: f32x8, sums: [f32; LANES], w_scales: f32x8, x_scales: *const f32) -> f32x8 {
    // SAFETY: the caller's promise.
    let x_scales = f32x8::from(unsafe { x_scales.cast::<[f32; LANES]>().read() });
    lanes + f32x8::from(sums) * (w_scales * x_scales)
}

impl Isa for Portable {
    const FEW: usize = 2;
    type Chunk = [i8; CHUNK];
    /// Pairs of lanes of blocks 0 to 3 and of blocks 4 to 7.
    type Acc = [i32x8; 2];
    type Dots = [i32; 2];
    type Lanes = f32x8;

    unsafe fn q8(codes: *const u8) -> [i8; CHUNK] {
        // SAFETY: the caller's promise.
        unsafe { bytes::<CHUNK>(codes).map(|c| c as i8) }
    }

    unsafe fn q4(stored: *const u8) -> [i8; CHUNK] {
        // SAFETY: the caller's promise.
        let codes = nibbles(&unsafe { bytes::<BLOCK>(stored) });
        codes.map(|c| c as i8 - 8)
    }

    unsafe fn q5(bits: u64, stored: *const u8) -> [i8; CHUNK] {
        // SAFETY: the caller's promise.
        let mut codes = nibbles(&unsafe { bytes::<BLOCK>(stored) }).map(|c| c as i8 - 16);
        codes.iter_mut().enumerate().for_each(|(i, c)| *c += ((bits >> i & 1) as i8) << 4);
        codes
    }

    unsafe fn sparse_q8(mask: u64, values: &mut *const u8) -> [i8; CHUNK] {
        // SAFETY: the caller's promise.
        unsafe {
            let v = bytes::<CHUNK>(*values);
            *values = values.add(mask.count_ones() as usize);
            expand(mask, |nth| v[nth % CHUNK] as i8)
        }
    }

    unsafe fn sparse_q4<const HIGH: bool>(mask: u64, values: &mut *const u8) -> [i8; CHUNK] {
        // SAFETY: the caller's promise.
        unsafe {
            let v = bytes::<CHUNK>(*values);
            *values = values.add(mask.count_ones() as usize);
            expand(mask, |nth| level::<HIGH>(v[nth % CHUNK]))
        }
    }

    unsafe fn sparse_q4_shared(mask: u64, low: *const u8, high: *const u8) -> [i8; CHUNK] {
        // SAFETY: the caller's promise.
        let (low, high) = unsafe { (bytes::<CHUNK>(low), bytes::<CHUNK>(high)) };
        let first = expand(mask & 0xFFFF_FFFF, |nth| level::<false>(low[nth % CHUNK]));
        let second = expand(mask >> 32, |nth| level::<true>(high[nth % CHUNK]));
        std::array::from_fn(|i| if i < BLOCK { first[i] } else { second[i - BLOCK] })
    }

    unsafe fn q8_keep_2_of_4(places: u64, values: *const u8) -> [i8; CHUNK] {
        // SAFETY: the caller's promise.
        let v = unsafe { bytes::<BLOCK>(values) };
        place(places, |j| v[j] as i8)
    }

    unsafe fn q4_keep_2_of_4(places: u64, values: *const u8) -> [i8; CHUNK] {
        // SAFETY: the caller's promise.
        let v = unsafe { bytes::<16>(values) };
        place(places, |j| if j < 16 { level::<false>(v[j]) } else { level::<true>(v[j - 16]) })
    }

    unsafe fn store(chunk: [i8; CHUNK], codes: *mut i8) {
        // SAFETY: the caller's promise.
        unsafe { codes.cast::<[i8; CHUNK]>().write(chunk) }
    }

    unsafe fn start(_lifts: *const i32, _gathers: bool) -> [i32x8; 2] {
        [i32x8::ZERO; 2]
    }

    unsafe fn multiply_add(acc: [i32x8; 2], chunk: [i8; CHUNK], x: *const i8) -> [i32x8; 2] {
        // SAFETY: the caller's promise.
        let [a, b, c, d] = pairs(&chunk, &unsafe { bytes::<CHUNK>(x.cast()) });
        [acc[0] + a + c, acc[1] + b + d]
    }

    unsafe fn gather_q8<const N: usize>(
        mut acc: [[i32x8; 2]; N],
        places: *const u8,
        values: *const u8,
        x: [*const i8; N],
    ) -> [[i32x8; 2]; N] {
        // SAFETY: the caller's promise.
        unsafe {
            for c in 0..2 {
                let chunk = Self::q8_keep_2_of_4(bits_of(places, c), values.add(32 * c));
                acc = std::array::from_fn(|t| Self::multiply_add(acc[t], chunk, x[t].add(c * CHUNK)));
            }
        }
        acc
    }

    unsafe fn gather_q4<const N: usize>(
        mut acc: [[i32x8; 2]; N],
        places: *const u8,
        values: *const u8,
        x: [*const i8; N],
    ) -> [[i32x8; 2]; N] {
        // SAFETY: the caller's promise.
        unsafe {
            for c in 0..2 {
                let chunk = Self::q4_keep_2_of_4(bits_of(places, c), values.add(16 * c));
                acc = std::array::from_fn(|t| Self::multiply_add(acc[t], chunk, x[t].add(c * CHUNK)));
            }
        }
        acc
    }

    unsafe fn multiply(chunk: [i8; CHUNK], x: *const i8) -> [i32; 2] {
        // SAFETY: the caller's promise.
        let [a, b, c, d] = pairs(&chunk, &unsafe { bytes::<CHUNK>(x.cast()) });
        [(a + b).reduce_add(), (c + d).reduce_add()]
    }

    unsafe fn no_dots() -> [i32; 2] {
        [0; 2]
    }

    unsafe fn no_lanes() -> f32x8 {
        f32x8::ZERO
    }

    unsafe fn half_scales(stored: *const u8, n: usize) -> f32x8 {
        // SAFETY: the caller's promise.
        let halves = unsafe { bytes::<16>(stored) };
        let half = |i: usize| if i < n { f16::from_le_bytes([halves[2 * i], halves[2 * i + 1]]).to_f32() } else { 0.0 };
        f32x8::from(std::array::from_fn::<f32, LANES, _>(half))
    }

    unsafe fn byte_scales(stored: *const u8, factor: f32) -> f32x8 {
        // SAFETY: the caller's promise.
        let codes = unsafe { bytes::<LANES>(stored) };
        f32x8::from(codes.map(|c| factor * f32::from(c as i8)))
    }

    unsafe fn add_group(lanes: f32x8, acc: [i32x8; 2], w_scales: f32x8, x_scales: *const f32) -> f32x8 {
        let pairs = acc.map(|pairs| pairs.to_array());
        let sum = |b: usize| (pairs[b / 4][b % 4 * 2] + pairs[b / 4][b % 4 * 2 + 1]) as f32;
        // SAFETY: the caller's promise.
        unsafe { add_scaled(lanes, std::array::from_fn(sum), w_scales, x_scales) }
    }

    unsafe fn add_last_group(
        lanes: f32x8,
        dots: &[[i32; 2]; GROUP],
        w_scales: f32x8,
        x_scales: *const f32,
        _lifts: *const i32,
    ) -> f32x8 {
        // SAFETY: the caller's promise.
        unsafe { add_scaled(lanes, std::array::from_fn(|b| dots[b / 2][b % 2] as f32), w_scales, x_scales) }
    }

    unsafe fn store_lanes(lanes: f32x8, out: &mut [f32; LANES]) {
        *out = lanes.to_array();
    }

    unsafe fn sum(lanes: f32x8) -> f32 {
        sum_lanes(lanes.to_array())
    }

    unsafe fn dots_f32<const R: usize, const N: usize>(w: &[f32], x: &[f32], stride: usize) -> [[f32; N]; R] {
        let mut acc = [[f32x8::ZERO; N]; R];
        for k in (0..stride).step_by(8) {
            for (t, x) in x.chunks_exact(stride).take(N).enumerate() {
                let x = load(&x[k..k + 8]);
                for (r, acc) in acc.iter_mut().enumerate() {
                    acc[t] += load(&w[r * stride + k..r * stride + k + 8]) * x;
                }
            }
        }
        acc.map(|row| row.map(|lanes| sum_lanes(lanes.to_array())))
    }

    unsafe fn load_f16(halves: &[u8], out: &mut [f32]) {
        for (o, b) in out.iter_mut().zip(halves.chunks_exact(2)) {
            *o = f16::from_le_bytes([b[0], b[1]]).to_f32();
        }
    }

    unsafe fn expand_f16(mask: &[u8], halves: *const u8, out: &mut [f32]) {
        // SAFETY: the caller lets a full row and more be read.
        let halves = unsafe { std::slice::from_raw_parts(halves, mask.len() * 16 + OVERRUN) };
        let mut nth = 0;
        for (bits, out) in mask.iter().zip(out.chunks_exact_mut(8)) {
            let mut kept = [0.0; 8];
            // SAFETY: two bytes for each of eight.
            unsafe { Self::load_f16(&halves[2 * nth..2 * nth + 16], &mut kept) };
            let mut next = 0;
            for (j, out) in out.iter_mut().enumerate() {
                let bit = u32::from(bits >> j & 1);
                // All bits of the value or none: a branch on a random mask would be guessed wrong half of the time.
                *out = f32::from_bits(kept[next & 7].to_bits() & bit.wrapping_neg());
                next += bit as usize;
            }
            nth += next;
        }
    }
}

/// Puts 2:4 codes in their places.
fn place(places: u64, code: impl Fn(usize) -> i8) -> [i8; CHUNK] {
    let mut chunk = [0; CHUNK];
    for j in 0..CHUNK / 2 {
        let place = (places >> field_2_of_4(j) & 3) as usize;
        chunk[group_2_of_4(j) + place] = code(j);
    }
    chunk
}

fn quantize(x: &[f32], codes: &mut [i8], scales: &mut [f32], lifts: &mut [i32]) {
    let blocks = x.chunks_exact(BLOCK).zip(codes.chunks_exact_mut(BLOCK));
    for ((x, codes), (scale, lift)) in blocks.zip(scales.iter_mut().zip(lifts)) {
        let max = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        *scale = max / 127.0;
        let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
        codes.iter_mut().zip(x).for_each(|(c, v)| *c = (v * inverse).round_ties_even() as i8);
        *lift = -128 * codes.iter().map(|&c| i32::from(c)).sum::<i32>();
    }
}

/// Up to eight values, the rest zeros.
fn load(values: &[f32]) -> f32x8 {
    let mut lanes = [0.0; 8];
    lanes[..values.len()].copy_from_slice(values);
    f32x8::from(lanes)
}
