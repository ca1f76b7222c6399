//! One tensor: from its weights to what is stored of it, and how far that is from them.

use spm::encode::{RowEncoder, encode};
use spm::{Checkpoint, Encoding, Mask, Matrix, row_bytes};

use crate::allocation::Treatment;
use crate::error::Error;
use crate::method::Job;
use crate::options::PruneOptions;
use crate::refit::refit;
use crate::rounding::Rounding;
use crate::statistics::Inputs;
use crate::tensors::{missing, not_finite};

/// What is stored of a matrix, how far that is from it, and whether the method fell back to another.
pub(crate) struct Outcome {
    pub(crate) stored: Matrix,
    pub(crate) relative_error: f64,
    pub(crate) fell_back: bool,
}

/// Treats one matrix as `options` say.
pub(crate) fn outcome(
    options: &PruneOptions,
    name: &str,
    shape: (usize, usize),
    dense: &[f32],
    inputs: Option<&Inputs>,
) -> Result<Outcome, Error> {
    let mut fell_back = false;
    let treatment = options.treatment(name);
    let stored = if treatment.pattern.is_dense() {
        let everything = Mask::all(shape.0, shape.1);
        round(options, name, treatment, shape, (dense, dense), &everything, inputs)?
    } else {
        let mut weights = dense.to_vec();
        let job = &mut Job {
            tensor: name,
            shape,
            weights: &mut weights,
            inputs,
            importance: inputs.and_then(|inputs| inputs.importance.get(name)).map(Vec::as_slice),
            pattern: treatment.pattern,
            group: options.group,
            fell_back: false,
        };
        let mask = options.method.prune(job)?;
        fell_back = job.fell_back;
        weights.chunks_exact_mut(shape.1).enumerate().for_each(|(row, weights)| mask.clear(row, weights));
        if let (true, Some(gram)) = (options.refit, inputs.and_then(Inputs::damped)) {
            let shift = inputs.and_then(|inputs| inputs.shift(dense));
            refit(&mut weights, dense, shift.as_deref(), &mask, gram);
        }
        let nothing_went = mask.kept() == dense.len() as u64;
        let treatment = if nothing_went { Treatment::dense(treatment.values) } else { treatment };
        round(options, name, treatment, shape, (dense, &weights), &mask, inputs)?
    };
    let relative_error = compare(name, dense, &stored, inputs)?;
    Ok(Outcome { stored, relative_error, fell_back })
}

/// Stores `pruned`, which is to do what `dense` does.
fn round(
    options: &PruneOptions,
    name: &str,
    treatment: Treatment,
    shape: (usize, usize),
    (dense, pruned): (&[f32], &[f32]),
    mask: &Mask,
    inputs: Option<&Inputs>,
) -> Result<Matrix, Error> {
    let encoding = treatment.encoding(shape.1)?;
    let compensating = inputs.filter(|_| options.compensates(treatment) && encoding.is_integer());
    let Some((gram, factor)) = compensating.and_then(|inputs| inputs.damped().zip(inputs.factor())) else {
        return store(name, encoding, shape, pruned, Some(mask));
    };
    let shift = compensating.and_then(|inputs| inputs.shift(dense));
    let rounding = Rounding { encoding, shape, dense, shift: shift.as_deref(), pruned, mask, gram, factor };
    rounding.round().map_err(|source| Error::Shape { tensor: name.to_owned(), source })
}

/// Reads back what was stored, refuses what did not fit, and says how far it is from `dense`; see
/// [`TensorReport::relative_error`].
fn compare(name: &str, dense: &[f32], stored: &Matrix, inputs: Option<&Inputs>) -> Result<f64, Error> {
    let cols = stored.cols();
    let mut found = vec![0.0; dense.len()];
    stored.read_rows(0, &mut found).ok_or_else(|| missing(name))?;
    if let Some(i) = found.iter().position(|v| !v.is_finite()) {
        return Err(overflow(name, i / cols, i % cols, dense[i], stored.encoding()));
    }
    if let Some(held_out) = inputs.and_then(|i| i.held_out.as_ref()) {
        return Ok(held_out.relative_error(dense, &found).sqrt());
    }
    if let Some(gram) = inputs.and_then(|i| i.gram.as_ref()) {
        return Ok(gram.relative_error(dense, &found).sqrt());
    }
    let unweighted = vec![1.0; cols];
    let weights = inputs.map_or(&unweighted[..], |i| i.norms.squares());
    let (mut lost, mut all) = (0.0, 0.0);
    for (dense, found) in dense.chunks_exact(cols).zip(found.chunks_exact(cols)) {
        for ((&w, &kept), n) in dense.iter().zip(found).zip(weights) {
            lost += f64::from(w - kept).powi(2) * n;
            all += f64::from(w).powi(2) * n;
        }
    }
    Ok(if all > 0.0 { (lost / all).sqrt() } else { 0.0 })
}

/// Encodes the rows `from` of table `name` one by one: embeddings are the largest tensors, and need never be expanded as a
/// whole. `tick` is called now and then with the number of rows done.
pub(crate) fn encode_table(
    source: &dyn Checkpoint,
    name: &str,
    from: &[usize],
    cols: usize,
    encoding: Encoding,
    tick: &mut dyn FnMut(usize) -> Result<(), Error>,
) -> Result<Matrix, Error> {
    const STEP: usize = 1024;
    let shape_error = |source| Error::Shape { tensor: name.to_owned(), source };
    let rows = from.len();
    let mut encoder = RowEncoder::new(encoding, rows, cols).map_err(shape_error)?;
    let everything = vec![0xFF; row_bytes(cols)];
    let mut row = vec![0.0; cols];
    for (r, &from) in from.iter().enumerate() {
        source.read_rows(name, from, &mut row).ok_or_else(|| missing(name))?;
        if let Some(col) = row.iter().position(|v| !v.is_finite()) {
            return Err(not_finite(name, from, col, row[col]));
        }
        encoder.push(&row, &everything).map_err(shape_error)?;
        if r % STEP == STEP - 1 {
            tick(STEP)?;
        }
    }
    let stored = encoder.finish().map_err(shape_error)?;
    for r in 0..rows {
        stored.read_row(r, &mut row);
        if let Some(col) = row.iter().position(|v| !v.is_finite()) {
            return Err(overflow(name, r, col, row[col], encoding));
        }
    }
    tick(rows % STEP)?;
    Ok(stored)
}

pub(crate) fn store(
    name: &str,
    encoding: Encoding,
    (rows, cols): (usize, usize),
    weights: &[f32],
    mask: Option<&Mask>,
) -> Result<Matrix, Error> {
    encode(encoding, rows, cols, weights, mask).map_err(|source| Error::Shape { tensor: name.to_owned(), source })
}

/// The same weights as dense f32.
pub(crate) fn expanded(name: &str, stored: &Matrix) -> Result<Matrix, Error> {
    let (rows, cols) = (stored.rows(), stored.cols());
    let mut weights = vec![0.0; rows * cols];
    stored.read_rows(0, &mut weights).ok_or_else(|| missing(name))?;
    store(name, Encoding::F32, (rows, cols), &weights, None)
}

fn overflow(name: &str, row: usize, col: usize, value: f32, encoding: Encoding) -> Error {
    Error::Overflow { tensor: name.to_owned(), row, col, value, encoding: encoding.name() }
}
