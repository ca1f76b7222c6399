//! The products, once for all ISAs, over the few operations in which ISAs differ.
//!
//! A row is a sequence of chunks of 64 columns. An ISA makes a chunk's codes in registers from how an encoding stores
//! them, and multiplies them with a chunk of every vector while they are there; for a large batch it puts them into
//! memory first. Sparse and dense rows with the same codes therefore meet in the same dot product and give the same bits.

use std::ops::Range;

use spm::{BLOCK, CHUNK, Encoding, Matrix, RowScales, ScaleKind};

use super::Kernels;
use super::aligned::Aligned;

/// Columns of an f32 vector are padded to a multiple of this.
pub(crate) const PAD: usize = 16;
/// Blocks whose dot products are scaled together, and lanes of the sum.
pub(super) const LANES: usize = 8;
/// Chunks of that many blocks.
pub(super) const GROUP: usize = LANES * BLOCK / CHUNK;
/// Results for several vectors are written in panels of this many rows: row `r` times vector `t` of a panel of `h`
/// rows is at `t * h + r` of the panel.
pub(crate) const PANEL: usize = 16;
/// Most rows that share the loads of `x` in the f32 product.
const TILE: usize = 8;
/// Readable and writable bytes past a scratch row, so that whole registers may be moved.
pub(super) const OVERRUN: usize = 64;
/// How far ahead weights are prefetched, in bytes: far enough for DRAM, near enough to be there still.
const AHEAD: usize = 2048;

/// What an instruction set brings. Every method may assume that the CPU has it (`unsafe`: the caller's promise).
///
/// Values are read from wherever a mask sends the reader; that a full row and [`OVERRUN`] bytes more may be read
/// is `Matrix::new`'s promise.
pub(super) trait Isa: Sized {
    /// Whether there are registers for the sums of 8 rows times 3 vectors.
    const WIDE: bool = false;
    /// Vectors that are multiplied with a chunk while it is in registers, at most 4.
    const FEW: usize = 4;

    /// Codes of 64 columns, in the form that this ISA multiplies.
    type Chunk: Copy;
    /// Partial sums of the products of a chunk's two blocks.
    type Dots: Copy;
    /// Eight singles.
    type Lanes: Copy;

    /// 64 bytes: codes.
    unsafe fn q8(codes: *const u8) -> Self::Chunk;

    /// 32 bytes: the first block's nibbles low, the second's high, each 8 more than the code.
    unsafe fn q4(nibbles: *const u8) -> Self::Chunk;

    /// As [`Self::q4`], 16 more than the code, `bits` being the fifth bits.
    unsafe fn q5(nibbles: *const u8, bits: u64) -> Self::Chunk;

    /// The next of `values` where the mask has a bit, else 0; moves on by as many bytes as there are bits.
    unsafe fn sparse_q8(mask: u64, values: &mut *const u8) -> Self::Chunk;

    /// The levels of the low (or high) nibbles of the next of `values` where the mask has a bit, else 0; moves on by as
    /// many bytes as there are bits.
    unsafe fn sparse_q4<const HIGH: bool>(mask: u64, values: &mut *const u8) -> Self::Chunk;

    /// The same with the first block from the low nibbles of `low`, the second from the high nibbles of `high`.
    unsafe fn sparse_q4_shared(mask: u64, low: *const u8, high: *const u8) -> Self::Chunk;

    /// 32 bytes: 16 kept codes of each block.
    unsafe fn q8_keep_16_of_32(mask: u64, values: *const u8) -> Self::Chunk;

    /// 16 bytes: 16 kept codes of the first block in the low nibbles, of the second in the high ones.
    unsafe fn q4_keep_16_of_32(mask: u64, values: *const u8) -> Self::Chunk;

    /// 32 bytes: kept codes and their places, see `spm::levels`.
    unsafe fn q8_keep_2_of_4(places: u64, values: *const u8) -> Self::Chunk;

    /// 16 bytes: the same, the first 16 codes in the low nibbles, the others in the high ones.
    unsafe fn q4_keep_2_of_4(places: u64, values: *const u8) -> Self::Chunk;

    /// Writes 64 codes.
    unsafe fn store(chunk: Self::Chunk, codes: *mut i8);

