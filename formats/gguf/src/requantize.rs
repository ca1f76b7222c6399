//! Tensors of ggml's types as our q8, q5 and q4, block by block: most models pass through here when they are loaded.
//!
//! Types whose blocks are a scale and small integers keep both, so nothing is lost: Q8_0 and IQ4_NL as q8, Q5_0 as q5,
//! Q4_0 as q4. All others become q8 with scales that suit their steps (`q8_scale`).

use half::f16;
use spm::{BLOCK, DensePlanes, Encoding, Matrix};

use crate::dequant::{Codes, codes_iq4_nl, codes_q4_0, codes_q5_0, codes_q8_0, expand, steps_of};
use crate::ggml_type::GgmlType;
use crate::q8_scale;

/// The encoding that holds just what blocks of `kind` hold.
pub(crate) fn lossless(kind: GgmlType) -> Option<Encoding> {
    match kind {
        GgmlType::Q8_0 | GgmlType::Iq4Nl => Some(Encoding::Q8),
        GgmlType::Q5_0 => Some(Encoding::Q5),
        GgmlType::Q4_0 => Some(Encoding::Q4),
        _ => None,
    }
}

/// A tensor of a type that is [`lossless`], with its own scales and codes.
pub(crate) fn repack(kind: GgmlType, rows: usize, cols: usize, blocks: &[u8]) -> Option<Matrix> {
    let planes = DensePlanes::new(lossless(kind)?, rows, cols).ok()?;
    let places = places(rows, cols);
    match kind {
        GgmlType::Q8_0 => filled(planes, places, blocks, codes_q8_0),
        GgmlType::Q5_0 => filled(planes, places, blocks, codes_q5_0),
        GgmlType::Iq4Nl => filled(planes, places, blocks, codes_iq4_nl),
        _ => filled(planes, places, blocks, codes_q4_0),
    }
}

fn filled<const B: usize>(
    mut planes: DensePlanes,
    places: impl Iterator<Item = (usize, usize)>,
    blocks: &[u8],
    codes_of: impl Fn(&[u8; B]) -> Codes,
) -> Option<Matrix> {
    for (block, (row, nth)) in blocks.as_chunks::<B>().0.iter().zip(places) {
        planes.set(row, nth, f16::from_le_bytes([block[0], block[1]]), &codes_of(block));
    }
    planes.finish().ok()
}

/// A tensor of any type as q8, each value the nearest that its block's scale allows.
pub(crate) fn to_q8(kind: GgmlType, rows: usize, cols: usize, blocks: &[u8]) -> Option<Matrix> {
    let mut planes = DensePlanes::new(Encoding::Q8, rows, cols).ok()?;
    let mut row = vec![0.0; cols.checked_next_multiple_of(BLOCK)?];
    let mut steps = vec![[0.0; 2]; row.len() / BLOCK];
    for (r, bytes) in blocks.chunks_exact(kind.row_bytes(cols)?).enumerate().take(rows) {
        expand(kind, bytes, row.get_mut(..cols)?);
        steps_of(kind, bytes, &mut steps);
        for (nth, (block, steps)) in row.as_chunks().0.iter().zip(&steps).enumerate() {
            let (scale, codes) = q8_scale::encode(block, *steps);
            planes.set(r, nth, scale, &codes);
        }
    }
    planes.finish().ok()
}

/// Row and number in the row of each block.
fn places(rows: usize, cols: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |row| (0..cols.div_ceil(BLOCK)).map(move |nth| (row, nth)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Bit for bit what the tensor's own type says, with an odd number of blocks a row too.
        #[test]
        fn lossless_types_keep_every_value(
            (rows, nb) in (1..4usize, 1..6usize),
            bytes in prop::collection::vec(any::<u8>(), 4 * 6 * 34),
            scales in prop::collection::vec(-2.0f32..2.0, 4 * 6),
        ) {
            for kind in GgmlType::ALL.into_iter().filter(|k| lossless(*k).is_some()) {
                let mut blocks = bytes[..rows * nb * kind.block_bytes()].to_vec();
                for (block, scale) in blocks.chunks_exact_mut(kind.block_bytes()).zip(&scales) {
                    block[..2].copy_from_slice(&f16::from_f32(*scale).to_le_bytes());
                }
                let mut expected = vec![0.0; rows * nb * BLOCK];
                expand(kind, &blocks, &mut expected);
                let matrix = repack(kind, rows, nb * BLOCK, &blocks);
                let mut found = vec![f32::NAN; expected.len()];
                prop_assert!(matrix.as_ref().and_then(|m| m.read_rows(0, &mut found)).is_some());
                prop_assert_eq!(matrix.map(|m| m.encoding()), lossless(kind));
                prop_assert!(found.iter().zip(&expected).all(|(f, e)| f.to_bits() == e.to_bits()), "{}", kind.name());
            }
        }
    }
}
