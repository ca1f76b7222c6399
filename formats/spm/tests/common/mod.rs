//! Small models with a tensor in every encoding.
#![allow(dead_code)] // Each test is a program of its own and uses a part of this.

use std::collections::VecDeque;
use std::path::Path;

use spm::synthetic::SyntheticModel;
use spm::{CHUNK, Checkpoint, Config, Encoding, Mask, Matrix, Provenance, Shortlist, SpmWriter, WriterOptions, encode};

/// A model with rows of one chunk and of two and a half.
pub(crate) fn model() -> SyntheticModel {
    SyntheticModel::tiny(1)
}

/// A model without a row of whole chunks.
pub(crate) fn padded_model() -> SyntheticModel {
    SyntheticModel::new(Config::new(2, 72, 160, 4, 2), 1)
}

/// A model that cannot write all of its tokens.
pub(crate) fn shortlisted_model(tied_head: bool) -> SyntheticModel {
    let mut config = Config::new(2, 64, 160, 4, 2);
    config.tied_head = tied_head;
    let whole = SyntheticModel::new(config.clone(), 1);
    let (vocabulary, vocab_size) = (whole.vocabulary().unwrap(), whole.config().vocab_size);
    let ids = spm::needed_tokens(vocabulary);
    config.shortlist = Some(Shortlist::new(ids, vocab_size).unwrap());
    SyntheticModel::new(config, 1)
}

/// The matrices that [`write`] stores, in order: every encoding in turn that can have their columns.
pub(crate) fn matrices(model: &SyntheticModel) -> Vec<(String, Matrix)> {
    let mut next = VecDeque::from(Encoding::ALL);
    let encode = |t: &spm::TensorInfo| {
        let encoding = if t.rows == 1 { Encoding::F32 } else { first_fit(&mut next, t.cols) };
        let weights = model.read_all(&t.name).unwrap();
        let half = Mask::from_fn(t.rows, t.cols, |r, c| weights[r * t.cols + c].abs() > 0.08 * (r % 4) as f32);
        let half = fitting(encoding, half);
        let mask = encoding.is_sparse().then_some(&half);
        (t.name.clone(), encode::encode(encoding, t.rows, t.cols, &weights, mask).unwrap())
    };
    model.tensors().iter().map(encode).collect()
}

fn first_fit(next: &mut VecDeque<Encoding>, cols: usize) -> Encoding {
    let fits = |e: &Encoding| e.fixed_pattern().is_none() || cols.is_multiple_of(CHUNK);
    let encoding = next.iter().position(fits).and_then(|i| next.remove(i)).unwrap();
    next.push_back(encoding);
    encoding
}

/// The mask, without those that are too many for an N:M encoding: of each group the first are left.
pub(crate) fn fitting(encoding: Encoding, mask: Mask) -> Mask {
    let Some((n, m)) = encoding.fixed_pattern() else { return mask };
    let before = |row, col: usize| (col / m * m..col).filter(|&c| mask.is_kept(row, c)).count();
    Mask::from_fn(mask.rows(), mask.cols(), |row, col| mask.is_kept(row, col) && before(row, col) < n)
}

pub(crate) fn write(path: &Path, model: &SyntheticModel) -> u64 {
    write_matrices(path, model, matrices(model))
}

pub(crate) fn write_matrices(path: &Path, model: &SyntheticModel, matrices: Vec<(String, Matrix)>) -> u64 {
    let mut writer = SpmWriter::create(path, &WriterOptions::default()).unwrap();
    for (name, matrix) in matrices {
        writer.push(&name, &matrix).unwrap();
    }
    writer.finish(model.config(), model.vocabulary(), &provenance()).unwrap()
}

pub(crate) fn provenance() -> Provenance {
    let mut provenance = Provenance::default();
    provenance.source = "synthetic".into();
    provenance.method = "magnitude".into();
    provenance.sparsity = 0.5;
    provenance.pattern = "unstructured".into();
    provenance
}
