//! The values that the blocks of a row can have: scales first, then codes. For encoders that choose codes themselves, such
//! as those that make up for the rounding of one weight in others.

use half::f16;

use crate::encode::{q4_scale, q5_scale, q8_scale, round};
use crate::encoding::{BLOCK, Encoding, ScaleKind};
use crate::levels::SPARSE_Q4_LEVELS;
use crate::row_scaled::{self, is_q4};

/// The scales of a row of an integer encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct RowGrid {
    encoding: Encoding,
    pub(crate) factor: f32,
    pub(crate) bytes: Vec<i8>,
    pub(crate) halves: Vec<f16>,
    /// As stored: a factor times a byte, or a half.
    scales: Vec<f32>,
}

impl RowGrid {
    /// The scales that lose least of `row` when every weight is rounded by itself, an error counting `importance` of its
    /// column times its square. Zeros do not count in a sparse encoding: they are what was pruned.
    pub fn fit(encoding: Encoding, row: &[f32], importance: &[f32]) -> Self {
        assert!(encoding.is_integer() && row.len() == importance.len(), "an integer encoding, a number a column");
        let padded = |values: &[f32]| {
            let mut blocks = vec![[0.0; BLOCK]; values.len().div_ceil(BLOCK)];
            blocks.as_flattened_mut()[..values.len()].copy_from_slice(values);
            blocks
        };
        let (blocks, importance) = (padded(row), padded(importance));
        let mut grid = RowGrid { encoding, factor: 0.0, bytes: vec![], halves: vec![], scales: vec![] };
        if encoding.scale_kind() == ScaleKind::Row {
            (grid.factor, grid.bytes) = row_scaled::fit(&blocks, &importance, is_q4(encoding));
        } else {
            let scale = match encoding {
                Encoding::Q8 => q8_scale,
                Encoding::Q4 => q4_scale,
                _ => q5_scale,
            };
            grid.halves = blocks.iter().zip(&importance).map(|(b, i)| scale(b, i)).collect();
        }
        grid.scales = (0..blocks.len()).map(|b| grid.stored(b)).collect();
        grid
    }

    /// Scale of block `block`, as stored.
    pub fn scale(&self, block: usize) -> f32 {
        self.scales[block]
    }

    /// The nearest scale to `scale` that can be stored for a block, and makes it the block's.
    pub fn set_scale(&mut self, block: usize, scale: f32) -> f32 {
        match self.encoding.scale_kind() {
            ScaleKind::Row if self.factor > 0.0 => {
                self.bytes[block] = round(scale / self.factor).clamp(-127.0, 127.0) as i8;
            }
            ScaleKind::Row => {}
            _ => self.halves[block] = f16::from_f32(scale),
        }
        self.scales[block] = self.stored(block);
        self.scales[block]
    }

    /// The code whose value is nearest to `value` in column `col`, and that value.
    #[inline]
    pub fn nearest(&self, col: usize, value: f32) -> (u8, f32) {
        let scale = self.scales[col / BLOCK];
        let x = if scale == 0.0 { 0.0 } else { value / scale };
        let code = match self.encoding {
            Encoding::Q4 => (round(x.clamp(-8.0, 7.0)) + 8.0) as u8,
            Encoding::Q5 => (round(x.clamp(-16.0, 15.0)) + 16.0) as u8,
            encoding if is_q4(encoding) => row_scaled::nearest_level(x) as u8,
            _ => round(x.clamp(-127.0, 127.0)) as i8 as u8,
        };
        (code, self.level(code) * scale)
    }

    /// What a code stands for, before the scale.
    pub fn level(&self, code: u8) -> f32 {
        match self.encoding {
            Encoding::Q4 => f32::from(code) - 8.0,
            Encoding::Q5 => f32::from(code) - 16.0,
            encoding if is_q4(encoding) => f32::from(SPARSE_Q4_LEVELS[usize::from(code)]),
            _ => f32::from(code as i8),
        }
    }

    fn stored(&self, block: usize) -> f32 {
        match self.encoding.scale_kind() {
            ScaleKind::Row => self.factor * f32::from(self.bytes[block]),
            _ => self.halves[block].to_f32(),
        }
    }
}
