//! A weight matrix in one of the file's encodings: where its planes lie, and what they mean.
//!
//! Planes follow one another, each starting at a multiple of 64 bytes from the tensor's start:
//!
//! | encoding | planes |
//! |---|---|
//! | f32, f16 | values, `rows * cols`, no padding |
//! | q8 | scales, `rows * nb` f16; codes, `rows * nb * 32` i8 |
//! | q4 | scales, `rows * nb` f16; codes, `rows * nb * 16` bytes |
//! | sparse-f16 | masks, `rows * nb * 4` bytes; kept values, f16 |
//! | sparse-q8 | masks; scales, `rows * nb` f16; kept codes, i8 |
//! | sparse-q4 | masks; scales; kept codes, nibbles, each row starting at a whole byte |
//!
//! with `nb = ceil(cols / 32)`. Columns past `cols` have code 0 (q8), code 8 (q4), mask bit 0 (sparse).
//! Where the kept values of a row begin is said by a table of `rows + 1` byte offsets that is held in
//! memory, not in the mapping. However a mask is corrupted, a row reads at most `nb * 32` values from
//! there, and [`slack`] bytes after the tensor are always readable: wrong numbers, never a wild read.

use std::ops::Range;
use std::sync::Arc;

use half::f16;

use crate::bytes::Bytes;
use crate::encoding::{BLOCK, Encoding};
use crate::mask::{Mask, row_bytes};

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
    /// Sparse only: byte offsets of the rows in the values plane, `rows + 1` of them.
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
        let too_large = ShapeError::TooLarge { rows, cols, encoding: encoding.name() };
        if rows == 0 || cols == 0 || rows > 1 << 31 || cols > 1 << 31 {
            return Err(too_large);
        }
        let mut values = 0;
        if encoding.is_sparse() {
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

    /// f16 scales, little-endian, [`Self::blocks`] a row; empty for encodings without scales.
    pub fn scales(&self) -> &[u8] {
        let start = align(self.mask_plane_len());
        &self.bytes[start..start + self.scale_plane_len()]
    }

    /// Mask bytes, [`row_bytes`] a row; empty when dense.
    pub fn masks(&self) -> &[u8] {
        &self.bytes[..self.mask_plane_len()]
    }

    /// The last plane (values or codes) **and everything after it**, at least [`slack`] bytes more.
    pub fn values(&self) -> &[u8] {
        &self.bytes[align(align(self.mask_plane_len()) + self.scale_plane_len())..]
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

    /// The table of row starts, sparse only.
    pub fn row_starts(&self) -> Option<&[u32]> {
        self.row_starts.as_deref()
    }

    /// Bytes that multiplying by these rows reads.
    pub fn bytes_of_rows(&self, rows: Range<usize>) -> usize {
        let n = rows.len();
        let fixed = (self.mask_plane_len() + self.scale_plane_len()) / self.rows * n;
        let values = self.row_range(rows.end.max(1) - 1).end - self.row_range(rows.start).start;
        fixed + values
    }

    /// Weights that are stored: all when dense, the set mask bits when sparse.
    pub fn kept(&self) -> u64 {
        if self.encoding.is_sparse() {
            self.masks().iter().map(|b| u64::from(b.count_ones())).sum()
        } else {
            self.rows as u64 * self.cols as u64
        }
    }

    /// The mask; all ones when dense.
    pub fn mask(&self) -> Mask {
        if !self.encoding.is_sparse() {
            return Mask::all(self.rows, self.cols);
        }
        let mut mask = Mask::none(self.rows, self.cols);
        for (row, bits) in self.masks().chunks_exact(row_bytes(self.cols)).enumerate() {
            mask.row_mut(row).copy_from_slice(bits);
        }
        mask
    }

    /// Expands row `row` to f32, `out.len() == cols`. This defines what every encoding means.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {}, {} columns", self.rows, out.len());
        let range = self.row_range(row);
        let values = &self.values()[range.start..];
        match self.encoding {
            Encoding::F32 => out.iter_mut().zip(values.chunks_exact(4)).for_each(|(o, v)| *o = le_f32(v)),
            Encoding::F16 => out.iter_mut().enumerate().for_each(|(i, o)| *o = le_f16(values, i)),
            Encoding::Q8 => self.scaled(row, out, |col| f32::from(values[col] as i8)),
            Encoding::Q4 => self.scaled(row, out, |col| f32::from(nibble(values, col)) - 8.0),
            Encoding::SparseF16 => self.kept_of(row, out, |nth| le_f16(values, nth)),
            Encoding::SparseQ8 => {
                self.kept_of(row, out, |nth| f32::from(values[nth] as i8));
                self.rescale(row, out);
            }
            Encoding::SparseQ4 => {
                self.kept_of(row, out, |nth| f32::from(level_of(nibble(values, nth))));
                self.rescale(row, out);
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

    fn scaled(&self, row: usize, out: &mut [f32], code: impl Fn(usize) -> f32) {
        out.iter_mut().enumerate().for_each(|(col, o)| *o = code(col));
        self.rescale(row, out);
    }

    fn rescale(&self, row: usize, out: &mut [f32]) {
        let scales = &self.scales()[row * self.blocks() * 2..];
        for (b, block) in out.chunks_mut(BLOCK).enumerate() {
            let scale = le_f16(scales, b);
            block.iter_mut().for_each(|v| *v *= scale);
        }
    }

    fn kept_of(&self, row: usize, out: &mut [f32], value: impl Fn(usize) -> f32) {
        let bits = &self.masks()[row * row_bytes(self.cols)..];
        let mut nth = 0;
        for (col, o) in out.iter_mut().enumerate() {
            *o = 0.0;
            if bits[col / 8] >> (col % 8) & 1 == 1 {
                *o = value(nth);
                nth += 1;
            }
        }
    }

    fn mask_plane_len(&self) -> usize {
        if self.encoding.is_sparse() { self.rows * row_bytes(self.cols) } else { 0 }
    }

    fn scale_plane_len(&self) -> usize {
        if self.encoding.is_integer() { self.rows * self.blocks() * 2 } else { 0 }
    }
}

/// The levels of the codes of sparse q4, ascending: finer near zero than far from it. Zero is one of them although the
/// mask has it too: pruning by activations keeps small weights of loud inputs, and a level of 7 for those costs far more
/// than a level less (SmolLM2, half pruned: perplexity 107 with the best 16 levels without zero, 18 with these).
pub const SPARSE_Q4_LEVELS: [i8; 16] = [-120, -100, -82, -65, -48, -32, -18, -7, 0, 7, 18, 32, 48, 65, 82, 106];

/// The level of a sparse q4 code.
pub fn level_of(code: u8) -> i8 {
    SPARSE_Q4_LEVELS[usize::from(code & 15)]
}

/// Bytes of a tensor: a pure function of encoding, shape, and (sparse) bytes of kept values.
pub fn byte_len(encoding: Encoding, rows: usize, cols: usize, kept_bytes: usize) -> Option<usize> {
    let nb = cols.div_ceil(BLOCK);
    let masks = if encoding.is_sparse() { rows.checked_mul(row_bytes(cols))? } else { 0 };
    let scales = if encoding.is_integer() { rows.checked_mul(nb)?.checked_mul(2)? } else { 0 };
    let values = if encoding.is_sparse() { kept_bytes } else { rows.checked_mul(full_row_bytes(encoding, cols)?)? };
    let scales_end = checked_align(masks)?.checked_add(scales)?;
    checked_align(scales_end)?.checked_add(values)
}

/// Bytes that must be readable after a tensor: a full row and a vector register more.
pub fn slack(encoding: Encoding, cols: usize) -> Option<usize> {
    full_row_bytes(encoding, cols)?.checked_add(PLANE_ALIGN)
}

/// Bytes of the values of one row of which everything is kept.
pub fn full_row_bytes(encoding: Encoding, cols: usize) -> Option<usize> {
    let padded = cols.checked_add(BLOCK - 1)? / BLOCK * BLOCK;
    match encoding {
        Encoding::F32 => cols.checked_mul(4),
        Encoding::F16 => cols.checked_mul(2),
        Encoding::SparseF16 => padded.checked_mul(2),
        Encoding::Q8 | Encoding::SparseQ8 => Some(padded),
        Encoding::Q4 | Encoding::SparseQ4 => Some(padded / 2),
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

fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (i % 2 * 4) & 15
}

fn le_f32(b: &[u8]) -> f32 {
    f32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

fn le_f16(bytes: &[u8], i: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32()
}
