//! The f32 product, once for all ISAs: a tile of rows is expanded to singles and multiplied with vectors of singles.

use std::ops::Range;

use spm::order::reorder;
use spm::{BLOCK, CHUNK, Encoding, Matrix};

use super::kernel::{self, Isa, LANES, OVERRUN, PAD, PANEL, Scratch};

/// Most rows that share the loads of `x`.
const TILE: usize = 8;

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
    scratch.tile.fit(TILE * (m.cols().next_multiple_of(CHUNK) + OVERRUN));
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
                kernel::store_rows::<I>(m, first + r..first + r + 1, 0, codes);
                reorder(codes, m.blocks());
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

/// The scales of a row as singles, zeros after them up to whole groups of [`LANES`].
fn load_scales(m: &Matrix, row: usize, scales: &mut [f32]) {
    let (known, rest) = scales[..m.blocks().next_multiple_of(LANES)].split_at_mut(m.blocks());
    rest.fill(0.0);
    let stored = m.scales(row);
    known.iter_mut().enumerate().for_each(|(b, scale)| *scale = stored.get(b));
}
