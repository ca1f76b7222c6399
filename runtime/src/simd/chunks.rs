//! How the rows of each encoding are read, chunk by chunk: the one place of the runtime that knows where an encoding
//! keeps what.

use std::marker::PhantomData;

use spm::{CHUNK, Encoding, Matrix, ScaleKind};

use super::kernel::{GROUP, Isa, LANES, ahead};

/// How far ahead weights are prefetched, in bytes: far enough for DRAM, near enough to be there still.
const AHEAD: usize = 2048;

/// The planes of a matrix, taken apart once for all rows.
pub(super) struct Rows<'a> {
    pub(super) blocks: usize,
    pub(super) chunks: usize,
    /// 8 bytes a chunk, where the encoding has bits.
    bits: &'a [u8],
    /// f16 each; f32 a row, then i8 each.
    scales: &'a [u8],
    scale_codes_at: usize,
    values: &'a [u8],
    /// Bytes of a row, or where each begins.
    row_bytes: usize,
    starts: &'a [u32],
    /// Readable bytes from the start of every row on, whatever a mask says.
    readable: usize,
}

impl<'a> Rows<'a> {
    fn new(m: &'a Matrix) -> Self {
        let (encoding, cols) = (m.encoding(), m.cols());
        let readable = spm::matrix::slack(encoding, cols).unwrap_or(0);
        Rows {
            blocks: m.blocks(),
            chunks: m.chunks(),
            bits: m.bits_plane(),
            scales: m.scale_plane_and_more(),
            scale_codes_at: if encoding.scale_kind() == ScaleKind::Row { m.rows() * 4 } else { 0 },
            values: m.values(),
            row_bytes: spm::matrix::full_row_bytes(encoding, cols).unwrap_or(0),
            starts: m.row_starts().unwrap_or_default(),
            readable,
        }
    }

    /// The values of a row and all that may be read from there.
    #[inline(always)]
    fn values(&self, row: usize) -> *const u8 {
        self.values[row * self.row_bytes..][..self.readable].as_ptr()
    }

    /// The same where rows have lengths of their own.
    #[inline(always)]
    fn kept_values(&self, row: usize) -> *const u8 {
        self.values[self.starts[row] as usize..][..self.readable].as_ptr()
    }

    #[inline(always)]
    fn bits(&self, row: usize) -> *const u8 {
        self.bits[8 * self.chunks * row..][..8 * self.chunks].as_ptr()
    }

    /// The scales of a row.
    #[inline(always)]
    pub(super) fn scales<I: Isa>(&self, row: usize, halves: bool) -> Scales<'_, I> {
        let (stored, factor) = if halves {
            (&self.scales[2 * self.blocks * row..][..2 * (self.blocks + LANES)], 0.0)
        } else {
            let factor = self.scales[4 * row..].first_chunk::<4>().map_or(0.0, |b| f32::from_le_bytes(*b));
            (&self.scales[self.scale_codes_at + self.blocks * row..][..self.blocks + LANES], factor)
        };
        Scales { stored, factor, halves, isa: PhantomData }
    }
}

/// The scales of a row as they are stored, halves or bytes times a factor, and what would be eight more.
pub(super) struct Scales<'a, I> {
    stored: &'a [u8],
    factor: f32,
    halves: bool,
    isa: PhantomData<I>,
}

impl<I: Isa> Scales<'_, I> {
    /// Eight scales from `first` on.
    ///
    /// # Safety
    /// The CPU has ISA `I`; there are that many.
    #[inline(always)]
    pub(super) unsafe fn group(&self, first: usize) -> I::Lanes {
        // SAFETY: the caller's promise.
        unsafe {
            match self.halves {
                true => I::half_scales(self.stored.as_ptr().add(2 * first), LANES),
                false => I::byte_scales(self.stored.as_ptr().add(first), self.factor),
            }
        }
    }

    /// The scales from `first` on; after them zeros or, where those are finite, others: they meet zeros in the vector.
    ///
    /// # Safety
    /// The CPU has ISA `I`; there are `blocks`, at most eight of them from `first` on.
    #[inline(always)]
    pub(super) unsafe fn last_group(&self, first: usize, blocks: usize) -> I::Lanes {
        // SAFETY: the caller's promise; eight of either may be read.
        unsafe {
            match self.halves {
                true => I::half_scales(self.stored.as_ptr().add(2 * first), blocks - first),
                false => I::byte_scales(self.stored.as_ptr().add(first), self.factor),
            }
        }
    }
}

