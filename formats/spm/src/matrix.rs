//! A weight matrix in one of the file's encodings: where its planes lie, and what they mean.
//!
//! Planes follow one another, each starting at a multiple of 64 bytes from the tensor's start: bits, scales, values;
//! the file's specification says which encoding has which. Where the kept values of a row begin is said, for the
//! encodings in which rows have lengths of their own, by a table of `rows + 1` byte offsets that is held in memory, not
//! in the mapping. However a mask is corrupted, a row reads at most a full row of values from there, and [`slack`]
//! bytes after the tensor are always readable: wrong numbers, never a wild read.

use std::ops::Range;
use std::sync::Arc;

use half::f16;

use crate::bytes::Bytes;
use crate::encoding::{BLOCK, CHUNK, Encoding, ScaleKind};
use crate::levels::{Levels, kept_2_of_4, kept_of_mask};
use crate::mask::{Mask, row_bytes};
use crate::order::{GROUP, reorder_bits, stored_column};

/// Planes start at multiples of this many bytes.
pub const PLANE_ALIGN: usize = 64;

/// A `rows x cols` (out x in, row-major) matrix; cheap to clone.
#[derive(Clone, Debug)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    encoding: Encoding,
    /// The tensor and its slack.
    bytes: Bytes,
    /// Byte offsets of the rows in the values plane, `rows + 1` of them, where rows have lengths of their own.
    row_starts: Option<Arc<[u32]>>,
}

/// Why bytes are not a matrix of the shape they claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// A size computed from the shape does not fit.
    #[error("shape {rows}x{cols} is too large for encoding {encoding}")]
    TooLarge {
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// The encoding's name.
        encoding: &'static str,
    },
    /// An N:M encoding needs whole chunks.
    #[error("encoding {encoding} needs a multiple of 64 columns, there are {cols}")]
    Columns {
        /// Input features.
        cols: usize,
        /// The encoding's name.
        encoding: &'static str,
    },
    /// A mask that an N:M encoding cannot hold.
    #[error("encoding {encoding} keeps {n} of {m}, row {row} keeps {kept} of the columns from {col} on")]
    Pattern {
        /// The encoding's name.
        encoding: &'static str,
        /// Kept at most.
        n: usize,
        /// Of.
        m: usize,
        /// Output feature.
        row: usize,
        /// First input feature of the group.
        col: usize,
        /// Kept by the mask.
        kept: usize,
    },
    /// Fewer bytes than the shape and the slack need.
    #[error("{have} bytes where {rows}x{cols} {encoding} needs {need}")]
    TooShort {
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// The encoding's name.
        encoding: &'static str,
        /// Bytes needed, slack included.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// The table of row starts is missing, out of order, or has a row longer than a full one.
    #[error("row start table: entry {index} is {value}, {expected}")]
    RowStarts {
        /// Which entry.
        index: usize,
        /// What it says.
        value: u64,
        /// What was expected.
        expected: String,
    },
}

/// The scales of a row, one a block.
#[derive(Clone, Copy, Debug)]
pub enum RowScales<'a> {
    /// f16, little-endian.
    Half(&'a [u8]),
    /// `factor * code`.
    Row {
        /// Of the whole row.
        factor: f32,
        /// i8 each, and 8 bytes more, so that a register may be loaded anywhere.
        codes: &'a [u8],
    },
}

impl RowScales<'_> {
    /// The scale of a block.
    pub fn get(&self, block: usize) -> f32 {
        match *self {
            RowScales::Half(halves) => le_f16(halves, block),
            RowScales::Row { factor, codes } => factor * f32::from(codes[block] as i8),
        }
    }
}