    /// Products of a chunk with 64 codes of a vector.
    unsafe fn multiply(chunk: Self::Chunk, x: *const i8) -> Self::Dots;

    /// Products of 2:4 codes as bytes with 64 codes of some vectors. Where picking the activations is cheaper than
    /// spreading the weights, an ISA does that instead.
    #[inline(always)]
    unsafe fn gather_q8<const N: usize>(places: u64, values: *const u8, x: [*const i8; N]) -> [Self::Dots; N] {
        // SAFETY: the caller's promise.
        unsafe {
            let chunk = Self::q8_keep_2_of_4(places, values);
            x.map(|x| Self::multiply(chunk, x))
        }
    }

    /// The same of nibbles.
    #[inline(always)]
    unsafe fn gather_q4<const N: usize>(places: u64, values: *const u8, x: [*const i8; N]) -> [Self::Dots; N] {
        // SAFETY: the caller's promise.
        unsafe {
            let chunk = Self::q4_keep_2_of_4(places, values);
            x.map(|x| Self::multiply(chunk, x))
        }
    }

    /// Of a chunk that is not there.
    unsafe fn no_dots() -> Self::Dots;

    /// Zeros.
    unsafe fn no_lanes() -> Self::Lanes;

    /// 16 bytes: f16 each.
    unsafe fn half_scales(stored: *const u8) -> Self::Lanes;

    /// 8 bytes: i8 each, times `factor`.
    unsafe fn byte_scales(stored: *const u8, factor: f32) -> Self::Lanes;

    /// `acc + dot * (w_scale * x_scale)` for eight blocks, not fused. `x_sums` are the sums of the vector's blocks, for
    /// ISAs whose chunks are raised by a constant; `gathered` says that the dots are of no chunks.
    unsafe fn add_group(
        acc: Self::Lanes,
        dots: &[Self::Dots; GROUP],
        gathered: bool,
        w_scales: Self::Lanes,
        x_scales: *const f32,
        x_sums: *const i32,
    ) -> Self::Lanes;

    /// As `sum_lanes`.
    unsafe fn sum(lanes: Self::Lanes) -> f32;

    /// A hint that the line at `at` will be read; any address may be given.
    #[inline(always)]
    fn prefetch(_at: *const u8) {}

    /// The same of some lines from `from` on.
    #[inline(always)]
    fn prefetch_lines(from: *const u8, lines: usize) {
        for line in 0..lines {
            Self::prefetch(from.wrapping_add(64 * line));
        }
    }

    /// Dot products of `R` rows of `w` (`stride` apart) with `N` vectors of `x` (`stride` apart), `out[r][t]`.
    ///
    /// # Safety
    /// The CPU has this ISA; `stride` is a multiple of [`PAD`]; `w` has `R * stride` and `x` `N * stride` values.
    unsafe fn dots_f32<const R: usize, const N: usize>(w: &[f32], x: &[f32], stride: usize) -> [[f32; N]; R];

    /// Halves to singles.
    ///
    /// # Safety
    /// The CPU has this ISA; `halves` has two bytes for each of `out`.
    unsafe fn load_f16(halves: &[u8], out: &mut [f32]);

    /// Writes `out[c]` for every column: the next of `halves` where the mask has a bit, else 0.
    ///
    /// # Safety
    /// The CPU has this ISA; `out` holds `8 * mask.len()` elements; `halves` is readable for
    /// `16 * mask.len() + OVERRUN` bytes, whatever the mask says.
    unsafe fn expand_f16(mask: &[u8], halves: *const u8, out: &mut [f32]);
}

/// Vectors in int8, ready for the integer product. Each is padded with zeros to whole groups of 8 blocks,
/// so that kernels may read whole registers.
#[derive(Default)]
pub struct Codes {
    n: usize,
    cols: usize,
    /// Blocks of a padded vector.
    stride: usize,
    codes: Aligned<i8>,
    scales: Vec<f32>,
    /// Sums of the codes of every block, for kernels that multiply unsigned weights.
    sums: Vec<i32>,
    padded: Vec<f32>,
}

