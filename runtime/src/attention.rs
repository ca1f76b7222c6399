//! Causal attention of a run of tokens: which thread does which queries, and where results go.

use std::ops::Range;

use crate::activation;
use crate::engine::Engine;
use crate::error::Error;
use crate::kv_cache::KvCache;
use crate::ops;
use crate::simd::{Aligned, KEY_BLOCK, Queries};

/// Most threads that share the queries.
const MAX_PARTS: usize = 64;
/// Queries that share the loads of keys and values.
const TILE: usize = 16;

/// Scratch, reused from layer to layer.
pub(crate) struct Attention {
    parts: Vec<Part>,
    /// Results in order of kv head, token, head of the group.
    by_kv_head: Vec<f32>,
}

/// One thread's scratch for a tile of queries.
#[derive(Default)]
struct Part {
    queries: Vec<f32>,
    /// Positions that each query sees, counted from the tile's base.
    seen: Vec<Range<usize>>,
    /// How many of a run of the cache each may look at.
    lens: Vec<usize>,
    scores: Vec<f32>,
    singles: Aligned<f32>,
}

/// A run of queries in order of kv head, token, head of the group.
struct Job<'a> {
    run: Range<usize>,
    part: &'a mut Part,
    out: &'a mut [f32],
}

/// What all threads read.
struct Task<'a> {
    engine: &'a Engine,
    cache: &'a KvCache,
    /// Position of the first token.
    first: usize,
    /// Tokens.
    n: usize,
    /// Positions that a query sees at most, its own among them.
    window: usize,
    /// `n x q_dim`.
    q: &'a [f32],
}

impl Attention {
    pub(crate) fn new(threads: usize) -> Self {
        let parts = (0..threads.min(MAX_PARTS)).map(|_| Part::default()).collect();
        Attention { parts, by_kv_head: Vec::new() }
    }

    /// Bytes of [`Self::reserve`].
    pub(crate) fn byte_len(positions: usize, threads: usize) -> usize {
        let of_a_part = TILE.saturating_mul(positions.saturating_add(KEY_BLOCK)).saturating_mul(4);
        of_a_part.saturating_mul(threads.clamp(1, MAX_PARTS))
    }

    /// Makes room for the scores of any number of positions up to this, so that decoding allocates nothing.
    pub(crate) fn reserve(&mut self, positions: usize) -> Result<(), Error> {
        let most = TILE.saturating_mul(positions.saturating_add(KEY_BLOCK) / KEY_BLOCK * KEY_BLOCK);
        for part in &mut self.parts {
            let more = most.saturating_sub(part.scores.len());
            let bytes = more.saturating_mul(size_of::<f32>());
            let refused = |_| Error::OutOfMemory { what: "attention's scores", bytes };
            part.scores.try_reserve_exact(more).map_err(refused)?;
        }
        Ok(())
    }

    /// Softmax attention of the queries `q` (`n x q_dim`) at positions `first..first + n`, which are in the cache
    /// already, over the positions up to their own, the last `window` of them if there is one; `out` is `n x q_dim`.
    pub(crate) fn attend(
        &mut self,
        engine: &Engine,
        cache: &KvCache,
        first: usize,
        window: Option<usize>,
        q: &[f32],
        out: &mut [f32],
    ) {
        let c = engine.config();
        let n = q.len() / c.q_dim();
        let task = Task { engine, cache, first, n, window: window.unwrap_or(usize::MAX), q };
        // For one token the order of the results is the output's own.
        self.by_kv_head.resize(out.len(), 0.0);
        let results = if n == 1 { &mut *out } else { &mut self.by_kv_head[..] };
        let mut jobs = [const { None }; MAX_PARTS];
        let jobs = task.cut(results, &mut self.parts, &mut jobs);
        engine.pool().for_each(jobs, |_, job| {
            if let Some(job) = job {
                task.run(job);
            }
        });
        if n > 1 {
            let width = c.q_dim() / c.n_kv_heads;
            for (h, head) in self.by_kv_head.chunks_exact(n * width).enumerate() {
                for (from, to) in head.chunks_exact(width).zip(out.chunks_exact_mut(c.q_dim())) {
                    to[h * width..(h + 1) * width].copy_from_slice(from);
                }
            }
        }
    }
}

