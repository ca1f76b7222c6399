//! Vectors as halves, singles, or bytes with a scale for some of them: one vector a position and head.

use std::ops::Range;

use super::KvType;
use crate::error::Error;
use crate::linear::{Half, zeroed};
use crate::simd::{Cached, KEY_BLOCK, Kernels, SCALED, ScaledBytes};

/// How the vectors lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// One after another, dimension fastest.
    Rows,
    /// [`KEY_BLOCK`] of them side by side, position fastest.
    Blocks,
}

/// Vectors of `dim` numbers by slot.
pub(super) struct Store {
    dim: usize,
    layout: Layout,
    numbers: Numbers,
}

enum Numbers {
    F16(Vec<Half>),
    F32(Vec<f32>),
    Q8 {
        codes: Vec<i8>,
        /// Of [`SCALED`] numbers of a vector each, in the order of the vectors' own layout.
        scales: Vec<f32>,
    },
}

impl Store {
    /// Room for vectors in `slots`, whole blocks of them if they lie so.
    pub(super) fn new(kind: KvType, layout: Layout, slots: usize, dim: usize) -> Result<Self, Error> {
        const WHAT: &str = "the key/value cache";
        let len = slots.saturating_mul(dim);
        let numbers = match kind {
            KvType::F16 => Numbers::F16(zeroed(WHAT, len)?),
            KvType::F32 => Numbers::F32(zeroed(WHAT, len)?),
            KvType::Q8 => {
                let scales = slots.saturating_mul(dim.div_ceil(SCALED));
                Numbers::Q8 { codes: zeroed(WHAT, len)?, scales: zeroed(WHAT, scales)? }
            }
        };
        Ok(Store { dim, layout, numbers })
    }

    /// Stores a vector.
    pub(super) fn put(&mut self, kernels: &Kernels, slot: usize, vector: &[f32]) {
        let Place { at, scales_at, lanes } = self.place(slot);
        match &mut self.numbers {
            Numbers::F16(all) if lanes == 1 => kernels.store_f16(vector, &mut all[at..at + vector.len()]),
            Numbers::F16(all) => {
                let places = all[at..].iter_mut().step_by(lanes);
                places.zip(vector).for_each(|(place, &v)| *place = Half::from_f32(v));
            }
            Numbers::F32(all) => all[at..].iter_mut().step_by(lanes).zip(vector).for_each(|(place, &v)| *place = v),
            Numbers::Q8 { codes, scales } => {
                let codes = codes[at..].iter_mut().step_by(lanes);
                let scales = scales[scales_at..].iter_mut().step_by(lanes);
                quantize(vector, codes, scales);
            }
        }
    }

    /// Slots there are.
    pub(super) fn slots(&self) -> usize {
        let numbers = match &self.numbers {
            Numbers::F16(all) => all.len(),
            Numbers::F32(all) => all.len(),
            Numbers::Q8 { codes, .. } => codes.len(),
        };
        numbers / self.dim.max(1)
    }

    /// How numbers are kept.
    pub(super) fn kind(&self) -> KvType {
        match self.numbers {
            Numbers::F16(_) => KvType::F16,
            Numbers::F32(_) => KvType::F32,
            Numbers::Q8 { .. } => KvType::Q8,
        }
    }

    /// Appends a vector as it is kept, [`bytes_of_vector`] of them.
    pub(super) fn save(&self, slot: usize, out: &mut Vec<u8>) {
        let (Place { at, scales_at, lanes }, dim) = (self.place(slot), self.dim);
        match &self.numbers {
            Numbers::F16(all) => out.extend(all[at..].iter().step_by(lanes).take(dim).flat_map(|v| v.to_le_bytes())),
            Numbers::F32(all) => out.extend(all[at..].iter().step_by(lanes).take(dim).flat_map(|v| v.to_le_bytes())),
            Numbers::Q8 { codes, scales } => {
                out.extend(codes[at..].iter().step_by(lanes).take(dim).flat_map(|v| v.to_le_bytes()));
                let scales = scales[scales_at..].iter().step_by(lanes).take(dim.div_ceil(SCALED));
                out.extend(scales.flat_map(|v| v.to_le_bytes()));
            }
        }
    }

    /// Puts back what [`Self::save`] appended.
    pub(super) fn restore(&mut self, slot: usize, bytes: &[u8]) {
        let (Place { at, scales_at, lanes }, dim) = (self.place(slot), self.dim);
        match &mut self.numbers {
            Numbers::F16(all) => {
                let places = all[at..].iter_mut().step_by(lanes);
                places.zip(bytes.as_chunks().0).for_each(|(place, &v)| *place = Half::from_le_bytes(v));
            }
            Numbers::F32(all) => {
                let places = all[at..].iter_mut().step_by(lanes);
                places.zip(bytes.as_chunks().0).for_each(|(place, &v)| *place = f32::from_le_bytes(v));
            }
            Numbers::Q8 { codes, scales } => {
                let (of_codes, of_scales) = bytes.split_at(dim.min(bytes.len()));
                let places = codes[at..].iter_mut().step_by(lanes);
                places.zip(of_codes).for_each(|(place, &v)| *place = v as i8);
                let places = scales[scales_at..].iter_mut().step_by(lanes);
                places.zip(of_scales.as_chunks().0).for_each(|(place, &v)| *place = f32::from_le_bytes(v));
            }
        }
    }

