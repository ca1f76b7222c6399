//! Keys and values of the positions seen so far, as halves or singles.

use std::ops::Range;

use spm::Config;

use crate::error::Error;
use crate::linear::{Half, zeroed};
use crate::simd::{Cached, KEY_BLOCK, Kernels};

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// IEEE half, two bytes a value.
    #[default]
    F16,
    /// IEEE single: exact, twice the memory.
    F32,
}

impl KvType {
    /// Bytes of a value.
    pub(crate) fn bytes(self) -> usize {
        match self {
            KvType::F16 => 2,
            KvType::F32 => 4,
        }
    }
}

/// Keys and values of one layer. Values lie as `(kv head, position, dimension)`, dimension fastest; keys as
/// `(kv head, block of positions, dimension, position)`, position fastest, so that every lane of a register is a key.
///
/// A layer with a window keeps no more positions than the window needs: position `p` has slot `p % slots`.
pub struct KvCache {
    context: usize,
    /// As many as `context`, or fewer, in whole key blocks.
    slots: usize,
    /// Tokens that can be put before they are attended to.
    batch: usize,
    head_dim: usize,
    keys: Store,
    values: Store,
}

/// Positions that lie one after another in the cache.
pub(crate) struct Run {
    /// The first of them.
    pub(crate) first: usize,
    pub(crate) len: usize,
    /// The slot of the first.
    slot: usize,
}

enum Store {
    F16(Vec<Half>),
    F32(Vec<f32>),
}

impl KvCache {
    /// Room for `context` positions of one layer of `config`, whichever.
    pub fn new(config: &Config, context: usize, kind: KvType) -> Result<Self, Error> {
        Self::with_slots(config, context, context, usize::MAX, kind)
    }

    /// Room for as many of the last of `context` positions as layer `index` looks at, fed `batch` tokens at a time.
    pub fn of_layer(config: &Config, index: usize, context: usize, batch: usize, kind: KvType) -> Result<Self, Error> {
        match slots(config, index, context, batch) {
            slots if slots < context => Self::with_slots(config, context, slots, batch, kind),
            _ => Self::new(config, context, kind),
        }
    }

    fn with_slots(config: &Config, context: usize, slots: usize, batch: usize, kind: KvType) -> Result<Self, Error> {
        let len = config.kv_dim().saturating_mul(slots);
        let padded = config.kv_dim().saturating_mul(slots.div_ceil(KEY_BLOCK).saturating_mul(KEY_BLOCK));
        let (keys, values) = (Store::new(kind, padded)?, Store::new(kind, len)?);
        Ok(KvCache { context, slots, batch, head_dim: config.head_dim, keys, values })
    }

    /// Bytes that a cache of one layer takes.
    pub fn byte_len(config: &Config, context: usize, kind: KvType) -> usize {
        let value = kind.bytes();
        config.kv_dim().saturating_mul(context.saturating_add(KEY_BLOCK)).saturating_mul(2 * value)
    }

    /// Bytes that the caches of all layers take, each as [`Self::of_layer`].
    pub fn byte_len_of_layers(config: &Config, context: usize, batch: usize, kind: KvType) -> usize {
        let of_layer = |index| Self::byte_len(config, slots(config, index, context, batch).min(context), kind);
        (0..config.n_layers).map(of_layer).fold(0, usize::saturating_add)
    }

    /// Refuses what there is no room for: `n` tokens at positions from `first` on.
    pub(crate) fn check_room(&self, first: usize, n: usize) {
        assert!(first + n <= self.context, "{n} positions from {first} in a cache of {}", self.context);
        assert!(n <= self.batch, "{n} positions together in a cache of {} for {} together", self.slots, self.batch);
    }

    /// Whether what is before `position` can still be looked at, up to `window` positions, after all before `end` were put.
    pub(crate) fn reaches_back(&self, position: usize, end: usize, window: Option<usize>) -> bool {
        let oldest = window.map_or(0, |window| position.saturating_sub(window - 1));
        let (oldest, newest) = (oldest / KEY_BLOCK, end.saturating_sub(1) / KEY_BLOCK);
        self.slots == self.context || newest.saturating_sub(oldest) < self.slots / KEY_BLOCK
    }

    /// The runs that hold some positions, of which the first begins a key block.
    pub(crate) fn runs(&self, positions: Range<usize>) -> impl Iterator<Item = Run> + use<> {
        let (slots, mut first, end) = (self.slots, positions.start, positions.end);
        std::iter::from_fn(move || {
            let slot = first % slots;
            let run = Run { first, len: (end - first).min(slots - slot), slot };
            first += run.len;
            (run.len > 0).then_some(run)
        })
    }

    /// Stores the keys and values (all kv heads, `head_dim` each) of one position.
    pub(crate) fn put(&mut self, kernels: &Kernels, position: usize, key: &[f32], value: &[f32]) {
        let d = self.head_dim;
        let slot = position % self.slots;
        let (block, lane) = (slot / KEY_BLOCK, slot % KEY_BLOCK);
        for (head, (key, value)) in key.chunks_exact(d).zip(value.chunks_exact(d)).enumerate() {
            let keys = head * self.keys_of_a_head() + block * d * KEY_BLOCK + lane;
            self.keys.put(kernels, keys, KEY_BLOCK, key);
            self.values.put(kernels, (head * self.slots + slot) * d, 1, value);
        }
    }