/// One vector of [`Codes`].
#[derive(Clone, Copy)]
pub(super) struct Vector<'a> {
    pub(super) codes: &'a [i8],
    pub(super) scales: &'a [f32],
    pub(super) sums: &'a [i32],
}

impl Codes {
    /// Quantizes the vectors `x`, each of `cols` values.
    pub fn from_f32(kernels: &Kernels, x: &[f32], cols: usize) -> Self {
        let mut codes = Codes::default();
        codes.set(kernels, x, cols);
        codes
    }

    /// Replaces the vectors by `x`; allocates only when they take more room than any before.
    pub(crate) fn set(&mut self, kernels: &Kernels, x: &[f32], cols: usize) {
        (self.n, self.cols, self.stride) = (x.len() / cols, cols, cols.div_ceil(BLOCK).next_multiple_of(LANES));
        let blocks = self.n * self.stride;
        self.codes.resize(blocks * BLOCK);
        self.scales.resize(blocks, 0.0);
        self.sums.resize(blocks, 0);
        self.padded.clear();
        self.padded.resize(self.stride * BLOCK, 0.0);
        for (t, x) in x.chunks_exact(cols).enumerate() {
            self.padded[..cols].copy_from_slice(x);
            let blocks = t * self.stride..(t + 1) * self.stride;
            let codes = &mut self.codes[blocks.start * BLOCK..blocks.end * BLOCK];
            kernels.quantize(&self.padded, codes, &mut self.scales[blocks.clone()], &mut self.sums[blocks]);
        }
    }

    pub(super) fn vector(&self, t: usize) -> Vector<'_> {
        let blocks = t * self.stride..(t + 1) * self.stride;
        Vector {
            codes: &self.codes[blocks.start * BLOCK..blocks.end * BLOCK],
            scales: &self.scales[blocks.clone()],
            sums: &self.sums[blocks],
        }
    }

    /// How many vectors.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns of each.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Blocks of a padded vector.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }
}

/// A thread's private memory for expanded rows.
#[derive(Default)]
pub struct Scratch {
    /// Codes of some rows.
    pub(super) codes: Aligned<i8>,
    /// Codes of a packed panel.
    pub(super) packed: Aligned<i8>,
    pub(super) scales: Aligned<f32>,
    tile: Aligned<f32>,
}

impl Scratch {
    /// Room for `rows` rows of `cols` columns; allocates only for more than ever before.
    pub(super) fn fit(&mut self, rows: usize, cols: usize) {
        let blocks = cols.div_ceil(BLOCK).next_multiple_of(LANES);
        self.codes.fit(rows * blocks * BLOCK + OVERRUN);
        self.scales.fit(rows * blocks);
    }

    /// Room for a packed panel of `rows` rows.
    pub(super) fn fit_packed(&mut self, rows: usize, cols: usize) {
        self.packed.fit(rows * cols.div_ceil(BLOCK).next_multiple_of(LANES) * BLOCK);
    }

    /// Room for a tile of singles.
    pub(super) fn fit_tile(&mut self, cols: usize) {
        self.tile.fit(TILE * (cols.next_multiple_of(CHUNK) + OVERRUN));
    }
}

/// Rows times a few vectors: every chunk is multiplied with up to [`Isa::FEW`] of them as it is made.
///
/// # Safety
/// The CPU has ISA `I`. (That `m` may be read past its rows is [`Matrix::new`]'s promise.)
#[inline(always)]
pub(super) unsafe fn rows_few<I: Isa>(m: &Matrix, rows: Range<usize>, x: &Codes, out: &mut [f32]) {
    for (first, panel) in rows.step_by(PANEL).zip(out.chunks_mut(PANEL * x.n)) {
        let height = panel.len() / x.n;
        let mut t = 0;
        while t < x.n {
            let out = &mut panel[t * height..];
            // SAFETY: the caller's promise; vector `t` and as many as are asked for are there.
            unsafe {
                match (x.n - t).min(I::FEW) {
                    1 => few::<I, 1>(m, first, height, x, t, out),
                    2 => few::<I, 2>(m, first, height, x, t, out),
                    3 => few::<I, 3>(m, first, height, x, t, out),
                    _ => few::<I, 4>(m, first, height, x, t, out),
                }
            }
            t += (x.n - t).min(I::FEW).min(4);
        }
    }
}

