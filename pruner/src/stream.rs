//! The calibration tokens on their way through the decoder: hidden states of every window, and the passes
//! that move them from one site of a layer to the next.
//!
//! Windows are spread over threads, never cut by them; sums are made window by window and added in the
//! windows' order, so nothing depends on the number of threads.

use rayon::prelude::*;
use runtime::{Engine, EngineOptions, KvCache, KvType, Layer, Precision, Workspace};
use spm::{Checkpoint, Config};

use crate::error::Error;
use crate::statistics::ColumnNorms;

/// Tokens that go through a product together: enough to share an expanded weight, few enough to stay in cache.
const CHUNK: usize = 64;

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

impl Site {
    /// All of them, in order.
    pub const ALL: [Site; 4] = [Site::AttnIn, Site::AttnOut, Site::FfnIn, Site::FfnHidden];

    /// The matrices that multiply this input.
    pub fn matrices(self) -> &'static [&'static str] {
        match self {
            Site::AttnIn => &["attn_q.weight", "attn_k.weight", "attn_v.weight"],
            Site::AttnOut => &["attn_output.weight"],
            Site::FfnIn => &["ffn_gate.weight", "ffn_up.weight"],
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
    pool: rayon::ThreadPool,
    windows: Vec<Window>,
    workers: Vec<Worker>,
}

struct Window {
    /// `n x dim`: the residual stream.
    hidden: Vec<f32>,
    /// `n x q_dim`: what attention made of it, between the sites `AttnOut` and `FfnIn`.
    attended: Vec<f32>,
}

/// What one thread needs.
struct Worker {
    ws: Workspace,
    cache: KvCache,
    narrow: Vec<f32>,
    wide: Vec<f32>,
}

impl Stream {
    /// Embeds `windows`.
    pub(crate) fn new(source: &dyn Checkpoint, windows: &[Vec<u32>], threads: usize) -> Result<Self, Error> {
        let c = source.config();
        let threads = threads.clamp(1, windows.len().max(1));
        // Threads take whole windows, so each engine runs on its caller's thread alone.
        let options = EngineOptions { threads: 1, precision: Precision::Exact, kernel: None };
        let engine = Engine::new(c, &options)?;
        let longest = windows.iter().map(Vec::len).max().unwrap_or(0);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("prune-{i}")).build();
        Ok(Stream {
            windows: windows.iter().map(|ids| Window::embed(source, ids)).collect::<Result<_, _>>()?,
            workers: (0..threads).map(|_| Worker::new(&engine, longest)).collect::<Result<_, _>>()?,
            pool: pool.map_err(|_| Error::Threads { threads })?,
            engine,
        })
    }

    /// Multiplies as the file says: f32 activations, weights exactly as stored.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Moves every window to `site` of `layer` and gathers the norms of its inputs there. Sites of a layer
    /// must be visited in order. `tick` is called now and then with the number of tokens done.
    pub(crate) fn observe(
        &mut self,
        layer: &Layer,
        site: Site,
        tick: &mut dyn FnMut(usize) -> Result<(), Error>,
    ) -> Result<ColumnNorms, Error> {
        let cols = site.width(self.engine.config());
        let mut total = ColumnNorms::new(cols);
        self.each_window(
            |engine, worker, window| {
                let mut norms = ColumnNorms::new(cols);
                window.move_to(site, engine, layer, worker, &mut |x| norms.add(x));
                norms
            },
            |norms| total.merge(&norms),
            tick,
        )?;
        Ok(total)
    }

    /// Moves every window from the last site of `layer` out of it.
    pub(crate) fn leave(
        &mut self,
        layer: &Layer,
        tick: &mut dyn FnMut(usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.each_window(|engine, worker, window| window.leave(engine, layer, worker), |()| (), tick)
    }

    /// Runs `work` for all windows on all threads and hands its results to `collect` in the windows' order.
    fn each_window<R: Send>(
        &mut self,
        work: impl Fn(&Engine, &mut Worker, &mut Window) -> R + Sync,
        mut collect: impl FnMut(R),
        tick: &mut dyn FnMut(usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Stream { engine, pool, windows, workers } = self;
        let share = 2;
        for batch in windows.chunks_mut(share * workers.len()) {
            let results: Vec<Vec<R>> = pool.install(|| {
                let shares = batch.par_chunks_mut(share).zip(workers.par_iter_mut());
                shares.map(|(windows, worker)| windows.iter_mut().map(|w| work(engine, worker, w)).collect()).collect()
            });
            results.into_iter().flatten().for_each(&mut collect);
            tick(batch.iter().map(|w| w.hidden.len() / engine.config().dim).sum())?;
        }
        Ok(())
    }
}

impl Window {
    fn embed(source: &dyn Checkpoint, ids: &[u32]) -> Result<Self, Error> {
        let c = source.config();
        let mut hidden = zeroed("hidden states", ids.len().saturating_mul(c.dim))?;
        for (&token, row) in ids.iter().zip(hidden.chunks_exact_mut(c.dim)) {
            let known = source.read_rows("token_embd.weight", token as usize, row);
            known.ok_or(Error::Token { token, vocab_size: c.vocab_size })?;
        }
        Ok(Window { hidden, attended: zeroed("attention outputs", ids.len().saturating_mul(c.q_dim()))? })
    }

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
        let Worker { ws, cache, narrow, wide } = worker;
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
                    layer.attn_output(engine, ws, attended, hidden);
                    layer.ffn_input(engine, hidden, narrow);
                    see(narrow);
                }
                Site::FfnHidden => {
                    let wide = &mut wide[..n * c.hidden_dim];
                    layer.ffn_input(engine, hidden, narrow);
                    layer.ffn_hidden(engine, ws, narrow, wide);
                    see(wide);
                }
            }
        }
    }

    /// Computes the inputs of the down projection again, cheaper than to keep them: they are the widest.
    fn leave(&mut self, engine: &Engine, layer: &Layer, worker: &mut Worker) {
        let c = engine.config();
        let Worker { ws, narrow, wide, .. } = worker;
        for hidden in self.hidden.chunks_mut(CHUNK * c.dim) {
            let n = hidden.len() / c.dim;
            let (narrow, wide) = (&mut narrow[..n * c.dim], &mut wide[..n * c.hidden_dim]);
            layer.ffn_input(engine, hidden, narrow);
            layer.ffn_hidden(engine, ws, narrow, wide);
            layer.ffn_output(engine, ws, wide, hidden);
        }
    }
}

