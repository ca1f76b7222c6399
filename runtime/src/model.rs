//! A model ready to run: immutable, shareable between threads and sessions.

use spm::{Checkpoint, Config, Matrix};

use crate::engine::{Engine, EngineOptions};
use crate::error::Error;
use crate::linear::{Linear, load_vector};
use crate::transformer::{Layer, Workspace};

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
        let table = |name| Linear::load(from, &engine, name, (c.vocab_size, c.dim));
        let embedding = table("token_embd.weight")?;
        let head = (!c.tied_head).then(|| table("output.weight")).transpose()?;
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
        body + row + norms + self.head().weights().byte_len()
    }

    /// Puts `weights` in the place of matrix `tensor`, named as in the file, and returns what was there.
    pub fn replace(&mut self, tensor: &str, weights: Matrix) -> Result<Matrix, Error> {
        let missing = || Error::MissingTensor { name: tensor.to_owned() };
        match tensor {
            "token_embd.weight" => self.embedding.replace(tensor, weights),
            "output.weight" => self.head.as_mut().ok_or_else(missing)?.replace(tensor, weights),
            _ => {
                let place = tensor.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
                let (index, short) = place.ok_or_else(missing)?;
                let index = index.parse::<usize>().map_err(|_| missing())?;
                self.layers.get_mut(index).ok_or_else(missing)?.replace(short, weights)
            }
        }
    }

    /// Logits of `hidden`, the residual streams (`n x dim`) after the last layer: `n x vocab_size`. `normed` is scratch,
    /// as long as `hidden`.
    pub fn logits(&self, ws: &mut Workspace, hidden: &[f32], normed: &mut [f32], logits: &mut [f32]) {
        let c = self.config();
        for (hidden, normed) in hidden.chunks_exact(c.dim).zip(normed.chunks_exact_mut(c.dim)) {
            self.engine.kernels().rms_norm(hidden, &self.norm, c.norm_eps, normed);
        }
        ws.product(&self.engine, self.head(), normed, logits);
    }

    /// The embedding, `vocab_size x dim`.
    pub fn embedding(&self) -> &Matrix {
        self.embedding.weights()
    }

    /// The decoder layers, in order.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The output head: its own matrix, or the embedding again.
    pub(crate) fn head(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}
