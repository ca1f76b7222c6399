//! The norms of the stream: a weight, and for LayerNorm a bias.

use spm::{Checkpoint, Norm as Kind};

use crate::engine::Engine;
use crate::error::Error;
use crate::linear::load_vector;
use crate::ops;

/// A norm of vectors of the stream's width.
pub(crate) struct Norm {
    weight: Vec<f32>,
    /// Of LayerNorm.
    bias: Option<Vec<f32>>,
}

impl Norm {
    /// Loads `name.weight`, and `name.bias` if it is of that kind.
    pub(crate) fn load(from: &dyn Checkpoint, name: &str, kind: Kind, width: usize) -> Result<Self, Error> {
        let has_bias = kind == Kind::Layer;
        Ok(Norm {
            weight: load_vector(from, &format!("{name}.weight"), width)?,
            bias: has_bias.then(|| load_vector(from, &format!("{name}.bias"), width)).transpose()?,
        })
    }

    /// Bytes of its weights.
    pub(crate) fn byte_len(&self) -> usize {
        4 * (self.weight.len() + self.bias.as_ref().map_or(0, Vec::len))
    }

    /// Normalises every vector of `x`, on this thread.
    pub(crate) fn apply(&self, engine: &Engine, x: &[f32], out: &mut [f32]) {
        let (eps, width) = (engine.config().norm_eps, self.weight.len());
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            match &self.bias {
                None => engine.kernels().rms_norm(x, &self.weight, eps, out),
                Some(bias) => ops::layer_norm(x, &self.weight, bias, eps, out),
            }
        }
    }

    /// The same, on all threads.
    pub(crate) fn apply_rows(&self, engine: &Engine, x: &[f32], out: &mut [f32]) {
        let width = self.weight.len();
        engine.for_each_part(out, width, |first, out| {
            self.apply(engine, &x[first * width..][..out.len()], out);
        });
    }

    /// The same in place; `scratch` is as long.
    pub(crate) fn apply_in_place(&self, engine: &Engine, x: &mut [f32], scratch: &mut Vec<f32>) {
        scratch.clear();
        scratch.extend_from_slice(x);
        self.apply_rows(engine, scratch, x);
    }
}
