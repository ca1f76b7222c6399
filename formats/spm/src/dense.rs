//! The dense matrix of a sparse one's values, so that both can be measured in one engine.

use half::f16;

use crate::bytes::Bytes;
use crate::encoding::{BLOCK, Encoding};
use crate::mask::row_bytes;
use crate::matrix::{self, Matrix, ShapeError, level_of};

impl Matrix {
    /// A dense matrix that expands to the same values: sparse-f16 as f16, sparse-q8 as q8, sparse-q4 as q4 if no block
    /// has both level -8 and level 8 (q4 has only one of them) and as q8 if one has. A dense matrix is cloned.
    ///
    /// Memory: the dense tensor. Errors if its bytes cannot be counted.
    pub fn to_dense(&self) -> Result<Matrix, ShapeError> {
        match self.encoding() {
            Encoding::SparseF16 => self.dense_halves(),
            Encoding::SparseQ8 => self.dense_codes(),
            Encoding::SparseQ4 => self.dense_nibbles()?.map_or_else(|| self.dense_codes(), Ok),
            _ => Ok(self.clone()),
        }
    }

    fn dense_halves(&self) -> Result<Matrix, ShapeError> {
        let mut planes = Planes::new(Encoding::F16, self)?;
        for (row, out) in planes.codes().chunks_exact_mut(self.cols() * 2).take(self.rows()).enumerate() {
            let values = &self.values()[self.row_range(row).start..];
            let out = out.as_chunks_mut::<2>().0;
            self.each_kept(row, |nth, col| out[col] = [values[2 * nth], values[2 * nth + 1]]);
        }
        planes.finish(self)
    }

    fn dense_codes(&self) -> Result<Matrix, ShapeError> {
        let mut planes = Planes::new(Encoding::Q8, self)?;
        planes.scales().copy_from_slice(self.scales());
        let width = self.blocks() * BLOCK;
        let mut levels = vec![0; width];
        for (row, out) in planes.codes().chunks_exact_mut(width).take(self.rows()).enumerate() {
            self.levels(row, &mut levels);
            out.iter_mut().zip(&levels).for_each(|(o, l)| *o = *l as u8);
        }
        planes.finish(self)
    }

    /// `None` if the levels of a block do not fit.
    fn dense_nibbles(&self) -> Result<Option<Matrix>, ShapeError> {
        let mut planes = Planes::new(Encoding::Q4, self)?;
        planes.scales().copy_from_slice(self.scales());
        let (scales, codes) = planes.split();
        let mut levels = vec![0; self.blocks() * BLOCK];
        let rows = scales.chunks_exact_mut(self.blocks() * 2).zip(codes.chunks_exact_mut(self.blocks() * BLOCK / 2));
        for (row, (scales, codes)) in rows.take(self.rows()).enumerate() {
            self.levels(row, &mut levels);
            let blocks = levels.as_chunks_mut::<BLOCK>().0.iter_mut().zip(scales.as_chunks_mut::<2>().0);
            for (levels, scale) in blocks {
                if !fit_q4(levels, scale) {
                    return Ok(None);
                }
            }
            let pairs = levels.as_chunks::<2>().0;
            codes.iter_mut().zip(pairs).for_each(|(c, [low, high])| *c = (low + 8) as u8 | ((high + 8) as u8) << 4);
        }
        planes.finish(self).map(Some)
    }

    /// The levels of a row of integer codes, 0 where nothing is kept; `out` is whole blocks.
    fn levels(&self, row: usize, out: &mut [i8]) {
        let values = &self.values()[self.row_range(row).start..];
        out.fill(0);
        match self.encoding() {
            Encoding::SparseQ4 => {
                self.each_kept(row, |nth, col| out[col] = level_of(values[nth / 2] >> (nth % 2 * 4) & 15));
            }
            _ => self.each_kept(row, |nth, col| out[col] = values[nth] as i8),
        }
    }

    /// Calls `each` with the number and the column of every kept weight of a row.
    fn each_kept(&self, row: usize, mut each: impl FnMut(usize, usize)) {
        let width = row_bytes(self.cols());
        let mut nth = 0;
        for (i, &byte) in self.masks()[row * width..][..width].iter().enumerate() {
            let mut bits = byte;
            while bits != 0 {
                let col = i * 8 + bits.trailing_zeros() as usize;
                // A damaged mask may keep columns of the padding.
                if col < self.cols() {
                    each(nth, col);
                }
                nth += 1;
                bits &= bits - 1;
            }
        }
    }
}

/// Turns level 8 into -8, and the scale with it; `false` if the block has both.
fn fit_q4(levels: &mut [i8; BLOCK], scale: &mut [u8; 2]) -> bool {
    if !levels.contains(&8) {
        return true;
    }
    if levels.contains(&-8) {
        return false;
    }
    levels.iter_mut().for_each(|l| *l = -*l);
    *scale = (-f16::from_le_bytes(*scale)).to_le_bytes();
    true
}

/// The bytes of a dense matrix, slack included.
struct Planes {
    encoding: Encoding,
    bytes: Vec<u8>,
    scales: usize,
    codes_at: usize,
}

impl Planes {
    fn new(encoding: Encoding, of: &Matrix) -> Result<Self, ShapeError> {
        let (rows, cols) = (of.rows(), of.cols());
        let len = matrix::byte_len(encoding, rows, cols, 0);
        let size = || {
            let codes = rows.checked_mul(matrix::full_row_bytes(encoding, cols)?)?;
            Some((len?.checked_add(matrix::slack(encoding, cols)?)?, len?.checked_sub(codes)?))
        };
        let (len, codes_at) = size().ok_or(ShapeError::TooLarge { rows, cols, encoding: encoding.name() })?;
        Ok(Planes { encoding, bytes: vec![0; len], scales: of.scales().len(), codes_at })
    }

    fn scales(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.scales]
    }

    /// The codes and the slack.
    fn codes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.codes_at..]
    }

    fn split(&mut self) -> (&mut [u8], &mut [u8]) {
        let (scales, codes) = self.bytes.split_at_mut(self.codes_at);
        (&mut scales[..self.scales], codes)
    }

    fn finish(self, of: &Matrix) -> Result<Matrix, ShapeError> {
        Matrix::new(self.encoding, of.rows(), of.cols(), Bytes::from(self.bytes), None)
    }
}
