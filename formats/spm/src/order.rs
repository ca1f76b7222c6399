//! The order in which the columns of integer codes are stored, so that no kernel has to sum across the lanes of a
//! register: four columns of each of eight blocks lie together, and a lane that sums four products sums those of one
//! block.
//!
//! A *group* is eight blocks. In it quad (four neighbouring columns) `q` of block `b` is stored as quad `8 q + b`: a
//! transposition, which is its own inverse. Blocks after the last whole group are stored as they are.

use crate::encoding::{BLOCK, CHUNK};

/// Columns of a group.
pub const GROUP: usize = 8 * BLOCK;
const QUAD: usize = 4;

/// Where column `col` of a row of `blocks` blocks is stored, and which column is stored there.
pub fn stored_column(col: usize, blocks: usize) -> usize {
    if col >= blocks * BLOCK / GROUP * GROUP {
        return col;
    }
    let (block, quad) = (col % GROUP / BLOCK, col % BLOCK / QUAD);
    col / GROUP * GROUP + (quad * 8 + block) * QUAD + col % QUAD
}

/// Puts a row of something a column, whole blocks or more, into the order in which it is stored, or back.
pub fn reorder<T: Copy>(row: &mut [T], blocks: usize) {
    for group in row.as_chunks_mut::<GROUP>().0.iter_mut().take(blocks * BLOCK / GROUP) {
        let quads = group.as_chunks_mut::<QUAD>().0;
        for block in 0..8 {
            for quad in 0..block {
                quads.swap(block * 8 + quad, quad * 8 + block);
            }
        }
    }
}

/// The same for bits, one a column.
pub(crate) fn reorder_bits(row: &mut [u8], blocks: usize) {
    for group in row.as_chunks_mut::<{ GROUP / 8 }>().0.iter_mut().take(blocks * BLOCK / GROUP) {
        let from = *group;
        let quad = |n: usize| from[n / 2] >> (n % 2 * QUAD) & 15;
        for (i, byte) in group.iter_mut().enumerate() {
            // Quads 2i and 2i + 1 as they are stored: of neighbouring blocks.
            let (quad_of_block, block) = (2 * i / 8, 2 * i % 8);
            *byte = quad(block * 8 + quad_of_block) | quad((block + 1) * 8 + quad_of_block) << QUAD;
        }
    }
}

const _: () = assert!(GROUP.is_multiple_of(CHUNK));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_columns_are_stored_alike() {
        for blocks in [1, 7, 8, 9, 16, 18] {
            let columns: Vec<usize> = (0..blocks * BLOCK).collect();
            let mut stored = columns.clone();
            reorder(&mut stored, blocks);
            for (at, &col) in stored.iter().enumerate() {
                assert_eq!((stored_column(at, blocks), stored_column(col, blocks)), (col, at), "{blocks} blocks");
                let mut bits = vec![0; blocks.div_ceil(2) * 8];
                bits[col / 8] |= 1 << (col % 8);
                reorder_bits(&mut bits, blocks);
                assert_eq!(bits[at / 8], 1 << (at % 8), "{blocks} blocks, column {col}");
            }
            reorder(&mut stored, blocks);
            assert_eq!(stored, columns);
        }
    }
}
