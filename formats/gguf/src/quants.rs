//! ggml's ways to store weights, expanded to f32 with ggml's own operations in ggml's order, so that every bit agrees.

use half::f16;

/// A tensor type of ggml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, non_camel_case_types)] // ggml's names.
pub enum GgmlType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    IQ4_NL = 20,
    BF16 = 30,
}

use GgmlType::*;

impl GgmlType {
    /// Every type that can be read.
    pub const ALL: [GgmlType; 14] =
        [F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, BF16];

    /// The type with this number in a file.
    pub fn from_number(n: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as u32 == n)
    }

    /// ggml's name, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            F32 => "F32",
            F16 => "F16",
            Q4_0 => "Q4_0",
            Q4_1 => "Q4_1",
            Q5_0 => "Q5_0",
            Q5_1 => "Q5_1",
            Q8_0 => "Q8_0",
            Q2_K => "Q2_K",
            Q3_K => "Q3_K",
            Q4_K => "Q4_K",
            Q5_K => "Q5_K",
            Q6_K => "Q6_K",
            IQ4_NL => "IQ4_NL",
            BF16 => "BF16",
        }
    }

    /// Weights of a block.
    pub fn block_len(self) -> usize {
        match self {
            F32 | F16 | BF16 => 1,
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | IQ4_NL => 32,
            Q2_K | Q3_K | Q4_K | Q5_K | Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            F32 => 4,
            F16 | BF16 => 2,
            Q4_0 | IQ4_NL => 2 + 16,
            Q4_1 => 4 + 16,
            Q5_0 => 2 + 4 + 16,
            Q5_1 => 4 + 4 + 16,
            Q8_0 => 2 + 32,
            Q2_K => 16 + 64 + 4,
            Q3_K => 32 + 64 + 12 + 2,
            Q4_K => 4 + 12 + 128,
            Q5_K => 4 + 12 + 32 + 128,
            Q6_K => 128 + 64 + 16 + 2,
        }
    }

    /// Bytes of a row; `None` if it is not whole blocks.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if cols.is_multiple_of(self.block_len()) {
            (cols / self.block_len()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// Expands whole blocks; `out` has [`Self::block_len`] values for each.
    pub fn expand(self, bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.chunks_exact(self.block_bytes()).zip(out.chunks_exact_mut(self.block_len()));
        let expand = match self {
            F32 => |b: &[u8], out: &mut [f32]| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            F16 => |b: &[u8], out: &mut [f32]| out[0] = half_at(b, 0),
            BF16 => |b: &[u8], out: &mut [f32]| out[0] = f32::from_bits(u32::from(b[1]) << 24 | u32::from(b[0]) << 16),
            Q4_0 => q4_0,
            Q4_1 => q4_1,
            Q5_0 => q5_0,
            Q5_1 => q5_1,
            Q8_0 => q8_0,
            Q2_K => q2_k,
            Q3_K => q3_k,
            Q4_K => q4_k,
            Q5_K => q5_k,
            Q6_K => q6_k,
            IQ4_NL => iq4_nl,
        };
        blocks.for_each(|(b, out)| expand(b, out));
    }
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Code `i` of 32 in 16 bytes: the first half of the block in the low nibbles.
fn nibble(qs: &[u8], i: usize) -> u8 {
    qs[i % 16] >> (i / 16 * 4) & 15
}

/// Bit 4 of code `i` of 32.
fn fifth_bit(qh: &[u8], i: usize) -> u8 {
    (qh[i / 8] >> (i % 8) & 1) << 4
}

fn q4_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    out.iter_mut().enumerate().for_each(|(i, o)| *o = (f32::from(nibble(&b[2..], i)) - 8.0) * d);
}

fn q4_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    out.iter_mut().enumerate().for_each(|(i, o)| *o = f32::from(nibble(&b[4..], i)) * d + m);
}

fn q5_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    let code = |i| nibble(&b[6..], i) | fifth_bit(&b[2..], i);
    out.iter_mut().enumerate().for_each(|(i, o)| *o = (f32::from(code(i)) - 16.0) * d);
}