    fn place(&self, slot: usize) -> Place {
        let (block, lane, lanes) = match self.layout {
            Layout::Rows => (slot, 0, 1),
            Layout::Blocks => (slot / KEY_BLOCK * KEY_BLOCK, slot % KEY_BLOCK, KEY_BLOCK),
        };
        Place { at: block * self.dim + lane, scales_at: block * self.dim.div_ceil(SCALED) + lane, lanes }
    }

    /// The vectors of some slots; of blocks whole ones, from the first's beginning on.
    pub(super) fn part(&self, slots: Range<usize>) -> Cached<'_> {
        let numbers = slots.start * self.dim..slots.end * self.dim;
        match &self.numbers {
            Numbers::F16(all) => Cached::F16(&all[numbers]),
            Numbers::F32(all) => Cached::F32(&all[numbers]),
            Numbers::Q8 { codes, scales } => {
                let groups = self.dim.div_ceil(SCALED);
                let scales = &scales[slots.start * groups..slots.end * groups];
                let lanes = if self.layout == Layout::Blocks { KEY_BLOCK } else { 1 };
                Cached::Q8(ScaledBytes { codes: &codes[numbers], scales, dim: self.dim, lanes })
            }
        }
    }
}

/// Where a vector begins, and how far its numbers are from each other.
struct Place {
    at: usize,
    scales_at: usize,
    lanes: usize,
}

/// The nearest of 255 levels between the largest number of a group and its negative.
fn quantize<'a>(
    vector: &[f32],
    mut codes: impl Iterator<Item = &'a mut i8>,
    scales: impl Iterator<Item = &'a mut f32>,
) {
    for (group, scale) in vector.chunks(SCALED).zip(scales) {
        let most = group.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let to_code = if most > 0.0 { 127.0 / most } else { 0.0 };
        *scale = most / 127.0;
        for (v, code) in group.iter().zip(&mut codes) {
            *code = (v * to_code).round_ties_even() as i8;
        }
    }
}

/// Bytes that a vector takes.
pub(super) fn bytes_of_vector(kind: KvType, dim: usize) -> usize {
    match kind {
        KvType::F16 => 2 * dim,
        KvType::F32 => 4 * dim,
        KvType::Q8 => dim + 4 * dim.div_ceil(SCALED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd;

    /// What was put, of either layout, within half a level of the largest number beside it.
    #[test]
    fn bytes_are_the_nearest_levels() {
        for (layout, dim) in [(Layout::Rows, 40), (Layout::Blocks, 40), (Layout::Blocks, 64), (Layout::Rows, 3)] {
            let mut store = Store::new(KvType::Q8, layout, 2 * KEY_BLOCK, dim).unwrap();
            let number = |slot: usize, d: usize| ((slot * 31 + d * 17) % 101) as f32 / 7.0 - 6.5 * (d % 40) as f32;
            for slot in 0..2 * KEY_BLOCK {
                let vector: Vec<f32> = (0..dim).map(|d| number(slot, d)).collect();
                store.put(simd::best(), slot, &vector);
            }
            let Cached::Q8(bytes) = store.part(KEY_BLOCK..2 * KEY_BLOCK) else { panic!("not bytes") };
            let mut out = vec![0.0; KEY_BLOCK * dim];
            bytes.expand(0, &mut out);
            for slot in KEY_BLOCK..2 * KEY_BLOCK {
                for d in 0..dim {
                    let found = match layout {
                        Layout::Rows => out[(slot - KEY_BLOCK) * dim + d],
                        Layout::Blocks => out[d * KEY_BLOCK + slot - KEY_BLOCK],
                    };
                    let group = d / SCALED * SCALED..dim.min((d / SCALED + 1) * SCALED);
                    let most = group.map(|d| number(slot, d).abs()).fold(0.0, f32::max);
                    let error = (found - number(slot, d)).abs();
                    assert!(error <= most / 254.0 * 1.001, "slot {slot}, dimension {d}: {error} of {most}");
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        let mut store = Store::new(KvType::Q8, Layout::Rows, 1, 8).unwrap();
        store.put(simd::best(), 0, &[0.0; 8]);
        let Cached::Q8(bytes) = store.part(0..1) else { panic!("not bytes") };
        let mut out = [1.0; 8];
        bytes.expand(0, &mut out);
        assert_eq!(out, [0.0; 8]);
    }
}
