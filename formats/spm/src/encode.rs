//! From f32 weights to an encoding: how scales are chosen and codes rounded.

use half::f16;

use crate::bytes::Bytes;
use crate::encoding::{BLOCK, Encoding};
use crate::mask::{Mask, row_bytes};
use crate::matrix::{self, Matrix, PLANE_ALIGN, SPARSE_Q4_LEVELS, ShapeError};

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
    plain_scales: bool,
}

impl RowEncoder {
    /// An encoder for a matrix of this shape.
    pub fn new(encoding: Encoding, rows: usize, cols: usize) -> Result<Self, ShapeError> {
        let size = matrix::full_row_bytes(encoding, cols).and_then(|n| n.checked_mul(rows));
        if rows == 0 || cols == 0 || size.is_none() {
            return Err(ShapeError::TooLarge { rows, cols, encoding: encoding.name() });
        }
        Ok(RowEncoder {
            encoding,
            rows,
            cols,
            masks: vec![],
            scales: vec![],
            values: vec![],
            starts: vec![0],
            plain_scales: false,
        })
    }

    /// Takes the scale of a block from its largest weight alone instead of searching for a better one: many times
    /// faster, and right for weights that nobody wants back, such as random ones.
    pub fn with_plain_scales(mut self) -> Self {
        self.plain_scales = true;
        self
    }

    /// Appends the rows pushed to `next`, an encoder of the same encoding and columns: so that threads can encode a
    /// matrix in parts. The result is the same as from one encoder.
    pub fn append(&mut self, next: RowEncoder) -> Result<(), ShapeError> {
        assert_eq!((next.encoding, next.cols), (self.encoding, self.cols), "encoding and columns");
        let from = self.starts.last().copied().unwrap_or(0);
        for start in next.starts.into_iter().skip(1) {
            self.starts.push(from.checked_add(start).ok_or(self.too_large())?);
        }
        self.masks.extend(next.masks);
        self.scales.extend(next.scales);
        self.values.extend(next.values);
        Ok(())
    }

    /// Appends the next row; `kept` has a bit for each column (see [`Mask::row`]), bits past `cols` ignored.
    pub fn push(&mut self, row: &[f32], kept: &[u8]) -> Result<(), ShapeError> {
        assert_eq!(row.len(), self.cols, "columns");
        if self.encoding.is_sparse() {
            self.push_mask(kept);
        }
        let values = || row.iter().enumerate().map(|(col, v)| if is_kept(kept, col) { *v } else { 0.0 });
        match self.encoding {
            Encoding::F32 => values().for_each(|v| self.values.extend(v.to_le_bytes())),
            Encoding::F16 => values().for_each(|v| self.values.extend(f16::from_f32(v).to_le_bytes())),
            Encoding::SparseF16 => self.push_kept_halves(row, kept),
            _ => self.push_blocks(row, kept),
        }
        if self.encoding.is_sparse() {
            let end = u32::try_from(self.values.len());
            self.starts.push(end.map_err(|_| self.too_large())?);
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

    fn too_large(&self) -> ShapeError {
        ShapeError::TooLarge { rows: self.rows, cols: self.cols, encoding: self.encoding.name() }
    }

    fn push_mask(&mut self, kept: &[u8]) {
        let end = self.masks.len() + row_bytes(self.cols);
        self.masks.extend(&kept[..self.cols.div_ceil(8)]);
        if let (Some(last), used @ 1..) = (self.masks.last_mut(), self.cols % 8) {
            *last &= (1 << used) - 1;
        }
        self.masks.resize(end, 0);
    }

    fn push_kept_halves(&mut self, row: &[f32], kept: &[u8]) {
        let halves = row.iter().map(|v| f16::from_f32(*v).to_le_bytes());
        let stored = halves.enumerate().map(|(col, half)| (half, is_kept(kept, col)));
        let halves = gather(self.cols, stored);
        self.values.extend(halves.as_flattened());
    }

    fn push_blocks(&mut self, row: &[f32], kept: &[u8]) {
        let mut codes = Vec::with_capacity(self.cols.next_multiple_of(BLOCK));
        for (b, block) in row.chunks(BLOCK).enumerate() {
            // Of a dense block the padding is stored too.
            let mut stored = [!self.encoding.is_sparse(); BLOCK];
            let mut padded = [0.0; BLOCK];
            for (i, v) in block.iter().enumerate() {
                let kept = is_kept(kept, b * BLOCK + i);
                padded[i] = if kept { *v } else { 0.0 };
                stored[i] |= kept;
            }
            let (scale, block) = self.encode_block(&padded);
            self.scales.extend(scale.to_le_bytes());
            codes.extend(block.into_iter().map(|code| code as u8).zip(stored));
        }
        let codes = gather(codes.len(), codes.into_iter());
        match self.encoding {
            Encoding::Q8 | Encoding::SparseQ8 => self.values.extend(codes),
            // The first of two into the low half.
            _ => self.values.extend(codes.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 4))),
        }
    }

