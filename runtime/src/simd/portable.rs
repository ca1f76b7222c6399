//! The reference kernels, on `wide`: what every other file must compute. Runs on any CPU.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use spm::{BLOCK, Matrix};
use wide::f32x8;

use super::kernel::{self, Codes, Isa, LANES, OVERRUN, Scratch, Vector};
use super::{Kernels, attention, sum_lanes};
use crate::ops;

pub(super) fn detect() -> Option<&'static Kernels> {
    static KERNELS: Kernels = Kernels {
        name: "portable",
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
    unsafe { kernel::rows_i8::<Portable>(m, rows, x, scratch, out) }
}

fn rows_f32(m: &Matrix, rows: Range<usize>, x: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: this ISA needs nothing of the CPU.
    unsafe { kernel::rows_f32::<Portable>(m, rows, x, scratch, out) }
}

impl Isa for Portable {
    unsafe fn expand_i8(mask: &[u8], values: *const i8, codes: &mut [i8]) {
        // SAFETY: the caller lets a full row be read.
        let values = unsafe { std::slice::from_raw_parts(values, mask.len() * 8) };
        let mut nth = 0;
        for (bits, codes) in mask.iter().zip(codes.chunks_exact_mut(8)) {
            for (j, code) in codes.iter_mut().enumerate() {
                let kept = bits >> j & 1;
                // `nth` is the number of bits seen before this column, so it is below the row's columns.
                *code = values[nth] * kept as i8;
                nth += usize::from(kept);
            }
        }
    }

    unsafe fn unpack_nibbles(nibbles: &[u8], levels: &[i8; 16], codes: &mut [i8]) {
        for (byte, codes) in nibbles.iter().zip(codes.chunks_exact_mut(2)) {
            codes[0] = levels[usize::from(byte & 15)];
            codes[1] = levels[usize::from(byte >> 4)];
        }
    }

    unsafe fn dot_i8(w: &[i8], w_scales: &[f32], x: Vector) -> f32 {
        let mut acc = f32x8::ZERO;
        let groups = w.chunks(BLOCK * LANES).zip(x.codes.chunks(BLOCK * LANES));
        let scales = w_scales.chunks_exact(LANES).zip(x.scales.chunks_exact(LANES));
        for ((w, x), (ws, xs)) in groups.zip(scales) {
            let mut dots = [0.0; LANES];
            for (dot, (w, x)) in dots.iter_mut().zip(w.chunks_exact(BLOCK).zip(x.chunks_exact(BLOCK))) {
                *dot = w.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum::<i32>() as f32;
            }
            acc += f32x8::from(dots) * (load(ws) * load(xs));
        }
        sum_lanes(acc.to_array())
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

fn quantize(x: &[f32], codes: &mut [i8], scales: &mut [f32]) {
    for ((x, codes), scale) in x.chunks_exact(BLOCK).zip(codes.chunks_exact_mut(BLOCK)).zip(scales) {
        let max = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        *scale = max / 127.0;
        let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
        codes.iter_mut().zip(x).for_each(|(c, v)| *c = (v * inverse).round_ties_even() as i8);
    }
}

/// Up to eight values, the rest zeros.
fn load(values: &[f32]) -> f32x8 {
    let mut lanes = [0.0; 8];
    lanes[..values.len()].copy_from_slice(values);
    f32x8::from(lanes)
}
