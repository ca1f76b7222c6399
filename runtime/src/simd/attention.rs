//! Attention of a few queries over the keys and values of one kv head, once for all ISAs.
//!
//! Every sum runs in the order of its index, one lane a key (scores) or a dimension (values), multiplied and added
//! separately: the same bits on every CPU and for any number of queries.

use half::f16;

use super::aligned::Aligned;
use super::kernel::Isa;

/// Positions of which the keys lie together: `(dimension, position)`, position fastest.
pub(crate) const KEY_BLOCK: usize = 16;
/// Queries whose sums are in registers together.
const QUERIES: usize = 4;
/// Dimensions whose sums are in registers together.
const WIDE: usize = 64;
const NARROW: usize = 16;
/// Numbers of a vector that share a scale, where they are bytes.
pub(crate) const SCALED: usize = 32;

/// Keys or values of one kv head.
#[derive(Clone, Copy)]
pub(crate) enum Cached<'a> {
    F16(&'a [f16]),
    F32(&'a [f32]),
    Q8(ScaledBytes<'a>),
}

/// Vectors of bytes, `lanes` of them side by side, and the scales of [`SCALED`] numbers each.
#[derive(Clone, Copy)]
pub(crate) struct ScaledBytes<'a> {
    /// `(dimension, lane)` of one group of lanes after another.
    pub(crate) codes: &'a [i8],
    /// `(run of dimensions, lane)` of one group of lanes after another.
    pub(crate) scales: &'a [f32],
    pub(crate) dim: usize,
    /// [`KEY_BLOCK`], or 1.
    pub(crate) lanes: usize,
}

/// Queries of one kv head, `dim` wide, and how far each may look.
pub(crate) struct Queries<'a> {
    pub(crate) dim: usize,
    /// `lens.len() x dim`.
    pub(crate) queries: &'a [f32],
    /// Positions that each query sees.
    pub(crate) lens: &'a [usize],
    /// How far the scores of two queries lie apart: at least the most positions, in whole key blocks.
    pub(crate) stride: usize,
}

/// `scores[i * stride + p] = query i . key p` for all positions that any query sees, in whole blocks.
///
/// # Safety
/// The CPU has ISA `I`.
#[inline(always)]
pub(super) unsafe fn scores<I: Isa>(q: &Queries, keys: Cached, scratch: &mut Aligned<f32>, scores: &mut [f32]) {
    let block_len = q.dim * KEY_BLOCK;
    let positions = q.lens.iter().copied().max().unwrap_or(0);
    for block in 0..positions.div_ceil(KEY_BLOCK) {
        // SAFETY: the ISA is the caller's promise.
        let keys = unsafe { keys.singles::<I>(block * block_len, block_len, scratch) };
        for first in (0..q.lens.len()).step_by(QUERIES) {
            let at = |i: usize| (first + i) * q.stride + block * KEY_BLOCK;
            match q.lens.len() - first {
                1 => score_block::<1>(q, first, keys, |i, s| scores[at(i)..at(i) + KEY_BLOCK].copy_from_slice(s)),
                2 => score_block::<2>(q, first, keys, |i, s| scores[at(i)..at(i) + KEY_BLOCK].copy_from_slice(s)),
                3 => score_block::<3>(q, first, keys, |i, s| scores[at(i)..at(i) + KEY_BLOCK].copy_from_slice(s)),
                _ => score_block::<4>(q, first, keys, |i, s| scores[at(i)..at(i) + KEY_BLOCK].copy_from_slice(s)),
            }
        }
    }
}

#[inline(always)]
fn score_block<const N: usize>(q: &Queries, first: usize, keys: &[f32], mut put: impl FnMut(usize, &[f32])) {
    let queries: [&[f32]; N] = std::array::from_fn(|i| &q.queries[(first + i) * q.dim..(first + i + 1) * q.dim]);
    let mut sums = [[0.0f32; KEY_BLOCK]; N];
    for (d, keys) in keys.as_chunks::<KEY_BLOCK>().0.iter().enumerate() {
        for (sums, query) in sums.iter_mut().zip(queries) {
            let value = query[d];
            sums.iter_mut().zip(keys).for_each(|(sum, key)| *sum += value * key);
        }
    }
    sums.iter().enumerate().for_each(|(i, sums)| put(i, sums));
}

