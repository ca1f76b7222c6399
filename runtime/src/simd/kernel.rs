//! The products, once for all ISAs, over the few operations in which ISAs differ.
//!
//! A row is first expanded into an L1 scratch (int8 codes or f32 values) and then multiplied with each
//! vector of the batch. Sparse and dense rows with the same values therefore meet in the same dot product
//! and give the same bits.

use std::ops::Range;

use spm::{BLOCK, Encoding, Matrix};

use super::Kernels;

/// Columns of an f32 vector are padded to a multiple of this.
pub(crate) const PAD: usize = 8;
/// Blocks whose dot products are scaled together, and lanes of the sum.
pub(super) const LANES: usize = 8;
/// Rows that share the loads of `x` in the f32 product.
const TILE: usize = 4;
/// Readable and writable bytes past a scratch row, so that whole registers may be moved.
const OVERRUN: usize = 64;

/// What an instruction set brings. Every method may assume that the CPU has it.
pub(super) trait Isa {
    /// Writes `codes[c]` for every column: the next of `values` where the mask has a bit, else 0.
    ///
    /// # Safety
    /// The CPU has this ISA; `codes` holds `8 * mask.len() + OVERRUN` elements; `values` is readable for
    /// `8 * mask.len() + OVERRUN` bytes, whatever the mask says.
    unsafe fn expand_i8(mask: &[u8], values: *const i8, codes: &mut [i8]);

    /// Unpacks nibbles, low half first, through a table of 16 levels: `codes[i] = levels[nibble i]`.
    ///
    /// # Safety
    /// The CPU has this ISA; `codes` holds `2 * nibbles.len() + OVERRUN` elements.
    unsafe fn unpack_nibbles(nibbles: &[u8], levels: &[i8; 16], codes: &mut [i8]);

    /// The scaled dot product of int8 blocks; see the module's arithmetic.
    ///
    /// # Safety
    /// The CPU has this ISA; `w` and `x` have the same whole number of blocks of 32; both scale slices
    /// have that number rounded up to [`LANES`], the excess being zeros.
    unsafe fn dot_i8(w: &[i8], w_scales: &[f32], x: &[i8], x_scales: &[f32]) -> f32;

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
}

/// Vectors in int8, ready for the integer product.
#[derive(Default)]
pub struct Codes {
    n: usize,
    cols: usize,
    blocks: usize,
    codes: Vec<i8>,
    scales: Vec<f32>,
}

impl Codes {
    /// Quantizes the vectors `x`, each of `cols` values.
    pub fn from_f32(kernels: &Kernels, x: &[f32], cols: usize) -> Self {
        let mut codes = Codes::default();
        codes.resize(x.len() / cols, cols);
        let mut padded = vec![0.0; cols.next_multiple_of(BLOCK)];
        for (t, x) in x.chunks_exact(cols).enumerate() {
            padded[..cols].copy_from_slice(x);
            let (to, scales) = codes.vector_mut(t);
            kernels.quantize(&padded, to, scales);
        }
        codes
    }

    /// Makes room for `n` vectors of `cols` columns.
    pub(crate) fn resize(&mut self, n: usize, cols: usize) {
        (self.n, self.cols, self.blocks) = (n, cols, cols.div_ceil(BLOCK));
        self.codes.clear();
        self.codes.resize(n * self.blocks * BLOCK, 0);
        self.scales.clear();
        self.scales.resize(n * self.blocks.next_multiple_of(LANES), 0.0);
    }

    /// The codes and scales of vector `t`, to be filled.
    pub(crate) fn vector_mut(&mut self, t: usize) -> (&mut [i8], &mut [f32]) {
        let (n, s) = (self.blocks * BLOCK, self.blocks.next_multiple_of(LANES));
        (&mut self.codes[t * n..(t + 1) * n], &mut self.scales[t * s..(t + 1) * s])
    }

    pub(super) fn vector(&self, t: usize) -> (&[i8], &[f32]) {
        let (n, s) = (self.blocks * BLOCK, self.blocks.next_multiple_of(LANES));
        (&self.codes[t * n..(t + 1) * n], &self.scales[t * s..(t + 1) * s])
    }

    /// How many vectors.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns of each.
    pub fn cols(&self) -> usize {
        self.cols
    }
}