impl Worker {
    fn new(engine: &Engine, context: usize) -> Result<Self, Error> {
        let c = engine.config();
        Ok(Worker {
            ws: Workspace::new(engine),
            cache: KvCache::new(c, context, KvType::F32)?,
            narrow: zeroed("normalised inputs", CHUNK * c.dim)?,
            wide: zeroed("feed-forward inputs", CHUNK * c.hidden_dim)?,
        })
    }
}

/// Bytes that a stream of these windows takes, scratch of the products included.
pub(crate) fn byte_len(c: &Config, nsamples: usize, seqlen: usize, threads: usize) -> u64 {
    let tokens = (nsamples * seqlen) as u64;
    let kept = tokens * (c.dim + c.q_dim()) as u64 * 4;
    let cache = KvCache::byte_len(c, seqlen, KvType::F32) as u64;
    // Per token of a chunk: inputs, copies padded for the kernels, results by row and by token.
    let chunk = (CHUNK * (3 * c.dim + 4 * c.hidden_dim + 3 * c.q_dim() + 2 * c.kv_dim()) * 4) as u64;
    kept + (cache + chunk) * threads as u64
}

fn zeroed(what: &'static str, len: usize) -> Result<Vec<f32>, Error> {
    let mut all = Vec::new();
    all.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { what, bytes: len.saturating_mul(4) })?;
    all.resize(len, 0.0);
    Ok(all)
}