fn q5_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    let code = |i| nibble(&b[8..], i) | fifth_bit(&b[4..], i);
    out.iter_mut().enumerate().for_each(|(i, o)| *o = f32::from(code(i)) * d + m);
}

fn q8_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    out.iter_mut().zip(&b[2..]).for_each(|(o, &q)| *o = f32::from(q as i8) * d);
}

fn iq4_nl(b: &[u8], out: &mut [f32]) {
    const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    let d = half_at(b, 0);
    out.iter_mut().enumerate().for_each(|(i, o)| *o = d * f32::from(LEVELS[usize::from(nibble(&b[2..], i))]));
}

/// Two bits of code `i` of 256: in each half of 128, four runs of 32 share 32 bytes.
fn two_bits(qs: &[u8], i: usize) -> u8 {
    qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

fn q2_k(b: &[u8], out: &mut [f32]) {
    let (scales, qs) = (&b[..16], &b[16..80]);
    let (d, min) = (half_at(b, 80), half_at(b, 82));
    for (i, o) in out.iter_mut().enumerate() {
        let scale = scales[i / 16];
        *o = d * f32::from(scale & 15) * f32::from(two_bits(qs, i)) - min * f32::from(scale >> 4);
    }
}

fn q3_k(b: &[u8], out: &mut [f32]) {
    let (high, qs, packed) = (&b[..32], &b[32..96], &b[96..108]);
    let d = half_at(b, 108);
    // 16 scales of 6 bits: low nibbles in 8 bytes, the two high bits of four scales in each of 4 bytes.
    let scale = |j: usize| {
        let low = packed[j % 8] >> (j / 8 * 4) & 15;
        let top = packed[8 + j % 4] >> (j / 4 * 2) & 3;
        f32::from(low | top << 4) - 32.0
    };
    for (i, o) in out.iter_mut().enumerate() {
        // A clear bit takes 4 away.
        let offset = if high[i % 32] >> (i / 32) & 1 == 1 { 0.0 } else { 4.0 };
        *o = d * scale(i / 16) * (f32::from(two_bits(qs, i)) - offset);
    }
}

/// Scale and minimum `j` of 8, 6 bits each, packed into 12 bytes.
fn scale_and_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = match j {
        0..4 => (packed[j] & 63, packed[j + 4] & 63),
        _ => (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4),
    };
    (f32::from(scale), f32::from(min))
}

/// Nibble `i` of 256: each 64 share 32 bytes, the first 32 in the low halves.
fn nibble_of_64(qs: &[u8], i: usize) -> u8 {
    qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15
}

fn q4_k(b: &[u8], out: &mut [f32]) {
    let (d, min) = (half_at(b, 0), half_at(b, 2));
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, m) = scale_and_min(&b[4..16], j);
        let (d, m) = (d * scale, min * m);
        out.iter_mut().enumerate().for_each(|(i, o)| *o = d * f32::from(nibble_of_64(&b[16..], j * 32 + i)) - m);
    }
}

fn q5_k(b: &[u8], out: &mut [f32]) {
    let (d, min) = (half_at(b, 0), half_at(b, 2));
    let (high, qs) = (&b[16..48], &b[48..]);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, m) = scale_and_min(&b[4..16], j);
        let (d, m) = (d * scale, min * m);
        for (i, o) in out.iter_mut().enumerate() {
            let code = nibble_of_64(qs, j * 32 + i) | (high[i] >> j & 1) << 4;
            *o = d * f32::from(code) - m;
        }
    }
}

fn q6_k(b: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&b[..128], &b[128..192], &b[192..208]);
    let d = half_at(b, 208);
    for (i, o) in out.iter_mut().enumerate() {
        // In each half of 128: nibbles share 64 bytes, the two high bits of four runs of 32 share 32 bytes.
        let (half, at) = (i / 128, i % 128);
        let nibble = low[half * 64 + at % 64] >> (at / 64 * 4) & 15;
        let top = high[half * 32 + at % 32] >> (at / 32 * 2) & 3;
        let code = i16::from(nibble | top << 4) - 32;
        *o = d * f32::from(scales[i / 16] as i8) * f32::from(code);
    }
}
