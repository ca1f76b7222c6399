//! Norms of inputs that llama.cpp's `llama-imatrix` measured, in place of a calibration run.

use std::collections::BTreeMap;
use std::path::Path;

use gguf::Imatrix;
use pruner::{ColumnNorms, PruneOptions};
use spm::Config;

use crate::failure::Failure;

/// The norms of all matrices that are pruned, and what they are from.
pub struct ImportedNorms {
    /// By GGUF's name of the matrix.
    pub norms: BTreeMap<String, ColumnNorms>,
    /// Tokens that every matrix saw at least.
    pub tokens: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// Pieces of text, and tokens of each, if the file says.
    pub chunks: Option<(u64, u64)>,
}

impl ImportedNorms {
    /// Reads and checks what pruning a model of this shape needs.
    pub fn read(path: &Path, options: &PruneOptions, config: &Config) -> Result<Self, Failure> {
        let imatrix = Imatrix::open(path)?;
        let mut norms = BTreeMap::new();
        for (name, (_, cols)) in options.matrices_with_norms(config) {
            let found = imatrix.inputs_of(&name, cols)?;
            // The reader refused what is no sum of squares.
            let found = ColumnNorms::from_squares(found.squares, found.tokens);
            norms.extend(found.map(|found| (name, found)));
        }
        Ok(ImportedNorms {
            tokens: norms.values().map(ColumnNorms::tokens).min().unwrap_or(0),
            norms,
            sha256: pruner::provenance::sha256_of_file(path)?,
            chunks: imatrix.chunk_count().zip(imatrix.chunk_size()),
        })
    }

    /// One line for the file's provenance. It names no paths.
    pub fn description(&self) -> String {
        let text = match self.chunks {
            Some((count, size)) => format!("{count} chunks of {size} tokens"),
            None => format!("{} tokens", self.tokens),
        };
        format!("imatrix of {text}, sha256 {}", self.sha256)
    }
}
