//! The tensors of a model: which there are, and that they are there and finite.

use spm::{Checkpoint, Config, POSITIONS};

use crate::error::Error;
use crate::site::MATRICES;

/// The matrices that may be pruned, with their shapes.
pub(crate) fn layer_matrices(config: &Config) -> impl Iterator<Item = (String, (usize, usize))> {
    let all = config.tensors().into_iter();
    all.filter(|(name, ..)| is_layer_matrix(name)).map(|(name, rows, cols)| (name, (rows, cols)))
}

/// Embedding, learned positions, output norm and head: name, rows, columns.
pub(crate) fn outside_layers(config: &Config) -> impl Iterator<Item = (String, usize, usize)> + use<> {
    config.tensors().into_iter().filter(|(name, ..)| !name.starts_with("blk."))
}

/// The embedding and the head, if that is another: name, rows, columns.
pub(crate) fn tables(config: &Config) -> impl Iterator<Item = (String, usize, usize)> + use<> {
    outside_layers(config).filter(|(name, rows, _)| *rows > 1 && name != POSITIONS)
}

pub(crate) fn is_layer_matrix(name: &str) -> bool {
    let short = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map(|(_, short)| short);
    short.is_some_and(|short| MATRICES.contains(&short))
}

/// Every tensor must be there, in the shape that the model's calls for, before any work is done.
pub(crate) fn check_tensors(source: &dyn Checkpoint) -> Result<(), Error> {
    for (name, expected_rows, expected_cols) in source.config().tensors() {
        let (rows, cols) = expect(source, &name)?;
        if (rows, cols) != (expected_rows, expected_cols) {
            return Err(runtime::Error::Shape { name, expected_rows, expected_cols, rows, cols }.into());
        }
    }
    Ok(())
}

pub(crate) fn expect(source: &dyn Checkpoint, name: &str) -> Result<(usize, usize), Error> {
    source.tensor(name).map(|t| (t.rows, t.cols)).ok_or_else(|| missing(name))
}

pub(crate) fn read_all(source: &dyn Checkpoint, name: &str) -> Result<Vec<f32>, Error> {
    source.read_all(name).ok_or_else(|| missing(name))
}

pub(crate) fn check_finite(name: &str, weights: &[f32], cols: usize) -> Result<(), Error> {
    match weights.iter().position(|w| !w.is_finite()) {
        Some(i) => Err(not_finite(name, i / cols, i % cols, weights[i])),
        None => Ok(()),
    }
}

pub(crate) fn missing(name: &str) -> Error {
    runtime::Error::MissingTensor { name: name.to_owned() }.into()
}

pub(crate) fn not_finite(name: &str, row: usize, col: usize, value: f32) -> Error {
    Error::NotFinite { tensor: name.to_owned(), what: "the weight", row, col, value }
}
