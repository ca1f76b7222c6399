//! A model ready to run: immutable, shareable between threads and sessions.

use spm::{Checkpoint, Config, Matrix};

use crate::engine::{Engine, EngineOptions};
use crate::error::Error;
use crate::linear::{Linear, load_vector};
use crate::transformer::Layer;

/// All weights, checked against the shape once.
pub struct Model {
    engine: Engine,
    embedding: Linear,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Option<Linear>,
}

impl Model {
    /// Loads every weight; mapped weights stay in the file's own pages.
    pub fn load(from: &dyn Checkpoint, options: &EngineOptions) -> Result<Self, Error> {
        let engine = Engine::new(from.config(), options)?;
        let c = engine.config();
        let table = |name, rows| Linear::load(from, &engine, name, (rows, c.dim));
        let embedding = table("token_embd.weight", c.vocab_size)?;
        let head = match (c.tied_head, c.head_rows()) {
            (false, rows) => Some(table("output.weight", rows)?),
            (true, rows) if rows < c.vocab_size => Some(embedding.first_rows(rows)),
            (true, _) => None,
        };
        let norm = load_vector(from, "output_norm.weight", c.dim)?;
        let layers = (0..c.n_layers).map(|i| Layer::load(from, &engine, i)).collect::<Result<_, _>>()?;
        Ok(Model { embedding, layers, norm, head, engine })
    }

    /// The shape.
    pub fn config(&self) -> &Config {
        self.engine.config()
    }

    /// Kernels, threads and precision.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Bytes of weights that one decoded token reads, embeddings by the row.
    pub fn bytes_per_token(&self) -> usize {
        let body: usize = self.layers.iter().flat_map(Layer::matrices).map(Matrix::byte_len).sum();
        let row = self.embedding.weights().byte_len() / self.embedding.weights().rows();
        let norms = (2 * self.layers.len() + 1) * self.config().dim * 4;
        body + row + norms + self.head().byte_len()
    }

    pub(crate) fn embedding(&self) -> &Matrix {
        self.embedding.weights()
    }

    /// The decoder layers, in order.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    pub(crate) fn norm(&self) -> &[f32] {
        &self.norm
    }

    /// The output head: its own matrix, or the embedding again, of which it may be the first rows.
    pub(crate) fn head(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}
