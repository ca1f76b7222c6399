//! The small operations between the products. Plain IEEE arithmetic in a fixed order, no library functions
//! whose last bit differs between platforms, so that they give the same bits everywhere.

use spm::{Rope, RopeLayout};

use crate::simd::sum_lanes;

/// `out = x / rms(x) * weight`, `rms = sqrt(mean(x^2) + eps)` (Zhang and Sennrich 2019).
#[inline(always)]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = [0.0f32; 8];
    for x in x.chunks(8) {
        lanes.iter_mut().zip(x).for_each(|(lane, v)| *lane += v * v);
    }
    let scale = 1.0 / (sum_lanes(lanes) / x.len() as f32 + eps).sqrt();
    for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
        *o = v * scale * w;
    }
}

/// `out = (x - mean) / sqrt(var + eps) * weight + bias`, sums in eight lanes as [`rms_norm`]'s (LayerNorm, Ba et al. 2016).
pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let mean = sum_of(x, |v| v) / x.len() as f32;
    let variance = sum_of(x, |v| (v - mean) * (v - mean)) / x.len() as f32;
    let scale = 1.0 / (variance + eps).sqrt();
    for ((o, v), (w, b)) in out.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
        *o = (v - mean) * scale * w + b;
    }
}

fn sum_of(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    for x in x.chunks(8) {
        lanes.iter_mut().zip(x).for_each(|(lane, v)| *lane += term(*v));
    }
    sum_lanes(lanes)
}

/// `gate = silu(gate) * up`, `silu(v) = v / (1 + exp(-v))` (SwiGLU, Shazeer 2020).
#[inline(always)]
pub(crate) fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}

/// Scores to probabilities, in place: softmax of `scale * score`.
#[inline(always)]
pub(crate) fn softmax(scores: &mut [f32], scale: f32) {
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in scores.chunks_mut(16) {
        for (s, lane) in chunk.iter_mut().zip(&mut lanes) {
            *s *= scale;
            *lane = if *s > *lane { *s } else { *lane };
        }
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [0.0f32; 8];
    for chunk in scores.chunks_mut(8) {
        for (s, lane) in chunk.iter_mut().zip(&mut lanes) {
            *s = exp(*s - max);
            *lane += *s;
        }
    }
    let inverse = 1.0 / sum_lanes(lanes);
    scores.iter_mut().for_each(|s| *s *= inverse);
}

/// `x *= factor`, unless that changes nothing.
pub(crate) fn scale(x: &mut [f32], factor: f32) {
    if factor != 1.0 {
        x.iter_mut().for_each(|v| *v *= factor);
    }
}

/// `a += b`.
pub(crate) fn add(a: &mut [f32], b: &[f32]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
}

/// e^x to within 2 units in the last place: x = n ln 2 + r, a polynomial of degree 6 in r, scaled by 2^n.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let rounding = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounding - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    // The low bits of the rounding sum are n.
    p * f32::from_bits((rounding.to_bits() << 23).wrapping_add(127 << 23))
}

/// Cosines and sines of the rotary embedding, one row a position.
#[derive(Default)]
pub(crate) struct RopeTable {
    /// Radians per position of each pair.
    frequencies: Vec<f64>,
    attn_scale: f32,
    /// The first position and how many.
    positions: (usize, usize),
    cos_sin: Vec<(f32, f32)>,
}

impl RopeTable {
    /// For a text of at most `context` positions.
    pub(crate) fn new(rope: &Rope, context: usize) -> Self {
        let pairs = rope.dims / 2;
        let factors = rope.freq_factors_for(context);
        let factor = |i: usize| factors.get(i).map_or(1.0, |&f| f64::from(f));
        let frequency = |i: usize| f64::from(rope.base).powf(-2.0 * i as f64 / rope.dims as f64) / factor(i);
        let frequencies = (0..pairs).map(frequency).collect();
        RopeTable { frequencies, attn_scale: rope.attn_scale, ..RopeTable::default() }
    }

