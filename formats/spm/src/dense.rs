//! The dense matrix of a sparse one's values, so that both can be measured in one engine.

use crate::bytes::Bytes;
use crate::encoding::{BLOCK, Encoding};
use crate::mask::row_bytes;
use crate::matrix::{self, Matrix, ShapeError, level_of};

impl Matrix {
    /// A dense matrix that expands to the same values: sparse-f16 as f16, sparse-q8 and sparse-q4 as q8, since
    /// q4 has other levels than sparse-q4. A dense matrix is cloned.
    ///
    /// Memory: the dense tensor. Errors if its bytes cannot be counted.
    pub fn to_dense(&self) -> Result<Matrix, ShapeError> {
        match self.encoding() {
            Encoding::SparseF16 => self.dense_halves(),
            Encoding::SparseQ8 | Encoding::SparseQ4 => self.dense_codes(),
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

    fn finish(self, of: &Matrix) -> Result<Matrix, ShapeError> {
        Matrix::new(self.encoding, of.rows(), of.cols(), Bytes::from(self.bytes), None)
    }
}