impl Matrix {
    /// Checks that `bytes` (the tensor followed by its [`slack`]) and `row_starts` fit the shape.
    ///
    /// This is the one place where the safety of every kernel is established.
    pub fn new(
        encoding: Encoding,
        rows: usize,
        cols: usize,
        bytes: Bytes,
        row_starts: Option<Arc<[u32]>>,
    ) -> Result<Self, ShapeError> {
        check_shape(encoding, rows, cols)?;
        let too_large = ShapeError::TooLarge { rows, cols, encoding: encoding.name() };
        let mut values = 0;
        if encoding.has_row_starts() {
            let full = full_row_bytes(encoding, cols).ok_or(too_large.clone())?;
            values = check_row_starts(row_starts.as_deref().unwrap_or_default(), rows, full)?;
        } else if let Some(table) = row_starts {
            let expected = format!("but {} rows have no table", encoding.name());
            return Err(ShapeError::RowStarts { index: 0, value: table.len() as u64, expected });
        }
        let need = byte_len(encoding, rows, cols, values)
            .and_then(|n| n.checked_add(slack(encoding, cols)?))
            .ok_or(too_large)?;
        if bytes.len() < need {
            let have = bytes.len();
            return Err(ShapeError::TooShort { rows, cols, encoding: encoding.name(), need, have });
        }
        Ok(Matrix { rows, cols, encoding, bytes, row_starts })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Blocks of 32 columns, the last one perhaps padded.
    pub fn blocks(&self) -> usize {
        self.cols.div_ceil(BLOCK)
    }

    /// Chunks of 64 columns, the last one perhaps padded.
    pub fn chunks(&self) -> usize {
        self.cols.div_ceil(CHUNK)
    }

    /// How the values lie.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Bytes of the tensor, slack not counted.
    pub fn byte_len(&self) -> usize {
        let values = self.row_starts.as_ref().map_or(0, |t| t[self.rows] as usize);
        byte_len(self.encoding, self.rows, self.cols, values).unwrap_or(0)
    }

    /// The tensor as it lies in the file, slack not counted.
    pub fn stored_bytes(&self) -> &[u8] {
        &self.bytes[..self.byte_len()]
    }

    /// Whether the weights are read from the file's own pages.
    pub fn is_mapped(&self) -> bool {
        self.bytes.is_mapped()
    }

    /// The first plane's bytes of a row, 8 a chunk: the mask, the places of 2:4, the highest bits of q5.
    ///
    /// # Panics
    /// If the encoding has no such plane.
    pub fn bits(&self, row: usize) -> &[u8] {
        assert!(self.encoding.has_bits(), "{} has no bits", self.encoding.name());
        let n = row_bytes(self.cols);
        &self.bytes[row * n..(row + 1) * n]
    }

    /// The scales of a row.
    ///
    /// # Panics
    /// If the encoding has no scales.
    pub fn scales(&self, row: usize) -> RowScales<'_> {
        let (plane, nb) = (self.scale_plane(), self.blocks());
        match self.encoding.scale_kind() {
            ScaleKind::None => panic!("{} has no scales", self.encoding.name()),
            ScaleKind::Half => RowScales::Half(&plane[row * nb * 2..(row + 1) * nb * 2]),
            ScaleKind::Row => {
                let factor = le_f32(&plane[row * 4..]);
                let at = align(self.bits_plane_len()) + self.rows * 4 + row * nb;
                // Values and slack follow the scales.
                RowScales::Row { factor, codes: &self.bytes[at..at + nb + 8] }
            }
        }
    }

    /// The first plane; empty for encodings without bits.
    pub fn bits_plane(&self) -> &[u8] {
        &self.bytes[..self.bits_plane_len()]
    }

    /// The plane of scales **and at least 64 bytes after it**.
    pub fn scale_plane_and_more(&self) -> &[u8] {
        &self.bytes[align(self.bits_plane_len())..]
    }

    /// The plane of scales as it is stored.
    pub fn scale_plane(&self) -> &[u8] {
        let start = align(self.bits_plane_len());
        &self.bytes[start..start + self.scale_plane_len()]
    }

    /// The last plane (values or codes) **and everything after it**, at least [`slack`] bytes more.
    pub fn values(&self) -> &[u8] {
        &self.bytes[align(align(self.bits_plane_len()) + self.scale_plane_len())..]
    }

    /// Where row `row` begins and ends in [`Self::values`], in bytes.
    pub fn row_range(&self, row: usize) -> Range<usize> {
        match &self.row_starts {
            Some(table) => table[row] as usize..table[row + 1] as usize,
            None => {
                let n = full_row_bytes(self.encoding, self.cols).unwrap_or(0);
                row * n..(row + 1) * n
            }
        }
    }

    /// The values of a row **and at least [`slack`] bytes** from its start on.
    pub fn row_values(&self, row: usize) -> &[u8] {
        &self.values()[self.row_range(row).start..]
    }

    /// The table of row starts, where there is one.
    pub fn row_starts(&self) -> Option<&[u32]> {
        self.row_starts.as_deref()
    }

