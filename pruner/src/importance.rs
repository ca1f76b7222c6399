//! How much outputs weigh in what the layer makes of them, so that the rows of a matrix can be compared with each other.
//!
//! A hidden unit of the feed-forward network is `h = silu(g) u`, with `g` of the gate and `u` of the up projection. To first
//! order, and as if units erred independently, errors in them change the stream by `||D||^2 (h_g^2 dg^2 + h_u^2 du^2)`, with
//! `D` the unit's column of the down projection, `h_g = silu'(g) u` and `h_u = silu(g)`. So rows weigh `||D|| rms(h_g)` and
//! `||D|| rms(h_u)`.

use rayon::prelude::*;

use crate::statistics::HeldOut;

/// Tokens looked at.
const TOKENS: usize = 512;

/// Of the rows of gate and up, for their dense weights and those of down, as stored: rows of `d`, rows of `d`, and rows of as
/// many as these are.
pub(crate) fn of_gate_and_up(held_out: &HeldOut, gate: &[f32], up: &[f32], down: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (g, u) = (held_out.outputs(gate, TOKENS), held_out.outputs(up, TOKENS));
    let units = gate.len() / held_out.cols();
    let of_unit = |unit: usize| {
        let column: f64 = down.iter().skip(unit).step_by(units).map(|w| f64::from(*w).powi(2)).sum();
        let (mut of_gate, mut of_up) = (0.0, 0.0);
        for (g, u) in g.iter().zip(&u).skip(unit).step_by(units) {
            let (by_gate, by_up) = derivatives(f64::from(*g), f64::from(*u));
            of_gate += by_gate * by_gate;
            of_up += by_up * by_up;
        }
        // Only ratios matter, so the number of tokens does not.
        ((column * of_gate).sqrt() as f32, (column * of_up).sqrt() as f32)
    };
    (0..units).into_par_iter().map(of_unit).unzip()
}

/// Of `silu(g) u`, by `g` and by `u`.
fn derivatives(g: f64, u: f64) -> (f64, f64) {
    let sigmoid = 1.0 / (1.0 + (-g).exp());
    (sigmoid * (1.0 + g * (1.0 - sigmoid)) * u, g * sigmoid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::noise;

    /// A small error in one row changes the outputs of the network as its weight says.
    #[test]
    fn rows_weigh_what_an_error_in_them_changes() {
        const D: usize = 12;
        const UNITS: usize = 9;
        let scaled = |n: usize, seed: u64| -> Vec<f32> {
            noise(n, seed).iter().enumerate().map(|(i, v)| v * (1.0 + (i / D % 4) as f32)).collect()
        };
        let (gate, up, down) = (scaled(UNITS * D, 1), scaled(UNITS * D, 2), noise(D * UNITS, 3));
        let x = noise(300 * D, 4);
        let mut held_out = HeldOut::new(D, None);
        held_out.add(&x, &[]);
        let (of_gate, of_up) = of_gate_and_up(&held_out, &gate, &up, &down);

        let dot = |w: &[f32], x: &[f32]| -> f64 { w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum() };
        let silu = |g: f64| g / (1.0 + (-g).exp());
        let step = 1e-5;
        for unit in 0..UNITS {
            let row = unit * D..(unit + 1) * D;
            let column: f64 = (0..D).map(|o| f64::from(down[o * UNITS + unit]).powi(2)).sum();
            let (mut by_gate, mut by_up) = (0.0, 0.0);
            for x in x.chunks(D) {
                let (g, u) = (dot(&gate[row.clone()], x), dot(&up[row.clone()], x));
                by_gate += column * ((silu(g + step) - silu(g - step)) / (2.0 * step) * u).powi(2);
                by_up += column * silu(g).powi(2);
            }
            assert!((f64::from(of_gate[unit]) / by_gate.sqrt() - 1.0).abs() < 1e-4, "gate {unit}");
            assert!((f64::from(of_up[unit]) / by_up.sqrt() - 1.0).abs() < 1e-4, "up {unit}");
        }
    }
}
