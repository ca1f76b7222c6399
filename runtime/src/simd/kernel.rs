//! The products, once for all ISAs, over the few operations in which ISAs differ.
//!
//! A row is first expanded into an L1 scratch (int8 codes or f32 values) and then multiplied with each
//! vector of the batch. Sparse and dense rows with the same values therefore meet in the same dot product
//! and give the same bits.

use std::ops::Range;

use spm::matrix::SPARSE_Q4_LEVELS;
use spm::{BLOCK, Encoding, Matrix};

use super::Kernels;
use super::aligned::Aligned;

/// Columns of an f32 vector are padded to a multiple of this.
pub(crate) const PAD: usize = 16;
/// Blocks whose dot products are scaled together, and lanes of the sum.
pub(super) const LANES: usize = 8;
/// Results for several vectors are written in panels of this many rows: row `r` times vector `t` of a panel of `h`
/// rows is at `t * h + r` of the panel.
pub(crate) const PANEL: usize = 16;
/// Most rows that share the loads of `x` in the f32 product.
const TILE: usize = 8;
/// Readable and writable bytes past a scratch row, so that whole registers may be moved.
pub(super) const OVERRUN: usize = 64;

/// What an instruction set brings. Every method may assume that the CPU has it.
pub(super) trait Isa {
    /// Whether there are registers for the sums of 8 rows times 3 vectors.
    const WIDE: bool = false;

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
    /// The CPU has this ISA; `w` is a whole number of blocks of 32, and `w_scales` has that number rounded up
    /// to [`LANES`], the excess being zeros; so has `x`.
    unsafe fn dot_i8(w: &[i8], w_scales: &[f32], x: Vector) -> f32;

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
            kernels.quantize(&self.padded, codes, &mut self.scales[blocks.clone()]);
            for (sum, block) in self.sums[blocks].iter_mut().zip(codes.chunks_exact(BLOCK)) {
                *sum = block.iter().map(|&c| i32::from(c)).sum();
            }
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
    /// One row's codes; a panel of them for ISAs that pack.
    pub(super) codes: Aligned<i8>,
    /// Kept codes of one row before they are put in their places; codes of a packed panel.
    pub(super) packed: Aligned<i8>,
    pub(super) scales: Aligned<f32>,
    tile: Aligned<f32>,
}

impl Scratch {
    /// Room for `rows` rows of `cols` columns; allocates only for more than ever before.
    pub(super) fn fit(&mut self, rows: usize, cols: usize) {
        let blocks = cols.div_ceil(BLOCK).next_multiple_of(LANES);
        self.codes.fit(rows * blocks * BLOCK + OVERRUN);
        self.packed.fit(rows * blocks * BLOCK + 2 * OVERRUN);
        self.scales.fit(rows * blocks);
    }