/// `height` rows times `N` vectors from `t` on, `out[t * height + r]`.
///
/// # Safety
/// As [`rows_few`]; there are that many vectors.
#[inline(always)]
unsafe fn few<I: Isa, const N: usize>(m: &Matrix, first: usize, height: usize, x: &Codes, t: usize, out: &mut [f32]) {
    let vectors: [Vector; N] = std::array::from_fn(|i| x.vector(t + i));
    assert!(out.len() >= N * height && x.cols == m.cols());
    for r in 0..height {
        // SAFETY: the caller's promise.
        let dots = unsafe { read_row::<I, _>(m, first + r, Dot { m, row: first + r, x: &vectors }) };
        dots.into_iter().enumerate().for_each(|(t, dot)| out[t * height + r] = dot);
    }
}

/// Rows times many vectors, for ISAs that do not pack panels: a row's codes are put into memory once.
///
/// # Safety
/// As [`rows_few`].
#[inline(always)]
pub(super) unsafe fn rows_many<I: Isa>(
    m: &Matrix,
    rows: Range<usize>,
    x: &Codes,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    scratch.fit(1, m.cols());
    for (first, panel) in rows.step_by(PANEL).zip(out.chunks_mut(PANEL * x.n)) {
        let height = panel.len() / x.n;
        for r in 0..height {
            // SAFETY: the caller's promise; scratch was fitted to these columns.
            unsafe {
                store_row::<I>(m, first + r, &mut scratch.codes);
                let (codes, out) = (scratch.codes.as_ptr().cast(), &mut panel[r..]);
                if m.encoding().scale_kind() == ScaleKind::Half {
                    stored_times_all::<I, true>(m, first + r, codes, x, out, height);
                } else {
                    stored_times_all::<I, false>(m, first + r, codes, x, out, height);
                }
            }
        }
    }
}

/// A stored row times all vectors, two at a time; `out[t * height]`.
///
/// # Safety
/// The CPU has ISA `I`; `codes` are those of the row.
#[inline(always)]
unsafe fn stored_times_all<I: Isa, const HALVES: bool>(
    m: &Matrix,
    row: usize,
    codes: *const u8,
    x: &Codes,
    out: &mut [f32],
    height: usize,
) {
    for t in (0..x.n).step_by(2) {
        let w = Stored::<HALVES> { codes };
        // SAFETY: the caller's promise.
        unsafe {
            if t + 1 < x.n {
                let [first, second] = dot::<I, _, 2>(m, row, w, &[x.vector(t), x.vector(t + 1)]);
                (out[t * height], out[(t + 1) * height]) = (first, second);
            } else {
                [out[t * height]] = dot::<I, _, 1>(m, row, w, &[x.vector(t)]);
            }
        }
    }
}

/// Writes the int8 codes of a row, whole chunks.
///
/// # Safety
/// The CPU has ISA `I`; `codes` holds whole chunks.
#[inline(always)]
pub(super) unsafe fn store_row<I: Isa>(m: &Matrix, row: usize, codes: &mut [i8]) {
    assert!(codes.len() >= m.chunks() * CHUNK);
    // SAFETY: the caller's promise; chunks are written one after another into what was just asserted to be there.
    unsafe { read_row::<I, _>(m, row, Store { chunks: m.chunks(), to: codes.as_mut_ptr() }) }
}

/// The scales of a row as singles, zeros after them up to whole groups of [`LANES`].
#[inline(always)]
pub(super) fn load_scales(m: &Matrix, row: usize, scales: &mut [f32]) {
    let (known, rest) = scales[..m.blocks().next_multiple_of(LANES)].split_at_mut(m.blocks());
    rest.fill(0.0);
    let stored = m.scales(row);
    known.iter_mut().enumerate().for_each(|(b, scale)| *scale = stored.get(b));
}

/// The chunks of a row, in order.
trait Chunks<I: Isa> {
    /// Whether scales are halves, not bytes.
    const HALVES: bool;
    /// Whether activations are gathered instead of weights spread.
    const GATHERS: bool = false;

    /// Chunk `i`.
    ///
    /// # Safety
    /// The CPU has the ISA; called for every `i` of the row in order.
    unsafe fn next(&mut self, i: usize) -> I::Chunk;