impl Task<'_> {
    /// One run of queries a thread, of about equally many positions.
    fn cut<'j, 'a>(
        &self,
        mut out: &'a mut [f32],
        parts: &'a mut [Part],
        jobs: &'j mut [Option<Job<'a>>; MAX_PARTS],
    ) -> &'j mut [Option<Job<'a>>] {
        let c = self.engine.config();
        let count = parts.len();
        let total: usize =
            (self.first + 1..=self.first + self.n).map(|len| len.min(self.window)).sum::<usize>() * c.n_heads;
        let (mut start, mut done) = (0, 0);
        for (i, part) in parts.iter_mut().enumerate() {
            let mut end = start;
            while end < self.n * c.n_heads && (done < total / count * (i + 1) || i + 1 == count) {
                done += self.seen_by(end).len();
                end += 1;
            }
            let (now, later) = out.split_at_mut((end - start) * c.head_dim);
            jobs[i] = Some(Job { run: start..end, part, out: now });
            (out, start) = (later, end);
        }
        &mut jobs[..count]
    }

    fn run(&self, job: &mut Job) {
        let c = self.engine.config();
        let of_a_kv_head = self.n * (c.n_heads / c.n_kv_heads);
        let mut start = job.run.start;
        while start < job.run.end {
            let head = start / of_a_kv_head;
            let end = job.run.end.min((head + 1) * of_a_kv_head).min(start + TILE);
            let at = start - job.run.start;
            let out = &mut job.out[at * c.head_dim..(at + end - start) * c.head_dim];
            self.run_tile(head, start..end, job.part, out);
            start = end;
        }
    }

    fn run_tile(&self, kv_head: usize, tile: Range<usize>, part: &mut Part, out: &mut [f32]) {
        let c = self.engine.config();
        let Part { queries, seen, lens, scores, singles } = part;
        queries.clear();
        seen.clear();
        // Scores are counted from the first key block that any of the queries looks into.
        let base = tile.clone().map(|i| self.seen_by(i).start).min().unwrap_or(0) / KEY_BLOCK * KEY_BLOCK;
        for i in tile {
            let at = self.token_of(i) * c.q_dim() + self.head_of(i) * c.head_dim;
            queries.extend_from_slice(&self.q[at..at + c.head_dim]);
            let Range { start, end } = self.seen_by(i);
            seen.push(start - base..end - base);
        }
        let stride = (self.first + self.n - base).next_multiple_of(KEY_BLOCK);
        if scores.len() < seen.len() * stride {
            scores.resize(seen.len() * stride, 0.0);
        }
        let kernels = self.engine.kernels();
        let end = base + seen.iter().map(|seen| seen.end).max().unwrap_or(0);
        for run in self.cache.runs(base..end) {
            let at = run.first - base;
            fill_lens(lens, seen, at..at + run.len);
            let q = Queries { dim: c.head_dim, queries, lens, stride };
            kernels.scores(&q, self.cache.keys(kv_head, &run), singles, &mut scores[at..]);
        }
        for (seen, scores) in seen.iter().zip(scores.chunks_exact_mut(stride)) {
            self.weigh(seen, scores);
        }
        out.fill(0.0);
        for run in self.cache.runs(base..end) {
            let at = run.first - base;
            fill_lens(lens, seen, at..at + run.len);
            let q = Queries { dim: c.head_dim, queries, lens, stride };
            kernels.mix(&q, self.cache.values(kv_head, &run), singles, &scores[at..], out);
        }
    }

    /// Scores to weights, of the positions `seen`; of those before, to zero.
    ///
    /// It begins with a whole key block, so that sums are the same wherever the tile begins.
    fn weigh(&self, seen: &Range<usize>, scores: &mut [f32]) {
        let (c, kernels) = (self.engine.config(), self.engine.kernels());
        let looked_at = &mut scores[seen.start / KEY_BLOCK * KEY_BLOCK..seen.end];
        let mut scale = c.attention_scale();
        if let Some(cap) = c.scales.attention_cap {
            ops::scale(looked_at, scale);
            activation::soft_cap(looked_at, cap);
            scale = 1.0;
        }
        looked_at[..seen.start % KEY_BLOCK].fill(f32::NEG_INFINITY);
        kernels.softmax(looked_at, scale);
        scores[..seen.start].fill(0.0);
    }

    fn token_of(&self, query: usize) -> usize {
        let group = self.engine.config().n_heads / self.engine.config().n_kv_heads;
        query / group % self.n
    }

    fn head_of(&self, query: usize) -> usize {
        let group = self.engine.config().n_heads / self.engine.config().n_kv_heads;
        query / (group * self.n) * group + query % group
    }

    /// Positions that a query sees.
    fn seen_by(&self, query: usize) -> Range<usize> {
        let end = self.first + self.token_of(query) + 1;
        end.saturating_sub(self.window)..end
    }
}

/// Of each query, how many positions of the run `at` it may look at.
fn fill_lens(lens: &mut Vec<usize>, seen: &[Range<usize>], at: Range<usize>) {
    lens.clear();
    lens.extend(seen.iter().map(|seen| seen.end.clamp(at.start, at.end) - at.start));
}