    /// Fills the table for positions `first..first + n`, unless it is: all layers of a batch want the same.
    pub(crate) fn fill(&mut self, first: usize, n: usize) {
        if self.positions == (first, n) {
            return;
        }
        self.positions = (first, n);
        self.cos_sin.clear();
        for position in first..first + n {
            for frequency in &self.frequencies {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                self.cos_sin.push((cos as f32 * self.attn_scale, sin as f32 * self.attn_scale));
            }
        }
    }

    /// Turns every head of `heads` (each `head_dim` wide) to the `nth` position of the table.
    pub(crate) fn apply(&self, rope: &Rope, nth: usize, heads: &mut [f32], head_dim: usize) {
        let pairs = rope.dims / 2;
        let turns = &self.cos_sin[nth * pairs..(nth + 1) * pairs];
        for head in heads.chunks_exact_mut(head_dim) {
            match rope.layout {
                RopeLayout::Interleaved => {
                    for (pair, &(cos, sin)) in head.chunks_exact_mut(2).zip(turns) {
                        (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
                    }
                }
                RopeLayout::Halves => {
                    let (first, second) = head[..rope.dims].split_at_mut(pairs);
                    for ((a, b), &(cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_of_the_f64_one() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "exp({x}): relative error {error}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), exp(-87.0));
    }

    #[test]
    fn layer_norm_is_the_published_formula() {
        let x: Vec<f32> = (0..11).map(|i| (i * i % 7) as f32 - 1.5).collect();
        let (weight, bias): (Vec<f32>, Vec<f32>) = (0..11).map(|i| (1.0 + i as f32 / 10.0, i as f32 - 5.0)).unzip();
        let mut out = [0.0; 11];
        layer_norm(&x, &weight, &bias, 1e-5, &mut out);
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / 11.0;
        let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / 11.0;
        for i in 0..11 {
            let expected =
                (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt() * f64::from(weight[i]) + f64::from(bias[i]);
            assert!((f64::from(out[i]) - expected).abs() < 1e-5, "{i}: {} and {expected}", out[i]);
        }
    }

    #[test]
    fn softmax_sums_to_one_and_keeps_ratios() {
        let mut s = [1.0, 2.0, 3.0, -1e30, 3.0];
        softmax(&mut s, 1.0);
        assert!((s.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((s[2] / s[1] - std::f32::consts::E).abs() < 1e-5);
        assert_eq!(s[2], s[4]);
        assert!(s[3] < 1e-37);
    }

    #[test]
    fn both_rope_layouts_turn_the_same_pairs() {
        let rope = |layout| Rope { freq_factors: vec![1.0, 2.0, 4.0], ..Rope::new(100.0, 6, layout) };
        let values: Vec<f32> = (0..8).map(|i| i as f32 - 3.5).collect();
        let (r1, r2) = (rope(RopeLayout::Interleaved), rope(RopeLayout::Halves));
        let mut table = RopeTable::new(&r1, 7);
        table.fill(5, 2);
        let mut interleaved = values.clone();
        table.apply(&r1, 1, &mut interleaved, 8);
        let order = [0, 2, 4, 1, 3, 5, 6, 7];
        let mut halves: Vec<f32> = order.iter().map(|&i| values[i]).collect();
        table.apply(&r2, 1, &mut halves, 8);
        let back: Vec<f32> = order.iter().map(|&i| interleaved[i]).collect();
        assert_eq!(halves, back);
        let angle = 6.0 * 100f64.powf(-2.0 / 6.0) / 2.0;
        let expected = f64::from(values[2]) * angle.cos() - f64::from(values[3]) * angle.sin();
        assert!((f64::from(interleaved[2]) - expected).abs() < 1e-6);
        assert_eq!(&interleaved[6..], &values[6..], "dimensions past `dims` stay");
    }
}
