//! From f32 weights to an encoding: how scales are chosen and codes rounded.

use half::f16;

use crate::bytes::Bytes;
use crate::encoding::{BLOCK, CHUNK, Encoding, ScaleKind};
use crate::grid::RowGrid;
use crate::levels::{field_2_of_4, group_2_of_4, in_high_nibbles};
use crate::mask::{Mask, row_bytes};
use crate::matrix::{self, Matrix, PLANE_ALIGN, ShapeError};
use crate::order::{reorder, reorder_bits};
use crate::row_scaled;

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

/// Encodes a dense matrix, each of whose rows is read by `read`; `None` if there is no such row or no such matrix.
pub fn encode_rows(
    encoding: Encoding,
    rows: usize,
    cols: usize,
    mut read: impl FnMut(usize, &mut [f32]) -> Option<()>,
) -> Option<Matrix> {
    let mut encoder = RowEncoder::new(encoding, rows, cols).ok()?;
    let mut row = vec![0.0; cols];
    let everything = vec![0xFF; row_bytes(cols)];
    for r in 0..rows {
        read(r, &mut row)?;
        encoder.push(&row, &everything).ok()?;
    }
    encoder.finish().ok()
}

/// Encodes row by row, so that a matrix need never be expanded as a whole.
pub struct RowEncoder {
    encoding: Encoding,
    rows: usize,
    cols: usize,
    bits: Vec<u8>,
    factors: Vec<u8>,
    scales: Vec<u8>,
    values: Vec<u8>,
    starts: Vec<u32>,
    pushed: usize,
    plain_scales: bool,
}

