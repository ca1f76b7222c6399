//! How much the outputs of a matrix weigh in what the model makes of them, so that its rows can be compared with each other.
//!
//! - What is added to dimension `i` of the stream weighs `s_i = rms(gamma_i)` over the norms that are still to come: that is
//!   what they scale it by. So do the rows of the output and down projections.
//! - Attention mixes the values of tokens and changes nothing else about them, so row `r` of the value projection weighs what
//!   its outputs do in all query heads that read them: `||s O_r||`, with `O_r` the columns of the output projection.
//! - A hidden unit of the feed-forward network is `h = silu(g) u`, with `g` of the gate and `u` of the up projection. To first
//!   order, and as if units erred independently, errors in them change the stream by `||s D||^2 (h_g^2 dg^2 + h_u^2 du^2)`, with
//!   `D` the unit's column of the down projection, `h_g = silu'(g) u` and `h_u = silu(g)`. So rows weigh `||s D|| rms(h_g)` and
//!   `||s D|| rms(h_u)`.
//!
//! Of queries and keys it is not known, nor of the first projections of feed-forward networks of another kind.

use std::collections::BTreeMap;

use rayon::prelude::*;
use spm::{Activation, Checkpoint, Config};

use crate::error::Error;
use crate::site::Site;
use crate::statistics::HeldOut;
use crate::tensors::read_all;

/// Tokens looked at.
const TOKENS: usize = 512;

/// Of every matrix at a site of layer `index` for which it is known, by GGUF's name.
pub(crate) fn of_site(
    source: &dyn Checkpoint,
    index: usize,
    site: Site,
    held_out: Option<&HeldOut>,
) -> Result<BTreeMap<String, Vec<f32>>, Error> {
    let name = |short: &str| format!("blk.{index}.{short}.weight");
    let read = |short: &str| read_all(source, &name(short));
    let stream = of_stream(source, index, site)?;
    Ok(match (site, held_out) {
        (Site::AttnIn, _) => {
            let squares = column_squares(&read("attn_output")?, &stream);
            BTreeMap::from([(name("attn_v"), of_values(&squares, source.config()))])
        }
        (Site::AttnOut, _) => BTreeMap::from([(name("attn_output"), stream)]),
        (Site::FfnIn, Some(held_out)) if is_silu_gated(source.config()) => {
            let squares = column_squares(&read("ffn_down")?, &stream);
            let (of_gate, of_up) = of_gate_and_up(held_out, &read("ffn_gate")?, &read("ffn_up")?, &squares);
            BTreeMap::from([(name("ffn_gate"), of_gate), (name("ffn_up"), of_up)])
        }
        (Site::FfnIn, _) => BTreeMap::new(),
        (Site::FfnHidden, _) => BTreeMap::from([(name("ffn_down"), stream)]),
    })
}

fn is_silu_gated(c: &Config) -> bool {
    c.gated && c.activation == Activation::Silu
}

/// Of the dimensions of the stream, once what comes from `site` of layer `index` is added to it.
fn of_stream(source: &dyn Checkpoint, index: usize, site: Site) -> Result<Vec<f32>, Error> {
    let config = source.config();
    let own = matches!(site, Site::AttnIn | Site::AttnOut).then(|| format!("blk.{index}.ffn_norm.weight"));
    let of_layer = |layer: usize| ["attn_norm", "ffn_norm"].map(|norm| format!("blk.{layer}.{norm}.weight"));
    let later = (index + 1..config.n_layers).flat_map(of_layer).chain(["output_norm.weight".to_owned()]);
    let mut squares = vec![0.0; config.dim];
    for norm in own.into_iter().chain(later).filter(|norm| source.tensor(norm).is_some()) {
        let gamma = read_all(source, &norm)?;
        squares.iter_mut().zip(gamma).for_each(|(s, g)| *s += f64::from(g).powi(2));
    }
    // Only ratios matter, so the number of norms does not.
    Ok(squares.into_iter().map(|s| s.sqrt() as f32).collect())
}

/// `||s W_j||^2` of every column of the matrix `w` with as many rows as `s` is long.
fn column_squares(w: &[f32], s: &[f32]) -> Vec<f64> {
    let mut squares = vec![0.0; w.len() / s.len()];
    for (row, s) in w.chunks_exact(squares.len()).zip(s) {
        squares.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(w * s).powi(2));
    }
    squares
}

/// Of the rows of the value projection, for the squares of the output projection's columns.
fn of_values(squares: &[f64], c: &Config) -> Vec<f32> {
    let readers = c.n_heads / c.n_kv_heads;
    let of_row = |row: usize| {
        let (head, i) = (row / c.head_dim, row % c.head_dim);
        let columns = (head * readers..(head + 1) * readers).map(|reader| reader * c.head_dim + i);
        columns.map(|column| squares[column]).sum::<f64>().sqrt() as f32
    };
    (0..c.kv_dim()).map(of_row).collect()
}

/// Of the rows of gate and up, for their dense weights and the squares of the down projection's columns.
fn of_gate_and_up(held_out: &HeldOut, gate: &[f32], up: &[f32], squares: &[f64]) -> (Vec<f32>, Vec<f32>) {
    let (g, u) = (held_out.outputs(gate, TOKENS), held_out.outputs(up, TOKENS));
    let units = squares.len();
    let of_unit = |unit: usize| {
        let (mut of_gate, mut of_up) = (0.0, 0.0);
        for (g, u) in g.iter().zip(&u).skip(unit).step_by(units) {
            let (by_gate, by_up) = derivatives(f64::from(*g), f64::from(*u));
            of_gate += by_gate * by_gate;
            of_up += by_up * by_up;
        }
        // Only ratios matter, so the number of tokens does not.
        ((squares[unit] * of_gate).sqrt() as f32, (squares[unit] * of_up).sqrt() as f32)
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
        let stream: Vec<f32> = (0..D).map(|o| 0.5 + (o % 3) as f32).collect();
        let (of_gate, of_up) = of_gate_and_up(&held_out, &gate, &up, &column_squares(&down, &stream));

        let dot = |w: &[f32], x: &[f32]| -> f64 { w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum() };
        let silu = |g: f64| g / (1.0 + (-g).exp());
        let step = 1e-5;
        for unit in 0..UNITS {
            let row = unit * D..(unit + 1) * D;
            let column: f64 = (0..D).map(|o| f64::from(down[o * UNITS + unit] * stream[o]).powi(2)).sum();
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

    /// Changing row `r` of the values changes the stream by what all query heads that read it make of it.
    #[test]
    fn values_weigh_what_all_their_readers_make_of_them() {
        let c = Config::new(1, 12, 8, 4, 2);
        let o = noise(c.dim * c.q_dim(), 5);
        let stream: Vec<f32> = (0..c.dim).map(|i| 1.0 + (i % 4) as f32).collect();
        let found = of_values(&column_squares(&o, &stream), &c);
        assert_eq!(found.len(), c.kv_dim());
        for (row, found) in found.iter().enumerate() {
            // Query heads 0 and 1 read key and value head 0; 2 and 3 read 1.
            let reads = |column: &usize| column / 3 / 2 == row / 3 && column % 3 == row % 3;
            let squares = (0..c.dim).flat_map(|i| (0..c.q_dim()).filter(reads).map(move |j| (i, j)));
            let expected: f64 = squares.map(|(i, j)| f64::from(o[i * c.q_dim() + j] * stream[i]).powi(2)).sum();
            assert!((f64::from(*found) / expected.sqrt() - 1.0).abs() < 1e-5, "row {row}");
        }
    }
}
