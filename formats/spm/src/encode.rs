//! From f32 weights to an encoding: how scales are chosen and codes rounded.

use half::f16;

use crate::bytes::Bytes;
use crate::encoding::{BLOCK, Encoding};
use crate::mask::{Mask, row_bytes};
use crate::matrix::{self, Matrix, PLANE_ALIGN, ShapeError};

/// Encodes `weights` (`rows x cols`, row-major). A sparse encoding stores what `mask` keeps (everything
/// without one); a dense encoding stores the rest as zeros.
///
/// Memory: the encoded tensor. Errors if the shape is empty or its bytes do not fit in 32-bit row starts.
pub fn encode(
    encoding: Encoding,
    rows: usize,
    cols: usize,
    weights: &[f32],
    mask: Option<&Mask>,
) -> Result<Matrix, ShapeError> {
    assert_eq!(weights.len(), rows * cols, "{rows}x{cols} weights");
    let mut rows_out = RowEncoder::new(encoding, rows, cols)?;
    let mut row = vec![0.0; cols];
    let everything = vec![0xFF; row_bytes(cols)];
    for (r, w) in weights.chunks_exact(cols).enumerate() {
        let bits = mask.map_or(&everything[..], |m| m.row(r));
        row.copy_from_slice(w);
        rows_out.push(&row, bits)?;
    }
    rows_out.finish()
}

/// Encodes row by row, so that a matrix need never be expanded as a whole.
pub struct RowEncoder {
    encoding: Encoding,
    rows: usize,
    cols: usize,
    masks: Vec<u8>,
    scales: Vec<u8>,
    values: Vec<u8>,
    starts: Vec<u32>,
}

impl RowEncoder {
    /// An encoder for a matrix of this shape.
    pub fn new(encoding: Encoding, rows: usize, cols: usize) -> Result<Self, ShapeError> {
        let size = matrix::full_row_bytes(encoding, cols).and_then(|n| n.checked_mul(rows));
        if rows == 0 || cols == 0 || size.is_none() {
            return Err(ShapeError::TooLarge { rows, cols, encoding: encoding.name() });
        }
        Ok(RowEncoder { encoding, rows, cols, masks: vec![], scales: vec![], values: vec![], starts: vec![0] })
    }

    /// Appends the next row; `kept` has a bit for each column (see [`Mask::row`]), bits past `cols` ignored.
    pub fn push(&mut self, row: &[f32], kept: &[u8]) -> Result<(), ShapeError> {
        assert_eq!(row.len(), self.cols, "columns");
        let is_kept = |col: usize| kept[col / 8] >> (col % 8) & 1 == 1;
        let from = self.masks.len();
        if self.encoding.is_sparse() {
            self.masks.resize(from + row_bytes(self.cols), 0);
            (0..self.cols).filter(|&c| is_kept(c)).for_each(|c| self.masks[from + c / 8] |= 1 << (c % 8));
        }
        let values = (0..self.cols).map(|c| if is_kept(c) { row[c] } else { 0.0 });
        match self.encoding {
            Encoding::F32 => values.for_each(|v| self.values.extend(v.to_le_bytes())),
            Encoding::F16 => values.for_each(|v| self.values.extend(f16::from_f32(v).to_le_bytes())),
            Encoding::SparseF16 => (0..self.cols)
                .filter(|&c| is_kept(c))
                .for_each(|c| self.values.extend(f16::from_f32(row[c]).to_le_bytes())),
            _ => self.push_blocks(&values.collect::<Vec<_>>(), is_kept),
        }
        if self.encoding.is_sparse() {
            let end = u32::try_from(self.values.len());
            let too_large = ShapeError::TooLarge { rows: self.rows, cols: self.cols, encoding: self.encoding.name() };
            self.starts.push(end.map_err(|_| too_large)?);
        }
        Ok(())
    }

    /// The finished matrix; every row must have been pushed.
    pub fn finish(self) -> Result<Matrix, ShapeError> {
        let slack = matrix::slack(self.encoding, self.cols).unwrap_or(0);
        let mut bytes = self.masks;
        for plane in [self.scales, self.values] {
            bytes.resize(bytes.len().next_multiple_of(PLANE_ALIGN), 0);
            bytes.extend(plane);
        }
        bytes.resize(bytes.len() + slack, 0);
        let starts = self.encoding.is_sparse().then(|| self.starts.into());
        Matrix::new(self.encoding, self.rows, self.cols, Bytes::from(bytes), starts)
    }

