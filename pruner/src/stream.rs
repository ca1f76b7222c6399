//! The calibration tokens on their way through the decoder: hidden states of every window, and the passes
//! that move them from one site of a layer to the next.
//!
//! Windows are spread over threads, never cut by them; sums are made window by window and added in the
//! windows' order, so nothing depends on the number of threads.

use std::borrow::Cow;
use std::sync::Arc;

use rayon::prelude::*;
use runtime::{Engine, EngineOptions, KvCache, KvType, Layer, Precision, Workspace};
use spm::{Checkpoint, Config};

use crate::error::Error;
use crate::linalg::zeroed;
use crate::method::Needs;
use crate::states::{self, Part, Residence, States, Touched, Window};
use crate::statistics::{Beside, ColumnNorms, Gram, HeldOut, Inputs, Wanted};

/// Tokens that go through a product together: enough to share an expanded weight, few enough to stay in cache.
const CHUNK: usize = 64;

/// Windows that a thread takes at a time.
const SHARE: usize = 2;

/// One window of so many is held out,
pub(crate) const HELD_OUT: usize = 10;
/// as long as there are fewer tokens than so many of them.
const MOST_HELD_OUT: usize = 3072;

/// The distinct inputs of a layer's matrices, in the order they are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// Of the query, key and value projections.
    AttnIn,
    /// Of the attention's output projection.
    AttnOut,
    /// Of the gate and up projections.
    FfnIn,
    /// Of the down projection.
    FfnHidden,
}

/// The matrices that a layer may have.
pub(crate) const MATRICES: [&str; 7] = [
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_output.weight",
    "ffn_gate.weight",
    "ffn_up.weight",
    "ffn_down.weight",
];

impl Site {
    /// All of them, in order.
    pub const ALL: [Site; 4] = [Site::AttnIn, Site::AttnOut, Site::FfnIn, Site::FfnHidden];

    /// The matrices that multiply this input.
    pub fn matrices(self, c: &Config) -> &'static [&'static str] {
        match self {
            Site::AttnIn => &["attn_q.weight", "attn_k.weight", "attn_v.weight"],
            Site::AttnOut => &["attn_output.weight"],
            Site::FfnIn if c.gated => &["ffn_gate.weight", "ffn_up.weight"],
            Site::FfnIn => &["ffn_up.weight"],
            Site::FfnHidden => &["ffn_down.weight"],
        }
    }

    /// Such as `ffn_in`.
    pub fn name(self) -> &'static str {
        match self {
            Site::AttnIn => "attn_in",
            Site::AttnOut => "attn_out",
            Site::FfnIn => "ffn_in",
            Site::FfnHidden => "ffn_hidden",
        }
    }

    /// What is gathered of the dense model here, `dim` numbers a token.
    fn beside(self) -> Beside {
        match self {
            Site::AttnIn | Site::FfnIn => Beside::Inputs,
            Site::AttnOut | Site::FfnHidden => Beside::Outputs,
        }
    }

    /// How many matrices a layer has.
    pub(crate) fn matrices_of_layer(c: &Config) -> usize {
        Site::ALL.iter().map(|site| site.matrices(c).len()).sum()
    }

    /// Input features.
    pub fn width(self, c: &Config) -> usize {
        match self {
            Site::AttnIn | Site::FfnIn => c.dim,
            Site::AttnOut => c.q_dim(),
            Site::FfnHidden => c.hidden_dim,
        }
    }
}

/// All windows between two steps of a layer.
pub(crate) struct Stream {
    engine: Engine,
    pool: Arc<rayon::ThreadPool>,
    states: States,
    /// Tokens of each window.
    lens: Vec<usize>,
    workers: Vec<Worker>,
}

/// A layer, as pruned so far and as it was.
#[derive(Clone, Copy)]
struct Pair<'a> {
    pruned: &'a Layer,
    dense: &'a Layer,
}

/// What one thread needs.
struct Worker {
    ws: Workspace,
    cache: KvCache,
    narrow: Vec<f32>,
    attended: Vec<f32>,
    wide: Vec<f32>,
}

