//! Activations as int8, in the forms that kernels want.

use spm::BLOCK;
use spm::order::{GROUP, reorder};

use super::Kernels;
use super::aligned::Aligned;
use super::kernel::LANES;

/// Vectors that are multiplied together with a panel: as many as there are registers for.
pub(super) const TILE: usize = 6;

/// Vectors in int8, ready for the integer product, each padded with zeros to whole groups of 8 blocks, so that kernels
/// may read whole registers. A few vectors lie one after the other; many, for kernels that multiply panels of rows with
/// them, in tiles.
#[derive(Default)]
pub struct Codes {
    n: usize,
    cols: usize,
    /// Blocks of a padded vector.
    stride: usize,
    /// Whether in tiles.
    tiled: bool,
    codes: Aligned<i8>,
    scales: Vec<f32>,
    lifts: Vec<i32>,
}

/// One of a few vectors: codes in the order in which weights are stored.
#[derive(Clone, Copy)]
pub(super) struct Vector<'a> {
    pub(super) codes: &'a [i8],
    pub(super) scales: &'a [f32],
    /// -128 times the sum of the codes of every block, for kernels that raise weights by 128.
    pub(super) lifts: &'a [i32],
}

/// [`TILE`] vectors, block by block: of a block first its first four codes of every vector, then the next four. The last
/// tile of a batch is filled up with whatever.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// `4 * TILE` bytes for each four columns, eight times a block.
    pub(super) codes: &'a [i8],
    /// `TILE` a block.
    pub(super) scales: &'a [f32],
    /// `TILE` a block.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 raises weights"))]
    pub(super) lifts: &'a [i32],
}

impl Codes {
    /// Quantizes the vectors `x`, each of `cols` values.
    pub fn from_f32(kernels: &Kernels, x: &[f32], cols: usize) -> Self {
        let mut codes = Codes::default();
        codes.fit(kernels, x.len() / cols, cols);
        codes.parts(usize::MAX).for_each(|mut part| part.fill(kernels, x));
        codes
    }

    /// Makes room for `n` vectors of `cols` values; allocates only for more than ever before.
    pub(crate) fn fit(&mut self, kernels: &Kernels, n: usize, cols: usize) {
        (self.n, self.cols, self.stride) = (n, cols, cols.div_ceil(BLOCK).next_multiple_of(LANES));
        self.tiled = n >= kernels.tiled_from;
        let blocks = self.stride * if self.tiled { n.next_multiple_of(TILE) } else { n };
        self.codes.resize(blocks * BLOCK);
        self.scales.resize(blocks, 0.0);
        self.lifts.resize(blocks, 0);
    }

    /// Cuts the vectors into runs of about `share`, each of which may be filled on a thread of its own.
    pub(crate) fn parts(&mut self, share: usize) -> impl Iterator<Item = CodesPart<'_>> {
        let (n, cols, stride, tiled) = (self.n, self.cols, self.stride, self.tiled);
        let share = share.min(n).max(1).next_multiple_of(if tiled { TILE } else { 1 });
        let blocks = share * stride;
        let numbers = self.scales.chunks_mut(blocks).zip(self.lifts.chunks_mut(blocks));
        self.codes.chunks_mut(blocks * BLOCK).zip(numbers).enumerate().map(move |(i, (codes, (scales, lifts)))| {
            let n = share.min(n - i * share);
            CodesPart { first: i * share, n, cols, stride, tiled, codes, scales, lifts }
        })
    }

    /// The `nth` tile; the vectors must be in tiles.
    pub(super) fn tile(&self, nth: usize) -> Tile<'_> {
        assert!(self.tiled);
        let numbers = nth * self.stride * TILE..(nth + 1) * self.stride * TILE;
        Tile {
            codes: &self.codes[numbers.start * BLOCK..numbers.end * BLOCK],
            scales: &self.scales[numbers.clone()],
            lifts: &self.lifts[numbers],
        }
    }

    /// Vector `t`; the vectors must not be in tiles.
    pub(super) fn vector(&self, t: usize) -> Vector<'_> {
        assert!(!self.tiled);
        let blocks = t * self.stride..(t + 1) * self.stride;
        Vector {
            codes: &self.codes[blocks.start * BLOCK..blocks.end * BLOCK],
            scales: &self.scales[blocks.clone()],
            lifts: &self.lifts[blocks],
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

/// Room for some of the vectors.
pub(crate) struct CodesPart<'a> {
    first: usize,
    n: usize,
    cols: usize,
    stride: usize,
    tiled: bool,
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    lifts: &'a mut [i32],
}

impl CodesPart<'_> {
    /// Quantizes its vectors of all of `x`.
    pub(crate) fn fill(&mut self, kernels: &Kernels, x: &[f32]) {
        for t in 0..self.n {
            let x = &x[(self.first + t) * self.cols..][..self.cols];
            for (g, x) in x.chunks(GROUP).enumerate() {
                match x.try_into() {
                    Ok(x) => self.fill_group(kernels, t, g, x, true),
                    Err(_) => {
                        let mut padded = [0.0; GROUP];
                        padded[..x.len()].copy_from_slice(x);
                        self.fill_group(kernels, t, g, &padded, x.len() > GROUP - BLOCK);
                    }
                }
            }
        }
    }

    /// Group `g` of vector `t`; `whole` if there are values for all its blocks.
    fn fill_group(&mut self, kernels: &Kernels, t: usize, g: usize, x: &[f32; GROUP], whole: bool) {
        let first = t * self.stride + g * LANES;
        if !self.tiled {
            let (codes, blocks) = (&mut self.codes[first * BLOCK..][..GROUP], first..first + LANES);
            kernels.quantize(x, codes, &mut self.scales[blocks.clone()], &mut self.lifts[blocks]);
            if whole {
                reorder(codes, LANES);
            }
            return;
        }
        let (mut codes, mut scales, mut lifts) = ([0; GROUP], [0.0; LANES], [0; LANES]);
        kernels.quantize(x, &mut codes, &mut scales, &mut lifts);
        let (start, nth) = (t / TILE * self.stride + g * LANES, t % TILE);
        for b in 0..LANES {
            self.scales[(start + b) * TILE + nth] = scales[b];
            self.lifts[(start + b) * TILE + nth] = lifts[b];
        }
        let to = &mut self.codes.as_chunks_mut::<4>().0[start * (BLOCK / 4) * TILE..];
        for (quad, to) in codes.as_chunks::<4>().0.iter().zip(to.chunks_exact_mut(TILE)) {
            to[nth] = *quad;
        }
    }
}

const _: () = assert!(GROUP == LANES * BLOCK);
