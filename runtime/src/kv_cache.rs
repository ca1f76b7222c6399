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

/// Keys and values of one layer. Values lie as `(kv head, position, dimension)`, dimension fastest; keys as
/// `(kv head, block of positions, dimension, position)`, position fastest, so that every lane of a register is a key.
pub struct KvCache {
    context: usize,
    head_dim: usize,
    keys: Store,
    values: Store,
}

enum Store {
    F16(Vec<Half>),
    F32(Vec<f32>),
}

impl KvCache {
    /// Room for `context` positions of one layer of `config`.
    pub fn new(config: &Config, context: usize, kind: KvType) -> Result<Self, Error> {
        let len = config.kv_dim().saturating_mul(context);
        let padded = config.kv_dim().saturating_mul(context.div_ceil(KEY_BLOCK).saturating_mul(KEY_BLOCK));
        let (keys, values) = (Store::new(kind, padded)?, Store::new(kind, len)?);
        Ok(KvCache { context, head_dim: config.head_dim, keys, values })
    }

    /// Bytes that a cache of one layer takes.
    pub fn byte_len(config: &Config, context: usize, kind: KvType) -> usize {
        let value = match kind {
            KvType::F16 => 2,
            KvType::F32 => 4,
        };
        config.kv_dim().saturating_mul(context.saturating_add(KEY_BLOCK)).saturating_mul(2 * value)
    }

    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// Stores the keys and values (all kv heads, `head_dim` each) of one position.
    pub(crate) fn put(&mut self, kernels: &Kernels, position: usize, key: &[f32], value: &[f32]) {
        let d = self.head_dim;
        let (block, lane) = (position / KEY_BLOCK, position % KEY_BLOCK);
        for (head, (key, value)) in key.chunks_exact(d).zip(value.chunks_exact(d)).enumerate() {
            let keys = head * self.keys_of_a_head() + block * d * KEY_BLOCK + lane;
            self.keys.put(kernels, keys, KEY_BLOCK, key);
            self.values.put(kernels, (head * self.context + position) * d, 1, value);
        }
    }

    /// The keys of a kv head.
    pub(crate) fn keys(&self, head: usize) -> Cached<'_> {
        let n = self.keys_of_a_head();
        self.keys.part(head * n..(head + 1) * n)
    }

    /// The values of a kv head.
    pub(crate) fn values(&self, head: usize) -> Cached<'_> {
        let n = self.context * self.head_dim;
        self.values.part(head * n..(head + 1) * n)
    }

    fn keys_of_a_head(&self) -> usize {
        self.context.next_multiple_of(KEY_BLOCK) * self.head_dim
    }
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

    fn part(&self, range: Range<usize>) -> Cached<'_> {
        match self {
            Store::F16(all) => Cached::F16(&all[range]),
            Store::F32(all) => Cached::F32(&all[range]),
        }
    }
}
