//! The calibration tokens on their way through the decoder: hidden states of every window, and the passes
//! that move them from one site of a layer to the next.
//!
//! Windows are spread over threads, never cut by them; sums are made window by window and added in the
//! windows' order, so nothing depends on the number of threads.

mod window;

use std::sync::Arc;

use rayon::prelude::*;
use runtime::{Engine, EngineOptions, KvCache, KvType, Layer, Precision};
use spm::{Checkpoint, Config};

use crate::error::Error;
use crate::method::Needs;
use crate::site::Site;
use crate::states::{self, Part, Residence, States, Touched, Window};
use crate::statistics::{Beside, ColumnNorms, Gram, HeldOut, Inputs, Wanted};
use window::{CHUNK, Pair, Worker, touched};

/// Windows that a thread takes at a time.
const SHARE: usize = 2;

/// One window of so many is held out,
pub(crate) const HELD_OUT: usize = 10;
/// as long as there are fewer tokens than so many of them.
const MOST_HELD_OUT: usize = 3072;

/// All windows between two steps of a layer.
pub(crate) struct Stream {
    engine: Engine,
    pool: Arc<rayon::ThreadPool>,
    states: States,
    /// Tokens of each window.
    lens: Vec<usize>,
    workers: Vec<Worker>,
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
            pool: Arc::new(pool.map_err(|e| Error::Threads { threads, reason: e.to_string() })?),
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
mod tests;