impl Stream {
    /// Embeds `windows`, to be observed with `needs`.
    pub(crate) fn new(
        source: &dyn Checkpoint,
        windows: &[Vec<u32>],
        needs: Needs,
        threads: usize,
        residence: &Residence,
    ) -> Result<Self, Error> {
        let c = source.config();
        let threads = threads.clamp(1, windows.len().max(1));
        // Threads take whole windows, so each engine runs on its caller's thread alone.
        let options = EngineOptions { threads: 1, precision: Precision::Exact, ..EngineOptions::default() };
        let engine = Engine::new(c, &options)?;
        let lens: Vec<usize> = windows.iter().map(Vec::len).collect();
        let longest = lens.iter().copied().max().unwrap_or(0);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("prune-{i}")).build();
        let mut states = States::new(c, &lens, needs == Needs::DenseOutputs, residence)?;
        embed(source, windows, &mut states)?;
        Ok(Stream {
            states,
            lens,
            workers: (0..threads).map(|_| Worker::new(&engine, longest)).collect::<Result<_, _>>()?,
            pool: Arc::new(pool.map_err(|_| Error::Threads { threads })?),
            engine,
        })
    }

    /// Multiplies as the file says: f32 activations, weights exactly as stored.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Moves every window to `site` of `layer` and gathers what `needs` asks for of its inputs there; where that is what the
    /// dense model makes of them, `dense` is its layer. Sites of a layer must be visited in order. `tick` is called now and
    /// then with the number of tokens done.
    pub(crate) fn observe(
        &mut self,
        layer: &Layer,
        dense: Option<&Layer>,
        site: Site,
        needs: Needs,
        tick: &mut dyn FnMut(usize) -> Result<(), Error>,
    ) -> Result<Inputs, Error> {
        if needs >= Needs::Gram {
            return self.observe_products(layer, dense, site, tick);
        }
        let cols = site.width(self.engine.config());
        let mut total = ColumnNorms::new(cols);
        self.each_window(
            &touched(site, dense.is_some(), self.is_parallel()),
            |engine, worker, window| {
                let mut norms = ColumnNorms::new(cols);
                window.move_to(site, engine, layer, worker, &mut |x| norms.add(x));
                norms
            },
            |norms| total.merge(&norms),
            tick,
        )?;
        Ok(total.into())
    }

    /// The same with the products of features, which are summed window by window, each on all threads.
    fn observe_products(
        &mut self,
        layer: &Layer,
        dense: Option<&Layer>,
        site: Site,
        tick: &mut dyn FnMut(usize) -> Result<(), Error>,
    ) -> Result<Inputs, Error> {
        let c = self.engine.config();
        let cols = site.width(c);
        let beside = dense.map(|_| (site.beside(), c.dim));
        let mut gram = Gram::new(cols)?;
        let mut wanted = beside.map(|(beside, width)| Wanted::new(beside, cols, width)).transpose()?;
        let mut held_out = match self.held_out_tokens() {
            0 => None,
            tokens => Some(HeldOut::with_room(cols, beside, tokens)?),
        };
        let mut norms = ColumnNorms::new(cols);
        let pool = self.pool.clone();
        let mut nth = 0;
        self.each_window(
            &touched(site, dense.is_some(), self.is_parallel()),
            |engine, worker, window| {
                let mut seen = Vec::with_capacity(window.hidden.len() / engine.config().dim * cols);
                window.move_to(site, engine, layer, worker, &mut |x| seen.extend_from_slice(x));
                let beside = |dense| window.beside(site, engine, Pair { pruned: layer, dense }, worker, &seen);
                let mut beside = dense.map_or_else(Vec::new, beside);
                if dense.is_some() && site.beside() == Beside::Outputs {
                    window.relate(&mut seen, &mut beside, engine.config());
                }
                (seen, beside)
            },
            |(seen, beside)| {
                norms.add(&seen);
                nth += 1;
                match &mut held_out {
                    Some(held_out) if nth % HELD_OUT == 0 && held_out.tokens() < MOST_HELD_OUT => {
                        held_out.add(&seen, &beside);
                    }
                    _ => pool.install(|| {
                        gram.add(&seen);
                        wanted.iter_mut().for_each(|wanted| wanted.add(&seen, &beside));
                    }),
                }
            },
            tick,
        )?;
        gram.finish();
        Ok(Inputs::new(norms, Some(gram), wanted, held_out))
    }

    /// Tokens of the windows that are held out.
    fn held_out_tokens(&self) -> usize {
        let windows = self.lens.iter().skip(HELD_OUT - 1).step_by(HELD_OUT);
        windows.fold(0, |tokens, len| if tokens < MOST_HELD_OUT { tokens + len } else { tokens })
    }

    /// Moves every window to `site` of `layer` as [`Self::observe`] does, and gathers nothing.
    pub(crate) fn pass(
        &mut self,
        layer: &Layer,
        dense: Option<&Layer>,
        site: Site,
        tick: &mut dyn FnMut(usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let work = |engine: &Engine, worker: &mut Worker, window: &mut Window| {
            let mut seen = Vec::new();
            let mut see = |x: &[f32]| {
                if dense.is_some() {
                    seen.extend_from_slice(x)
                }
            };
            window.move_to(site, engine, layer, worker, &mut see);
            if let Some(dense) = dense {
                window.beside(site, engine, Pair { pruned: layer, dense }, worker, &seen);
            }
        };
        self.each_window(&touched(site, dense.is_some(), self.is_parallel()), work, |()| (), tick)
    }

    fn is_parallel(&self) -> bool {
        self.engine.config().residual.is_parallel()
    }

    /// The windows between layers.
    pub(crate) fn states(&mut self) -> &mut States {
        &mut self.states
    }

    /// The stream's threads.
    pub(crate) fn pool(&self) -> Arc<rayon::ThreadPool> {
        Arc::clone(&self.pool)
    }

    /// Moves every window from the last site of `layer` out of it.
    pub(crate) fn leave(
        &mut self,
        layer: &Layer,
        tick: &mut dyn FnMut(usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let reads: &[Part] = if self.is_parallel() { &[Part::Hidden, Part::Attended] } else { &[Part::Hidden] };
        let touched = Touched { reads, writes: &[Part::Hidden] };
        self.each_window(&touched, |engine, worker, window| window.leave(engine, layer, worker), |()| (), tick)
    }

    /// Runs `work` for all windows on all threads and hands its results to `collect` in the windows' order. Of their states
    /// `work` uses what is `touched`, and the widest inputs.
    fn each_window<R: Send>(
        &mut self,
        touched: &Touched,
        work: impl Fn(&Engine, &mut Worker, &mut Window) -> R + Sync,
        mut collect: impl FnMut(R),
        tick: &mut dyn FnMut(usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Stream { engine, pool, states, lens, workers } = self;
        let size = SHARE * workers.len();
        let mut lens = lens.chunks(size);
        states.each_batch(size, touched, &mut |batch| {
            let results: Vec<Vec<R>> = pool.install(|| {
                let shares = batch.par_chunks_mut(SHARE).zip(workers.par_iter_mut());
                shares.map(|(windows, worker)| windows.iter_mut().map(|w| work(engine, worker, w)).collect()).collect()
            });
            results.into_iter().flatten().for_each(&mut collect);
            tick(lens.next().map_or(0, |lens| lens.iter().sum()))
        })
    }
}

/// What moving a window to `site` uses of its states, and changes; with the dense model if it is `followed`. A parallel layer
/// adds what attention gives at its end.
fn touched(site: Site, followed: bool, is_parallel: bool) -> Touched {
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

/// Gives every window the embeddings of its tokens, and the dense model's the same.
fn embed(source: &dyn Checkpoint, windows: &[Vec<u32>], states: &mut States) -> Result<(), Error> {
    let c = source.config();
    let positions = runtime::load_positions(source)?;
    let read = |row, out: &mut [f32]| source.read_rows("token_embd.weight", row, out);
    let mut ids = windows.iter();
    let touched = Touched { reads: &[], writes: &[Part::Hidden, Part::Dense] };
    states.each_batch(1, &touched, &mut |batch| {
        for (window, ids) in batch.iter_mut().zip(&mut ids) {
            runtime::embed(c, read, positions.as_deref(), ids, 0, &mut window.hidden)?;
            let followed = window.dense.len();
            window.dense.copy_from_slice(&window.hidden[..followed]);
        }
        Ok(())
    })
}

impl Window {
    /// Goes on from the site before, showing `see` the inputs of `site` in order of their tokens.
    fn move_to(
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
    fn beside(&mut self, site: Site, engine: &Engine, layers: Pair, worker: &mut Worker, seen: &[f32]) -> Vec<f32> {
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
    fn relate(&self, seen: &mut [f32], beside: &mut [f32], c: &Config) {
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
    fn leave(&mut self, engine: &Engine, layer: &Layer, worker: &mut Worker) {
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
fn size(vector: &[f32], c: &Config) -> f32 {
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
    fn new(engine: &Engine, context: usize) -> Result<Self, Error> {
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

/// Bytes that a stream of these windows takes, scratch of the products included.
pub(crate) fn byte_len(
    c: &Config,
    needs: Needs,
    (nsamples, seqlen): (usize, usize),
    threads: usize,
    residence: &Residence,
) -> u64 {
    let states = states::memory_bytes(c, needs == Needs::DenseOutputs, (nsamples, seqlen), residence, SHARE * threads);
    let cache = KvCache::byte_len(c, seqlen, KvType::F32) as u64;
    // Per token of a chunk: inputs, copies padded for the kernels, results by row and by token.
    let chunk = (CHUNK * (3 * c.dim + 4 * c.hidden_dim + 4 * c.q_dim() + 2 * c.kv_dim()) * 4) as u64;
    states + (cache + chunk) * threads as u64
}

/// Bytes of the windows whose products are summed at a time, and of those held out.
pub(crate) fn seen_bytes(c: &Config, needs: Needs, nsamples: usize, seqlen: usize, threads: usize) -> u64 {
    let beside = if needs == Needs::DenseOutputs { c.dim } else { 0 };
    let widest = c.hidden_dim.max(c.dim).max(c.q_dim()) + beside;
    let held_out = (nsamples / HELD_OUT).min(MOST_HELD_OUT.div_ceil(seqlen.max(1)));
    ((nsamples.min(SHARE * threads) + held_out) * seqlen * widest * 4) as u64
}

#[cfg(test)]
mod tests {
    use runtime::LayerIo;
    use spm::synthetic::SyntheticModel;
    use spm::{Activation, LayerKind, Norm, Residual};

    use super::*;

    /// The plain decoder, and what goes through a layer in another way: in parallel; scaled, with biases and windows;
    /// normalised after the blocks.
    fn configs() -> [Config; 4] {
        let mut all = [0; 4].map(|_| Config::new(2, 64, 160, 4, 2));
        let [_, parallel, scaled, normed] = &mut all;
        (parallel.norm, parallel.gated, parallel.activation) = (Norm::Layer, false, Activation::Gelu);
        (parallel.attn_output_bias, parallel.ffn_bias, parallel.residual) = (true, true, Residual::Parallel);
        (scaled.attn_output_bias, scaled.ffn_bias, scaled.scales.residual) = (true, true, 0.4);
        scaled.window = Some(40);
        scaled.layers = vec![LayerKind { windowed: true, ..Default::default() }, LayerKind::default()];
        (normed.post_norms, normed.qk_norm) = (true, true);
        all
    }

    /// Site by site is the runtime's own layer to the bit, with the down projection's inputs kept for all, some, or none of
    /// the windows, and with all states in a file.
    #[test]
    fn passes_make_up_a_layer() {
        configs().into_iter().for_each(|config| check_passes(&SyntheticModel::new(config, 5)));
    }

    fn check_passes(model: &SyntheticModel) {
        let windows: Vec<Vec<u32>> = (0..5).map(|w| (0..150 + w).map(|t| (t * t + 7 * w) % 250).collect()).collect();
        let folder = tempfile::tempdir().unwrap();
        let one_window = 160 * 160 * 4;
        let in_memory = [usize::MAX, 2 * one_window, 0].map(|wide_bytes| Residence::Memory { wide_bytes });
        for residence in in_memory.into_iter().chain([Residence::Spilled(folder.path().to_owned())]) {
            let mut stream = Stream::new(model, &windows, Needs::ColumnNorms, 2, &residence).unwrap();
            for index in 0..2 {
                let layer = Layer::load(model, stream.engine(), index).unwrap();
                let before = parts(&mut stream);
                let mut seen = 0;
                for site in Site::ALL {
                    let inputs =
                        stream.observe(&layer, None, site, Needs::ColumnNorms, &mut |n| tick(&mut seen, n)).unwrap();
                    assert_eq!(inputs.norms.tokens(), 760);
                }
                stream.leave(&layer, &mut |n| tick(&mut seen, n)).unwrap();
                assert_eq!(seen, 5 * 760);
                for (after, before) in parts(&mut stream).into_iter().zip(before).step_by(2) {
                    assert!(after == forward(&layer, &stream.engine, before), "layer {index}, {residence:?}");
                }
            }
        }
    }

    /// Beside a model of other weights the dense one goes its own way, and what is missing at a site is what their layers
    /// differ by.
    #[test]
    fn the_dense_model_goes_beside() {
        for config in configs() {
            check_beside(&SyntheticModel::new(config.clone(), 5), &SyntheticModel::new(config, 6));
        }
    }

    fn check_beside(dense: &SyntheticModel, other: &SyntheticModel) {
        let windows: Vec<Vec<u32>> = (0..10).map(|w| (0..70 + w).map(|t| (t * t + 7 * w) % 250).collect()).collect();
        let folder = tempfile::tempdir().unwrap();
        for residence in [Residence::default(), Residence::Spilled(folder.path().to_owned())] {
            let mut stream = Stream::new(dense, &windows, Needs::DenseOutputs, 2, &residence).unwrap();
            for index in 0..2 {
                let layer = Layer::load(other, stream.engine(), index).unwrap();
                let twin = Layer::load(dense, stream.engine(), index).unwrap();
                // Hidden states and the dense model's of the window that is held out, the last.
                let last = |stream: &mut Stream| parts(stream).split_off(18);
                let before = last(&mut stream);
                let mut held_out = Vec::new();
                for site in Site::ALL {
                    let inputs =
                        stream.observe(&layer, Some(&twin), site, Needs::DenseOutputs, &mut |_| Ok(())).unwrap();
                    held_out.push((inputs.held_out.unwrap(), last(&mut stream)));
                }
                let after = forward(&twin, &stream.engine, before[1].clone());
                let (of_last_site, states) = held_out.pop().unwrap();
                assert!(states[1] == after, "layer {index}");
                let reached = reached(&stream.engine, (&layer, &twin), &of_last_site, &states[0], &before);
                let after =
                    if dense.config().post_norms { own_outputs(&stream.engine, &twin, &before[1]) } else { after };
                for (i, (found, expected)) in reached.iter().zip(&after).enumerate() {
                    assert!((found - expected).abs() < 2e-4, "layer {index}, {i}: {found}, {expected}");
                }
                let inputs = |layer: &Layer, hidden: &[f32]| {
                    let mut inputs = vec![0.0; hidden.len()];
                    layer.attn_input(&stream.engine, hidden, &mut inputs);
                    inputs
                };
                let (of_first_site, states) = &held_out[0];
                let (of_dense, of_pruned) = (inputs(&twin, &before[1]), inputs(&layer, &states[0]));
                assert!(
                    of_first_site.beside().iter().zip(of_dense.iter().zip(&of_pruned)).all(|(b, (x, p))| *b == x - p)
                );
                stream.leave(&layer, &mut |_| Ok(())).unwrap();
            }
        }
    }

    /// The stream behind the layer if its last matrix gives just what is wanted of it; with post-norms, what is wanted. That is
    /// in relation to the size of the dense stream, and there to its own.
    fn reached(
        engine: &Engine,
        (layer, twin): (&Layer, &Layer),
        held_out: &HeldOut,
        hidden: &[f32],
        before: &[Vec<f32>],
    ) -> Vec<f32> {
        let c = engine.config();
        let (dense, own) = (forward(twin, engine, before[1].clone()), own_outputs(engine, twin, &before[1]));
        let mut stream = hidden.to_vec();
        if c.residual.is_parallel() {
            let mut ws = Workspace::new(engine, hidden.len() / c.dim);
            layer.attn_output(engine, &mut ws, &attended(engine, layer, hidden), &mut stream);
        }
        let rows = stream.chunks_mut(c.dim).zip(held_out.beside().chunks(c.dim));
        for ((stream, wanted), (dense, own)) in rows.zip(dense.chunks(c.dim).zip(own.chunks(c.dim))) {
            for (i, (stream, wanted)) in stream.iter_mut().zip(wanted).enumerate() {
                let wanted = wanted * size(dense, c);
                let bias = layer.ffn_output_bias().map_or(0.0, |bias| bias[i]);
                *stream = match c.post_norms {
                    true => wanted * size(own, c),
                    false => *stream + c.scales.residual * (wanted + bias),
                };
            }
        }
        stream
    }

    fn attended(engine: &Engine, layer: &Layer, hidden: &[f32]) -> Vec<f32> {
        let c = engine.config();
        let n = hidden.len() / c.dim;
        let (mut x, mut out) = (vec![0.0; hidden.len()], vec![0.0; n * c.q_dim()]);
        layer.attn_input(engine, hidden, &mut x);
        let mut cache = KvCache::new(c, n, KvType::F32).unwrap();
        layer.attention(engine, &mut Workspace::new(engine, n), &mut cache, 0, &x, &mut out);
        out
    }

    /// Of the down projection, for a stream before the layer.
    fn own_outputs(engine: &Engine, layer: &Layer, before: &[f32]) -> Vec<f32> {
        let c = engine.config();
        let n = before.len() / c.dim;
        let mut ws = Workspace::new(engine, n);
        let (mut hidden, mut x) = (before.to_vec(), vec![0.0; before.len()]);
        layer.attn_output(engine, &mut ws, &attended(engine, layer, before), &mut hidden);
        let mut wide = vec![0.0; n * c.hidden_dim];
        layer.ffn_input(engine, &hidden, &mut x);
        layer.ffn_hidden(engine, &mut ws, &x, &mut wide);
        layer.ffn_product(engine, &mut ws, &wide, &mut x);
        x
    }

    /// Hidden states and the dense model's of every window, in turns.
    fn parts(stream: &mut Stream) -> Vec<Vec<f32>> {
        let mut parts = Vec::new();
        let keep = &mut |part: &[f32]| {
            parts.push(part.to_vec());
            Ok(())
        };
        stream.states().each(keep).unwrap();
        parts
    }

    fn tick(seen: &mut usize, n: usize) -> Result<(), Error> {
        *seen += n;
        Ok(())
    }

    fn forward(layer: &Layer, engine: &Engine, hidden: Vec<f32>) -> Vec<f32> {
        let n = hidden.len() / engine.config().dim;
        let mut cache = KvCache::new(engine.config(), n, KvType::F32).unwrap();
        let mut io = LayerIo::default();
        io.resize(engine, n);
        io.hidden = hidden;
        layer.forward(engine, &mut Workspace::new(engine, n), &mut cache, 0, &mut io);
        io.hidden
    }
}