    /// Bytes that multiplying by these rows reads.
    pub fn bytes_of_rows(&self, rows: Range<usize>) -> usize {
        let n = rows.len();
        let fixed = (self.bits_plane_len() + self.scale_plane_len()) / self.rows * n;
        let values = self.row_range(rows.end.max(1) - 1).end - self.row_range(rows.start).start;
        fixed + values
    }

    /// Weights that are stored: all when dense, the kept ones when sparse.
    pub fn kept(&self) -> u64 {
        match (self.encoding.is_sparse(), self.encoding.fixed_pattern()) {
            (false, _) => self.rows as u64 * self.cols as u64,
            (true, Some((n, m))) => self.rows as u64 * (self.cols / m * n) as u64,
            (true, None) => self.bytes[..self.bits_plane_len()].iter().map(|b| u64::from(b.count_ones())).sum(),
        }
    }

    /// The mask; all ones when dense.
    pub fn mask(&self) -> Mask {
        let mut mask = Mask::none(self.rows, self.cols);
        for row in 0..self.rows {
            self.read_row_mask(row, mask.row_mut(row));
        }
        mask
    }

    /// The mask of one row, as [`Mask::row`] has it: `bits` are [`row_bytes`] bytes; all columns when dense. Bits past the
    /// last column are zero, whatever the file says.
    pub fn read_row_mask(&self, row: usize, bits: &mut [u8]) {
        assert!(row < self.rows && bits.len() == row_bytes(self.cols), "row {row} of {}", self.rows);
        match self.encoding {
            encoding if !encoding.is_sparse() => bits.fill(0xFF),
            Encoding::Q8Keep2Of4 | Encoding::Q4Keep2Of4 => {
                bits.fill(0);
                for (_, col) in kept_2_of_4(self.bits(row)) {
                    let col = stored_column(col, self.blocks());
                    bits[col / 8] |= 1 << (col % 8);
                }
            }
            Encoding::SparseF16 => bits.copy_from_slice(self.bits(row)),
            _ => {
                bits.copy_from_slice(self.bits(row));
                reorder_bits(bits, self.blocks());
            }
        }
        let (whole, rest) = (self.cols / 8, self.cols % 8);
        if let Some((last, padding)) = bits[whole..].split_first_mut() {
            *last &= (1 << rest) - 1;
            padding.fill(0);
        }
    }

    /// Expands row `row` to f32, `out.len() == cols`. This defines what every encoding means.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {}, {} columns", self.rows, out.len());
        let values = self.row_values(row);
        match self.encoding {
            Encoding::F32 => out.iter_mut().zip(values.chunks_exact(4)).for_each(|(o, v)| *o = le_f32(v)),
            Encoding::F16 => out.iter_mut().enumerate().for_each(|(i, o)| *o = le_f16(values, i)),
            Encoding::SparseF16 => {
                out.fill(0.0);
                let kept = kept_of_mask(self.bits(row)).filter(|(_, col)| *col < self.cols);
                kept.for_each(|(nth, col)| out[col] = le_f16(values, nth));
            }
            _ => {
                let (scales, mut levels) = (self.scales(row), Levels::new(self, row));
                let mut group = [0; GROUP];
                for (g, out) in out.chunks_mut(GROUP).enumerate() {
                    levels.next(&mut group);
                    for (b, (out, levels)) in out.chunks_mut(BLOCK).zip(group.chunks(BLOCK)).enumerate() {
                        let scale = scales.get(g * GROUP / BLOCK + b);
                        out.iter_mut().zip(levels).for_each(|(o, &l)| *o = scale * f32::from(l));
                    }
                }
            }
        }
    }

    /// Expands whole rows, from `first_row` on, into `out`; `None` if they are not rows of this matrix.
    pub fn read_rows(&self, first_row: usize, out: &mut [f32]) -> Option<()> {
        let n = out.len() / self.cols;
        if !out.len().is_multiple_of(self.cols) || first_row.checked_add(n)? > self.rows {
            return None;
        }
        for (i, row) in out.chunks_exact_mut(self.cols).enumerate() {
            self.read_row(first_row + i, row);
        }
        Some(())
    }

    fn bits_plane_len(&self) -> usize {
        if self.encoding.has_bits() { self.rows * row_bytes(self.cols) } else { 0 }
    }

    fn scale_plane_len(&self) -> usize {
        scale_plane_len(self.encoding, self.rows, self.blocks()).unwrap_or(0)
    }
}