/// A thread's private memory for one expanded row (int8) or tile of rows (f32).
#[derive(Default)]
pub struct Scratch {
    codes: Vec<i8>,
    packed: Vec<i8>,
    scales: Vec<f32>,
    tile: Vec<f32>,
}

impl Scratch {
    /// Room for rows of `cols` columns; allocates only when they are longer than any before.
    pub(crate) fn fit(&mut self, cols: usize) {
        let n = cols.next_multiple_of(BLOCK) + OVERRUN;
        if self.codes.len() < n {
            self.codes.resize(n, 0);
            self.packed.resize(n + OVERRUN, 0);
            self.scales.resize(cols.div_ceil(BLOCK).next_multiple_of(LANES), 0.0);
            self.tile.resize(TILE * n, 0.0);
        }
    }
}

/// # Safety
/// The CPU has ISA `I`. (That `matrix` may be read past its rows is [`Matrix::new`]'s promise.)
#[inline(always)]
pub(super) unsafe fn rows_i8<I: Isa>(
    m: &Matrix,
    rows: Range<usize>,
    x: &Codes,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let blocks = m.blocks();
    let lanes = blocks.next_multiple_of(LANES);
    for (row, out) in rows.zip(out.chunks_exact_mut(x.n)) {
        let Scratch { codes, packed, scales, .. } = scratch;
        let scales = &mut scales[..lanes];
        scales[blocks..].fill(0.0);
        let stored_scales = &m.scales()[row * blocks * 2..(row + 1) * blocks * 2];
        // SAFETY: two bytes for each of `blocks` scales; the ISA is the caller's promise.
        unsafe { I::load_f16(stored_scales, &mut scales[..blocks]) };
        // SAFETY: the ISA is the caller's promise; scratch was fitted to these columns.
        let codes = unsafe { codes_of_row::<I>(m, row, codes, packed) };
        for (t, out) in out.iter_mut().enumerate() {
            let (x_codes, x_scales) = x.vector(t);
            // SAFETY: both have `blocks` blocks and scales padded to LANES.
            *out = unsafe { I::dot_i8(codes, scales, x_codes, x_scales) };
        }
    }
}

