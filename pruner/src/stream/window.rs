//! The way of one window through a layer, from site to site.

use std::borrow::Cow;

use runtime::{Engine, KvCache, KvType, Layer, Workspace};
use spm::Config;

use crate::error::Error;
use crate::linalg::zeroed;
use crate::site::Site;
use crate::states::{Part, Touched, Window};
use crate::statistics::Beside;

/// Tokens that go through a product together: enough to share an expanded weight, few enough to stay in cache.
pub(super) const CHUNK: usize = 64;

/// A layer, as pruned so far and as it was.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) pruned: &'a Layer,
    pub(super) dense: &'a Layer,
}

/// What one thread needs.
pub(super) struct Worker {
    ws: Workspace,
    cache: KvCache,
    narrow: Vec<f32>,
    attended: Vec<f32>,
    wide: Vec<f32>,
}

/// What moving a window to `site` uses of its states, and changes; with the dense model if it is `followed`. A parallel layer
/// adds what attention gives at its end.
pub(super) fn touched(site: Site, followed: bool, is_parallel: bool) -> Touched {
    use Part::{Attended, Dense, Hidden};
    let (reads, writes): (&[Part], &[Part]) = match (site, followed) {
        (Site::AttnIn, false) => (&[Hidden], &[]),
        (Site::AttnIn, true) => (&[Hidden, Dense], &[]),
        (Site::AttnOut, false) => (&[Hidden], &[Attended]),
        (Site::AttnOut, true) => (&[Hidden, Dense], &[Attended, Dense]),
        (Site::FfnIn, false) => (&[Hidden, Attended], &[Hidden]),
        (Site::FfnIn, true) => (&[Hidden, Dense, Attended], &[Hidden]),
        (Site::FfnHidden, false) => (&[Hidden], &[]),
        (Site::FfnHidden, true) if is_parallel => (&[Hidden, Dense, Attended], &[Dense]),
        (Site::FfnHidden, true) => (&[Hidden, Dense], &[Dense]),
    };
    Touched { reads, writes }
}

impl Window {
    /// Goes on from the site before, showing `see` the inputs of `site` in order of their tokens.
    pub(super) fn move_to(
        &mut self,
        site: Site,
        engine: &Engine,
        layer: &Layer,
        worker: &mut Worker,
        see: &mut dyn FnMut(&[f32]),
    ) {
        let c = engine.config();
        let Worker { ws, cache, narrow, wide, .. } = worker;
        let chunks = self.hidden.chunks_mut(CHUNK * c.dim).zip(self.attended.chunks_mut(CHUNK * c.q_dim()));
        for (i, (hidden, attended)) in chunks.enumerate() {
            let n = hidden.len() / c.dim;
            let narrow = &mut narrow[..n * c.dim];
            match site {
                Site::AttnIn => {
                    layer.attn_input(engine, hidden, narrow);
                    see(narrow);
                }
                Site::AttnOut => {
                    layer.attn_input(engine, hidden, narrow);
                    layer.attention(engine, ws, cache, i * CHUNK, narrow, attended);
                    see(attended);
                }
                Site::FfnIn => {
                    if !c.residual.is_parallel() {
                        layer.attn_output(engine, ws, attended, hidden);
                    }
                    layer.ffn_input(engine, hidden, narrow);
                    see(narrow);
                }
                Site::FfnHidden => {
                    let wide = part(&mut self.wide, wide, i, n * c.hidden_dim);
                    layer.ffn_input(engine, hidden, narrow);
                    layer.ffn_hidden(engine, ws, narrow, wide);
                    see(wide);
                }
            }
        }
    }

