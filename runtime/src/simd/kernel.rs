//! The integer products, once for all ISAs, over the few operations in which ISAs differ.
//!
//! A row is a sequence of chunks of 64 columns. An ISA makes a chunk's codes in registers from how an encoding stores
//! them, and multiplies them with a chunk of every vector while they are there; for a large batch it puts them into
//! memory first. Sparse and dense rows with the same codes therefore meet in the same dot product and give the same bits.

use std::ops::Range;

use spm::{BLOCK, CHUNK, Matrix};

use super::Kernels;
use super::aligned::Aligned;
use super::chunks::{Chunks, Reader, Rows, Stored, read};

/// Columns of an f32 vector are padded to a multiple of this.
pub(crate) const PAD: usize = 16;
/// Blocks whose dot products are scaled together, and lanes of the sum.
pub(super) const LANES: usize = 8;
/// Chunks of that many blocks.
pub(super) const GROUP: usize = LANES * BLOCK / CHUNK;
/// Results for several vectors are written in panels of this many rows: row `r` times vector `t` of a panel of `h`
/// rows is at `t * h + r` of the panel.
pub(crate) const PANEL: usize = 16;
/// Readable and writable bytes past a scratch row, so that whole registers may be moved.
pub(super) const OVERRUN: usize = 64;

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
    unsafe fn q5(bits: u64, nibbles: *const u8) -> Self::Chunk;

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
        unsafe { multiply_each::<Self, N>(Self::q8_keep_2_of_4(places, values), x) }
    }

    /// The same of nibbles.
    #[inline(always)]
    unsafe fn gather_q4<const N: usize>(places: u64, values: *const u8, x: [*const i8; N]) -> [Self::Dots; N] {
        // SAFETY: the caller's promise.
        unsafe { multiply_each::<Self, N>(Self::q4_keep_2_of_4(places, values), x) }
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

/// A chunk times some vectors. A loop, because a closure would be compiled without the ISA's features.
///
/// # Safety
/// The CPU has ISA `I`; 64 codes at every `x`.
#[inline(always)]
pub(super) unsafe fn multiply_each<I: Isa, const N: usize>(chunk: I::Chunk, x: [*const i8; N]) -> [I::Dots; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut dots = [I::no_dots(); N];
        for t in 0..N {
            dots[t] = I::multiply(chunk, x[t]);
        }
        dots
    }
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
    pub(super) tile: Aligned<f32>,
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
}

/// Rows times a few vectors: every chunk is multiplied with up to [`Isa::FEW`] of them as it is made.
///
/// # Safety
/// The CPU has ISA `I`. (That `m` may be read past its rows is [`Matrix::new`]'s promise.)
#[inline(always)]
pub(super) unsafe fn rows_few<I: Isa>(m: &Matrix, rows: Range<usize>, x: &Codes, out: &mut [f32]) {
    let mut first = 0;
    while first < x.n {
        let vectors = (x.n - first).min(I::FEW);
        // SAFETY: the caller's promise.
        first += unsafe {
            match vectors {
                1 => read::<I, _>(m, Few::<1> { rows: rows.clone(), x, first, out }),
                2 | 3 => read::<I, _>(m, Few::<2> { rows: rows.clone(), x, first, out }),
                _ => read::<I, _>(m, Few::<4> { rows: rows.clone(), x, first, out }),
            }
        };
    }
}

/// Rows times `N` vectors from `first` on; says how many that were.
struct Few<'a, const N: usize> {
    rows: Range<usize>,
    x: &'a Codes,
    first: usize,
    out: &'a mut [f32],
}

impl<I: Isa, const N: usize> Reader<I> for Few<'_, N> {
    type Out = usize;

    #[inline(always)]
    unsafe fn read<C: Chunks<I>>(self, m: &Rows) -> usize {
        let vectors: [Vector; N] = std::array::from_fn(|t| self.x.vector(self.first + t));
        for (start, panel) in self.rows.clone().step_by(PANEL).zip(self.out.chunks_mut(PANEL * self.x.n)) {
            let height = panel.len() / self.x.n;
            let out = &mut panel[self.first * height..][..N * height];
            for r in 0..height {
                // SAFETY: the caller's promise.
                let dots = unsafe { dot::<I, C, N>(m, start + r, C::of_row(m, start + r), &vectors) };
                for t in 0..N {
                    out[t * height + r] = dots[t];
                }
            }
        }
        N
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
    // SAFETY: the caller's promise; scratch was fitted to these columns.
    unsafe { read::<I, _>(m, Many { rows, x, codes: &mut scratch.codes, out }) }
}

/// Rows times all vectors, two at a time.
struct Many<'a> {
    rows: Range<usize>,
    x: &'a Codes,
    codes: &'a mut [i8],
    out: &'a mut [f32],
}

impl<I: Isa> Reader<I> for Many<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn read<C: Chunks<I>>(self, m: &Rows) {
        let (x, n) = (self.x, self.x.n);
        for (start, panel) in self.rows.clone().step_by(PANEL).zip(self.out.chunks_mut(PANEL * n)) {
            let height = panel.len() / n;
            for r in 0..height {
                let row = start + r;
                // SAFETY: the caller's promise; the codes of whole chunks fit, which `store` asserts.
                unsafe {
                    store::<I, C>(m, row, self.codes);
                    let stored = || Stored::<I, C>::new(self.codes);
                    for t in (0..n).step_by(2) {
                        if t + 1 < n {
                            let dots = dot::<I, _, 2>(m, row, stored(), &[x.vector(t), x.vector(t + 1)]);
                            (panel[t * height + r], panel[(t + 1) * height + r]) = (dots[0], dots[1]);
                        } else {
                            panel[t * height + r] = dot::<I, _, 1>(m, row, stored(), &[x.vector(t)])[0];
                        }
                    }
                }
            }
        }
    }
}

