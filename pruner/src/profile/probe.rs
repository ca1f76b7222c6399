//! What a change of one matrix costs the whole model: the divergence of its predictions from those of the dense model, on
//! windows that nothing else was fitted to.

use runtime::likelihood::{divergence, log_sum_exp};
use runtime::{EngineOptions, KvCache, KvType, LayerIo, Model, Precision, Workspace};
use spm::{Checkpoint, Config, Matrix, TensorInfo, Vocabulary};

use crate::error::Error;
use crate::linalg::zeroed;

/// Tokens of a window that are run.
const LEN: usize = 256;
/// One position of so many is scored, from a quarter of the window on.
const EVERY: usize = 2;
/// Positions that go through the head together.
const BATCH: usize = 16;

/// The dense model, and what it does on the windows.
pub(super) struct Probe {
    model: Model,
    ws: Workspace,
    cache: KvCache,
    io: LayerIo,
    windows: Vec<Window>,
}

struct Window {
    ids: Vec<u32>,
    /// `n x dim` before every layer, and after the last.
    hidden: Vec<Vec<f32>>,
    /// Logits of all tokens at the scored positions.
    expected: Vec<f32>,
}

impl Probe {
    pub(super) fn new(source: &dyn Checkpoint, windows: &[Vec<u32>], threads: usize) -> Result<Self, Error> {
        let options = EngineOptions { threads, precision: Precision::Exact, ..EngineOptions::default() };
        let model = Model::load(&Compact(source), &options)?;
        let (ws, cache) = (Workspace::new(model.engine(), LEN), KvCache::new(model.config(), LEN, KvType::F32)?);
        let mut probe = Probe { model, ws, cache, io: LayerIo::default(), windows: Vec::new() };
        for ids in windows {
            let ids = ids[..ids.len().min(LEN)].to_vec();
            let window = probe.dense(ids)?;
            probe.windows.push(window);
        }
        Ok(probe)
    }

    /// Bytes in memory of one for so many windows, the dense model with it.
    pub(super) fn byte_len(source: &dyn Checkpoint, windows: usize) -> u64 {
        let c = source.config();
        let weights: u64 = source.tensors().iter().filter_map(|t| source.matrix_bytes(&t.name)).sum();
        let window = LEN * c.dim * (c.n_layers + 2) + scored(LEN).count() * c.vocab_size;
        let running = LEN * (4 * c.hidden_dim + 8 * c.dim + 4 * c.q_dim()) + 3 * BATCH * c.vocab_size;
        weights + 4 * (windows * window + running) as u64 + KvCache::byte_len(c, LEN, KvType::F32) as u64
    }

    /// Multiply-adds of one window through so many `weights` and the head.
    pub(super) fn work(c: &Config, weights: u64) -> u64 {
        LEN as u64 * weights + (scored(LEN).count() * c.dim * c.vocab_size) as u64
    }

    /// Mean KL(dense || changed) over the scored positions, nats, with `weights` in the place of `tensor`.
    pub(super) fn divergence(&mut self, tensor: &str, weights: Matrix) -> Result<f64, Error> {
        let before = self.model.replace(tensor, weights)?;
        let windows = std::mem::take(&mut self.windows);
        let found = windows.iter().map(|window| self.divergence_of(tensor, window)).collect::<Result<Vec<_>, _>>();
        self.windows = windows;
        self.model.replace(tensor, before)?;
        let (sum, n) = found?.into_iter().fold((0.0, 0), |(sum, n), (s, count)| (sum + s, n + count));
        Ok(sum / n.max(1) as f64)
    }

    fn dense(&mut self, ids: Vec<u32>) -> Result<Window, Error> {
        let mut hidden = vec![self.embedded(&ids)?];
        for layer in 0..self.model.config().n_layers {
            let before = hidden[layer].clone();
            hidden.push(self.run(before, layer, layer + 1));
        }
        let vocab_size = self.model.config().vocab_size;
        let last = hidden.last().map_or(&[][..], |h| h);
        let mut expected = zeroed("the dense model's predictions", scored(ids.len()).count() * vocab_size)?;
        self.predict(last, ids.len(), &mut |i, logits| {
            expected[i * vocab_size..][..vocab_size].copy_from_slice(logits);
        })?;
        Ok(Window { ids, hidden, expected })
    }

    /// The sum over the window's scored positions, and their number.
    fn divergence_of(&mut self, tensor: &str, window: &Window) -> Result<(f64, usize), Error> {
        let layers = self.model.config().n_layers;
        let first = match tensor {
            "token_embd.weight" => 0,
            _ => tensor.strip_prefix("blk.").and_then(|t| t.split('.').next()?.parse().ok()).unwrap_or(layers),
        };
        let start = match tensor {
            "token_embd.weight" => self.embedded(&window.ids)?,
            _ => window.hidden[first].clone(),
        };
        let last = self.run(start, first, layers);
        let vocab_size = self.model.config().vocab_size;
        let (mut sum, mut n) = (0.0, 0);
        self.predict(&last, window.ids.len(), &mut |i, logits| {
            let expected = &window.expected[i * vocab_size..][..vocab_size];
            let (kl, _) = divergence(expected, logits, log_sum_exp(logits));
            (sum, n) = (sum + kl, n + 1);
        })?;
        Ok((sum, n))
    }

