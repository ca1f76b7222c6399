//! A model ready to run: immutable, shareable between threads and sessions.

use spm::{Checkpoint, Config, Matrix};

use crate::activation;
use crate::engine::{Engine, EngineOptions};
use crate::error::Error;
use crate::kv_cache::KvCache;
use crate::linear::{Linear, load_vector};
use crate::norm::Norm;
use crate::open::Source;
use crate::ops;
use crate::tokenizer::Tokenizer;
use crate::transformer::{Layer, LayerIo, Workspace, embed, load_positions};

/// All weights, checked against the shape once.
pub struct Model {
    engine: Engine,
    embedding: Linear,
    positions: Option<Vec<f32>>,
    layers: Vec<Layer>,
    norm: Norm,
    head: Option<Linear>,
    head_bias: Option<Vec<f32>>,
    /// What it was opened from, if that has a vocabulary.
    source: Option<Source>,
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
        let positions = load_positions(from)?;
        let norm = Norm::load(from, "output_norm", c.norm, c.dim)?;
        let head_bias = c.head_bias.then(|| load_vector(from, "output.bias", c.head_rows())).transpose()?;
        let layers = (0..c.n_layers).map(|i| Layer::load(from, &engine, i)).collect::<Result<_, _>>()?;
        Ok(Model { embedding, positions, layers, norm, head, head_bias, engine, source: None })
    }

    /// The shape.
    pub fn config(&self) -> &Config {
        self.engine.config()
    }

    /// Kernels, threads and precision.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The tokenizer of a model that was opened from a file.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        self.source().map(|source| &source.tokenizer)
    }

    /// What a model that was opened from a file was opened from.
    pub fn source(&self) -> Result<&Source, Error> {
        self.source.as_ref().ok_or(Error::NoVocabulary)
    }

    /// The same, opened from `source`.
    pub(crate) fn with_source(mut self, source: Source) -> Self {
        self.source = Some(source);
        self
    }

    /// Bytes of weights that one decoded token reads, embeddings by the row.
    pub fn bytes_per_token(&self) -> usize {
        let body: usize = self.layers.iter().flat_map(Layer::matrices).map(Matrix::byte_len).sum();
        let row = self.embedding.weights().byte_len() / self.embedding.weights().rows();
        let norms = self.layers.iter().map(Layer::norm_bytes).sum::<usize>() + self.norm.byte_len();
        body + row + norms + self.head().byte_len()
    }

    /// Puts `weights` in the place of matrix `tensor`, named as in the file, and returns what was there.
    pub fn replace(&mut self, tensor: &str, weights: Matrix) -> Result<Matrix, Error> {
        let missing = || Error::MissingTensor { name: tensor.to_owned() };
        match tensor {
            "token_embd.weight" => {
                let before = self.embedding.replace(tensor, weights)?;
                if self.config().tied_head && self.head.is_some() {
                    self.head = Some(self.embedding.first_rows(self.config().head_rows()));
                }
                Ok(before)
            }
            "output.weight" => self.head.as_mut().ok_or_else(missing)?.replace(tensor, weights),
            _ => {
                let place = tensor.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
                let (index, short) = place.ok_or_else(missing)?;
                let index = index.parse::<usize>().map_err(|_| missing())?;
                self.layers.get_mut(index).ok_or_else(missing)?.replace(short, weights)
            }
        }
    }

    /// Logits of `hidden`, the residual streams (`n x dim`) after the last layer: `n x vocab_size`, negative infinity for
    /// tokens that a shortlist leaves out. `normed` is scratch, as long as `hidden`. An error if one is no number or infinite.
    pub fn logits(
        &self,
        ws: &mut Workspace,
        hidden: &[f32],
        normed: &mut [f32],
        logits: &mut [f32],
    ) -> Result<(), Error> {
        let c = self.config();
        self.norm.apply(&self.engine, hidden, normed);
        let n = hidden.len() / c.dim;
        let of_rows = &mut logits[..n * c.head_rows()];
        ws.product(&self.engine, self.head(), normed, of_rows);
        if let Some(bias) = &self.head_bias {
            of_rows.chunks_exact_mut(bias.len()).for_each(|logits| ops::add(logits, bias));
        }
        ops::scale(of_rows, c.scales.logits);
        if let Some(cap) = c.scales.logits_cap {
            activation::soft_cap(of_rows, cap);
        }
        // Without a way out, so that it is done for many at a time.
        if of_rows.iter().fold(false, |found, logit| found | !logit.is_finite()) {
            return Err(Error::NotFinite);
        }
        if let Some(list) = &c.shortlist {
            spread(list.ids(), c.vocab_size, logits);
        }
        Ok(())
    }

    /// Runs `tokens` of one text, the first of them at position `first`, through all layers: `io` then holds the stream.
    pub(crate) fn run_layers<'c>(
        &self,
        ws: &mut Workspace,
        io: &mut LayerIo,
        caches: impl Iterator<Item = &'c mut KvCache>,
        tokens: &[u32],
        first: usize,
    ) -> Result<(), Error> {
        io.resize(self.engine(), tokens.len());
        self.embed(tokens, first, &mut io.hidden)?;
        for (layer, cache) in self.layers().iter().zip(caches) {
            layer.forward(self.engine(), ws, cache, first, io);
        }
        Ok(())
    }

    /// Refuses what is no token.
    pub(crate) fn check_tokens(&self, tokens: &[u32]) -> Result<(), Error> {
        let vocab_size = self.config().vocab_size;
        match tokens.iter().find(|&&t| t as usize >= vocab_size) {
            Some(&token) => Err(Error::Token { token, vocab_size }),
            None => Ok(()),
        }
    }

    /// Writes the stream of `tokens` at positions `first..`, before the first layer, to `hidden` (`n x dim`).
    pub fn embed(&self, tokens: &[u32], first: usize, hidden: &mut [f32]) -> Result<(), Error> {
        let read = |row, out: &mut [f32]| self.embedding.weights().read_rows(row, out);
        embed(self.config(), read, self.positions.as_deref(), tokens, first, hidden)
    }

    /// The decoder layers, in order.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The output head: its own matrix, or the embedding again, of which it may be the first rows.
    pub(crate) fn head(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

/// From logits of the listed tokens alone, of one vector after another, to those of all `vocab_size` tokens, in place:
/// from the last to the first, so that nothing is overwritten before it was moved.
fn spread(listed: &[u32], vocab_size: usize, logits: &mut [f32]) {
    for vector in (0..logits.len() / vocab_size).rev() {
        let to = vector * vocab_size;
        logits.copy_within(vector * listed.len()..(vector + 1) * listed.len(), to);
        let logits = &mut logits[to..to + vocab_size];
        let mut end = vocab_size;
        for (row, &id) in listed.iter().enumerate().rev() {
            let id = id as usize;
            logits[id] = logits[row];
            logits[id + 1..end].fill(f32::NEG_INFINITY);
            end = id;
        }
        logits[..end].fill(f32::NEG_INFINITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_come_to_their_tokens() {
        const NO: f32 = f32::NEG_INFINITY;
        let mut logits = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0];
        spread(&[1, 2, 4], 6, &mut logits);
        assert_eq!(logits, [NO, 1.0, 2.0, NO, 3.0, NO, NO, 4.0, 5.0, NO, 6.0, NO]);
        let mut all = [1.0, 2.0, 3.0];
        spread(&[0, 1, 2], 3, &mut all);
        assert_eq!(all, [1.0, 2.0, 3.0]);
    }
}