impl RowEncoder {
    /// An encoder for a matrix of this shape.
    pub fn new(encoding: Encoding, rows: usize, cols: usize) -> Result<Self, ShapeError> {
        matrix::check_shape(encoding, rows, cols)?;
        let size = matrix::full_row_bytes(encoding, cols).and_then(|n| n.checked_mul(rows));
        if size.is_none() {
            return Err(ShapeError::TooLarge { rows, cols, encoding: encoding.name() });
        }
        Ok(RowEncoder {
            encoding,
            rows,
            cols,
            bits: vec![],
            factors: vec![],
            scales: vec![],
            values: vec![],
            starts: vec![0],
            pushed: 0,
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
        self.bits.extend(next.bits);
        self.factors.extend(next.factors);
        self.scales.extend(next.scales);
        self.values.extend(next.values);
        self.pushed += next.pushed;
        Ok(())
    }

    /// Appends the next row; `kept` has a bit for each column (see [`Mask::row`]), bits past `cols` ignored. An N:M
    /// encoding takes masks that keep at most N of every M and keeps more, as zeros, where they keep fewer.
    pub fn push(&mut self, row: &[f32], kept: &[u8]) -> Result<(), ShapeError> {
        assert_eq!(row.len(), self.cols, "columns");
        let stored = self.stored_columns(kept)?;
        let values = || row.iter().enumerate().map(|(col, v)| if is_kept(kept, col) { *v } else { 0.0 });
        match self.encoding {
            Encoding::F32 => values().for_each(|v| self.values.extend(v.to_le_bytes())),
            Encoding::F16 => values().for_each(|v| self.values.extend(f16::from_f32(v).to_le_bytes())),
            Encoding::SparseF16 => self.push_kept_halves(row, &stored),
            _ => {
                let mut padded = vec![0.0; self.cols.next_multiple_of(CHUNK)];
                padded.iter_mut().zip(values()).for_each(|(p, v)| *p = v);
                self.push_blocks(&padded, &stored);
            }
        }
        self.end_row()
    }

    fn end_row(&mut self) -> Result<(), ShapeError> {
        if self.encoding.has_row_starts() {
            let end = u32::try_from(self.values.len());
            self.starts.push(end.map_err(|_| self.too_large())?);
        }
        self.pushed += 1;
        Ok(())
    }

    /// Appends a row of codes, one a column; `kept` as in [`RowEncoder::push`]. Codes of what is not kept do not matter.
    pub fn push_codes(&mut self, grid: &RowGrid, codes: &[u8], kept: &[u8]) -> Result<(), ShapeError> {
        assert_eq!(codes.len(), self.cols, "columns");
        let mut stored = self.stored_columns(kept)?;
        let blocks = self.cols.div_ceil(BLOCK);
        // A code of zero, where nothing is kept and at the end of the last chunk.
        let zero = grid.nearest(0, 0.0).0;
        let mut padded = vec![zero; self.cols.next_multiple_of(CHUNK)];
        for (col, (to, code)) in padded.iter_mut().zip(codes).enumerate() {
            *to = if is_kept(kept, col) { *code } else { zero };
        }
        match self.encoding.scale_kind() {
            ScaleKind::Row => {
                self.factors.extend(grid.factor.to_le_bytes());
                self.scales.extend(grid.bytes.iter().map(|&s| s as u8));
            }
            _ => self.scales.extend(grid.halves.iter().flat_map(|s| s.to_le_bytes())),
        }
        reorder_bits(&mut stored, blocks);
        self.push_codes_of_blocks(padded, &stored);
        self.end_row()
    }

    /// The finished matrix; every row must have been pushed.
    pub fn finish(self) -> Result<Matrix, ShapeError> {
        let slack = matrix::slack(self.encoding, self.cols).unwrap_or(0);
        let mut scales = self.factors;
        scales.extend(self.scales);
        let bytes = joined(self.bits, scales, self.values, slack);
        let starts = self.encoding.has_row_starts().then(|| self.starts.into());
        Matrix::new(self.encoding, self.rows, self.cols, Bytes::from(bytes), starts)
    }

    fn too_large(&self) -> ShapeError {
        ShapeError::TooLarge { rows: self.rows, cols: self.cols, encoding: self.encoding.name() }
    }

    /// The mask of what will be stored, whole chunks: what is kept, and what an N:M pattern stores besides.
    fn stored_columns(&self, kept: &[u8]) -> Result<Vec<u8>, ShapeError> {
        let mut stored = vec![0; row_bytes(self.cols)];
        stored[..self.cols.div_ceil(8)].copy_from_slice(&kept[..self.cols.div_ceil(8)]);
        if let used @ 1.. = self.cols % 8 {
            stored[self.cols / 8] &= (1 << used) - 1;
        }
        let Some((n, m)) = self.encoding.fixed_pattern() else { return Ok(stored) };
        for col in (0..self.cols).step_by(m) {
            let has = |stored: &[u8]| (col..col + m).filter(|&c| is_kept(stored, c)).count();
            let kept = has(&stored);
            if kept > n {
                return Err(ShapeError::Pattern { encoding: self.encoding.name(), n, m, row: self.pushed, col, kept });
            }
            let spare: Vec<usize> = (col..col + m).filter(|&c| !is_kept(&stored, c)).take(n - kept).collect();
            spare.into_iter().for_each(|c| stored[c / 8] |= 1 << (c % 8));
        }
        Ok(stored)
    }

    fn push_kept_halves(&mut self, row: &[f32], stored: &[u8]) {
        self.bits.extend(stored);
        let halves = row.iter().map(|v| f16::from_f32(*v).to_le_bytes());
        let halves = gather(self.cols, halves.enumerate().map(|(col, half)| (half, is_kept(stored, col))));
        self.values.extend(halves.as_flattened());
    }

    /// `row` is whole chunks, zeros where nothing is kept.
    fn push_blocks(&mut self, row: &[f32], stored: &[u8]) {
        let blocks = self.cols.div_ceil(BLOCK);
        let mut stored = stored.to_vec();
        reorder_bits(&mut stored, blocks);
        let codes = match self.encoding.scale_kind() {
            ScaleKind::Row => self.push_row_scales(row),
            _ => self.push_half_scales(row),
        };
        self.push_codes_of_blocks(codes, &stored);
    }

    /// `codes` are whole chunks in the order of the columns, `stored` bits in the order in which they are stored.
    fn push_codes_of_blocks(&mut self, mut codes: Vec<u8>, stored: &[u8]) {
        reorder(&mut codes, self.cols.div_ceil(BLOCK));
        match self.encoding {
            Encoding::Q8 => self.values.extend(&codes[..self.cols.next_multiple_of(BLOCK)]),
            Encoding::Q4 => self.push_nibbles_of_64(&codes),
            Encoding::Q5 => {
                let fifth_bits = |codes: &[u8; 8]| codes.iter().rev().fold(0, |bits, c| bits << 1 | c >> 4);
                self.bits.extend(codes.as_chunks().0.iter().map(fifth_bits));
                self.push_nibbles_of_64(&codes.iter().map(|c| c & 15).collect::<Vec<_>>());
            }
            Encoding::Q8Keep2Of4 | Encoding::Q4Keep2Of4 => self.push_places(&codes, stored),
            _ => {
                self.bits.extend(stored);
                self.push_kept(&codes, stored);
            }
        }
    }

    /// The codes of a row with an f16 a block.
    fn push_half_scales(&mut self, row: &[f32]) -> Vec<u8> {
        let mut codes = Vec::with_capacity(row.len());
        for block in row.as_chunks::<BLOCK>().0 {
            let (scale, block) = match (self.encoding, self.plain_scales) {
                (Encoding::Q8, false) => q8_block(block),
                (Encoding::Q8, true) => q8_plain_block(block),
                (Encoding::Q4, false) => q4_block(block),
                (Encoding::Q4, true) => plain_block::<4>(block),
                (_, false) => q5_block(block),
                (_, true) => plain_block::<5>(block),
            };
            codes.extend(block.map(|c| c as u8));
            self.scales.extend(scale.to_le_bytes());
        }
        let blocks = self.cols.div_ceil(BLOCK);
        self.scales.truncate(self.scales.len() - (row.len() / BLOCK - blocks) * 2);
        codes
    }

    /// The codes of a row with an f32 and an i8 a block.
    fn push_row_scales(&mut self, row: &[f32]) -> Vec<u8> {
        let blocks = &row.as_chunks::<BLOCK>().0[..self.cols.div_ceil(BLOCK)];
        let is_q4 = row_scaled::is_q4(self.encoding);
        let (factor, scales, codes) = row_scaled::encode(blocks, is_q4, self.plain_scales);
        self.factors.extend(factor.to_le_bytes());
        self.scales.extend(scales.iter().map(|&s| s as u8));
        let mut codes: Vec<u8> = codes.as_flattened().iter().map(|&c| c as u8).collect();
        codes.resize(row.len(), 0);
        codes
    }

    /// The first block of a chunk into the low halves.
    fn push_nibbles_of_64(&mut self, codes: &[u8]) {
        for chunk in codes.as_chunks::<CHUNK>().0 {
            let (low, high) = chunk.split_at(BLOCK);
            self.values.extend(low.iter().zip(high).map(|(l, h)| l | h << 4));
        }
    }

    fn push_kept(&mut self, codes: &[u8], stored: &[u8]) {
        let chunks = codes.len() / CHUNK;
        let kept = |high: Option<bool>| {
            let wanted = |col: usize| high.is_none_or(|high| in_high_nibbles(col / BLOCK, chunks) == high);
            let items = codes.iter().enumerate().map(|(col, &c)| (c, is_kept(stored, col) && wanted(col)));
            gather(codes.len(), items)
        };
        match self.encoding {
            Encoding::SparseQ8 => self.values.extend(kept(None)),
            _ => {
                let (low, high) = (kept(Some(false)), kept(Some(true)));
                let nth = |codes: &[u8], i: usize| codes.get(i).copied().unwrap_or(0);
                self.values.extend((0..low.len().max(high.len())).map(|i| nth(&low, i) | nth(&high, i) << 4));
            }
        }
    }

    fn push_places(&mut self, codes: &[u8], stored: &[u8]) {
        for (c, codes) in codes.as_chunks::<CHUNK>().0.iter().enumerate() {
            let mut bits = 0u64;
            let mut picked = [0; CHUNK / 2];
            for (j, code) in picked.iter_mut().enumerate() {
                let group = group_2_of_4(j);
                let mut of_group = (0..4).filter(|p| is_kept(stored, c * CHUNK + group + p));
                let place = of_group.nth(j % 2).unwrap_or(0);
                bits |= (place as u64) << field_2_of_4(j);
                *code = codes[group + place];
            }
            self.bits.extend(bits.to_le_bytes());
            if self.encoding == Encoding::Q8Keep2Of4 {
                self.values.extend(picked);
            } else {
                self.values.extend((0..CHUNK / 4).map(|j| picked[j] | picked[CHUNK / 4 + j] << 4));
            }
        }
    }
}

/// The planes one after another and `slack` zeros, in no more memory than that.
fn joined(bits: Vec<u8>, scales: Vec<u8>, values: Vec<u8>, slack: usize) -> Vec<u8> {
    let mut bytes = match (bits.is_empty(), scales.is_empty()) {
        (true, true) => values,
        _ => {
            let planes = [bits, scales, values];
            let len = planes.iter().fold(0, |at: usize, plane| at.next_multiple_of(PLANE_ALIGN) + plane.len());
            let mut bytes = Vec::with_capacity(len + slack);
            for plane in planes {
                bytes.resize(bytes.len().next_multiple_of(PLANE_ALIGN), 0);
                bytes.extend(plane);
            }
            bytes
        }
    };
    bytes.resize(bytes.len() + slack, 0);
    bytes.shrink_to_fit();
    bytes
}

fn is_kept(kept: &[u8], col: usize) -> bool {
    kept[col / 8] >> (col % 8) & 1 == 1
}

/// Those of at most `len` items that are to be stored. Without a branch: of a random mask half would be guessed wrong.
fn gather<T: Copy + Default>(len: usize, items: impl Iterator<Item = (T, bool)>) -> Vec<T> {
    let mut out = vec![T::default(); len + 1];
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
    let scale = q8_scale(block, &EQUALLY);
    (scale, round_codes(block, scale, -127.0, 127.0))
}

/// Importance of columns of which none counts more than another.
pub(crate) const EQUALLY: [f32; BLOCK] = [1.0; BLOCK];

/// The scale of [`q8_block`], errors counting by `importance`.
pub(crate) fn q8_scale(block: &[f32; BLOCK], importance: &[f32; BLOCK]) -> f16 {
    let max = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let (mut best, mut least) = (f16::from_f32(max / 127.0), f32::INFINITY);
    for largest_code in (64..=127u8).rev() {
        let scale = f16::from_f32(max / f32::from(largest_code));
        if let Some(error) = error_below(least, block, importance, scale.to_f32()) {
            (best, least) = (scale, error);
        }
        if least == 0.0 {
            break;
        }
    }
    best
}

/// The same without a search: the largest weight has code 127 or -127.
fn q8_plain_block(block: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let scale = f16::from_f32(largest(block).abs() / 127.0);
    let inverse = inverse(scale);
    (scale, block.map(|v| round(v * inverse).clamp(-127.0, 127.0) as i8))
}

/// Squared error of the block with this scale, if it is below `least`.
fn error_below(least: f32, block: &[f32; BLOCK], importance: &[f32; BLOCK], scale: f32) -> Option<f32> {
    if scale == 0.0 || !scale.is_finite() {
        return None;
    }
    let inverse = 1.0 / scale;
    let mut sum = 0.0;
    for (part, importance) in block.as_chunks::<8>().0.iter().zip(importance.as_chunks::<8>().0) {
        let mut errors = [0.0; 8];
        for ((error, v), importance) in errors.iter_mut().zip(part).zip(importance) {
            let lost = v - round(v * inverse).clamp(-127.0, 127.0) * scale;
            *error = lost * lost * importance;
        }
        sum += errors.iter().sum::<f32>();
        if sum >= least {
            return None;
        }
    }
    Some(sum)
}

/// To the nearest integer, for numbers far below 2^22: vectors of it need no instruction beyond addition.
pub(crate) fn round(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    x + SHIFT - SHIFT
}

/// Scale and nibbles (code + 8) of a block; the scale is the best by squared error of a small search.
pub fn q4_block(block: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    searched_block::<4>(block)
}

/// Scale and codes (code + 16) of 5 bits of a block; the scale is the best by squared error of a small search.
pub fn q5_block(block: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    searched_block::<5>(block)
}

/// The scale of [`q4_block`], errors counting by `importance`.
pub(crate) fn q4_scale(block: &[f32; BLOCK], importance: &[f32; BLOCK]) -> f16 {
    searched::<4>(block, importance).0
}

/// The scale of [`q5_block`], errors counting by `importance`.
pub(crate) fn q5_scale(block: &[f32; BLOCK], importance: &[f32; BLOCK]) -> f16 {
    searched::<5>(block, importance).0
}

fn searched_block<const BITS: u32>(block: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    searched::<BITS>(block, &EQUALLY)
}

fn searched<const BITS: u32>(block: &[f32; BLOCK], importance: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let half = f32::from(1u8 << (BITS - 1));
    let (mut best, mut least) = ((f16::ZERO, [half as i8; BLOCK]), f32::INFINITY);
    for scale in search(largest(block) / -half).map(f16::from_f32) {
        let s = scale.to_f32();
        if s == 0.0 || !s.is_finite() {
            continue;
        }
        let inverse = 1.0 / s;
        let levels = block.map(|v| round(v * inverse).clamp(-half, half - 1.0));
        let error = squared_error(block, &levels, s, importance);
        if error < least {
            (best, least) = ((scale, levels.map(|l| (l + half) as i8)), error);
        }
    }
    best
}

/// The same without a search: the largest weight has the lowest level.
fn plain_block<const BITS: u32>(block: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let half = f32::from(1u8 << (BITS - 1));
    let scale = f16::from_f32(largest(block) / -half);
    let inverse = inverse(scale);
    (scale, block.map(|v| (round(v * inverse).clamp(-half, half - 1.0) + half) as i8))
}

/// Squared error of what is not zero already: pruned weights do not count.
pub(crate) fn squared_error(block: &[f32; BLOCK], levels: &[f32; BLOCK], scale: f32, importance: &[f32; BLOCK]) -> f32 {
    let mut lanes = [0.0; 8];
    let parts = block.as_chunks::<8>().0.iter().zip(levels.as_chunks::<8>().0).zip(importance.as_chunks::<8>().0);
    for ((values, levels), importance) in parts {
        for (((lane, v), l), i) in lanes.iter_mut().zip(values).zip(levels).zip(importance) {
            let error = if *v == 0.0 { 0.0 } else { v - l * scale };
            *lane += error * error * i;
        }
    }
    lanes.iter().sum()
}

/// The weight furthest from zero.
pub(crate) fn largest(block: &[f32; BLOCK]) -> f32 {
    block.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m })
}

/// 0 for a scale of 0, which makes every code 0.
fn inverse(scale: f16) -> f32 {
    if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() }
}

/// Scales around one that fits the largest weight.
pub(crate) fn search(scale: f32) -> impl Iterator<Item = f32> {
    (0..16).map(move |i| scale * (0.70 + 0.025 * i as f32))
}

fn round_codes(block: &[f32; BLOCK], scale: f16, min: f32, max: f32) -> [i8; BLOCK] {
    let scale = scale.to_f32();
    if scale == 0.0 {
        return [0; BLOCK];
    }
    block.map(|v| (v / scale).round_ties_even().clamp(min, max) as i8)
}