    /// What [`Site::beside`] says of the dense model, moved to `site`; `seen` are the pruned model's inputs there.
    pub(super) fn beside(
        &mut self,
        site: Site,
        engine: &Engine,
        layers: Pair,
        worker: &mut Worker,
        seen: &[f32],
    ) -> Vec<f32> {
        let mut beside = Vec::with_capacity(self.dense.len());
        self.follow(site, engine, layers.dense, worker, &mut |x| beside.extend_from_slice(x));
        match site.beside() {
            Beside::Inputs => beside.iter_mut().zip(seen).for_each(|(dense, pruned)| *dense -= pruned),
            Beside::Outputs => self.leave_what_is_missing(&mut beside, site, engine, layers.pruned, worker),
        }
        beside
    }

    /// From the dense model's stream after `site` to what the matrix of the site is to give: what the stream lacks, as it is
    /// before it is scaled and without the bias. What is normalised before it is added cannot make up for the stream:
    /// `beside` are the dense model's own outputs then.
    fn leave_what_is_missing(
        &self,
        beside: &mut [f32],
        site: Site,
        engine: &Engine,
        layer: &Layer,
        worker: &mut Worker,
    ) {
        let c = engine.config();
        if !c.post_norms {
            let before = match c.residual.is_parallel() && site == Site::FfnHidden {
                true => self.after_attention(engine, layer, worker).into(),
                false => Cow::from(&self.hidden),
            };
            beside.iter_mut().zip(&before[..]).for_each(|(dense, pruned)| *dense -= pruned);
        }
        if !c.post_norms && c.scales.residual != 1.0 {
            beside.iter_mut().for_each(|v| *v /= c.scales.residual);
        }
        let bias = if site == Site::AttnOut { layer.attn_output_bias() } else { layer.ffn_output_bias() };
        if let Some(bias) = bias {
            beside.chunks_exact_mut(c.dim).for_each(|row| row.iter_mut().zip(bias).for_each(|(v, b)| *v -= b));
        }
    }

    /// The stream with what attention adds, where that is added at the end of the layer.
    fn after_attention(&self, engine: &Engine, layer: &Layer, worker: &mut Worker) -> Vec<f32> {
        let c = engine.config();
        let mut after = self.hidden.clone();
        let chunks = after.chunks_mut(CHUNK * c.dim).zip(self.attended.chunks(CHUNK * c.q_dim()));
        chunks.for_each(|(after, attended)| layer.attn_output(engine, &mut worker.ws, attended, after));
        after
    }

    /// Divides inputs and outputs of every token by the size of the dense model's stream, as the next norm does: errors count
    /// in relation to it. Otherwise tokens with massive activations (Sun et al.: Massive Activations in Large Language Models,
    /// 2024) would be all that matters. Outputs that are normalised themselves count in relation to their size, too.
    pub(super) fn relate(&self, seen: &mut [f32], beside: &mut [f32], c: &Config) {
        let cols = seen.len() / (beside.len() / c.dim);
        let tokens = seen.chunks_exact_mut(cols).zip(beside.chunks_exact_mut(c.dim));
        for (stream, (seen, beside)) in self.dense.chunks_exact(c.dim).zip(tokens) {
            let size = size(stream, c) * if c.post_norms { size(beside, c) } else { 1.0 };
            let factor = if size > 0.0 { 1.0 / size } else { 1.0 };
            seen.iter_mut().chain(beside).for_each(|v| *v *= factor);
        }
    }

