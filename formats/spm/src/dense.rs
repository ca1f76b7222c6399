//! The dense matrix of a sparse one's values, so that both can be measured in one engine.

use half::f16;

use crate::bytes::Bytes;
use crate::encoding::{BLOCK, CHUNK, Encoding};
use crate::levels::{Levels, kept_of_mask};
use crate::matrix::{self, Matrix, ShapeError};

impl Matrix {
    /// A dense matrix of the same values: sparse-f16 as f16, sparse integers as q8, whose scales, being halves, round
    /// those of a sparse row to 11 bits. A dense matrix is cloned.
    ///
    /// Memory: the dense tensor. Errors if its bytes cannot be counted.
    pub fn to_dense(&self) -> Result<Matrix, ShapeError> {
        match self.encoding() {
            e if !e.is_sparse() => Ok(self.clone()),
            Encoding::SparseF16 => self.dense_halves(),
            _ => self.dense_codes(),
        }
    }

    fn dense_halves(&self) -> Result<Matrix, ShapeError> {
        let mut planes = Planes::new(Encoding::F16, self)?;
        for (row, out) in planes.codes().chunks_exact_mut(self.cols() * 2).take(self.rows()).enumerate() {
            let (values, out) = (self.row_values(row), out.as_chunks_mut::<2>().0);
            // A damaged mask may keep columns of the padding.
            for (nth, col) in kept_of_mask(self.bits(row)).filter(|(_, col)| *col < self.cols()) {
                out[col] = [values[2 * nth], values[2 * nth + 1]];
            }
        }
        planes.finish(self)
    }

    fn dense_codes(&self) -> Result<Matrix, ShapeError> {
        let mut planes = Planes::new(Encoding::Q8, self)?;
        let (nb, width) = (self.blocks(), self.blocks() * BLOCK);
        for (row, out) in planes.scales().chunks_exact_mut(nb * 2).enumerate() {
            let scales = self.scales(row);
            for (b, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                *out = f16::from_f32(scales.get(b)).to_le_bytes();
            }
        }
        for (row, out) in planes.codes().chunks_exact_mut(width).take(self.rows()).enumerate() {
            let (mut levels, mut chunk) = (Levels::new(self, row), [0; CHUNK]);
            for out in out.chunks_mut(CHUNK) {
                levels.next(&mut chunk);
                out.iter_mut().zip(chunk).for_each(|(o, l)| *o = l as u8);
            }
        }
        planes.finish(self)
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
        Ok(Planes { encoding, bytes: vec![0; len], scales: of.rows() * of.blocks() * 2, codes_at })
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
