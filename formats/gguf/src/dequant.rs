//! Expands rows of ggml's types to f32, bit for bit as ggml's reference code does: the same operations in the
//! same order, in f32.
//!
//! Nothing here can fail or panic: blocks are arrays of fixed size, and every bit pattern means some number.

use half::{bf16, f16};

use crate::ggml_type::GgmlType;

/// Expands whole blocks from `bytes` into `out`; what is missing on either side is left alone.
pub fn expand(kind: GgmlType, bytes: &[u8], out: &mut [f32]) {
    match kind {
        GgmlType::F32 => blocks(bytes, out, |b: &[u8; 4], o: &mut [f32; 1]| o[0] = f32::from_le_bytes(*b)),
        GgmlType::F16 => blocks(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = f16::from_le_bytes(*b).to_f32()),
        GgmlType::Bf16 => blocks(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = bf16::from_le_bytes(*b).to_f32()),
        GgmlType::Q4_0 => blocks(bytes, out, |b, o| scaled(b, codes_q4_0(b), o)),
        GgmlType::Q4_1 => blocks(bytes, out, q4_1),
        GgmlType::Q5_0 => blocks(bytes, out, |b, o| scaled(b, codes_q5_0(b), o)),
        GgmlType::Q5_1 => blocks(bytes, out, q5_1),
        GgmlType::Q8_0 => blocks(bytes, out, |b, o| scaled(b, codes_q8_0(b), o)),
        GgmlType::Q2K => blocks(bytes, out, q2_k),
        GgmlType::Q3K => blocks(bytes, out, q3_k),
        GgmlType::Q4K => blocks(bytes, out, q4_k),
        GgmlType::Q5K => blocks(bytes, out, q5_k),
        GgmlType::Q6K => blocks(bytes, out, q6_k),
        GgmlType::Iq4Nl => blocks(bytes, out, |b, o| scaled(b, codes_iq4_nl(b), o)),
    }
}

fn blocks<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], block: impl Fn(&[u8; B], &mut [f32; N])) {
    bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0).for_each(|(b, o)| block(b, o));
}

/// The step between values of the first and of the second 16 of each 32 weights; types without steps have none.
pub(crate) fn steps_of(kind: GgmlType, bytes: &[u8], out: &mut [[f32; 2]]) {
    let blocks = bytes.chunks_exact(kind.block_bytes());
    let per_block = (kind.block_len() / 32).max(1);
    for (b, out) in blocks.zip(out.chunks_exact_mut(per_block)) {
        out.iter_mut().enumerate().for_each(|(i, o)| *o = [2 * i, 2 * i + 1].map(|group| step(kind, b, group)));
    }
}

/// The step of one group of 16 weights.
fn step(kind: GgmlType, b: &[u8], group: usize) -> f32 {
    match kind {
        GgmlType::F32 | GgmlType::F16 | GgmlType::Bf16 => 0.0,
        GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q8_0 | GgmlType::Iq4Nl => {
            half_at(b, 0)
        }
        GgmlType::Q2K => half_at(b, 80) * f32::from(b[group] & 15),
        GgmlType::Q3K => half_at(b, 108) * f32::from(q3_k_scale(b, group)),
        GgmlType::Q4K | GgmlType::Q5K => scale_and_min(b, group / 2).0,
        GgmlType::Q6K => half_at(b, 208) * f32::from(b[192 + group] as i8),
    }
}

/// The integers of a block that is a scale, first, and 32 of them.
pub(crate) type Codes = [i8; 32];

fn scaled(b: &[u8], codes: Codes, out: &mut [f32; 32]) {
    let d = half_at(b, 0);
    out.iter_mut().zip(codes).for_each(|(o, c)| *o = f32::from(c) * d);
}

pub(crate) fn codes_q4_0(b: &[u8; 18]) -> Codes {
    nibbles(&b[2..]).map(|q| q as i8 - 8)
}

pub(crate) fn codes_q5_0(b: &[u8; 22]) -> Codes {
    with_fifth_bits(nibbles(&b[6..]), &b[2..6]).map(|q| q as i8 - 16)
}

pub(crate) fn codes_q8_0(b: &[u8; 34]) -> Codes {
    std::array::from_fn(|j| b[2 + j] as i8)
}

pub(crate) fn codes_iq4_nl(b: &[u8; 18]) -> Codes {
    const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    nibbles(&b[2..]).map(|q| LEVELS[usize::from(q)])
}

fn q4_1(b: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    out.iter_mut().zip(nibbles(&b[4..])).for_each(|(o, q)| *o = f32::from(q) * d + m);
}