/// The chunks of a row, in order.
pub(super) trait Chunks<I: Isa> {
    /// Whether scales are halves, not bytes.
    const HALVES: bool;
    /// Whether activations are gathered instead of weights spread.
    const GATHERS: bool = false;

    /// Those of row `row`.
    fn of_row(m: &Rows, row: usize) -> Self;

    /// Chunk `i`, not of the last group.
    ///
    /// # Safety
    /// The CPU has the ISA; called for every `i` of the row in order.
    unsafe fn next(&mut self, i: usize) -> I::Chunk;

    /// Chunk `i` of any group.
    ///
    /// # Safety
    /// As [`Self::next`], which it takes the place of.
    #[inline(always)]
    unsafe fn last(&mut self, i: usize) -> I::Chunk {
        // SAFETY: the caller's promise.
        unsafe { self.next(i) }
    }

    /// Adds the products of a whole group, whose first chunk is `first`, with the 256 codes at every `x`.
    ///
    /// # Safety
    /// As [`Self::next`], which it takes the place of for all four.
    #[inline(always)]
    unsafe fn multiply_add<const N: usize>(
        &mut self,
        first: usize,
        mut acc: [I::Acc; N],
        x: [*const i8; N],
    ) -> [I::Acc; N] {
        // SAFETY: the caller's promise.
        unsafe {
            // Written out: a loop over long chunks would stay one, and chunks of some encodings take turns.
            acc = self.add_chunk(first, acc, x);
            acc = self.add_chunk(first + 1, acc, ahead(x, CHUNK));
            acc = self.add_chunk(first + 2, acc, ahead(x, 2 * CHUNK));
            self.add_chunk(first + 3, acc, ahead(x, 3 * CHUNK))
        }
    }

    /// The same of chunk `i` alone.
    ///
    /// # Safety
    /// As [`Self::next`], which it takes the place of.
    #[inline(always)]
    unsafe fn add_chunk<const N: usize>(&mut self, i: usize, mut acc: [I::Acc; N], x: [*const i8; N]) -> [I::Acc; N] {
        // SAFETY: the caller's promise.
        unsafe {
            let chunk = self.next(i);
            // A loop, because a closure would be compiled without the ISA's features.
            for t in 0..N {
                acc[t] = I::multiply_add(acc[t], chunk, x[t]);
            }
        }
        acc
    }

    /// Asks for what the group after the next will need, before the group of chunk `from`.
    fn prefetch(&self, from: usize);
}

/// What is done with the rows of a matrix.
pub(super) trait Reader<I: Isa> {
    type Out;

    /// # Safety
    /// The CPU has the ISA; `C` is the encoding of the rows.
    unsafe fn read<C: Chunks<I>>(self, m: &Rows) -> Self::Out;
}

/// Hands the rows of an integer-coded matrix to `reader`.
///
/// # Safety
/// The CPU has ISA `I`. (That `m` may be read past its rows is [`Matrix::new`]'s promise.)
#[inline(always)]
pub(super) unsafe fn read<I: Isa, R: Reader<I>>(m: &Matrix, reader: R) -> R::Out {
    let rows = Rows::new(m);
    // SAFETY: the caller's promise; every encoding is read as itself.
    unsafe {
        match m.encoding() {
            Encoding::Q8 => reader.read::<Q8>(&rows),
            Encoding::Q4 => reader.read::<Q4>(&rows),
            Encoding::Q5 => reader.read::<Q5>(&rows),
            Encoding::SparseQ8 => reader.read::<SparseQ8>(&rows),
            Encoding::SparseQ4 => reader.read::<SparseQ4>(&rows),
            Encoding::Q8Keep2Of4 => reader.read::<Q8Keep2Of4>(&rows),
            Encoding::Q4Keep2Of4 => reader.read::<Q4Keep2Of4>(&rows),
            Encoding::F32 | Encoding::F16 | Encoding::SparseF16 => unreachable!("checked by Kernels::rows_i8"),
        }
    }
}

