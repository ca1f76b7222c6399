//! Dense matrices of scales and codes that are known already: of a sparse matrix, so that both can be measured in one
//! engine, or of another format.

use half::f16;

use crate::bytes::Bytes;
use crate::encode::RowEncoder;
use crate::encoding::{BLOCK, CHUNK, Encoding, ScaleKind};
use crate::levels::Levels;
use crate::mask::row_bytes;
use crate::matrix::{self, Matrix, PLANE_ALIGN, ShapeError};
use crate::order::{GROUP, stored_column};

impl Matrix {
    /// A dense matrix of the same values: sparse-f16 as f16, sparse integers as q8, whose scales, being halves, round
    /// those of a sparse row to 11 bits. A dense matrix is cloned.
    ///
    /// Memory: the dense tensor, of f16 twice. Errors if its bytes cannot be counted.
    pub fn to_dense(&self) -> Result<Matrix, ShapeError> {
        match self.encoding() {
            e if !e.is_sparse() => Ok(self.clone()),
            Encoding::SparseF16 => self.dense_halves(),
            _ => self.dense_codes(),
        }
    }

    fn dense_halves(&self) -> Result<Matrix, ShapeError> {
        let mut rows = RowEncoder::new(Encoding::F16, self.rows(), self.cols())?;
        let everything = vec![0xFF; row_bytes(self.cols())];
        let mut row = vec![0.0; self.cols()];
        for r in 0..self.rows() {
            self.read_row(r, &mut row);
            rows.push(&row, &everything)?;
        }
        rows.finish()
    }

    fn dense_codes(&self) -> Result<Matrix, ShapeError> {
        let mut planes = DensePlanes::new(Encoding::Q8, self.rows(), self.cols())?;
        for row in 0..self.rows() {
            let (scales, mut levels) = (self.scales(row), Levels::new(self, row));
            let mut group = [0; GROUP];
            for first in (0..self.blocks()).step_by(GROUP / BLOCK) {
                levels.next(&mut group);
                for (block, codes) in (first..self.blocks()).zip(group.as_chunks::<BLOCK>().0) {
                    planes.set(row, block, f16::from_f32(scales.get(block)), codes);
                }
            }
        }
        planes.finish()
    }
}

/// A q8, q4 or q5 matrix, filled block by block in place: no more memory than the matrix takes.
pub struct DensePlanes {
    encoding: Encoding,
    rows: usize,
    cols: usize,
    scales_at: usize,
    codes_at: usize,
    /// Slack included.
    bytes: Vec<u8>,
}

impl DensePlanes {
    /// All weights zero.
    ///
    /// # Panics
    /// If the encoding's scales are not halves.
    pub fn new(encoding: Encoding, rows: usize, cols: usize) -> Result<Self, ShapeError> {
        assert_eq!(encoding.scale_kind(), ScaleKind::Half, "{}", encoding.name());
        matrix::check_shape(encoding, rows, cols)?;
        let size = || {
            let len = matrix::byte_len(encoding, rows, cols, 0)?;
            let codes = rows.checked_mul(matrix::full_row_bytes(encoding, cols)?)?;
            Some((len.checked_add(matrix::slack(encoding, cols)?)?, len.checked_sub(codes)?))
        };
        let (len, codes_at) = size().ok_or(ShapeError::TooLarge { rows, cols, encoding: encoding.name() })?;
        let bits = if encoding.has_bits() { rows * row_bytes(cols) } else { 0 };
        let mut bytes = vec![0; len];
        match encoding {
            Encoding::Q5 => bytes[..bits].fill(0xFF),
            Encoding::Q4 => bytes[codes_at..].fill(0x88),
            _ => {}
        }
        Ok(DensePlanes { encoding, rows, cols, scales_at: bits.next_multiple_of(PLANE_ALIGN), codes_at, bytes })
    }

    /// The weights of a block: `scale` times `codes`, which are -8 to 7 of q4, -16 to 15 of q5. Codes of padded columns
    /// are 0.
    pub fn set(&mut self, row: usize, block: usize, scale: f16, codes: &[i8; BLOCK]) {
        let nb = self.cols.div_ceil(BLOCK);
        assert!(row < self.rows && block < nb, "row {row} of {}, block {block} of {nb}", self.rows);
        let (planes, values) = self.bytes.split_at_mut(self.codes_at);
        planes[self.scales_at + (row * nb + block) * 2..][..2].copy_from_slice(&scale.to_le_bytes());
        for (quad, codes) in codes.as_chunks::<4>().0.iter().enumerate() {
            let at = stored_column(block * BLOCK + 4 * quad, nb);
            match self.encoding {
                Encoding::Q8 => set_bytes(&mut values[row * nb * BLOCK + at..], codes),
                Encoding::Q4 => set_nibbles(values, row * nb.div_ceil(2), at, codes.map(|c| (c + 8) as u8)),
                _ => {
                    let codes = codes.map(|c| (c + 16) as u8);
                    set_fifth_bits(&mut planes[row * row_bytes(self.cols) + at / 8], at % 8, codes);
                    set_nibbles(values, row * nb.div_ceil(2), at, codes);
                }
            }
        }
    }

    /// The matrix.
    pub fn finish(self) -> Result<Matrix, ShapeError> {
        Matrix::new(self.encoding, self.rows, self.cols, Bytes::from(self.bytes), None)
    }
}

fn set_bytes(values: &mut [u8], codes: &[i8; 4]) {
    values.iter_mut().zip(codes).for_each(|(v, &c)| *v = c as u8);
}

/// Puts the lower four bits of codes, stored from column `at` on, in the half of its chunk that their block has.
fn set_nibbles(values: &mut [u8], first_chunk: usize, at: usize, codes: [u8; 4]) {
    let from = (first_chunk + at / CHUNK) * (CHUNK / 2) + at % BLOCK;
    let shift = at % CHUNK / BLOCK * 4;
    values[from..from + 4].iter_mut().zip(codes).for_each(|(v, c)| *v = *v & (0xF0 >> shift) | (c & 15) << shift);
}

/// Puts the fifth bits of codes at bit `first` of a byte and after it.
fn set_fifth_bits(bits: &mut u8, first: usize, codes: [u8; 4]) {
    for (i, code) in codes.iter().enumerate() {
        *bits = *bits & !(1 << (first + i)) | (code >> 4) << (first + i);
    }
}