/// The int8 codes of a row: in place when they are stored that way, else expanded into scratch.
///
/// # Safety
/// The CPU has ISA `I`; `codes` and `packed` were fitted to the matrix' columns.
#[inline(always)]
unsafe fn codes_of_row<'a, I: Isa>(m: &'a Matrix, row: usize, codes: &'a mut [i8], packed: &mut [i8]) -> &'a [i8] {
    let padded = m.blocks() * BLOCK;
    let range = m.row_range(row);
    let values = &m.values()[range.start..];
    match m.encoding() {
        Encoding::Q8 => as_i8(&values[..padded]),
        Encoding::Q4 => {
            // SAFETY: `codes` was fitted to `padded` columns and OVERRUN.
            unsafe { I::unpack_nibbles(&values[..padded / 2], &DENSE_LEVELS, codes) };
            &codes[..padded]
        }
        Encoding::SparseQ8 => {
            let values = as_i8(&values[..padded + OVERRUN]);
            // SAFETY: the slice just taken is a full row and OVERRUN, whatever the mask says.
            unsafe { I::expand_i8(mask_of_row(m, row), values.as_ptr(), codes) };
            &codes[..padded]
        }
        Encoding::SparseQ4 => {
            let stored = range.len().min(padded / 2);
            // SAFETY: `packed` was fitted to `padded` columns and twice OVERRUN, so it can be read as a
            // full row whatever the mask says; what no nibble was unpacked to is an old row's, harmless.
            unsafe {
                I::unpack_nibbles(&values[..stored], &HOLED_LEVELS, packed);
                I::expand_i8(mask_of_row(m, row), packed.as_ptr(), codes);
            }
            &codes[..padded]
        }
        Encoding::F32 | Encoding::F16 | Encoding::SparseF16 => unreachable!("checked by Kernels::rows_i8"),
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
    let stride = m.cols().next_multiple_of(PAD);
    let n = x.len() / stride;
    let mut out = out;
    let mut first = rows.start;
    while first < rows.end {
        let height = TILE.min(rows.end - first);
        let tile = &mut scratch.tile[..height * stride];
        for (r, values) in tile.chunks_exact_mut(stride).enumerate() {
            values[m.cols()..].fill(0.0);
            // SAFETY: the ISA is the caller's promise.
            unsafe { expand_f32::<I>(m, first + r, &mut values[..m.cols()]) };
        }
        let (now, later) = out.split_at_mut(height * n);
        // SAFETY: the ISA is the caller's promise; the tile has `height` rows of `stride`.
        unsafe {
            match height {
                4 => tile_f32::<I, 4>(tile, x, stride, now),
                3 => tile_f32::<I, 3>(tile, x, stride, now),
                2 => tile_f32::<I, 2>(tile, x, stride, now),
                _ => tile_f32::<I, 1>(tile, x, stride, now),
            }
        }
        out = later;
        first += height;
    }
}

/// # Safety
/// As [`rows_f32`]; `tile` has `R` rows.
#[inline(always)]
unsafe fn tile_f32<I: Isa, const R: usize>(tile: &[f32], x: &[f32], stride: usize, out: &mut [f32]) {
    let n = x.len() / stride;
    let mut t = 0;
    while t < n {
        // SAFETY: x has at least as many vectors from `t` on as are asked for.
        unsafe {
            t += match n - t {
                1 => put(I::dots_f32::<R, 1>(tile, &x[t * stride..], stride), t, n, out),
                2 => put(I::dots_f32::<R, 2>(tile, &x[t * stride..], stride), t, n, out),
                _ => put(I::dots_f32::<R, 3>(tile, &x[t * stride..], stride), t, n, out),
            };
        }
    }
}

#[inline(always)]
fn put<const R: usize, const N: usize>(dots: [[f32; N]; R], t: usize, n: usize, out: &mut [f32]) -> usize {
    for (r, dots) in dots.iter().enumerate() {
        out[r * n + t..r * n + t + N].copy_from_slice(dots);
    }
    N
}

/// # Safety
/// The CPU has ISA `I`.
#[inline(always)]
unsafe fn expand_f32<I: Isa>(m: &Matrix, row: usize, out: &mut [f32]) {
    let range = m.row_range(row);
    match m.encoding() {
        // SAFETY: a dense half row has two bytes a column.
        Encoding::F16 => unsafe { I::load_f16(&m.values()[range], out) },
        Encoding::F32 => {
            let singles = m.values()[range].chunks_exact(4);
            out.iter_mut().zip(singles).for_each(|(o, b)| *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        }
        // SAFETY: the ISA is the caller's promise.
        Encoding::SparseF16 => unsafe { expand_sparse_f16::<I>(m, row, out) },
        _ => m.read_row(row, out),
    }
}

/// # Safety
/// The CPU has ISA `I`.
#[inline(always)]
unsafe fn expand_sparse_f16<I: Isa>(m: &Matrix, row: usize, out: &mut [f32]) {
    let halves = &m.values()[m.row_range(row).start..];
    let mut nth = 0;
    for (bits, out) in mask_of_row(m, row).iter().zip(out.chunks_mut(8)) {
        let mut kept = [0.0; 8];
        // SAFETY: the slice has two bytes for each of eight. It is there whatever the mask says: a full row and
        // more follow every tensor, see `spm::matrix::slack`.
        unsafe { I::load_f16(&halves[2 * nth..2 * nth + 16], &mut kept) };
        let mut next = 0;
        for (j, out) in out.iter_mut().enumerate() {
            let bit = u32::from(bits >> j & 1);
            // All bits of the value or none: a branch on a random mask would be guessed wrong half of the time.
            *out = f32::from_bits(kept[next & 7].to_bits() & bit.wrapping_neg());
            next += bit as usize;
        }
        nth += next;
    }
}

#[inline(always)]
fn mask_of_row(m: &Matrix, row: usize) -> &[u8] {
    let n = m.blocks() * BLOCK / 8;
    &m.masks()[row * n..(row + 1) * n]
}

/// Reinterprets bytes as signed; the values are the same bits.
#[inline(always)]
fn as_i8(bytes: &[u8]) -> &[i8] {
    // SAFETY: u8 and i8 have the same size, alignment and validity.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}

/// Dense q4: nibble - 8.
const DENSE_LEVELS: [i8; 16] = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];
/// Sparse q4: no level is spent on zero.
const HOLED_LEVELS: [i8; 16] = [-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8];
