//! Tensors of ggml's types as our q8 and q4, row by row: most models pass through here when they are loaded.
//!
//! Types whose blocks are a scale and small integers keep both, so nothing is lost: Q8_0, Q5_0 and IQ4_NL as q8,
//! Q4_0 as q4. All others become q8 with scales that suit their steps (`q8_scale`).

use spm::{BLOCK, Bytes, Encoding, Matrix, matrix};

use crate::dequant::{Codes, codes_iq4_nl, codes_q4_0, codes_q5_0, codes_q8_0, expand, steps_of};
use crate::ggml_type::GgmlType;
use crate::q8_scale;

/// The encoding that holds just what blocks of `kind` hold.
pub(crate) fn lossless(kind: GgmlType) -> Option<Encoding> {
    match kind {
        GgmlType::Q8_0 | GgmlType::Q5_0 | GgmlType::Iq4Nl => Some(Encoding::Q8),
        GgmlType::Q4_0 => Some(Encoding::Q4),
        _ => None,
    }
}

/// A tensor of a type that is [`lossless`], with its own scales and codes.
pub(crate) fn repack(kind: GgmlType, rows: usize, cols: usize, blocks: &[u8]) -> Option<Matrix> {
    let mut planes = Planes::new(lossless(kind)?, rows, cols)?;
    match kind {
        GgmlType::Q8_0 => planes.repack_q8(blocks, codes_q8_0),
        GgmlType::Q5_0 => planes.repack_q8(blocks, codes_q5_0),
        GgmlType::Iq4Nl => planes.repack_q8(blocks, codes_iq4_nl),
        _ => planes.repack_q4(blocks),
    }
    planes.finish()
}

/// A tensor of any type as q8, each value the nearest that its block's scale allows.
pub(crate) fn to_q8(kind: GgmlType, rows: usize, cols: usize, blocks: &[u8]) -> Option<Matrix> {
    let mut planes = Planes::new(Encoding::Q8, rows, cols)?;
    let (scales, codes) = planes.split();
    let mut row = vec![0.0; cols.checked_next_multiple_of(BLOCK)?];
    let mut steps = vec![[0.0; 2]; row.len() / BLOCK];
    let places = scales.chunks_exact_mut(steps.len() * 2).zip(codes.chunks_exact_mut(row.len()));
    for (bytes, (scales, codes)) in blocks.chunks_exact(kind.row_bytes(cols)?).zip(places) {
        expand(kind, bytes, row.get_mut(..cols)?);
        steps_of(kind, bytes, &mut steps);
        let blocks = row.as_chunks().0.iter().zip(&steps);
        let places = scales.as_chunks_mut().0.iter_mut().zip(codes.as_chunks_mut().0);
        for ((block, steps), (scale, codes)) in blocks.zip(places) {
            let (s, c) = q8_scale::encode(block, *steps);
            *scale = s.to_le_bytes();
            *codes = c;
        }
    }
    planes.finish()
}

/// The bytes of a matrix of scales and codes, slack included.
struct Planes {
    encoding: Encoding,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    codes_at: usize,
}

impl Planes {
    fn new(encoding: Encoding, rows: usize, cols: usize) -> Option<Self> {
        let len = matrix::byte_len(encoding, rows, cols, 0)?;
        let codes = rows.checked_mul(matrix::full_row_bytes(encoding, cols)?)?;
        let bytes = vec![0; len.checked_add(matrix::slack(encoding, cols)?)?];
        Some(Planes { encoding, rows, cols, bytes, codes_at: len.checked_sub(codes)? })
    }

    fn split(&mut self) -> (&mut [u8], &mut [u8]) {
        self.bytes.split_at_mut(self.codes_at)
    }

    fn repack_q8<const B: usize>(&mut self, blocks: &[u8], codes_of: impl Fn(&[u8; B]) -> Codes) {
        let (scales, codes) = self.split();
        let places = scales.as_chunks_mut::<2>().0.iter_mut().zip(codes.as_chunks_mut::<BLOCK>().0);
        for (block, (scale, codes)) in blocks.as_chunks::<B>().0.iter().zip(places) {
            *scale = [block[0], block[1]];
            *codes = codes_of(block).map(|c| c as u8);
        }
    }

    /// ggml keeps weights `j` and `j + 16` in a byte, our q4 `2j` and `2j + 1`.
    fn repack_q4(&mut self, blocks: &[u8]) {
        let (scales, codes) = self.split();
        let places = scales.as_chunks_mut::<2>().0.iter_mut().zip(codes.as_chunks_mut::<{ BLOCK / 2 }>().0);
        for (block, (scale, codes)) in blocks.as_chunks::<18>().0.iter().zip(places) {
            *scale = [block[0], block[1]];
            let levels = codes_q4_0(block).map(|c| (c + 8) as u8);
            codes.iter_mut().zip(levels.as_chunks::<2>().0).for_each(|(c, [low, high])| *c = low | high << 4);
        }
    }

    fn finish(self) -> Option<Matrix> {
        Matrix::new(self.encoding, self.rows, self.cols, Bytes::from(self.bytes), None).ok()
    }
}