    /// The keys of a kv head from a run's first on.
    pub(crate) fn keys(&self, head: usize, run: &Run) -> Cached<'_> {
        let n = self.keys_of_a_head();
        self.keys.part(head * n + run.slot * self.head_dim..(head + 1) * n)
    }

    /// The values of a kv head from a run's first on.
    pub(crate) fn values(&self, head: usize, run: &Run) -> Cached<'_> {
        let n = self.slots * self.head_dim;
        self.values.part(head * n + run.slot * self.head_dim..(head + 1) * n)
    }

    /// Positions there is room for.
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// Positions that are kept at a time: as many, or fewer where a window sees no farther.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// How keys and values are kept.
    pub(crate) fn kind(&self) -> KvType {
        match self.keys {
            Store::F16(_) => KvType::F16,
            Store::F32(_) => KvType::F32,
        }
    }

    /// Bytes of [`Self::save`].
    pub(crate) fn state_len(&self) -> usize {
        2 * self.heads() * self.head_dim * self.kind().bytes()
    }

    /// Appends the keys and values of a position as they are kept, head by head.
    pub(crate) fn save(&self, position: usize, out: &mut Vec<u8>) {
        for (keys, values) in self.places(position) {
            self.keys.save(keys, KEY_BLOCK, self.head_dim, out);
            self.values.save(values, 1, self.head_dim, out);
        }
    }

    /// Puts back what [`Self::save`] appended.
    pub(crate) fn restore(&mut self, position: usize, bytes: &[u8]) {
        let mut vectors = bytes.chunks_exact(self.head_dim * self.kind().bytes());
        for (keys, values) in self.places(position) {
            if let (Some(key), Some(value)) = (vectors.next(), vectors.next()) {
                self.keys.restore(keys, KEY_BLOCK, key);
                self.values.restore(values, 1, value);
            }
        }
    }

    /// Of every head, where key and value of a position begin.
    fn places(&self, position: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (d, slots, of_a_head) = (self.head_dim, self.slots, self.keys_of_a_head());
        let slot = position % slots;
        let (block, lane) = (slot / KEY_BLOCK, slot % KEY_BLOCK);
        (0..self.heads()).map(move |head| (head * of_a_head + block * d * KEY_BLOCK + lane, (head * slots + slot) * d))
    }

    fn heads(&self) -> usize {
        self.keys.len() / self.keys_of_a_head().max(1)
    }

    fn keys_of_a_head(&self) -> usize {
        self.slots.next_multiple_of(KEY_BLOCK) * self.head_dim
    }
}

/// Slots that layer `index` needs: key blocks for its window and for the tokens that are put together, both of which may
/// begin within one.
fn slots(config: &Config, index: usize, context: usize, batch: usize) -> usize {
    let Some(window) = config.window_of(index) else { return context };
    let blocks = window.saturating_add(batch).div_ceil(KEY_BLOCK).saturating_add(1);
    blocks.saturating_mul(KEY_BLOCK)
}

impl Store {
    fn new(kind: KvType, len: usize) -> Result<Self, Error> {
        Ok(match kind {
            KvType::F16 => Store::F16(zeroed("the key/value cache", len)?),
            KvType::F32 => Store::F32(zeroed("the key/value cache", len)?),
        })
    }

    /// Stores a vector, `stride` apart.
    fn put(&mut self, kernels: &Kernels, at: usize, stride: usize, vector: &[f32]) {
        match self {
            Store::F16(all) if stride == 1 => kernels.store_f16(vector, &mut all[at..at + vector.len()]),
            Store::F16(all) => {
                let places = all[at..].iter_mut().step_by(stride);
                places.zip(vector).for_each(|(place, &v)| *place = Half::from_f32(v));
            }
            Store::F32(all) => all[at..].iter_mut().step_by(stride).zip(vector).for_each(|(place, &v)| *place = v),
        }
    }

    fn len(&self) -> usize {
        match self {
            Store::F16(all) => all.len(),
            Store::F32(all) => all.len(),
        }
    }

    /// Appends a vector of `len` values, `stride` apart.
    fn save(&self, at: usize, stride: usize, len: usize, out: &mut Vec<u8>) {
        match self {
            Store::F16(all) => {
                out.extend(all[at..].iter().step_by(stride).take(len).flat_map(|v| v.to_le_bytes()));
            }
            Store::F32(all) => {
                out.extend(all[at..].iter().step_by(stride).take(len).flat_map(|v| v.to_le_bytes()));
            }
        }
    }

    /// Puts back such a vector.
    fn restore(&mut self, at: usize, stride: usize, bytes: &[u8]) {
        match self {
            Store::F16(all) => {
                let places = all[at..].iter_mut().step_by(stride);
                places.zip(bytes.as_chunks().0).for_each(|(place, &v)| *place = Half::from_le_bytes(v));
            }
            Store::F32(all) => {
                let places = all[at..].iter_mut().step_by(stride);
                places.zip(bytes.as_chunks().0).for_each(|(place, &v)| *place = f32::from_le_bytes(v));
            }
        }
    }

    fn part(&self, range: Range<usize>) -> Cached<'_> {
        match self {
            Store::F16(all) => Cached::F16(&all[range]),
            Store::F32(all) => Cached::F32(&all[range]),
        }
    }
}
