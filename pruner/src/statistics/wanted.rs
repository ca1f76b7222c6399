//! What outputs a matrix is to have: those of the dense model on the same tokens, not those of the dense weights on the
//! inputs that the model as pruned so far feeds them (asymmetric calibration; Li et al.: GPTAQ: Efficient Finetuning-Free
//! Quantization for Asymmetric Calibration, 2025).
//!
//! With `P` the inputs of the pruned model and `Y` the outputs that are wanted, weights `Z` lose `||Y - P Z||^2`, which is
//! least where `P^T P Z = P^T Y`. Where a matrix reads the normalised stream, `Y = X W` with the dense model's inputs `X`.
//! Where it adds to the stream, `Y` is all that is missing there: the dense model's stream after it less the pruned model's
//! before it. So it also makes up for what was lost before, and losses do not pile up. (There `P` and `Y` are each divided by
//! the size of the stream at their token.)

use rayon::prelude::*;

use crate::error::Error;
use crate::linalg::{self, Transpose, zeroed};

/// How far outputs are moved from those of the dense weights on the pruned model's inputs to those of the dense model.
/// All the way follows the calibration tokens too closely.
const MOVED: f32 = 0.5;

/// Columns of the products that are updated together. Fixed, so that sums do not depend on threads.
const PANEL: usize = 128;

/// Tokens that a thread judges at a time.
const TOKENS: usize = 128;

/// What is gathered of the dense model for each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// How its inputs differ from the pruned model's, `X - P`.
    Inputs,
    /// What is missing in the stream, `Y`.
    Outputs,
}

/// `P^T (X - P)` (`d x d`) or `P^T Y` (`d x o`) over all tokens seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    d: usize,
    width: usize,
    beside: Beside,
    /// Column after column.
    products: Vec<f32>,
}

impl Wanted {
    /// No tokens yet, of `d` inputs and `width` numbers beside; an error if there is no memory for their products.
    pub fn new(beside: Beside, d: usize, width: usize) -> Result<Self, Error> {
        Ok(Wanted { d, width, beside, products: zeroed("products with the dense model", d * width)? })
    }

    /// Counts the inputs `p` (`n x d`) and what is `beside` them (`n x width`), one row a token, on the threads of the
    /// current pool.
    pub fn add(&mut self, p: &[f32], beside: &[f32]) {
        let (d, width) = (self.d, self.width);
        let n = p.len() / d;
        self.products.par_chunks_mut(PANEL * d).enumerate().for_each(|(i, panel)| {
            let beside = linalg::columns(beside, width).submatrix(i * PANEL, 0, panel.len() / d, n);
            linalg::multiply_add(linalg::columns_mut(panel, d), linalg::columns(p, d), beside, Transpose::Right);
        });
    }

    /// What moving the outputs adds to `P^T P W`, `o x d`: `a P^T (Y - P W)` for the dense weights `W`, row after row, of
    /// which `own` is `P^T P W`.
    pub(crate) fn shift(&self, dense: &[f32], own: &[f32]) -> Vec<f32> {
        let mut shift = vec![0.0; dense.len()];
        match self.beside {
            Beside::Inputs => {
                linalg::times(&self.products, self.d, dense, &mut shift);
                shift.par_iter_mut().for_each(|s| *s *= MOVED);
            }
            Beside::Outputs => {
                let moved = shift.par_iter_mut().zip(&self.products).zip(own);
                moved.for_each(|((s, wanted), own)| *s = MOVED * (wanted - own));
            }
        }
        shift
    }
}

/// Tokens kept as they are, to judge by what was made with the others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeldOut {
    d: usize,
    /// `n x d`.
    inputs: Vec<f32>,
    /// `n x width`; nothing if the dense model is not followed.
    beside: Option<Kept>,
}

/// What is kept beside the inputs, how many numbers a token, `n x width`.
type Kept = (Beside, usize, Vec<f32>);

/// Outputs that are judged: every `step`-th of a matrix.
#[derive(Clone, Copy)]
pub(crate) struct Outputs<'a> {
    pub(crate) step: usize,
    /// How much each weighs, of all the matrix has; `None` if all weigh the same.
    pub(crate) weights: Option<&'a [f32]>,
}

impl Outputs<'_> {
    /// Sum of squares of `y`, `n x o`.
    fn energy(self, y: &[f32], o: usize) -> f64 {
        match self.weights {
            None => y.iter().map(|y| f64::from(*y).powi(2)).sum(),
            Some(weights) => {
                let weighed = y.chunks_exact(o).flat_map(|y| y.iter().zip(weights.iter().step_by(self.step)));
                weighed.map(|(y, w)| f64::from(y * w).powi(2)).sum()
            }
        }
    }
}

impl HeldOut {
    /// No tokens yet, of `d` inputs and as many numbers beside as said, if any.
    pub fn new(d: usize, beside: Option<(Beside, usize)>) -> Self {
        HeldOut { d, inputs: Vec::new(), beside: beside.map(|(beside, width)| (beside, width, Vec::new())) }
    }

    /// The same with room for so many tokens: grown as they come, it takes up to twice the memory. An error if there is none.
    pub(crate) fn with_room(d: usize, beside: Option<(Beside, usize)>, tokens: usize) -> Result<Self, Error> {
        let mut held_out = HeldOut::new(d, beside);
        linalg::reserve(&mut held_out.inputs, "inputs held out", tokens * d)?;
        if let Some((_, width, kept)) = &mut held_out.beside {
            linalg::reserve(kept, "inputs held out", tokens * *width)?;
        }
        Ok(held_out)
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.d
    }