fn q5_1(b: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    let codes = with_fifth_bits(nibbles(&b[8..]), &b[4..8]);
    out.iter_mut().zip(codes).for_each(|(o, q)| *o = f32::from(q) * d + m);
}

/// Codes of weights `j` (low half of byte `j`) and `j + 16` (high half).
fn nibbles(q: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    for j in 0..16 {
        out[j] = q[j] & 15;
        out[j + 16] = q[j] >> 4;
    }
    out
}

/// Bit `j` of `high` is the fifth bit of code `j`.
fn with_fifth_bits(mut codes: [u8; 32], high: &[u8]) -> [u8; 32] {
    codes.iter_mut().enumerate().for_each(|(j, c)| *c |= (high[j / 8] >> (j % 8) & 1) << 4);
    codes
}

/// 16 bytes of scales (low nibble) and minima (high), 64 of codes, then the two f16 factors.
fn q2_k(b: &[u8; 84], out: &mut [f32; 256]) {
    let (d, min) = (half_at(b, 80), half_at(b, 82));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (dl, ml) = (d * f32::from(b[group] & 15), min * f32::from(b[group] >> 4));
        let (from, shift) = two_bit_place(group);
        for (l, o) in out.iter_mut().enumerate() {
            *o = dl * f32::from(b[16 + from + l] >> shift & 3) - ml;
        }
    }
}

/// 32 bytes of third bits, 64 of low bits, 12 of 6-bit scales, then the f16 factor.
fn q3_k(b: &[u8; 110], out: &mut [f32; 256]) {
    let d = half_at(b, 108);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let dl = d * f32::from(q3_k_scale(b, group));
        let (from, shift) = two_bit_place(group);
        for (l, o) in out.iter_mut().enumerate() {
            let third = b[from % 32 + l] >> (group / 2) & 1;
            *o = dl * f32::from((b[32 + from + l] >> shift & 3) as i8 - 4 * (1 - third as i8));
        }
    }
}

fn q3_k_scale(b: &[u8], group: usize) -> i8 {
    let low = b[96 + group % 8] >> (group / 8 * 4) & 15;
    let high = b[104 + group % 4] >> (group / 4 * 2) & 3;
    (low | high << 4) as i8 - 32
}

/// Where the 2-bit codes of a group of 16 weights begin, and how far up they are: each half of the block packs
/// eight groups into 32 bytes, two groups for each of four shifts.
fn two_bit_place(group: usize) -> (usize, usize) {
    (group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2)
}

/// Two f16 factors, 12 bytes of scales and minima, 128 bytes of nibbles.
fn q4_k(b: &[u8; 144], out: &mut [f32; 256]) {
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (d, m) = scale_and_min(b, group);
        let (from, shift) = (16 + group / 2 * 32, group % 2 * 4);
        for (l, o) in out.iter_mut().enumerate() {
            *o = d * f32::from(b[from + l] >> shift & 15) - m;
        }
    }
}

/// As Q4_K with 32 bytes of fifth bits before the nibbles, one bit of each byte for each group.
fn q5_k(b: &[u8; 176], out: &mut [f32; 256]) {
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (d, m) = scale_and_min(b, group);
        let (from, shift) = (48 + group / 2 * 32, group % 2 * 4);
        for (l, o) in out.iter_mut().enumerate() {
            let fifth = b[16 + l] >> group & 1;
            *o = d * f32::from(b[from + l] >> shift & 15 | fifth << 4) - m;
        }
    }
}

/// The factor and the minimum of one of the eight groups of a Q4_K or Q5_K block.
fn scale_and_min(b: &[u8], group: usize) -> (f32, f32) {
    let q = &b[4..16];
    let (scale, min) = if group < 4 {
        (q[group] & 63, q[group + 4] & 63)
    } else {
        (q[group + 4] & 15 | q[group - 4] >> 6 << 4, q[group + 4] >> 4 | q[group] >> 6 << 4)
    };
    (half_at(b, 0) * f32::from(scale), half_at(b, 2) * f32::from(min))
}

/// 128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales, then the f16 factor.
fn q6_k(b: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(b, 208);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (half, quarter) = (group / 4, group % 4);
        let (low_from, low_shift) = (half * 64 + quarter % 2 * 32, quarter / 2 * 4);
        for (l, o) in out.iter_mut().enumerate() {
            let low = b[low_from + l] >> low_shift & 15;
            let high = b[128 + half * 32 + l] >> (quarter * 2) & 3;
            let scale = b[192 + group * 2 + l / 16] as i8;
            *o = d * f32::from(scale) * f32::from((low | high << 4) as i8 - 32);
        }
    }
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}