/// Refuses shapes that the encoding cannot have.
pub(crate) fn check_shape(encoding: Encoding, rows: usize, cols: usize) -> Result<(), ShapeError> {
    if rows == 0 || cols == 0 || rows > 1 << 31 || cols > 1 << 31 {
        return Err(ShapeError::TooLarge { rows, cols, encoding: encoding.name() });
    }
    if encoding.fixed_pattern().is_some() && !cols.is_multiple_of(CHUNK) {
        return Err(ShapeError::Columns { cols, encoding: encoding.name() });
    }
    Ok(())
}

/// Bytes of a tensor: a pure function of encoding, shape, and (where rows have lengths of their own) bytes of kept
/// values.
pub fn byte_len(encoding: Encoding, rows: usize, cols: usize, kept_bytes: usize) -> Option<usize> {
    let bits = if encoding.has_bits() { rows.checked_mul(row_bytes(cols))? } else { 0 };
    let scales = scale_plane_len(encoding, rows, cols.div_ceil(BLOCK))?;
    let values = match encoding.has_row_starts() {
        true => kept_bytes,
        false => rows.checked_mul(full_row_bytes(encoding, cols)?)?,
    };
    let scales_end = checked_align(bits)?.checked_add(scales)?;
    checked_align(scales_end)?.checked_add(values)
}

fn scale_plane_len(encoding: Encoding, rows: usize, blocks: usize) -> Option<usize> {
    let blocks = rows.checked_mul(blocks)?;
    match encoding.scale_kind() {
        ScaleKind::None => Some(0),
        ScaleKind::Half => blocks.checked_mul(2),
        ScaleKind::Row => rows.checked_mul(4)?.checked_add(blocks),
    }
}

/// Bytes that must be readable after a tensor: a full row and a vector register more.
pub fn slack(encoding: Encoding, cols: usize) -> Option<usize> {
    full_row_bytes(encoding, cols)?.checked_add(PLANE_ALIGN)
}

/// Bytes of the values of one row: of the longest possible one where rows have lengths of their own.
pub fn full_row_bytes(encoding: Encoding, cols: usize) -> Option<usize> {
    let blocks = cols.checked_add(BLOCK - 1)? / BLOCK;
    let chunks = cols.checked_add(CHUNK - 1)? / CHUNK;
    match encoding {
        Encoding::F32 => cols.checked_mul(4),
        Encoding::F16 => cols.checked_mul(2),
        Encoding::Q8 => blocks.checked_mul(BLOCK),
        Encoding::SparseF16 => chunks.checked_mul(CHUNK * 2),
        Encoding::SparseQ8 => chunks.checked_mul(CHUNK),
        Encoding::Q4 | Encoding::Q5 | Encoding::SparseQ4 => chunks.checked_mul(CHUNK / 2),
        Encoding::Q8Keep2Of4 => chunks.checked_mul(CHUNK / 2),
        Encoding::Q4Keep2Of4 => chunks.checked_mul(CHUNK / 4),
    }
}

fn check_row_starts(table: &[u32], rows: usize, full: usize) -> Result<usize, ShapeError> {
    let refuse = |index, value: u64, expected: String| Err(ShapeError::RowStarts { index, value, expected });
    if table.len() != rows + 1 {
        return refuse(table.len(), table.len() as u64, format!("expected {} entries", rows + 1));
    }
    if table[0] != 0 {
        return refuse(0, u64::from(table[0]), "expected 0".into());
    }
    for (i, pair) in table.windows(2).enumerate() {
        let (from, to) = (pair[0] as usize, pair[1] as usize);
        if to < from || to - from > full {
            return refuse(i + 1, to as u64, format!("expected {from} to {}", from.saturating_add(full)));
        }
    }
    Ok(table[rows] as usize)
}

fn align(n: usize) -> usize {
    n.next_multiple_of(PLANE_ALIGN)
}

fn checked_align(n: usize) -> Option<usize> {
    n.checked_next_multiple_of(PLANE_ALIGN)
}

fn le_f32(b: &[u8]) -> f32 {
    f32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

fn le_f16(bytes: &[u8], i: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32()
}