    fn encode_block(&self, block: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
        match (self.encoding, self.plain_scales) {
            (Encoding::Q8 | Encoding::SparseQ8, false) => q8_block(block),
            (Encoding::Q8 | Encoding::SparseQ8, true) => q8_plain_block(block),
            (Encoding::Q4, false) => q4_block(block),
            (Encoding::Q4, true) => q4_plain_block(block),
            (_, false) => sparse_q4_block(block),
            (_, true) => sparse_q4_plain_block(block),
        }
    }
}

fn is_kept(kept: &[u8], col: usize) -> bool {
    kept[col / 8] >> (col % 8) & 1 == 1
}

/// Those of at most `len` items that are to be stored. Without a branch: of a random mask half would be guessed wrong.
fn gather<T: Copy + Default>(len: usize, items: impl Iterator<Item = (T, bool)>) -> Vec<T> {
    let mut out = vec![T::default(); len];
    let mut n = 0;
    for (item, stored) in items {
        out[n] = item;
        n += usize::from(stored);
    }
    out.truncate(n);
    out
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

/// The same without a search: the largest weight has code 127 or -127.
fn q8_plain_block(block: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let scale = f16::from_f32(largest(block).abs() / 127.0);
    let inverse = inverse(scale);
    (scale, block.map(|v| round(v * inverse).clamp(-127.0, 127.0) as i8))
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
    let candidates = search(largest(block) / -8.0);
    best_of(block, candidates, |x| x.round_ties_even().clamp(-8.0, 7.0)).map_codes(|level| level as i8 + 8)
}

/// Scale and codes of [`SPARSE_Q4_LEVELS`]; the scale is the best by squared error of a small search. Zeros (pruned
/// weights) do not count as error.
pub fn sparse_q4_block(block: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let first = f32::from(SPARSE_Q4_LEVELS[0]);
    let candidates = search(largest(block) / first).chain(search(largest(block) / f32::from(SPARSE_Q4_LEVELS[15])));
    let best = best_of(block, candidates, |x| f32::from(SPARSE_Q4_LEVELS[nearest_level(x)]));
    best.map_codes(|level| nearest_level(level) as i8)
}

fn nearest_level(x: f32) -> usize {
    SPARSE_Q4_LEVELS.windows(2).map(|pair| usize::from(2.0 * x > f32::from(pair[0]) + f32::from(pair[1]))).sum()
}

/// [`q4_block`] without a search: the largest weight has level -8.
fn q4_plain_block(block: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let scale = f16::from_f32(largest(block) / -8.0);
    let inverse = inverse(scale);
    (scale, block.map(|v| round(v * inverse).clamp(-8.0, 7.0) as i8 + 8))
}

/// [`sparse_q4_block`] without a search: the largest weight has the first level.
fn sparse_q4_plain_block(block: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let scale = f16::from_f32(largest(block) / f32::from(SPARSE_Q4_LEVELS[0]));
    let inverse = inverse(scale);
    (scale, block.map(|v| nearest_level(v * inverse) as i8))
}

/// The weight furthest from zero.
fn largest(block: &[f32; BLOCK]) -> f32 {
    block.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m })
}

/// 0 for a scale of 0, which makes every code 0.
fn inverse(scale: f16) -> f32 {
    if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() }
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