/// Eight bytes of bits.
///
/// # Safety
/// They are there.
#[inline(always)]
pub(super) unsafe fn bits_of(bits: *const u8, chunk: usize) -> u64 {
    // SAFETY: the caller's promise.
    u64::from_le(unsafe { bits.add(8 * chunk).cast::<u64>().read_unaligned() })
}

/// Declares the reader of an encoding whose chunks have one length: how far apart they are, what makes one, and, where
/// that is not the product of the chunk, what multiplies.
macro_rules! fixed_chunks {
    ($name:ident, $step:expr, $halves:expr, $next:expr $(, $gather:ident)?) => {
        struct $name {
            values: *const u8,
            bits: *const u8,
        }

        impl<I: Isa> Chunks<I> for $name {
            const HALVES: bool = $halves;

            #[inline(always)]
            fn of_row(m: &Rows, row: usize) -> Self {
                $name { values: m.values(row), bits: m.bits(row) }
            }

            #[inline(always)]
            unsafe fn next(&mut self, i: usize) -> I::Chunk {
                // SAFETY: the caller's promise; chunk `i` is there.
                unsafe { $next(bits_of(self.bits, i), self.values.add($step * i)) }
            }

            $(
            const GATHERS: bool = true;

            #[inline(always)]
            unsafe fn multiply_add<const N: usize>(
                &mut self,
                first: usize,
                mut acc: [I::Acc; N],
                x: [*const i8; N],
            ) -> [I::Acc; N] {
                // SAFETY: the caller's promise; the four chunks are there.
                unsafe {
                    let (bits, values) = (self.bits.add(8 * first), self.values.add($step * first));
                    acc = I::$gather(acc, bits, values, x);
                    I::$gather(acc, bits.add(16), values.add(2 * $step), ahead(x, 2 * CHUNK))
                }
            })?

            #[inline(always)]
            fn prefetch(&self, from: usize) {
                I::prefetch(self.bits.wrapping_add(8 * from + AHEAD / 4));
                prefetch_lines::<I>(self.values.wrapping_add($step * from + AHEAD), GROUP * $step / 64);
            }
        }
    };
}

fixed_chunks!(Q5, 32, true, I::q5);
fixed_chunks!(Q8Keep2Of4, 32, false, I::q8_keep_2_of_4, gather_q8);
fixed_chunks!(Q4Keep2Of4, 16, false, I::q4_keep_2_of_4, gather_q4);

#[inline(always)]
fn prefetch_lines<I: Isa>(from: *const u8, lines: usize) {
    I::prefetch_lines(from, lines);
}

struct Q8 {
    values: *const u8,
}

impl<I: Isa> Chunks<I> for Q8 {
    const HALVES: bool = true;

    #[inline(always)]
    fn of_row(m: &Rows, row: usize) -> Self {
        Q8 { values: m.values(row) }
    }

    #[inline(always)]
    unsafe fn next(&mut self, i: usize) -> I::Chunk {
        // SAFETY: the caller's promise; chunk `i` is there, its second block perhaps that of the next row.
        unsafe { I::q8(self.values.add(CHUNK * i)) }
    }

    #[inline(always)]
    fn prefetch(&self, from: usize) {
        prefetch_lines::<I>(self.values.wrapping_add(CHUNK * from + AHEAD), GROUP);
    }
}

struct Q4 {
    values: *const u8,
}

impl<I: Isa> Chunks<I> for Q4 {
    const HALVES: bool = true;

    #[inline(always)]
    fn of_row(m: &Rows, row: usize) -> Self {
        Q4 { values: m.values(row) }
    }

