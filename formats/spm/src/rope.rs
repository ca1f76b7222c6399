//! Rotary position embedding, and how the published kinds of scaling become divisors of its frequencies.

use std::f32::consts::PI;
use std::f64::consts::TAU;

use crate::config::limits;

/// Rotary position embedding with every scaling rule already applied.
///
/// Pair `i` of a head turns by `position * base^(-2i/dims) / freq_factors[i]`, and queries and keys are
/// multiplied by `attn_scale`. Linear, Llama-3 and YaRN scaling are all special cases.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Theta.
    pub base: f32,
    /// Leading dimensions of a head that turn; even.
    pub dims: usize,
    /// Which two dimensions form pair `i`.
    pub layout: RopeLayout,
    /// Divisors of the frequencies, `dims / 2` of them, or none at all.
    pub freq_factors: Vec<f32>,
    /// Factor on the rotated queries and keys (YaRN's `mscale`), 1 otherwise.
    pub attn_scale: f32,
    /// Other divisors, for long texts.
    pub long: Option<LongRope>,
}

/// LongRoPE (Ding et al. 2024): other divisors where a text may be longer than the model was trained for at first. They
/// hold for all of its positions, or those before would be turned by other angles than those after.
#[derive(Clone, Debug, PartialEq)]
pub struct LongRope {
    /// As many positions have [`Rope::freq_factors`].
    pub trained: usize,
    /// In place of these, `dims / 2` of them.
    pub freq_factors: Vec<f32>,
}

/// Which two dimensions of a head form a rotary pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// `(2i, 2i + 1)`: ggml's NORM, the original Llama's.
    Interleaved,
    /// `(i, i + dims/2)`: ggml's NEOX, transformers' `rotate_half`.
    Halves,
}

/// YaRN (Peng et al. 2023): by how much positions are stretched, and which frequencies are left alone.
#[derive(Clone, Copy, Debug)]
pub struct Yarn {
    /// By how much positions are stretched.
    pub factor: f32,
    /// Positions the model was trained for before.
    pub trained: f32,
    /// Pairs that turn more often than this within `trained` positions keep their frequency.
    pub fast: f32,
    /// Pairs that turn less often are stretched by the whole factor.
    pub slow: f32,
}

/// Llama 3's scaling: by how much long waves are stretched, and which waves are long.
#[derive(Clone, Copy, Debug)]
pub struct Llama3 {
    /// By how much positions are stretched.
    pub factor: f32,
    /// Waves longer than `trained` over this are stretched by the whole factor.
    pub low: f32,
    /// Waves shorter than `trained` over this are left alone.
    pub high: f32,
    /// Positions the model was trained for before.
    pub trained: f32,
}

impl Rope {
    /// Plain rotation of the leading `dims` dimensions.
    pub fn new(base: f32, dims: usize, layout: RopeLayout) -> Self {
        Rope { base, dims, layout, freq_factors: Vec::new(), attn_scale: 1.0, long: None }
    }

    /// The divisors for a text that may have as many as `positions`; none at all if all are 1.
    pub fn freq_factors_for(&self, positions: usize) -> &[f32] {
        self.long_for(positions).map_or(&self.freq_factors, |long| &long.freq_factors)
    }

    /// The other divisors, if a text of as many as `positions` needs them.
    pub fn long_for(&self, positions: usize) -> Option<&LongRope> {
        self.long.as_ref().filter(|long| positions > long.trained)
    }

    /// Divides every frequency by `factor`.
    pub fn scale_linear(&mut self, factor: f32) {
        if factor != 1.0 {
            self.scale_each(|_| factor);
        }
    }

    /// Blends from plain to stretched by frequency.
    pub fn scale_yarn(&mut self, yarn: Yarn) {
        let Yarn { factor, trained, fast, slow } = yarn;
        // The pair whose wave turns `turns` times within the trained context.
        let (dims, base) = (self.dims as f32, self.base);
        let pair_turning = |turns: f32| dims * (trained / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
        let low = pair_turning(fast).floor().max(0.0);
        let high = pair_turning(slow).ceil().min(dims - 1.0);
        self.scale_each(|pair| {
            let kept = 1.0 - ((pair as f32 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            1.0 / ((1.0 - kept) / factor + kept)
        });
    }

    /// Stretches long waves, and blends from these to short ones.
    pub fn scale_llama3(&mut self, scaling: Llama3) {
        let Llama3 { factor, low, high, trained } = scaling;
        let (base, dims) = (f64::from(self.base), self.dims as f64);
        let (factor, low, high) = (f64::from(factor), f64::from(low), f64::from(high));
        self.scale_each(|pair| {
            let wave = TAU * base.powf(2.0 * pair as f64 / dims);
            let turns = f64::from(trained) / wave;
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 / (kept + (1.0 - kept) / factor)) as f32
        });
    }

    fn scale_each(&mut self, divisor: impl Fn(usize) -> f32) {
        if self.freq_factors.is_empty() {
            // A wrong `dims` is refused by `Config::validate`; until then it must not cost memory.
            self.freq_factors = vec![1.0; self.dims.min(limits::WIDTH) / 2];
        }
        self.freq_factors.iter_mut().enumerate().for_each(|(pair, f)| *f *= divisor(pair));
    }
}