/// Writes the int8 codes of rows, each whole chunks, `stride` apart.
///
/// # Safety
/// The CPU has ISA `I`.
#[inline(always)]
pub(super) unsafe fn store_rows<I: Isa>(m: &Matrix, rows: Range<usize>, stride: usize, codes: &mut [i8]) {
    // SAFETY: the caller's promise.
    unsafe { read::<I, _>(m, Store { rows, stride, codes }) }
}

struct Store<'a> {
    rows: Range<usize>,
    stride: usize,
    codes: &'a mut [i8],
}

impl<I: Isa> Reader<I> for Store<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn read<C: Chunks<I>>(self, m: &Rows) {
        for (i, row) in self.rows.enumerate() {
            // SAFETY: the caller's promise.
            unsafe { store::<I, C>(m, row, &mut self.codes[i * self.stride..]) };
        }
    }
}

/// Writes the int8 codes of a row, whole chunks.
///
/// # Safety
/// The CPU has ISA `I`.
#[inline(always)]
unsafe fn store<I: Isa, C: Chunks<I>>(m: &Rows, row: usize, codes: &mut [i8]) {
    assert!(codes.len() >= m.chunks * CHUNK);
    // SAFETY: the caller's promise; chunks are written one after another into what was just asserted to be there.
    unsafe {
        let mut chunks = C::of_row(m, row);
        for i in 0..m.chunks {
            if i % GROUP == 0 {
                chunks.prefetch(i);
            }
            I::store(chunks.last(i), codes.as_mut_ptr().add(i * CHUNK));
        }
    }
}

/// The scaled dot products of a row, given as its chunks, with `N` vectors; see the module's arithmetic.
///
/// # Safety
/// The CPU has ISA `I`; the chunks are the row's.
#[inline(always)]
unsafe fn dot<I: Isa, C: Chunks<I>, const N: usize>(m: &Rows, row: usize, mut w: C, x: &[Vector; N]) -> [f32; N] {
    let padded = m.blocks.next_multiple_of(LANES);
    assert!(x.iter().all(|x| x.scales.len() == padded && x.sums.len() == padded && x.codes.len() == padded * BLOCK));
    // SAFETY: the caller's promise; `x` is whole groups, asserted above.
    unsafe {
        let mut acc = [I::no_lanes(); N];
        let scales = m.scales::<I>(row, C::HALVES);
        let whole = m.blocks / LANES;
        for g in 0..whole {
            w.prefetch(g * GROUP);
            let mut dots = [[I::no_dots(); GROUP]; N];
            for c in 0..GROUP {
                let i = g * GROUP + c;
                put::<I, N>(&mut dots, c, w.multiply(i, codes_at(x, i)));
            }
            add::<I, N>(&mut acc, &dots, C::GATHERS, scales.group(g * LANES), x, g * LANES);
        }
        if whole < padded / LANES {
            let mut dots = [[I::no_dots(); GROUP]; N];
            for c in 0..m.chunks - whole * GROUP {
                let i = whole * GROUP + c;
                put::<I, N>(&mut dots, c, w.multiply_last(i, codes_at(x, i)));
            }
            add::<I, N>(&mut acc, &dots, C::GATHERS, scales.last_group(whole * LANES, m.blocks), x, whole * LANES);
        }
        let mut sums = [0.0; N];
        for t in 0..N {
            sums[t] = I::sum(acc[t]);
        }
        sums
    }
}

/// Where the codes of chunk `i` of every vector are.
///
/// # Safety
/// They are there.
#[inline(always)]
unsafe fn codes_at<const N: usize>(x: &[Vector; N], i: usize) -> [*const i8; N] {
    let mut at = [std::ptr::null(); N];
    for t in 0..N {
        // SAFETY: the caller's promise.
        at[t] = unsafe { x[t].codes.as_ptr().add(i * CHUNK) };
    }
    at
}

#[inline(always)]
fn put<I: Isa, const N: usize>(dots: &mut [[I::Dots; GROUP]; N], c: usize, products: [I::Dots; N]) {
    for t in 0..N {
        dots[t][c] = products[t];
    }
}

/// Adds the products of a group, whose first block is `block`.
///
/// # Safety
/// The CPU has ISA `I`; `x` has such a group.
#[inline(always)]
unsafe fn add<I: Isa, const N: usize>(
    acc: &mut [I::Lanes; N],
    dots: &[[I::Dots; GROUP]; N],
    gathered: bool,
    w_scales: I::Lanes,
    x: &[Vector; N],
    block: usize,
) {
    for t in 0..N {
        // SAFETY: the caller's promise.
        unsafe {
            let (x_scales, x_sums) = (x[t].scales.as_ptr().add(block), x[t].sums.as_ptr().add(block));
            acc[t] = I::add_group(acc[t], &dots[t], gathered, w_scales, x_scales, x_sums);
        }
    }
}
