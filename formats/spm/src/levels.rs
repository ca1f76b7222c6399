//! What integer codes mean: the levels of a row, chunk by chunk. Slow and plain; kernels are compared with it.

use crate::encoding::{BLOCK, CHUNK, Encoding};
use crate::matrix::Matrix;
use crate::order::{GROUP, reorder};

/// The levels of the codes of sparse q4. Code 0 is level 0, so that a byte of zeros, which is what a kernel expands
/// where nothing is kept, is a level of zero too. The others are finer near zero than far from it.
///
/// Zero is a level although the mask has it too: pruning by activations keeps small weights of loud inputs, and a level
/// of 7 for those costs far more than a level less (SmolLM2, half pruned: perplexity 107 with the best 16 levels without
/// zero, 18 with these).
pub const SPARSE_Q4_LEVELS: [i8; 16] = [0, 7, 18, 32, 48, 65, 82, 106, -7, -18, -32, -48, -65, -82, -100, -120];

/// The two streams of nibbles of a sparse-q4 row: chunks take turns, and the last of an odd number is shared, its first
/// block in the low stream.
///
/// Returns whether block `block` of a row of `chunks` chunks is in the high nibbles.
pub fn in_high_nibbles(block: usize, chunks: usize) -> bool {
    let chunk = block / 2;
    if chunk + 1 == chunks && chunks % 2 == 1 { block % 2 == 1 } else { chunk % 2 == 1 }
}

/// From which stored column of a 2:4 chunk on code `j` (0 to 31) has its group of four: four codes each of quad `k` of the
/// first 32, two, and of quad `k` of the others, two. So a lane that sums four products sums those of one block.
pub const fn group_2_of_4(j: usize) -> usize {
    j % 4 / 2 * BLOCK + j / 4 * 4
}

/// Where code `j` (0 to 31) of a 2:4 chunk finds its place: the first bit of a field of two in the chunk's bits.
pub const fn field_2_of_4(j: usize) -> usize {
    // A word a 16 codes; code 4f + g has field f of byte g.
    j / 16 * 32 + j % 4 * 8 + j % 16 / 4 * 2
}

/// The kept columns of a row's mask: number and column, ascending.
pub(crate) fn kept_of_mask(bits: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    (0..bits.len() * 8).filter(|col| bits[col / 8] >> (col % 8) & 1 == 1).enumerate()
}

/// The kept columns of a row of 2:4 places: number in the row's codes and column as stored.
pub(crate) fn kept_2_of_4(bits: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    (0..bits.len() / 8 * (CHUNK / 2)).map(|nth| {
        let (chunk, j) = (nth / (CHUNK / 2), nth % (CHUNK / 2));
        let at = field_2_of_4(j);
        let place = usize::from(bits[chunk * 8 + at / 8] >> (at % 8) & 3);
        (nth, chunk * CHUNK + group_2_of_4(j) + place)
    })
}

/// Reads the levels of a row.
pub(crate) struct Levels<'a> {
    matrix: &'a Matrix,
    bits: &'a [u8],
    values: &'a [u8],
    chunk: usize,
    /// Kept codes passed so far; of sparse q4 those in the low and in the high nibbles.
    passed: [usize; 2],
}

impl<'a> Levels<'a> {
    /// Of a row of an integer encoding.
    pub(crate) fn new(matrix: &'a Matrix, row: usize) -> Self {
        let bits = if matrix.encoding().has_bits() { matrix.bits(row) } else { &[] };
        Levels { matrix, bits, values: matrix.row_values(row), chunk: 0, passed: [0; 2] }
    }

    /// The levels of the next 256 columns, zeros where nothing is kept and past the last chunk.
    pub(crate) fn next(&mut self, out: &mut [i8; GROUP]) {
        let (group, left) = (self.chunk * CHUNK / GROUP, self.matrix.chunks() - self.chunk);
        out.fill(0);
        out.as_chunks_mut::<CHUNK>().0.iter_mut().take(left).for_each(|chunk| self.next_chunk(chunk));
        reorder(out, (self.matrix.blocks() - group * GROUP / BLOCK).min(GROUP / BLOCK));
    }

    /// The levels of the next chunk as it is stored.
    fn next_chunk(&mut self, out: &mut [i8; CHUNK]) {
        let chunk = self.chunk;
        let values = self.values;
        match self.matrix.encoding() {
            Encoding::Q8 => {
                let stored = (self.matrix.blocks() * BLOCK - chunk * CHUNK).min(CHUNK);
                out.fill(0);
                let codes = &values[chunk * CHUNK..][..stored];
                out.iter_mut().zip(codes).for_each(|(o, &c)| *o = c as i8);
            }
            Encoding::Q4 => out.iter_mut().enumerate().for_each(|(i, o)| *o = nibble_of_64(values, chunk, i) as i8 - 8),
            Encoding::Q5 => {
                for (i, o) in out.iter_mut().enumerate() {
                    *o = (nibble_of_64(values, chunk, i) | self.bit(i) << 4) as i8 - 16;
                }
            }
            Encoding::SparseQ8 => self.kept(out, |values, nth, _| values[nth] as i8),
            Encoding::SparseQ4 => self.kept(out, |values, nth, high| level(values[nth], high)),
            Encoding::Q8Keep2Of4 => self.places(out, |values, j| values[j] as i8),
            Encoding::Q4Keep2Of4 => self.places(out, |values, j| level(values[j % 16], j >= 16)),
            Encoding::F32 | Encoding::F16 | Encoding::SparseF16 => unreachable!("only integer encodings have levels"),
        }
        self.chunk += 1;
    }

    /// Bit `i` of this chunk.
    fn bit(&self, i: usize) -> u8 {
        self.bits[self.chunk * 8 + i / 8] >> (i % 8) & 1
    }

    fn kept(&mut self, out: &mut [i8; CHUNK], code: impl Fn(&[u8], usize, bool) -> i8) {
        let two_streams = self.matrix.encoding() == Encoding::SparseQ4;
        for (i, o) in out.iter_mut().enumerate() {
            let high = two_streams && in_high_nibbles(self.chunk * 2 + i / BLOCK, self.matrix.chunks());
            let passed = &mut self.passed[usize::from(high)];
            *o = 0;
            if self.bits[self.chunk * 8 + i / 8] >> (i % 8) & 1 == 1 {
                *o = code(self.values, *passed, high);
                *passed += 1;
            }
        }
    }

    fn places(&self, out: &mut [i8; CHUNK], code: impl Fn(&[u8], usize) -> i8) {
        out.fill(0);
        let bytes = if self.matrix.encoding() == Encoding::Q8Keep2Of4 { CHUNK / 2 } else { CHUNK / 4 };
        let values = &self.values[self.chunk * bytes..];
        for (j, col) in kept_2_of_4(&self.bits[self.chunk * 8..][..8]) {
            out[col] = code(values, j);
        }
    }
}

/// Nibble `i` of a chunk of which the first block has the low ones.
fn nibble_of_64(values: &[u8], chunk: usize, i: usize) -> u8 {
    values[chunk * (CHUNK / 2) + i % BLOCK] >> (i / BLOCK * 4) & 15
}

fn level(byte: u8, high: bool) -> i8 {
    SPARSE_Q4_LEVELS[usize::from(if high { byte >> 4 } else { byte & 15 })]
}
