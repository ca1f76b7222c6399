//! A small model with a tensor in every encoding.

use std::path::Path;

use spm::synthetic::SyntheticModel;
use spm::{Checkpoint, Encoding, Mask, Matrix, Provenance, SpmWriter, WriterOptions, encode};

/// The matrices that [`write`] stores, in order.
pub(crate) fn matrices(model: &SyntheticModel) -> Vec<(String, Matrix)> {
    let mut nth = 0;
    let encode = |t: &spm::TensorInfo| {
        let encoding = if t.rows == 1 { Encoding::F32 } else { Encoding::ALL[nth % Encoding::ALL.len()] };
        nth += usize::from(t.rows > 1);
        let weights = model.read_all(&t.name).unwrap();
        let half = Mask::from_fn(t.rows, t.cols, |r, c| weights[r * t.cols + c].abs() > 0.08 * (r % 4) as f32);
        let mask = encoding.is_sparse().then_some(&half);
        (t.name.clone(), encode::encode(encoding, t.rows, t.cols, &weights, mask).unwrap())
    };
    model.tensors().iter().map(encode).collect()
}

pub(crate) fn write(path: &Path) -> u64 {
    let model = SyntheticModel::tiny(1);
    let mut writer = SpmWriter::create(path, &WriterOptions::default()).unwrap();
    for (name, matrix) in matrices(&model) {
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