    /// Moves the dense model to `site`, or after it where that adds to the stream, showing `see` its inputs, or the stream
    /// (with post-norms: the outputs). A parallel layer's stream moves at the last site alone, which runs attention again.
    fn follow(&mut self, site: Site, engine: &Engine, layer: &Layer, worker: &mut Worker, see: &mut dyn FnMut(&[f32])) {
        let c = engine.config();
        let is_parallel = c.residual.is_parallel();
        let Worker { ws, cache, narrow, attended, wide } = worker;
        for (i, dense) in self.dense.chunks_mut(CHUNK * c.dim).enumerate() {
            let n = dense.len() / c.dim;
            let (narrow, attended) = (&mut narrow[..n * c.dim], &mut attended[..n * c.q_dim()]);
            let mut attend = |ws: &mut Workspace, dense: &[f32], narrow: &mut [f32], attended: &mut [f32]| {
                layer.attn_input(engine, dense, narrow);
                layer.attention(engine, ws, cache, i * CHUNK, narrow, attended);
            };
            match site {
                Site::AttnIn => layer.attn_input(engine, dense, narrow),
                Site::FfnIn => layer.ffn_input(engine, dense, narrow),
                Site::AttnOut => {
                    attend(ws, dense, narrow, attended);
                    if c.post_norms {
                        layer.attn_product(engine, ws, attended, narrow);
                    } else if is_parallel {
                        narrow.copy_from_slice(dense);
                        layer.attn_output(engine, ws, attended, narrow);
                    }
                    if !is_parallel {
                        layer.attn_output(engine, ws, attended, dense);
                    }
                }
                Site::FfnHidden => {
                    let wide = &mut wide[..n * c.hidden_dim];
                    layer.ffn_input(engine, dense, narrow);
                    layer.ffn_hidden(engine, ws, narrow, wide);
                    if is_parallel {
                        attend(ws, dense, narrow, attended);
                        layer.attn_output(engine, ws, attended, dense);
                    }
                    if c.post_norms {
                        layer.ffn_product(engine, ws, wide, narrow);
                    }
                    layer.ffn_output(engine, ws, wide, dense);
                }
            }
            let is_in_stream = !(c.post_norms || is_parallel && site == Site::AttnOut);
            match site.beside() {
                Beside::Outputs if is_in_stream => see(dense),
                _ => see(narrow),
            }
        }
    }

    /// Goes on from the last site.
    pub(super) fn leave(&mut self, engine: &Engine, layer: &Layer, worker: &mut Worker) {
        let c = engine.config();
        let Worker { ws, narrow, wide, .. } = worker;
        let chunks = self.hidden.chunks_mut(CHUNK * c.dim).zip(self.attended.chunks(CHUNK * c.q_dim()));
        for (i, (hidden, attended)) in chunks.enumerate() {
            let n = hidden.len() / c.dim;
            let is_kept = !self.wide.is_empty();
            let wide = part(&mut self.wide, wide, i, n * c.hidden_dim);
            if !is_kept {
                let narrow = &mut narrow[..n * c.dim];
                layer.ffn_input(engine, hidden, narrow);
                layer.ffn_hidden(engine, ws, narrow, wide);
            }
            if c.residual.is_parallel() {
                layer.attn_output(engine, ws, attended, hidden);
            }
            layer.ffn_output(engine, ws, wide, hidden);
        }
    }
}

/// The root of the mean square of a vector of the stream.
pub(super) fn size(vector: &[f32], c: &Config) -> f32 {
    let mean = vector.iter().map(|v| v * v).sum::<f32>() / c.dim as f32;
    (mean + c.norm_eps).sqrt()
}

/// The inputs of chunk `i`, `len` values: their place among the `kept` ones, or scratch.
fn part<'a>(kept: &'a mut [f32], scratch: &'a mut [f32], i: usize, len: usize) -> &'a mut [f32] {
    match kept.is_empty() {
        true => &mut scratch[..len],
        // All chunks but the last are as long as the scratch.
        false => &mut kept[i * scratch.len()..][..len],
    }
}

impl Worker {
    pub(super) fn new(engine: &Engine, context: usize) -> Result<Self, Error> {
        let c = engine.config();
        Ok(Worker {
            ws: Workspace::new(engine, context),
            cache: KvCache::new(c, context, KvType::F32)?,
            narrow: zeroed("normalised inputs", CHUNK * c.dim)?,
            attended: zeroed("attention outputs", CHUNK * c.q_dim())?,
            wide: zeroed("feed-forward inputs", CHUNK * c.hidden_dim)?,
        })
    }
}
