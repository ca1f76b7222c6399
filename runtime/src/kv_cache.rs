//! Keys and values of the positions seen so far, as halves or singles.

use spm::Config;

use crate::error::Error;
use crate::linear::{Half, zeroed};
use crate::simd::Kernels;

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// IEEE half, two bytes a value.
    #[default]
    F16,
    /// IEEE single: exact, twice the memory.
    F32,
}

/// Keys and values of one layer; `(kv head, position, dimension)`, dimension fastest.
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
        Ok(KvCache { context, head_dim: config.head_dim, keys: Store::new(kind, len)?, values: Store::new(kind, len)? })
    }

    /// Bytes that a cache of one layer takes.
    pub fn byte_len(config: &Config, context: usize, kind: KvType) -> usize {
        let value = match kind {
            KvType::F16 => 2,
            KvType::F32 => 4,
        };
        config.kv_dim().saturating_mul(context).saturating_mul(2 * value)
    }

    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// Stores the keys and values (all kv heads, `head_dim` each) of one position.
    pub(crate) fn put(&mut self, kernels: &Kernels, position: usize, key: &[f32], value: &[f32]) {
        let d = self.head_dim;
        for (head, (key, value)) in key.chunks_exact(d).zip(value.chunks_exact(d)).enumerate() {
            let at = (head * self.context + position) * d;
            self.keys.put(kernels, at, key);
            self.values.put(kernels, at, value);
        }
    }

    /// `scores[p] = query . key[p]` for the first `scores.len()` positions of a kv head.
    pub(crate) fn scores(&self, kernels: &Kernels, head: usize, query: &[f32], scores: &mut [f32]) {
        let d = self.head_dim;
        let first = head * self.context * d;
        match &self.keys {
            Store::F16(keys) => {
                let keys = keys[first..].chunks_exact(d);
                scores.iter_mut().zip(keys).for_each(|(s, key)| *s = kernels.dot_f16(query, key));
            }
            Store::F32(keys) => {
                let keys = keys[first..].chunks_exact(d);
                scores.iter_mut().zip(keys).for_each(|(s, key)| *s = kernels.dot_f32(query, key));
            }
        }
    }

    /// `out = sum of weights[p] * value[p]` over the first `weights.len()` positions of a kv head.
    pub(crate) fn mix(&self, kernels: &Kernels, head: usize, weights: &[f32], out: &mut [f32]) {
        let d = self.head_dim;
        let first = head * self.context * d;
        out.fill(0.0);
        match &self.values {
            Store::F16(values) => {
                let values = values[first..].chunks_exact(d);
                weights.iter().zip(values).for_each(|(&w, value)| kernels.add_scaled_f16(out, w, value));
            }
            Store::F32(values) => {
                let values = values[first..].chunks_exact(d);
                weights.iter().zip(values).for_each(|(&w, value)| kernels.add_scaled_f32(out, w, value));
            }
        }
    }
}

impl Store {
    fn new(kind: KvType, len: usize) -> Result<Self, Error> {
        Ok(match kind {
            KvType::F16 => Store::F16(zeroed("the key/value cache", len)?),
            KvType::F32 => Store::F32(zeroed("the key/value cache", len)?),
        })
    }

    fn put(&mut self, kernels: &Kernels, at: usize, vector: &[f32]) {
        match self {
            Store::F16(all) => kernels.store_f16(vector, &mut all[at..at + vector.len()]),
            Store::F32(all) => all[at..at + vector.len()].copy_from_slice(vector),
        }
    }
}
