//! A model with every sparse matrix expanded to the dense one of the same values.

use std::collections::HashMap;

use spm::{Checkpoint, Config, Encoding, Matrix, ShapeError, TensorInfo, Vocabulary};

/// A dense twin in memory; matrices that are dense already stay where they are.
pub(super) struct Expanded<'a> {
    inner: &'a dyn Checkpoint,
    matrices: HashMap<String, Matrix>,
    infos: Vec<TensorInfo>,
}

impl<'a> Expanded<'a> {
    pub(super) fn new(inner: &'a dyn Checkpoint) -> Result<Self, ShapeError> {
        let mut infos = inner.tensors().to_vec();
        let mut matrices = HashMap::new();
        for info in infos.iter_mut().filter(|info| is_sparse(info)) {
            let Some(matrix) = inner.matrix(&info.name) else { continue };
            let dense = matrix.to_dense()?;
            info.encoding = dense.encoding().name().to_owned();
            (info.kept, info.bytes) = (dense.kept(), dense.byte_len() as u64);
            matrices.insert(info.name.clone(), dense);
        }
        Ok(Expanded { inner, matrices, infos })
    }

    /// Bytes that `new` takes at most: two a weight.
    pub(super) fn most_bytes(model: &dyn Checkpoint) -> u64 {
        let sparse = model.tensors().iter().filter(|info| is_sparse(info));
        sparse.map(|info| info.rows as u64 * info.cols as u64 * 2).sum()
    }
}

fn is_sparse(info: &TensorInfo) -> bool {
    Encoding::ALL.iter().any(|e| e.is_sparse() && e.name() == info.encoding)
}

impl Checkpoint for Expanded<'_> {
    fn config(&self) -> &Config {
        self.inner.config()
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.inner.vocabulary()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.infos
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Option<()> {
        self.inner.read_rows(name, first_row, out)
    }

    fn matrix(&self, name: &str) -> Option<Matrix> {
        self.matrices.get(name).cloned().or_else(|| self.inner.matrix(name))
    }

    fn exact_matrix(&self, name: &str) -> Option<Matrix> {
        self.matrices.get(name).cloned().or_else(|| self.inner.exact_matrix(name))
    }
}