    /// Chunk `i` times `x`.
    ///
    /// # Safety
    /// As [`Self::next`], which it takes the place of; 64 codes at every `x`.
    #[inline(always)]
    unsafe fn multiply<const N: usize>(&mut self, i: usize, x: [*const i8; N]) -> [I::Dots; N] {
        // SAFETY: the caller's promise.
        unsafe {
            let chunk = self.next(i);
            x.map(|x| I::multiply(chunk, x))
        }
    }

    /// Asks for what the group after the next will need, before group `from` (its first chunk).
    fn prefetch(&self, from: usize);
}

/// What is done with the chunks of a row.
trait Reader<I: Isa> {
    type Out;

    /// # Safety
    /// The CPU has the ISA; `chunks` are those of the row that the reader was made for.
    unsafe fn read<C: Chunks<I>>(self, chunks: C) -> Self::Out;
}

/// Hands the chunks of a row to `reader`: the one place that knows which encoding is read how.
///
/// # Safety
/// As [`rows_few`].
#[inline(always)]
unsafe fn read_row<I: Isa, R: Reader<I>>(m: &Matrix, row: usize, reader: R) -> R::Out {
    // A full row and more may be read from here on, whatever a mask says.
    let readable = spm::matrix::slack(m.encoding(), m.cols()).unwrap_or(0);
    let values = m.row_values(row)[..readable].as_ptr();
    let bits: *const u8 = if m.encoding().has_bits() { m.bits(row).as_ptr() } else { std::ptr::null() };
    // SAFETY: the caller's promise; `values` as above, and eight bytes of bits a chunk where there are any.
    unsafe {
        match m.encoding() {
            Encoding::Q8 => reader.read(Q8 { values }),
            Encoding::Q4 => reader.read(Q4 { values }),
            Encoding::Q5 => reader.read(Q5 { values, bits }),
            Encoding::SparseQ8 => reader.read(SparseQ8 { values, bits }),
            Encoding::SparseQ4 => {
                let chunks = m.chunks();
                // The last chunk of an odd number is in both streams.
                let shared = if chunks % 2 == 1 { chunks - 1 } else { usize::MAX };
                reader.read(SparseQ4 { low: values, high: values, bits, shared })
            }
            Encoding::Q8Keep16Of32 => reader.read(Q8Keep16Of32 { values, bits }),
            Encoding::Q4Keep16Of32 => reader.read(Q4Keep16Of32 { values, bits }),
            Encoding::Q8Keep2Of4 => reader.read(Q8Keep2Of4 { values, bits }),
            Encoding::Q4Keep2Of4 => reader.read(Q4Keep2Of4 { values, bits }),
            Encoding::F32 | Encoding::F16 | Encoding::SparseF16 => unreachable!("checked by Kernels::rows_i8"),
        }
    }
}

/// Puts codes into memory.
struct Store {
    chunks: usize,
    to: *mut i8,
}

impl<I: Isa> Reader<I> for Store {
    type Out = ();

    #[inline(always)]
    unsafe fn read<C: Chunks<I>>(self, mut chunks: C) {
        for i in 0..self.chunks {
            if i % GROUP == 0 {
                chunks.prefetch(i);
            }
            // SAFETY: the caller's promise; `to` has room for whole chunks.
            unsafe { I::store(chunks.next(i), self.to.add(i * CHUNK)) };
        }
    }
}

/// Multiplies with `N` vectors.
struct Dot<'a, const N: usize> {
    m: &'a Matrix,
    row: usize,
    x: &'a [Vector<'a>; N],
}

impl<I: Isa, const N: usize> Reader<I> for Dot<'_, N> {
    type Out = [f32; N];

    #[inline(always)]
    unsafe fn read<C: Chunks<I>>(self, chunks: C) -> [f32; N] {
        // SAFETY: the caller's promise.
        unsafe { dot::<I, C, N>(self.m, self.row, chunks, self.x) }
    }
}

