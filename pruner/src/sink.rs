//! Where pruned tensors go, one at a time.

use spm::{Matrix, SpmWriter};

use crate::error::Error;

/// Takes the tensors of the new model in the order they are finished. Each name comes once.
pub trait Sink {
    /// Takes tensor `name`, as GGUF calls it.
    fn push(&mut self, name: &str, matrix: &Matrix) -> Result<(), Error>;
}

/// Writes a sparse model file.
impl Sink for SpmWriter {
    fn push(&mut self, name: &str, matrix: &Matrix) -> Result<(), Error> {
        Ok(SpmWriter::push(self, name, matrix)?)
    }
}

/// Keeps everything in memory.
impl Sink for Vec<(String, Matrix)> {
    fn push(&mut self, name: &str, matrix: &Matrix) -> Result<(), Error> {
        Vec::push(self, (name.to_owned(), matrix.clone()));
        Ok(())
    }
}
