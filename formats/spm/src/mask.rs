//! Which weights of a matrix are kept. A set bit means **kept**, everywhere.

use crate::encoding::CHUNK;

/// One bit per weight of a `rows x cols` matrix, rows padded with zero bits to whole chunks of 64 columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    rows: usize,
    cols: usize,
    bits: Vec<u8>,
}

impl Mask {
    /// A mask that keeps nothing.
    pub fn none(rows: usize, cols: usize) -> Self {
        Mask { rows, cols, bits: vec![0; rows * row_bytes(cols)] }
    }

    /// A mask that keeps everything.
    pub fn all(rows: usize, cols: usize) -> Self {
        Self::from_fn(rows, cols, |_, _| true)
    }

    /// Keeps the weight at `(row, col)` where `keep` says so.
    pub fn from_fn(rows: usize, cols: usize, keep: impl Fn(usize, usize) -> bool) -> Self {
        let mut mask = Self::none(rows, cols);
        for row in 0..rows {
            for col in 0..cols {
                if keep(row, col) {
                    mask.keep(row, col);
                }
            }
        }
        mask
    }

    /// Marks `(row, col)` as kept.
    pub fn keep(&mut self, row: usize, col: usize) {
        self.bits[row * row_bytes(self.cols) + col / 8] |= 1 << (col % 8);
    }

    /// Whether `(row, col)` is kept.
    pub fn is_kept(&self, row: usize, col: usize) -> bool {
        self.bits[row * row_bytes(self.cols) + col / 8] >> (col % 8) & 1 == 1
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The bits of one row, [`row_bytes`] of them; bit `j` of byte `b` is column `8 b + j`.
    pub fn row(&self, row: usize) -> &[u8] {
        let n = row_bytes(self.cols);
        &self.bits[row * n..(row + 1) * n]
    }

    /// The bits of one row, to be filled by a pruning method; bits past the last column must stay zero.
    pub fn row_mut(&mut self, row: usize) -> &mut [u8] {
        let n = row_bytes(self.cols);
        &mut self.bits[row * n..(row + 1) * n]
    }

    /// Zeros those of `values`, one a column, that `row` does not keep.
    pub fn clear(&self, row: usize, values: &mut [f32]) {
        assert_eq!(values.len(), self.cols, "columns");
        let bits = self.row(row);
        for (col, value) in values.iter_mut().enumerate() {
            if bits[col / 8] >> (col % 8) & 1 == 0 {
                *value = 0.0;
            }
        }
    }

    /// All rows one after another.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    /// Kept weights.
    pub fn kept(&self) -> u64 {
        self.bits.iter().map(|b| u64::from(b.count_ones())).sum()
    }
}

/// Mask bytes of a row of `cols` columns: whole chunks of 64.
pub fn row_bytes(cols: usize) -> usize {
    cols.div_ceil(CHUNK) * CHUNK / 8
}
