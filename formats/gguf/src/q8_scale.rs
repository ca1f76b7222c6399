//! The scale of a q8 block whose weights are known to lie on steps.
//!
//! A block of ggml's is `step * integer - minimum`. With a scale of `step / k` the integers stay exact and only the
//! minimum is rounded; some `k` makes that small. So three scales are tried instead of the dozens that
//! `spm::encode::q8_block` must try without knowing the step: nearly its error (2.3e-3 of the weights against 2.2e-3
//! on Q4_1, 5.5e-3 for the plain scale) at a fraction of the time, which a load has to wait for.

use half::f16;
use spm::BLOCK;

/// Scale and codes of `block`, of which each half may have a step of its own; 0 where there is none.
pub(crate) fn encode(block: &[f32; BLOCK], steps: [f32; 2]) -> (f16, [i8; BLOCK]) {
    let max = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let plain = f16::from_f32(max / 127.0);
    let holds_max = |half: &[f32]| half.iter().any(|v| v.abs() == max);
    let step = if holds_max(&block[..BLOCK / 2]) { steps[0] } else { steps[1] }.abs();
    let mut best = (plain, squared_error(block, plain));
    for scale in on_steps(max, step).into_iter().flatten().map(f16::from_f32) {
        let error = squared_error(block, scale);
        if error < best.1 {
            best = (scale, error);
        }
    }
    let inverse = inverse(best.0);
    let multiples = block.map(|v| v * inverse);
    (best.0, multiples.map(|x| if x.is_nan() { 0 } else { code(x).to_bits() as i8 }))
}

/// The whole part of the step that rounds the largest weight least, and a scale near it that does not round it.
fn on_steps(max: f32, step: f32) -> [Option<f32>; 2] {
    let ratio = max / step;
    let finest = (127.0 / ratio).min(127.0) as u32;
    let (mut least, mut best) = (f32::INFINITY, None);
    for k in (1..=finest).rev().map(|k| k as f32) {
        let multiple = ratio * k;
        let rounded = (multiple - nearest(multiple)).abs();
        // What is as good and coarser is not taken: the other half of the block may have another step.
        if rounded < (least - 1e-3) * k {
            (least, best) = (rounded / k, Some(k));
        }
    }
    [best.map(|k| step / k), best.map(|k| max / nearest(ratio * k))]
}

fn squared_error(block: &[f32; BLOCK], scale: f16) -> f32 {
    let (s, inverse) = (scale.to_f32(), inverse(scale));
    let lanes = block.as_chunks::<8>().0.iter().fold([0.0; 8], |mut sums, part| {
        for (sum, v) in sums.iter_mut().zip(part) {
            let error = v - (code(v * inverse) - ONES) * s;
            *sum += error * error;
        }
        sums
    });
    lanes.iter().sum()
}

/// A scale that is zero or none at all makes all codes zero.
fn inverse(scale: f16) -> f32 {
    let s = scale.to_f32();
    if s > 0.0 && s.is_finite() { 1.0 / s } else { 0.0 }
}

/// At 1.5 * 2^23 a float's last bit is worth one: adding that rounds, and leaves the integer in the low byte, in two's
/// complement. Unlike `round_ties_even` it needs no call on processors without an instruction for it.
const ONES: f32 = 12_582_912.0;

fn nearest(x: f32) -> f32 {
    x + ONES - ONES
}

/// `x` rounded to an integer of -127..=127, plus [`ONES`].
fn code(x: f32) -> f32 {
    x.clamp(-127.0, 127.0) + ONES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use spm::encode::q8_block;

    use super::*;

    fn exact_error(block: &[f32; BLOCK], scale: f16, codes: &[i8; BLOCK]) -> f64 {
        let d = f64::from(scale.to_f32());
        block.iter().zip(codes).map(|(v, c)| (f64::from(*v) - f64::from(*c) * d).powi(2)).sum()
    }

    fn found(block: &[f32; BLOCK], steps: [f32; 2]) -> f64 {
        let (scale, codes) = encode(block, steps);
        exact_error(block, scale, &codes)
    }

    /// But for the rounding of the scale to f16.
    #[test]
    fn multiples_of_a_step_are_kept() {
        for step in [0.5f32, 0.0078125, 3.0] {
            let block: [f32; BLOCK] = std::array::from_fn(|i| (i as f32 - 15.0) * step);
            let (scale, codes) = encode(&block, [step; 2]);
            let near = |(v, c): (&f32, i8)| (v - f32::from(c) * scale.to_f32()).abs() <= v.abs() / 2048.0;
            assert!(block.iter().zip(codes).all(near), "{step}");
        }
    }

    /// Over many blocks of sixteen levels the error is near that of the long search.
    #[test]
    fn steps_and_a_minimum_come_near_the_search() {
        let (mut ours, mut searched, mut state) = (0.0, 0.0, 1u32);
        let mut random = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 16) as f32 / 65536.0
        };
        for _ in 0..500 {
            let step = f16::from_f32(0.01 + random() * 0.1).to_f32();
            let minimum = f16::from_f32(random() * 8.0 * step + 4.0 * step).to_f32();
            let block: [f32; BLOCK] = std::array::from_fn(|_| (random() * 16.0).floor() * step - minimum);
            let (scale, codes) = q8_block(&block);
            searched += exact_error(&block, scale, &codes);
            ours += found(&block, [step; 2]);
        }
        assert!(ours.sqrt() < searched.sqrt() * 1.15, "{ours} against {searched}");
    }

    proptest! {
        #[test]
        fn no_worse_than_the_plain_scale(
            weights in prop::array::uniform32(-2.0f32..2.0), steps in prop::array::uniform2(-0.5f32..0.5),
        ) {
            let max = weights.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let plain = f16::from_f32(max / 127.0);
            let codes = weights.map(|v| (v / plain.to_f32()).round_ties_even().clamp(-127.0, 127.0) as i8);
            prop_assert!(found(&weights, steps) <= exact_error(&weights, plain, &codes) * 1.001 + 1e-12);
        }

        #[test]
        fn any_bits_give_some_code(bits in prop::array::uniform32(any::<u32>()), steps in prop::array::uniform2(any::<u32>())) {
            let (scale, codes) = encode(&bits.map(f32::from_bits), steps.map(f32::from_bits));
            prop_assert!(codes.iter().all(|c| *c != i8::MIN));
            prop_assert!(scale.to_f32() >= 0.0);
        }
    }
}
