//! A model with its weights in 8 bits, to write fast with: many texts at a time are bound by products, and those of integers
//! are the fast ones.

use spm::encode::encode_rows;
use spm::{Checkpoint, Config, Encoding, Matrix, TensorInfo, Vocabulary, matrix};

/// A model, with q8 in place of f32 and f16 matrices.
pub(super) struct InBytes<'a>(pub(super) &'a dyn Checkpoint);

impl Checkpoint for InBytes<'_> {
    fn config(&self) -> &Config {
        self.0.config()
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.0.vocabulary()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.0.tensors()
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Option<()> {
        self.0.read_rows(name, first_row, out)
    }

    fn matrix(&self, name: &str) -> Option<Matrix> {
        let matrix = self.0.matrix(name)?;
        match matrix.encoding() {
            Encoding::F32 | Encoding::F16 if matrix.rows() > 1 => {
                encode_rows(Encoding::Q8, matrix.rows(), matrix.cols(), |r, row| matrix.read_rows(r, row))
            }
            _ => Some(matrix),
        }
    }

    /// At most: what has fewer bits than q8 stays as it is.
    fn matrix_bytes(&self, name: &str) -> Option<u64> {
        let info = self.0.tensor(name)?;
        matrix::byte_len(Encoding::Q8, info.rows, info.cols, 0).map(|n| n as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spm::synthetic::SyntheticModel;

    #[test]
    fn matrices_are_in_bytes_and_vectors_as_they_were() {
        let model = SyntheticModel::tiny(3);
        let in_bytes = InBytes(&model);
        for info in model.tensors() {
            let (before, after) = (model.matrix(&info.name).unwrap(), in_bytes.matrix(&info.name).unwrap());
            let expected = if info.rows == 1 { before.encoding() } else { Encoding::Q8 };
            assert_eq!(after.encoding(), expected, "{}", info.name);
            let (mut a, mut b) = (vec![0.0; info.cols], vec![0.0; info.cols]);
            for r in 0..info.rows {
                before.read_rows(r, &mut a).unwrap();
                after.read_rows(r, &mut b).unwrap();
                let largest = a.iter().fold(0f32, |m, x| m.max(x.abs()));
                assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= largest / 100.0), "{} {r}", info.name);
            }
        }
    }
}