/// `out[i] += sum over p < lens[i] of weights[i * stride + p] * value p`; `values` is position x `dim`.
///
/// # Safety
/// The CPU has ISA `I`.
#[inline(always)]
pub(super) unsafe fn mix<I: Isa>(
    q: &Queries,
    values: Cached,
    scratch: &mut Aligned<f32>,
    weights: &[f32],
    out: &mut [f32],
) {
    let positions = q.lens.iter().copied().max().unwrap_or(0);
    for first in (0..positions).step_by(KEY_BLOCK) {
        let n = KEY_BLOCK.min(positions - first);
        // SAFETY: the ISA is the caller's promise.
        let values = unsafe { values.singles::<I>(first * q.dim, n * q.dim, scratch) };
        for ((i, &len), out) in q.lens.iter().enumerate().zip(out.chunks_exact_mut(q.dim)) {
            let weights = &weights[i * q.stride + first..i * q.stride + (first + n).min(len).max(first)];
            let (wide, rest) = out.as_chunks_mut::<WIDE>();
            for (c, out) in wide.iter_mut().enumerate() {
                mix_block(weights, &values[c * WIDE..], q.dim, out);
            }
            let done = wide.len() * WIDE;
            let (narrow, rest) = rest.as_chunks_mut::<NARROW>();
            for (c, out) in narrow.iter_mut().enumerate() {
                mix_block(weights, &values[done + c * NARROW..], q.dim, out);
            }
            let done = done + narrow.len() * NARROW;
            for (c, out) in rest.iter_mut().enumerate() {
                mix_block(weights, &values[done + c..], q.dim, std::array::from_mut(out));
            }
        }
    }
}

#[inline(always)]
fn mix_block<const W: usize>(weights: &[f32], values: &[f32], dim: usize, out: &mut [f32; W]) {
    let mut sums = *out;
    for (weight, values) in weights.iter().zip(values.chunks(dim)) {
        sums.iter_mut().zip(&values[..W]).for_each(|(sum, value)| *sum += weight * value);
    }
    *out = sums;
}

impl<'a> Cached<'a> {
    /// `len` values from `first` on as singles.
    ///
    /// # Safety
    /// The CPU has ISA `I`.
    #[inline(always)]
    unsafe fn singles<'s, I: Isa>(self, first: usize, len: usize, scratch: &'s mut Aligned<f32>) -> &'s [f32]
    where
        'a: 's,
    {
        match self {
            Cached::F32(all) => &all[first..first + len],
            Cached::F16(all) => {
                scratch.fit(len);
                let halves = &all[first..first + len];
                // SAFETY: a half is two bytes, little-endian as are all machines this runs on; the ISA is the caller's promise.
                unsafe {
                    let bytes = std::slice::from_raw_parts(halves.as_ptr().cast(), len * 2);
                    I::load_f16(bytes, &mut scratch[..len]);
                }
                &scratch[..len]
            }
            Cached::Q8(all) => {
                scratch.fit(len);
                all.expand(first, &mut scratch[..len]);
                &scratch[..len]
            }
        }
    }
}

impl ScaledBytes<'_> {
    /// The numbers from `first`, where a group of lanes begins, on: whole groups. The same bits on every CPU.
    #[inline(always)]
    pub(crate) fn expand(&self, first: usize, out: &mut [f32]) {
        let (dim, lanes) = (self.dim * self.lanes, self.dim.div_ceil(SCALED) * self.lanes);
        let codes = self.codes[first..first + out.len()].chunks_exact(dim);
        let scales = self.scales[first / dim * lanes..].chunks_exact(lanes);
        for ((codes, scales), out) in codes.zip(scales).zip(out.chunks_exact_mut(dim)) {
            let run = SCALED * self.lanes;
            for ((codes, scales), out) in codes.chunks(run).zip(scales.chunks(self.lanes)).zip(out.chunks_mut(run)) {
                match <&[f32; KEY_BLOCK]>::try_from(scales) {
                    Ok(scales) => expand_lanes(codes, scales, out),
                    Err(_) => out.iter_mut().zip(codes).for_each(|(out, &code)| *out = f32::from(code) * scales[0]),
                }
            }
        }
    }
}

#[inline(always)]
fn expand_lanes(codes: &[i8], scales: &[f32; KEY_BLOCK], out: &mut [f32]) {
    for (codes, out) in codes.as_chunks::<KEY_BLOCK>().0.iter().zip(out.as_chunks_mut::<KEY_BLOCK>().0) {
        for ((out, &code), scale) in out.iter_mut().zip(codes).zip(scales) {
            *out = f32::from(code) * scale;
        }
    }
}