    /// `P w^T` of the first `most` tokens, for the rows `w`: `n x o`.
    pub(crate) fn outputs(&self, w: &[f32], most: usize) -> Vec<f32> {
        let n = self.tokens().min(most);
        let o = w.len() / self.d;
        let mut y = vec![0.0; n * o];
        let shares = y.par_chunks_mut(TOKENS * o).zip(self.inputs.par_chunks(TOKENS * self.d));
        shares.for_each(|(y, p)| add_outputs(y, &p[..y.len() / o * self.d], w, self.d, 1.0));
        y
    }

    /// Tokens kept.
    pub fn tokens(&self) -> usize {
        self.inputs.len() / self.d.max(1)
    }

    /// What is kept beside the inputs, `n x width`.
    #[cfg(test)]
    pub(crate) fn beside(&self) -> &[f32] {
        self.beside.as_ref().map_or(&[], |(_, _, beside)| beside)
    }

    /// Keeps the inputs `p` (`n x d`) and what is `beside` them.
    pub fn add(&mut self, p: &[f32], beside: &[f32]) {
        self.inputs.extend_from_slice(p);
        if let Some((_, _, kept)) = &mut self.beside {
            kept.extend_from_slice(beside);
        }
    }

    /// `||Y - P Z||^2 / ||Y||^2` of some outputs, for the dense and the pruned weights of those; 0 where nothing is wanted.
    pub(crate) fn relative_loss(&self, dense: &[f32], pruned: &[f32], of: Outputs) -> f64 {
        self.relative(dense, pruned, self.beside.as_ref(), of)
    }

    /// `||P (W - Z)||^2 / ||P W||^2`: the same as if those of the dense weights were wanted, for any rows.
    pub fn relative_error(&self, dense: &[f32], pruned: &[f32]) -> f64 {
        self.relative(dense, pruned, None, Outputs { step: 1, weights: None })
    }

    fn relative(&self, dense: &[f32], pruned: &[f32], beside: Option<&Kept>, of: Outputs) -> f64 {
        let shares = (0..self.tokens()).into_par_iter().step_by(TOKENS);
        let losses = |first| self.losses(first, dense, pruned, beside, of);
        let parts: Vec<(f64, f64)> = shares.map(losses).collect();
        let (lost, all) = parts.into_iter().fold((0.0, 0.0), |(a, b), (lost, all)| (a + lost, b + all));
        if all > 0.0 { lost / all } else { 0.0 }
    }

    /// `||Y - P Z||^2` and `||Y||^2` of some tokens from `first` on.
    fn losses(&self, first: usize, dense: &[f32], pruned: &[f32], beside: Option<&Kept>, of: Outputs) -> (f64, f64) {
        let tokens = first..(first + TOKENS).min(self.tokens());
        let o = dense.len() / self.d;
        let p = &self.inputs[tokens.start * self.d..tokens.end * self.d];
        let mut y = vec![0.0; tokens.len() * o];
        match beside {
            Some((Beside::Outputs, width, wanted)) => {
                let wanted = wanted[tokens.start * width..].chunks_exact(*width);
                let rows = y.chunks_exact_mut(o).zip(wanted);
                rows.for_each(|(y, wanted)| {
                    y.iter_mut().zip(wanted.iter().step_by(of.step)).for_each(|(y, w)| *y = *w)
                });
            }
            Some((Beside::Inputs, _, less)) => {
                let less = &less[tokens.start * self.d..tokens.end * self.d];
                let x: Vec<f32> = p.iter().zip(less).map(|(p, less)| p + less).collect();
                add_outputs(&mut y, &x, dense, self.d, 1.0);
            }
            None => add_outputs(&mut y, p, dense, self.d, 1.0),
        }
        let all = of.energy(&y, o);
        add_outputs(&mut y, p, pruned, self.d, -1.0);
        (of.energy(&y, o), all)
    }
}

/// `y += factor x w^T`.
fn add_outputs(y: &mut [f32], x: &[f32], w: &[f32], d: usize, factor: f32) {
    let o = w.len() / d;
    let (y, x, w) = (linalg::columns_mut(y, o), linalg::columns(x, d), linalg::columns(w, d));
    linalg::add_scaled_product(y, w, x, Transpose::Left, factor);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::noise;

    /// An output that weighs `w` counts as one that is `w` times as large.
    #[test]
    fn weighed_losses_are_those_of_outputs_of_other_sizes() {
        const D: usize = 7;
        const ROWS: usize = 6;
        let mut held_out = HeldOut::new(D, None);
        held_out.add(&noise(200 * D, 1), &[]);
        let (dense, pruned) = (noise(ROWS * D, 2), noise(ROWS * D, 3));
        let weights: Vec<f32> = (0..2 * ROWS).map(|row| 1.0 + row as f32).collect();
        let weighed =
            |rows: &[f32]| -> Vec<f32> { rows.iter().enumerate().map(|(i, w)| w * weights[i / D * 2]).collect() };
        // Every second row was taken before.
        let found = held_out.relative_loss(&dense, &pruned, Outputs { step: 2, weights: Some(&weights) });
        let expected = held_out.relative_error(&weighed(&dense), &weighed(&pruned));
        assert!((found / expected - 1.0).abs() < 1e-5, "{found}, expected {expected}");
        assert!((found / held_out.relative_error(&dense, &pruned) - 1.0).abs() > 0.01, "weights matter");
    }
}