/// The scaled dot products of a row, given as its chunks, with `N` vectors; see the module's arithmetic.
///
/// # Safety
/// The CPU has ISA `I`; the chunks are the row's.
#[inline(always)]
unsafe fn dot<I: Isa, C: Chunks<I>, const N: usize>(m: &Matrix, row: usize, mut w: C, x: &[Vector; N]) -> [f32; N] {
    let (blocks, scales) = (m.blocks(), m.scales(row));
    let padded = blocks.next_multiple_of(LANES);
    assert!(x.iter().all(|x| x.scales.len() == padded && x.sums.len() == padded && x.codes.len() == padded * BLOCK));
    // SAFETY: the caller's promise; `x` is whole groups, asserted above.
    unsafe {
        let mut acc = [I::no_lanes(); N];
        let whole = blocks / LANES;
        for g in 0..whole {
            w.prefetch(g * GROUP);
            let w_scales = scales_of_group::<I>(scales, g * LANES, C::HALVES);
            add_chunks::<I, C, N>(&mut acc, &mut w, g * GROUP, GROUP, w_scales, x);
        }
        if whole < padded / LANES {
            let w_scales = scales_of_last_group::<I>(scales, whole * LANES, blocks, C::HALVES);
            add_chunks::<I, C, N>(&mut acc, &mut w, whole * GROUP, m.chunks() - whole * GROUP, w_scales, x);
        }
        acc.map(|acc| I::sum(acc))
    }
}

/// Adds the products of the `n` chunks from `first` on.
///
/// # Safety
/// As [`dot`].
#[inline(always)]
unsafe fn add_chunks<I: Isa, C: Chunks<I>, const N: usize>(
    acc: &mut [I::Lanes; N],
    w: &mut C,
    first: usize,
    n: usize,
    w_scales: I::Lanes,
    x: &[Vector; N],
) {
    // SAFETY: the caller's promise; a group of `x` is GROUP chunks of codes and LANES scales and sums.
    unsafe {
        let mut dots = [[I::no_dots(); GROUP]; N];
        for c in 0..GROUP {
            if c < n {
                let i = first + c;
                let at: [*const i8; N] = std::array::from_fn(|t| x[t].codes.as_ptr().add(i * CHUNK));
                let products: [I::Dots; N] = w.multiply(i, at);
                dots.iter_mut().zip(products).for_each(|(dots, products)| dots[c] = products);
            }
        }
        for ((acc, dots), x) in acc.iter_mut().zip(&dots).zip(x) {
            let block = first * (CHUNK / BLOCK);
            let (x_scales, x_sums) = (x.scales.as_ptr().add(block), x.sums.as_ptr().add(block));
            *acc = I::add_group(*acc, dots, C::GATHERS, w_scales, x_scales, x_sums);
        }
    }
}

/// The scales of a row from block `first`, the first of a group, on; zeros after the last.
///
/// # Safety
/// The CPU has ISA `I`.
#[inline(always)]
pub(super) unsafe fn scales_from<I: Isa>(m: &Matrix, row: usize, first: usize) -> I::Lanes {
    let (scales, halves) = (m.scales(row), m.encoding().scale_kind() == ScaleKind::Half);
    // SAFETY: the caller's promise; there are as many as are asked for.
    unsafe {
        match m.blocks() - first {
            LANES.. => scales_of_group::<I>(scales, first, halves),
            _ => scales_of_last_group::<I>(scales, first, m.blocks(), halves),
        }
    }
}

/// Eight scales from `first` on.
///
/// # Safety
/// The CPU has ISA `I`; there are that many.
#[inline(always)]
unsafe fn scales_of_group<I: Isa>(scales: RowScales, first: usize, halves: bool) -> I::Lanes {
    // SAFETY: the caller's promise.
    unsafe {
        match scales {
            RowScales::Half(stored) if halves => I::half_scales(stored.as_ptr().add(2 * first)),
            RowScales::Row { factor, codes } if !halves => I::byte_scales(codes.as_ptr().add(first), factor),
            _ => I::no_lanes(),
        }
    }
}

