//! The non-linearities between the projections of a feed-forward block. Plain IEEE arithmetic as in `ops`.

use spm::Activation;

use crate::ops::exp;

/// `gate = act(gate) * up`.
pub(crate) fn gated(activation: Activation, gate: &mut [f32], up: &[f32]) {
    plain(activation, gate);
    gate.iter_mut().zip(up).for_each(|(g, u)| *g *= u);
}

/// `x = act(x)`.
pub(crate) fn plain(activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::Silu => x.iter_mut().for_each(|v| *v = *v / (1.0 + exp(-*v))),
        Activation::GeluTanh => x.iter_mut().for_each(|v| *v = gelu_tanh(*v)),
        Activation::Gelu => x.iter_mut().for_each(|v| *v = gelu(*v)),
    }
}

/// `x = cap * tanh(x / cap)`.
pub(crate) fn soft_cap(x: &mut [f32], cap: f32) {
    x.iter_mut().for_each(|v| *v = cap * tanh(*v / cap));
}

/// `(1 + tanh(u)) / 2` is the logistic function of `2 u`.
fn gelu_tanh(x: f32) -> f32 {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    let u = TWICE_SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-u))
}

/// With `(1 + erf(z)) / 2 = erfc(-z) / 2`, which keeps its digits where it is small.
fn gelu(x: f32) -> f32 {
    x * 0.5 * erfc(-x * std::f32::consts::FRAC_1_SQRT_2)
}

/// The complementary error function: Chebyshev fit of Press et al., Numerical Recipes, section 6.2 (relative error 1.2e-7),
/// in f64 so that the exponent is exact.
fn erfc(x: f32) -> f32 {
    const COEFFICIENTS: [f64; 10] = [
        -1.26551223,
        1.00002368,
        0.37409196,
        0.09678418,
        -0.18628806,
        0.27886807,
        -1.13520398,
        1.48851587,
        -0.82215223,
        0.17087277,
    ];
    let z = f64::from(x.abs());
    let t = 1.0 / (1.0 + 0.5 * z);
    let series = COEFFICIENTS.iter().rev().fold(0.0, |sum, c| sum * t + c);
    let value = t as f32 * exp((series - z * z) as f32);
    if x < 0.0 { 2.0 - value } else { value }
}

/// From the exponential; near zero, where that cancels, from the series.
fn tanh(x: f32) -> f32 {
    if x.abs() < 0.25 {
        let s = x * x;
        return x * (1.0 + s * (-1.0 / 3.0 + s * (2.0 / 15.0 + s * (-17.0 / 315.0 + s * (62.0 / 2835.0)))));
    }
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against f64: the exponential's tanh, and erf as its Maclaurin series, exact for arguments this small.
    #[test]
    fn activations_are_those_of_f64() {
        let erf = |z: f64| {
            let (mut term, mut sum) = (z, z);
            for n in 1..200 {
                term *= -z * z / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        };
        let root = (2.0 / std::f64::consts::PI).sqrt();
        for i in -500..=500 {
            let x = f64::from(i) / 100.0;
            let close = |name: &str, found: f32, expected: f64| {
                let error = (f64::from(found) - expected).abs();
                assert!(error <= 1e-6 * (0.1 + x.abs()), "{name}({x}) = {found}, expected {expected}");
            };
            close(
                "silu",
                {
                    let mut v = [x as f32];
                    plain(Activation::Silu, &mut v);
                    v[0]
                },
                x / (1.0 + (-x).exp()),
            );
            close("gelu_tanh", gelu_tanh(x as f32), 0.5 * x * (1.0 + (root * (x + 0.044715 * x.powi(3))).tanh()));
            close("gelu", gelu(x as f32), 0.5 * x * (1.0 + erf(x / 2f64.sqrt())));
            close("tanh", tanh(x as f32), x.tanh());
        }
        assert_eq!((tanh(1e4), tanh(-1e4), gelu(30.0)), (1.0, -1.0, 30.0));
        assert!(gelu(-30.0).abs() < 1e-30);
    }

    #[test]
    fn caps_bound_and_leave_small_values() {
        let mut x = [1e6, -1e6, 0.01, 25.0];
        soft_cap(&mut x, 50.0);
        assert_eq!((x[0], x[1], x[2]), (50.0, -50.0, 0.01));
        assert!((x[3] - 50.0 * 0.5f32.tanh()).abs() < 1e-5);
    }
}
