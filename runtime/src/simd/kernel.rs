//! The integer products, once for all ISAs, over the few operations in which ISAs differ.
//!
//! A row is a sequence of chunks of 64 columns, four of them a group; in whole groups each lane of a register belongs to
//! a block (`spm::order`). An ISA makes a chunk's codes in registers from how an encoding stores
//! them, and multiplies them with a chunk of every vector while they are there; for a large batch it puts them into
//! memory first. Sparse and dense rows with the same codes therefore meet in the same dot product and give the same bits.

use std::ops::Range;

use spm::{BLOCK, CHUNK, Matrix};

use super::aligned::Aligned;
use super::chunks::{Chunks, Reader, Rows, Stored, read};
use super::codes::{Codes, Vector};

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

    /// Codes of 64 columns, in the form that this ISA multiplies: as they are or, where weights must be unsigned, raised
    /// by 128. What that adds to a block's sum is taken back by the vector's `lifts`.
    type Chunk: Copy;
    /// Sums of the eight blocks of a group, each in a lane or some: see `spm::order`.
    type Acc: Copy;
    /// Partial sums of the products of the two blocks of a chunk in the last group.
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

    /// 32 bytes: kept codes and their places, see `spm::levels`.
    unsafe fn q8_keep_2_of_4(places: u64, values: *const u8) -> Self::Chunk;

    /// 16 bytes: the same, the first 16 codes in the low nibbles, the others in the high ones.
    unsafe fn q4_keep_2_of_4(places: u64, values: *const u8) -> Self::Chunk;

    /// Writes 64 codes.
    unsafe fn store(chunk: Self::Chunk, codes: *mut i8);

    /// Of a whole group: what its sums begin with, `lifts` being the vector's, eight of them. Nothing where the group's
    /// activations are gathered.
    unsafe fn start(lifts: *const i32, gathers: bool) -> Self::Acc;

    /// Adds the products of a chunk of a whole group with 64 codes of a vector.
    unsafe fn multiply_add(acc: Self::Acc, chunk: Self::Chunk, x: *const i8) -> Self::Acc;

    /// Adds the products of two 2:4 chunks, 8 bytes of places each and codes as bytes, with 128 codes of some vectors. The
    /// activations at those places are picked, which is cheaper than to spread the weights.
    unsafe fn gather_q8<const N: usize>(
        acc: [Self::Acc; N],
        places: *const u8,
        values: *const u8,
        x: [*const i8; N],
    ) -> [Self::Acc; N];

    /// The same of nibbles.
    unsafe fn gather_q4<const N: usize>(
        acc: [Self::Acc; N],
        places: *const u8,
        values: *const u8,
        x: [*const i8; N],
    ) -> [Self::Acc; N];

    /// Products of a chunk of the last group, which is not whole, with 64 codes of a vector.
    unsafe fn multiply(chunk: Self::Chunk, x: *const i8) -> Self::Dots;

    /// Of a chunk that is not there.
    unsafe fn no_dots() -> Self::Dots;

    /// Zeros.
    unsafe fn no_lanes() -> Self::Lanes;

    /// 16 bytes: f16 each, of which those from the `n`th on count as zeros.
    unsafe fn half_scales(stored: *const u8, n: usize) -> Self::Lanes;

    /// 8 bytes: i8 each, times `factor`.
    unsafe fn byte_scales(stored: *const u8, factor: f32) -> Self::Lanes;

    /// `lanes + sum * (w_scale * x_scale)` for the eight blocks of a whole group, not fused.
    unsafe fn add_group(lanes: Self::Lanes, acc: Self::Acc, w_scales: Self::Lanes, x_scales: *const f32)
    -> Self::Lanes;

    /// The same for the chunks of the last group; `lifts` as in [`Self::start`].
    unsafe fn add_last_group(
        lanes: Self::Lanes,
        dots: &[Self::Dots; GROUP],
        w_scales: Self::Lanes,
        x_scales: *const f32,
        lifts: *const i32,
    ) -> Self::Lanes;

    /// Writes eight singles.
    unsafe fn store_lanes(lanes: Self::Lanes, out: &mut [f32; LANES]);

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
}