/// The scales from `first` on, zeros after them.
///
/// # Safety
/// The CPU has ISA `I`; there are `blocks`, at most eight of them from `first` on.
#[inline(always)]
unsafe fn scales_of_last_group<I: Isa>(scales: RowScales, first: usize, blocks: usize, halves: bool) -> I::Lanes {
    let mut copy = [0; 2 * LANES];
    // SAFETY: the caller's promise.
    unsafe {
        match scales {
            RowScales::Half(stored) if halves => {
                let n = 2 * (blocks - first);
                copy[..n].copy_from_slice(&stored[2 * first..][..n]);
                I::half_scales(copy.as_ptr())
            }
            RowScales::Row { factor, codes } if !halves => {
                copy[..blocks - first].copy_from_slice(&codes[first..blocks]);
                I::byte_scales(copy.as_ptr(), factor)
            }
            _ => I::no_lanes(),
        }
    }
}

/// Eight bytes of bits.
///
/// # Safety
/// They are there.
#[inline(always)]
unsafe fn bits_of(bits: *const u8, chunk: usize) -> u64 {
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
            unsafe fn next(&mut self, i: usize) -> I::Chunk {
                // SAFETY: the caller's promise; chunk `i` is there.
                unsafe { $next(bits_of(self.bits, i), self.values.add($step * i)) }
            }

            $(
            const GATHERS: bool = true;

            #[inline(always)]
            unsafe fn multiply<const N: usize>(&mut self, i: usize, x: [*const i8; N]) -> [I::Dots; N] {
                // SAFETY: the caller's promise; chunk `i` is there.
                unsafe { I::$gather(bits_of(self.bits, i), self.values.add($step * i), x) }
            })?

            #[inline(always)]
            fn prefetch(&self, from: usize) {
                I::prefetch(self.bits.wrapping_add(8 * from + AHEAD / 4));
                prefetch_lines::<I>(self.values.wrapping_add($step * from + AHEAD), GROUP * $step / 64);
            }
        }
    };
}

fixed_chunks!(Q5, 32, true, |bits, values| I::q5(values, bits));
fixed_chunks!(Q8Keep16Of32, 32, false, I::q8_keep_16_of_32);
fixed_chunks!(Q4Keep16Of32, 16, false, I::q4_keep_16_of_32);
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
    unsafe fn next(&mut self, i: usize) -> I::Chunk {
        // SAFETY: the caller's promise; chunk `i` is there.
        unsafe { I::q4(self.values.add(CHUNK / 2 * i)) }
    }

    #[inline(always)]
    fn prefetch(&self, from: usize) {
        prefetch_lines::<I>(self.values.wrapping_add(CHUNK / 2 * from + AHEAD), GROUP / 2);
    }
}

/// The chunks of a row that [`Store`] wrote, its scales being halves or bytes as they were.
struct Stored<const HALVES: bool> {
    codes: *const u8,
}

impl<I: Isa, const HALVES: bool> Chunks<I> for Stored<HALVES> {
    const HALVES: bool = HALVES;

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
    unsafe fn next(&mut self, i: usize) -> I::Chunk {
        // SAFETY: the caller's promise; each stream moves on by as many bytes as its chunks have bits, at most a full
        // row.
        unsafe {
            let bits = bits_of(self.bits, i);
            match i % 2 {
                _ if i == self.shared => I::sparse_q4_shared(bits, self.low, self.high),
                0 => I::sparse_q4::<false>(bits, &mut self.low),
                _ => I::sparse_q4::<true>(bits, &mut self.high),
            }
        }
    }

    #[inline(always)]
    fn prefetch(&self, from: usize) {
        I::prefetch(self.bits.wrapping_add(8 * from + AHEAD / 4));
        I::prefetch(self.low.wrapping_add(AHEAD));
    }
}

