//! Keys and values of the positions seen so far, as halves, singles or bytes.

mod store;

use std::ops::Range;

use spm::Config;

use self::store::{Layout, Store, bytes_of_vector};
use crate::error::Error;
use crate::simd::{Cached, KEY_BLOCK, Kernels};

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// IEEE half, two bytes a value.
    #[default]
    F16,
    /// IEEE single: exact, twice the memory.
    F32,
    /// A byte a value and a scale for every 32 of a head's: little more than half the memory of halves.
    Q8,
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
        let of_heads = |slots: usize| slots.saturating_mul(config.n_kv_heads);
        let padded = slots.div_ceil(KEY_BLOCK).saturating_mul(KEY_BLOCK);
        let keys = Store::new(kind, Layout::Blocks, of_heads(padded), config.head_dim)?;
        let values = Store::new(kind, Layout::Rows, of_heads(slots), config.head_dim)?;
        Ok(KvCache { context, slots, batch, head_dim: config.head_dim, keys, values })
    }

    /// Bytes that a cache of one layer takes.
    pub fn byte_len(config: &Config, context: usize, kind: KvType) -> usize {
        let of_a_position = 2 * config.n_kv_heads * bytes_of_vector(kind, config.head_dim);
        context.saturating_add(KEY_BLOCK).saturating_mul(of_a_position)
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

    /// The first position that is still there after all before `end` were put.
    pub(crate) fn first_kept(&self, end: usize) -> usize {
        end.saturating_sub(self.slots)
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
        let (d, slot) = (self.head_dim, position % self.slots);
        for (head, (key, value)) in key.chunks_exact(d).zip(value.chunks_exact(d)).enumerate() {
            self.keys.put(kernels, head * self.key_slots() + slot, key);
            self.values.put(kernels, head * self.slots + slot, value);
        }
    }

    /// The keys of a kv head from a run's first on.
    pub(crate) fn keys(&self, head: usize, run: &Run) -> Cached<'_> {
        let n = self.key_slots();
        self.keys.part(head * n + run.slot..(head + 1) * n)
    }

    /// The values of a kv head from a run's first on.
    pub(crate) fn values(&self, head: usize, run: &Run) -> Cached<'_> {
        self.values.part(head * self.slots + run.slot..(head + 1) * self.slots)
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
        self.keys.kind()
    }

    /// Bytes of [`Self::save`].
    pub(crate) fn state_len(&self) -> usize {
        2 * self.heads() * bytes_of_vector(self.kind(), self.head_dim)
    }

    /// Appends the keys and values of a position as they are kept, head by head.
    pub(crate) fn save(&self, position: usize, out: &mut Vec<u8>) {
        for (keys, values) in self.places(position) {
            self.keys.save(keys, out);
            self.values.save(values, out);
        }
    }

    /// Puts back what [`Self::save`] appended.
    pub(crate) fn restore(&mut self, position: usize, bytes: &[u8]) {
        let mut vectors = bytes.chunks_exact(bytes_of_vector(self.kind(), self.head_dim));
        for (keys, values) in self.places(position) {
            if let (Some(key), Some(value)) = (vectors.next(), vectors.next()) {
                self.keys.restore(keys, key);
                self.values.restore(values, value);
            }
        }
    }

    /// Of every head, the slots of key and value of a position.
    fn places(&self, position: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (slots, key_slots, slot) = (self.slots, self.key_slots(), position % self.slots);
        (0..self.heads()).map(move |head| (head * key_slots + slot, head * slots + slot))
    }

    fn heads(&self) -> usize {
        self.keys.slots() / self.key_slots().max(1)
    }

    /// Of a head: whole blocks.
    fn key_slots(&self) -> usize {
        self.slots.next_multiple_of(KEY_BLOCK)
    }
}

/// Slots that layer `index` needs: key blocks for its window and for the tokens that are put together, both of which may
/// begin within one.
fn slots(config: &Config, index: usize, context: usize, batch: usize) -> usize {
    let Some(window) = config.window_of(index) else { return context };
    let blocks = window.saturating_add(batch).div_ceil(KEY_BLOCK).saturating_add(1);
    blocks.saturating_mul(KEY_BLOCK)
}