    fn embedded(&self, ids: &[u32]) -> Result<Vec<f32>, Error> {
        let mut hidden = zeroed("hidden states", ids.len() * self.model.config().dim)?;
        self.model.embed(ids, 0, &mut hidden)?;
        Ok(hidden)
    }

    /// Moves the streams through layers `from..to`.
    fn run(&mut self, hidden: Vec<f32>, from: usize, to: usize) -> Vec<f32> {
        let Probe { model, ws, cache, io, .. } = self;
        let engine = model.engine();
        io.resize(engine, hidden.len() / model.config().dim);
        io.hidden = hidden;
        model.layers()[from..to].iter().for_each(|layer| layer.forward(engine, ws, cache, 0, io));
        std::mem::take(&mut io.hidden)
    }

    /// Shows `each` the logits at every scored position of a window of `len` tokens, numbered.
    fn predict(&mut self, hidden: &[f32], len: usize, each: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error> {
        let Probe { model, ws, .. } = self;
        let (dim, vocab_size) = (model.config().dim, model.config().vocab_size);
        let at: Vec<usize> = scored(len).collect();
        let mut logits = zeroed("logits", BATCH * vocab_size)?;
        for (batch, at) in at.chunks(BATCH).enumerate() {
            let picked: Vec<f32> = at.iter().flat_map(|t| &hidden[t * dim..][..dim]).copied().collect();
            let logits = &mut logits[..at.len() * vocab_size];
            model.logits(ws, &picked, &mut vec![0.0; picked.len()], logits)?;
            for (i, logits) in logits.chunks_exact(vocab_size).enumerate() {
                each(batch * BATCH + i, logits);
            }
        }
        Ok(())
    }
}

/// A model that is not expanded where its own encoding is none of ours: rounding it again changes both predictions that are
/// compared, and takes a quarter of the memory.
struct Compact<'a>(&'a dyn Checkpoint);

impl Checkpoint for Compact<'_> {
    fn config(&self) -> &Config {
        self.0.config()
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.0.vocabulary()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.0.tensors()
    }

    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.0.tensor(name)
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Option<()> {
        self.0.read_rows(name, first_row, out)
    }

    fn matrix(&self, name: &str) -> Option<Matrix> {
        self.0.matrix(name)
    }

    fn exact_matrix(&self, name: &str) -> Option<Matrix> {
        self.0.matrix(name)
    }
}

/// Positions whose predictions are compared.
fn scored(len: usize) -> impl Iterator<Item = usize> {
    (len / 4..len).step_by(EVERY)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use runtime::{Session, SessionOptions};
    use spm::synthetic::SyntheticModel;

    use super::*;

    /// Against the same model run from its first token with the changed matrix, KL summed in f64.
    #[test]
    fn divergence_is_that_of_the_changed_model() {
        let source = SyntheticModel::tiny(4);
        let window: Vec<u32> = (0..40u32).map(|t| t * t * 3 % 250).collect();
        let mut probe = Probe::new(&source, std::slice::from_ref(&window), 1).unwrap();
        let head = if source.config().tied_head { "token_embd.weight" } else { "output.weight" };
        for tensor in ["blk.0.attn_v.weight", "blk.1.ffn_down.weight", "token_embd.weight", head] {
            let matrix = source.matrix(tensor).unwrap();
            let (rows, cols) = (matrix.rows(), matrix.cols());
            let halved: Vec<f32> = source.read_all(tensor).unwrap().iter().map(|w| w * 0.5).collect();
            let halved = spm::encode::encode(spm::Encoding::F32, rows, cols, &halved, None).unwrap();
            let dense = logits(&source, None, &window);
            let changed = logits(&source, Some((tensor, halved.clone())), &window);
            let kl = |p: &[f64], q: &[f64]| {
                let sum = |x: &[f64]| x.iter().map(|l| l.exp()).sum::<f64>().ln();
                p.iter().zip(q).map(|(a, b)| (a - sum(p)).exp() * (a - sum(p) - (b - sum(q)))).sum::<f64>()
            };
            let at: Vec<usize> = scored(window.len()).collect();
            let expected = at.iter().map(|&t| kl(&dense[t], &changed[t])).sum::<f64>() / at.len() as f64;
            let found = probe.divergence(tensor, halved).unwrap();
            assert!(expected > 1e-6 && (found - expected).abs() < 1e-3 * expected, "{tensor}: {found}, {expected}");
            let same = probe.divergence(tensor, source.matrix(tensor).unwrap()).unwrap();
            assert!(same.abs() < 1e-3 * expected, "{tensor}: {same}, unchanged");
        }
    }

    fn logits(source: &SyntheticModel, change: Option<(&str, Matrix)>, ids: &[u32]) -> Vec<Vec<f64>> {
        let options = EngineOptions { threads: 1, precision: Precision::Exact, ..EngineOptions::default() };
        let mut model = Model::load(source, &options).unwrap();
        if let Some((tensor, weights)) = change {
            model.replace(tensor, weights).unwrap();
        }
        let options = SessionOptions { context: 64, kv: KvType::F32, ..Default::default() };
        let mut session = Session::new(&Arc::new(model), &options).unwrap();
        ids.iter().map(|id| session.feed(&[*id]).unwrap().iter().map(|l| f64::from(*l)).collect()).collect()
    }
}