    fn push_blocks(&mut self, row: &[f32], is_kept: impl Fn(usize) -> bool) {
        let mut nibbles = Nibbles::default();
        for (b, block) in row.chunks(BLOCK).enumerate() {
            let mut padded = [0.0; BLOCK];
            padded[..block.len()].copy_from_slice(block);
            let (scale, codes) = match self.encoding {
                Encoding::Q8 | Encoding::SparseQ8 => q8_block(&padded),
                Encoding::Q4 => q4_block(&padded),
                _ => q4_holed_block(&padded),
            };
            self.scales.extend(scale.to_le_bytes());
            for (i, code) in codes.into_iter().enumerate() {
                let stored = !self.encoding.is_sparse() || (i < block.len() && is_kept(b * BLOCK + i));
                match self.encoding {
                    _ if !stored => {}
                    Encoding::Q8 | Encoding::SparseQ8 => self.values.push(code as u8),
                    _ => nibbles.push(code as u8, &mut self.values),
                }
            }
        }
        nibbles.flush(&mut self.values);
    }
}

/// Packs 4-bit codes, the first into the low half.
#[derive(Default)]
struct Nibbles {
    pending: Option<u8>,
}

impl Nibbles {
    fn push(&mut self, code: u8, out: &mut Vec<u8>) {
        match self.pending.take() {
            Some(low) => out.push(low | code << 4),
            None => self.pending = Some(code),
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        out.extend(self.pending.take());
    }
}

/// Scale and codes -127..=127 of a block; a block of zeros has scale 0.
///
/// Most sources are quantized already: their weights are multiples of a step. Among the scales that give the largest
/// weight a code from 127 down to 64, one often has that step, and the block is stored without loss or nearly so.
pub fn q8_block(block: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let max = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let (mut best, mut least) = (f16::from_f32(max / 127.0), f32::INFINITY);
    for largest_code in (64..=127u8).rev() {
        let scale = f16::from_f32(max / f32::from(largest_code));
        if let Some(error) = error_below(least, block, scale.to_f32()) {
            (best, least) = (scale, error);
        }
        if least == 0.0 {
            break;
        }
    }
    (best, round_codes(block, best, -127.0, 127.0))
}

/// Squared error of the block with this scale, if it is below `least`.
fn error_below(least: f32, block: &[f32; BLOCK], scale: f32) -> Option<f32> {
    if scale == 0.0 || !scale.is_finite() {
        return None;
    }
    let inverse = 1.0 / scale;
    let mut sum = 0.0;
    for part in block.as_chunks::<8>().0 {
        let errors = part.map(|v| {
            let code = round(v * inverse).clamp(-127.0, 127.0);
            let error = v - code * scale;
            error * error
        });
        sum += errors.iter().sum::<f32>();
        if sum >= least {
            return None;
        }
    }
    Some(sum)
}

/// To the nearest integer, for numbers far below 2^22: vectors of it need no instruction beyond addition.
fn round(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    x + SHIFT - SHIFT
}

/// Scale and nibbles (code + 8) of a block; the scale is the best by squared error of a small search.
pub fn q4_block(block: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let extreme = block.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let candidates = search(extreme / -8.0);
    best_of(block, candidates, |x| x.round_ties_even().clamp(-8.0, 7.0)).map_codes(|level| level as i8 + 8)
}

/// Scale and codes 0..=15 over the levels -8..=-1, 1..=8. Zeros (pruned weights) do not count as error.
pub fn q4_holed_block(block: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let max = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let level = |x: f32| {
        let magnitude = x.abs().round_ties_even().clamp(1.0, 8.0);
        if x < 0.0 { -magnitude } else { magnitude }
    };
    best_of(block, search(max / 8.0), level).map_codes(|l| if l < 0.0 { l as i8 + 8 } else { l as i8 + 7 })
}

fn search(scale: f32) -> impl Iterator<Item = f16> {
    (0..16).map(move |i| f16::from_f32(scale * (0.70 + 0.025 * i as f32)))
}

struct Best {
    error: f32,
    scale: f16,
    levels: [f32; BLOCK],
}

impl Best {
    fn map_codes(self, code: impl Fn(f32) -> i8) -> (f16, [i8; BLOCK]) {
        (self.scale, self.levels.map(code))
    }
}

fn best_of(block: &[f32; BLOCK], scales: impl Iterator<Item = f16>, level: impl Fn(f32) -> f32) -> Best {
    let mut best = Best { error: f32::INFINITY, scale: f16::ZERO, levels: block.map(|_| level(0.0)) };
    for scale in scales {
        let s = scale.to_f32();
        if s == 0.0 || !s.is_finite() {
            continue;
        }
        let levels = block.map(|v| level(v / s));
        let error = block.iter().zip(&levels).filter(|(v, _)| **v != 0.0).map(|(v, l)| (v - l * s).powi(2)).sum();
        if error < best.error {
            best = Best { error, scale, levels };
        }
    }
    best
}

fn round_codes(block: &[f32; BLOCK], scale: f16, min: f32, max: f32) -> [i8; BLOCK] {
    let scale = scale.to_f32();
    if scale == 0.0 {
        return [0; BLOCK];
    }
    block.map(|v| (v / scale).round_ties_even().clamp(min, max) as i8)
}