/// # Safety
/// The CPU has ISA `I`.
#[inline(always)]
pub(super) unsafe fn rows_f32<I: Isa>(
    m: &Matrix,
    rows: Range<usize>,
    x: &[f32],
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    scratch.fit(1, m.cols());
    scratch.fit_tile(m.cols());
    let stride = m.cols().next_multiple_of(PAD);
    let n = x.len() / stride;
    for (first, panel) in rows.step_by(PANEL).zip(out.chunks_mut(PANEL * n)) {
        let height = panel.len() / n;
        let mut r = 0;
        while r < height {
            let tile = match height - r {
                left if left >= 8 && I::WIDE => 8,
                left => left.min(4),
            };
            // SAFETY: the ISA is the caller's promise; the scratch was fitted.
            unsafe {
                expand_tile::<I>(m, first + r, tile, stride, scratch);
                match tile {
                    8 => tile_f32::<I, 8>(&scratch.tile, x, stride, &mut panel[r..], height),
                    4 => tile_f32::<I, 4>(&scratch.tile, x, stride, &mut panel[r..], height),
                    3 => tile_f32::<I, 3>(&scratch.tile, x, stride, &mut panel[r..], height),
                    2 => tile_f32::<I, 2>(&scratch.tile, x, stride, &mut panel[r..], height),
                    _ => tile_f32::<I, 1>(&scratch.tile, x, stride, &mut panel[r..], height),
                }
            }
            r += tile;
        }
    }
}

/// # Safety
/// The CPU has ISA `I`; `scratch` was fitted to the matrix' columns.
#[inline(always)]
unsafe fn expand_tile<I: Isa>(m: &Matrix, first: usize, height: usize, stride: usize, scratch: &mut Scratch) {
    let Scratch { codes, scales, tile, .. } = scratch;
    for r in 0..height {
        // Expansions write whole blocks, into the next row's place before it is written, or past the last.
        let out = &mut tile[r * stride..];
        // SAFETY: the ISA is the caller's promise; the scratch was fitted to these columns.
        unsafe {
            if m.encoding().is_integer() {
                load_scales(m, first + r, scales);
                store_row::<I>(m, first + r, codes);
                scale_codes(&codes[..m.blocks() * BLOCK], scales, out);
            } else {
                expand_f32::<I>(m, first + r, out);
            }
        }
        out[m.cols()..stride].fill(0.0);
    }
}

#[inline(always)]
fn scale_codes(codes: &[i8], scales: &[f32], out: &mut [f32]) {
    for ((codes, scale), out) in codes.chunks_exact(BLOCK).zip(scales).zip(out.chunks_exact_mut(BLOCK)) {
        out.iter_mut().zip(codes).for_each(|(o, &c)| *o = f32::from(c) * scale);
    }
}

/// `out[t * height + r]` is row `r` of the tile times vector `t`.
///
/// # Safety
/// As [`rows_f32`]; `tile` has `R` rows.
#[inline(always)]
unsafe fn tile_f32<I: Isa, const R: usize>(tile: &[f32], x: &[f32], stride: usize, out: &mut [f32], height: usize) {
    let n = x.len() / stride;
    let mut t = 0;
    while t < n {
        let (x, out) = (&x[t * stride..], &mut out[t * height..]);
        // SAFETY: x has at least as many vectors from `t` on as are asked for.
        unsafe {
            t += match n - t {
                1 => put(I::dots_f32::<R, 1>(tile, x, stride), out, height),
                2 => put(I::dots_f32::<R, 2>(tile, x, stride), out, height),
                _ => put(I::dots_f32::<R, 3>(tile, x, stride), out, height),
            };
        }
    }
}

#[inline(always)]
fn put<const R: usize, const N: usize>(dots: [[f32; N]; R], out: &mut [f32], height: usize) -> usize {
    for (r, dots) in dots.iter().enumerate() {
        for (t, dot) in dots.iter().enumerate() {
            out[t * height + r] = *dot;
        }
    }
    N
}

/// Writes at least `m.cols()` and at most whole blocks of values.
///
/// # Safety
/// The CPU has ISA `I`; `out` holds whole blocks.
#[inline(always)]
unsafe fn expand_f32<I: Isa>(m: &Matrix, row: usize, out: &mut [f32]) {
    let values = m.row_values(row);
    match m.encoding() {
        // SAFETY: a dense half row has two bytes a column.
        Encoding::F16 => unsafe { I::load_f16(values, &mut out[..m.cols()]) },
        // SAFETY: a full row and more follow every tensor, whatever the mask says: see `spm::matrix::slack`.
        Encoding::SparseF16 => unsafe {
            let values = &values[..m.chunks() * CHUNK * 2 + OVERRUN];
            I::expand_f16(m.bits(row), values.as_ptr(), out);
        },
        _ => m.read_row(row, &mut out[..m.cols()]),
    }
}