    /// Room for a tile of singles.
    pub(super) fn fit_tile(&mut self, cols: usize) {
        self.tile.fit(TILE * (cols.next_multiple_of(BLOCK) + OVERRUN));
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
    scratch.fit(1, m.cols());
    for (first, panel) in rows.step_by(PANEL).zip(out.chunks_mut(PANEL * x.n)) {
        let height = panel.len() / x.n;
        for r in 0..height {
            let Scratch { codes, packed, scales, .. } = scratch;
            // SAFETY: the ISA is the caller's promise; scratch was fitted to these columns.
            let codes = unsafe {
                load_scales::<I>(m, first + r, scales);
                codes_of_row::<I>(m, first + r, codes, packed)
            };
            for t in 0..x.n {
                // SAFETY: all have `m.blocks()` blocks, and scales padded to LANES.
                panel[t * height + r] = unsafe { I::dot_i8(codes, &scales[..x.stride], x.vector(t)) };
            }
        }
    }
}

/// The scales of a row as singles, zeros after them up to whole groups of [`LANES`].
///
/// # Safety
/// The CPU has ISA `I`; `scales` was fitted to the matrix' columns.
#[inline(always)]
pub(super) unsafe fn load_scales<I: Isa>(m: &Matrix, row: usize, scales: &mut [f32]) {
    let blocks = m.blocks();
    let (known, rest) = scales[..blocks.next_multiple_of(LANES)].split_at_mut(blocks);
    rest.fill(0.0);
    // SAFETY: two bytes for each of `blocks` scales; the ISA is the caller's promise.
    unsafe { I::load_f16(&m.scales()[row * blocks * 2..(row + 1) * blocks * 2], known) };
}

/// The int8 codes of a row: in place when they are stored that way, else expanded into `codes`.
///
/// # Safety
/// The CPU has ISA `I`; `codes` and `packed` were fitted to the matrix' columns.
#[inline(always)]
unsafe fn codes_of_row<'a, I: Isa>(m: &'a Matrix, row: usize, codes: &'a mut [i8], packed: &mut [i8]) -> &'a [i8] {
    let padded = m.blocks() * BLOCK;
    if m.encoding() == Encoding::Q8 {
        return as_i8(&m.values()[m.row_range(row).start..][..padded]);
    }
    // SAFETY: the caller's promise.
    unsafe { expand_row::<I>(m, row, codes, packed) };
    &codes[..padded]
}

/// Writes the int8 codes of a row.
///
/// # Safety
/// The CPU has ISA `I`; `codes` and `packed` were fitted to the matrix' columns.
#[inline(always)]
pub(super) unsafe fn expand_row<I: Isa>(m: &Matrix, row: usize, codes: &mut [i8], packed: &mut [i8]) {
    let padded = m.blocks() * BLOCK;
    let range = m.row_range(row);
    let values = &m.values()[range.start..];
    match m.encoding() {
        Encoding::Q8 => codes[..padded].copy_from_slice(as_i8(&values[..padded])),
        Encoding::Q4 => {
            // SAFETY: `codes` was fitted to `padded` columns and OVERRUN.
            unsafe { I::unpack_nibbles(&values[..padded / 2], &DENSE_LEVELS, codes) };
        }
        Encoding::SparseQ8 => {
            let values = as_i8(&values[..padded + OVERRUN]);
            // SAFETY: the slice just taken is a full row and OVERRUN, whatever the mask says.
            unsafe { I::expand_i8(mask_of_row(m, row), values.as_ptr(), codes) };
        }
        Encoding::SparseQ4 => {
            let stored = range.len().min(padded / 2);
            // SAFETY: `packed` was fitted to `padded` columns and twice OVERRUN, so it can be read as a
            // full row whatever the mask says; what no nibble was unpacked to is an old row's, harmless.
            unsafe {
                I::unpack_nibbles(&values[..stored], &SPARSE_Q4_LEVELS, packed);
                I::expand_i8(mask_of_row(m, row), packed.as_ptr(), codes);
            }
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
    let Scratch { codes, packed, scales, tile } = scratch;
    for r in 0..height {
        // Expansions write whole blocks, into the next row's place before it is written, or past the last.
        let out = &mut tile[r * stride..];
        // SAFETY: the ISA is the caller's promise; the scratch was fitted to these columns.
        unsafe {
            if m.encoding().is_integer() {
                load_scales::<I>(m, first + r, scales);
                scale_codes(codes_of_row::<I>(m, first + r, codes, packed), scales, out);
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
    let values = &m.values()[m.row_range(row).start..];
    match m.encoding() {
        // SAFETY: a dense half row has two bytes a column.
        Encoding::F16 => unsafe { I::load_f16(values, &mut out[..m.cols()]) },
        // SAFETY: a full row and more follow every tensor, whatever the mask says: see `spm::matrix::slack`.
        Encoding::SparseF16 => unsafe {
            let values = &values[..m.blocks() * BLOCK * 2 + OVERRUN];
            I::expand_f16(mask_of_row(m, row), values.as_ptr(), out);
        },
        _ => m.read_row(row, &mut out[..m.cols()]),
    }
}

#[inline(always)]
pub(super) fn mask_of_row(m: &Matrix, row: usize) -> &[u8] {
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