    #[inline(always)]
    unsafe fn next(&mut self, i: usize) -> I::Chunk {
        // SAFETY: the caller's promise; chunk `i` is there.
        unsafe { I::q4(self.values.add(CHUNK / 2 * i)) }
    }

    #[inline(always)]
    fn prefetch(&self, from: usize) {
        prefetch_lines::<I>(self.values.wrapping_add(CHUNK / 2 * from + AHEAD), GROUP / 2);
    }
}

/// The chunks of a row that was read as `C` and put into memory.
pub(super) struct Stored<I, C> {
    codes: *const u8,
    was: PhantomData<(I, C)>,
}

impl<I: Isa, C: Chunks<I>> Stored<I, C> {
    pub(super) fn new(codes: &[i8]) -> Self {
        Stored { codes: codes.as_ptr().cast(), was: PhantomData }
    }
}

impl<I: Isa, C: Chunks<I>> Chunks<I> for Stored<I, C> {
    const HALVES: bool = C::HALVES;

    fn of_row(_m: &Rows, _row: usize) -> Self {
        unreachable!("made by `new` alone")
    }

    #[inline(always)]
    unsafe fn next(&mut self, i: usize) -> I::Chunk {
        // SAFETY: the caller's promise; whole chunks were stored.
        unsafe { I::q8(self.codes.add(CHUNK * i)) }
    }

    #[inline(always)]
    fn prefetch(&self, _from: usize) {}
}

struct SparseQ8 {
    values: *const u8,
    bits: *const u8,
}

impl<I: Isa> Chunks<I> for SparseQ8 {
    const HALVES: bool = false;

    #[inline(always)]
    fn of_row(m: &Rows, row: usize) -> Self {
        SparseQ8 { values: m.kept_values(row), bits: m.bits(row) }
    }

    #[inline(always)]
    unsafe fn next(&mut self, i: usize) -> I::Chunk {
        // SAFETY: the caller's promise; values move on by as many bytes as the row's mask has bits, at most a full row.
        unsafe { I::sparse_q8(bits_of(self.bits, i), &mut self.values) }
    }

    #[inline(always)]
    fn prefetch(&self, from: usize) {
        I::prefetch(self.bits.wrapping_add(8 * from + AHEAD / 4));
        prefetch_lines::<I>(self.values.wrapping_add(AHEAD), GROUP / 2);
    }
}

struct SparseQ4 {
    low: *const u8,
    high: *const u8,
    bits: *const u8,
    /// The chunk that is in both streams.
    shared: usize,
}

impl<I: Isa> Chunks<I> for SparseQ4 {
    const HALVES: bool = false;

    #[inline(always)]
    fn of_row(m: &Rows, row: usize) -> Self {
        let values = m.kept_values(row);
        // The last chunk of an odd number is in both streams.
        let shared = if m.chunks % 2 == 1 { m.chunks - 1 } else { usize::MAX };
        SparseQ4 { low: values, high: values, bits: m.bits(row), shared }
    }

    #[inline(always)]
    unsafe fn next(&mut self, i: usize) -> I::Chunk {
        // SAFETY: the caller's promise; each stream moves on by as many bytes as its chunks have bits, at most a full
        // row.
        unsafe {
            match i % 2 {
                0 => I::sparse_q4::<false>(bits_of(self.bits, i), &mut self.low),
                _ => I::sparse_q4::<true>(bits_of(self.bits, i), &mut self.high),
            }
        }
    }

    #[inline(always)]
    unsafe fn last(&mut self, i: usize) -> I::Chunk {
        // SAFETY: as above.
        unsafe {
            match i == self.shared {
                true => I::sparse_q4_shared(bits_of(self.bits, i), self.low, self.high),
                false => <Self as Chunks<I>>::next(self, i),
            }
        }
    }

    #[inline(always)]
    fn prefetch(&self, from: usize) {
        I::prefetch(self.bits.wrapping_add(8 * from + AHEAD / 4));
        I::prefetch(self.low.wrapping_add(AHEAD));
    }
}