/// Rows times a few vectors: every chunk is multiplied with up to [`Isa::FEW`] of them as it is made.
///
/// # Safety
/// The CPU has ISA `I`. (That `m` may be read past its rows is [`Matrix::new`]'s promise.)
#[inline(always)]
pub(super) unsafe fn rows_few<I: Isa>(m: &Matrix, rows: Range<usize>, x: &Codes, out: &mut [f32]) {
    let mut first = 0;
    while first < x.n() {
        let vectors = (x.n() - first).min(I::FEW);
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
        for (start, panel) in self.rows.clone().step_by(PANEL).zip(self.out.chunks_mut(PANEL * self.x.n())) {
            let height = panel.len() / self.x.n();
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
        let (x, n) = (self.x, self.x.n());
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

/// Writes the scales of rows as singles, each whole groups, `stride` apart; what follows a row's last block is of no
/// matter.
///
/// # Safety
/// The CPU has ISA `I`.
#[inline(always)]
pub(super) unsafe fn store_scales<I: Isa>(m: &Matrix, rows: Range<usize>, stride: usize, scales: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { read::<I, _>(m, StoreScales { rows, stride, scales }) }
}

struct StoreScales<'a> {
    rows: Range<usize>,
    stride: usize,
    scales: &'a mut [f32],
}

impl<I: Isa> Reader<I> for StoreScales<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn read<C: Chunks<I>>(self, m: &Rows) {
        for (i, row) in self.rows.enumerate() {
            let out = &mut self.scales[i * self.stride..][..m.blocks.next_multiple_of(LANES)];
            let stored = m.scales::<I>(row, C::HALVES);
            for (g, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let first = g * LANES;
                // SAFETY: the caller's promise; the row has such a group.
                unsafe {
                    match m.blocks - first {
                        LANES.. => I::store_lanes(stored.group(first), out),
                        _ => I::store_lanes(stored.last_group(first, m.blocks), out),
                    }
                }
            }
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
    assert!(x.iter().all(|x| x.scales.len() == padded && x.lifts.len() == padded && x.codes.len() == padded * BLOCK));
    // SAFETY: the caller's promise; `x` is whole groups, asserted above.
    unsafe {
        let mut lanes = [I::no_lanes(); N];
        let scales = m.scales::<I>(row, C::HALVES);
        let whole = m.blocks / LANES;
        for g in 0..whole {
            w.prefetch(g * GROUP);
            let block = g * LANES;
            let mut acc = starts::<I, N>(x, block, C::GATHERS);
            acc = w.multiply_add(g * GROUP, acc, codes_at(x, g * GROUP));
            let w_scales = scales.group(block);
            for t in 0..N {
                lanes[t] = I::add_group(lanes[t], acc[t], w_scales, x[t].scales.as_ptr().add(block));
            }
        }
        if whole < padded / LANES {
            let block = whole * LANES;
            let mut dots = [[I::no_dots(); GROUP]; N];
            // Unrolled, so that the products stay in registers.
            for c in 0..GROUP {
                let i = whole * GROUP + c;
                if i < m.chunks {
                    let (chunk, x) = (w.last(i), codes_at(x, i));
                    for t in 0..N {
                        dots[t][c] = I::multiply(chunk, x[t]);
                    }
                }
            }
            let w_scales = scales.last_group(block, m.blocks);
            for t in 0..N {
                let (x_scales, lifts) = (x[t].scales.as_ptr().add(block), x[t].lifts.as_ptr().add(block));
                lanes[t] = I::add_last_group(lanes[t], &dots[t], w_scales, x_scales, lifts);
            }
        }
        let mut sums = [0.0; N];
        for t in 0..N {
            sums[t] = I::sum(lanes[t]);
        }
        sums
    }
}

/// What the sums of the group of `block` begin with.
///
/// # Safety
/// The CPU has ISA `I`; `x` has such a group.
#[inline(always)]
unsafe fn starts<I: Isa, const N: usize>(x: &[Vector; N], block: usize, gathers: bool) -> [I::Acc; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [I::start(x[0].lifts.as_ptr().add(block), gathers); N];
        for t in 1..N {
            acc[t] = I::start(x[t].lifts.as_ptr().add(block), gathers);
        }
        acc
    }
}

/// `by` codes further on in every vector.
///
/// # Safety
/// They are there.
#[inline(always)]
pub(super) unsafe fn ahead<const N: usize>(mut x: [*const i8; N], by: usize) -> [*const i8; N] {
    for x in &mut x {
        // SAFETY: the caller's promise.
        *x = unsafe { x.add(by) };
    }
    x
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
