//! One decoder layer, step by step. Generation runs all steps for a few tokens; the pruner runs one step for
//! all its tokens, changes the weights of the next, and goes on.

use std::ops::Range;

use spm::{Activation, Checkpoint, Config, LayerRope, Matrix, Norm as Kind, POSITIONS, Residual};

use crate::activation;
use crate::attention::Attention;
use crate::engine::Engine;
use crate::error::Error;
use crate::kv_cache::KvCache;
use crate::linear::{Activations, Linear, Parts, check_shape, load_vector, multiply};
use crate::norm::Norm;
use crate::ops::{self, RopeTable};

/// The weights of one decoder layer.
pub struct Layer {
    attn_norm: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    /// Of each head of queries and of keys.
    qk_norms: Option<[Vec<f32>; 2]>,
    o: Linear,
    /// None if the feed-forward block reads what attention reads.
    ffn_norm: Option<Norm>,
    /// None if the activation is of `up` alone.
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    /// Of what attention, and of what the feed-forward block adds to the stream.
    post_norms: Option<[Norm; 2]>,
    window: Option<usize>,
    rope: LayerRope,
}

/// Scratch for a run of tokens through a layer; reused from layer to layer.
pub struct Workspace {
    parts: Parts,
    x: Activations,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    up: Vec<f32>,
    delta: Vec<f32>,
    unnormed: Vec<f32>,
    attention: Attention,
    rope: RopeTable,
    local_rope: Option<RopeTable>,
}

impl Layer {
    /// Loads layer `index`, checking every shape.
    pub fn load(from: &dyn Checkpoint, engine: &Engine, index: usize) -> Result<Self, Error> {
        let c = engine.config();
        let name = |tensor: &str| format!("blk.{index}.{tensor}");
        let vector = |tensor: &str, len| load_vector(from, &name(tensor), len);
        let linear = |tensor: &str, rows, cols, has_bias: bool| {
            let bias = has_bias.then(|| vector(&format!("{tensor}.bias"), rows)).transpose()?;
            let weights = Linear::load(from, engine, &name(&format!("{tensor}.weight")), (rows, cols))?;
            Ok::<_, Error>(weights.with_bias(bias))
        };
        let norm = |tensor: &str, kind| Norm::load(from, &name(tensor), kind, c.dim);
        let has_ffn_norm = c.residual != Residual::ParallelOneNorm;
        let head_norms =
            || Ok::<_, Error>([vector("attn_q_norm.weight", c.head_dim)?, vector("attn_k_norm.weight", c.head_dim)?]);
        let post_norms =
            || Ok::<_, Error>([norm("post_attention_norm", Kind::Rms)?, norm("post_ffw_norm", Kind::Rms)?]);
        Ok(Layer {
            attn_norm: norm("attn_norm", c.norm)?,
            q: linear("attn_q", c.q_dim(), c.dim, c.qkv_bias)?,
            k: linear("attn_k", c.kv_dim(), c.dim, c.qkv_bias)?,
            v: linear("attn_v", c.kv_dim(), c.dim, c.qkv_bias)?,
            qk_norms: c.qk_norm.then(head_norms).transpose()?,
            o: linear("attn_output", c.dim, c.q_dim(), c.attn_output_bias)?,
            ffn_norm: has_ffn_norm.then(|| norm("ffn_norm", c.norm)).transpose()?,
            gate: c.gated.then(|| linear("ffn_gate", c.hidden_dim, c.dim, c.ffn_bias)).transpose()?,
            up: linear("ffn_up", c.hidden_dim, c.dim, c.ffn_bias)?,
            down: linear("ffn_down", c.dim, c.hidden_dim, c.ffn_bias)?,
            post_norms: c.post_norms.then(post_norms).transpose()?,
            window: c.window_of(index),
            rope: c.layer_kind(index).rope,
        })
    }

    /// Replaces the weights of one projection, named as in the file (`ffn_gate.weight`).
    pub fn set(&mut self, tensor: &str, weights: Matrix) -> Result<(), Error> {
        self.replace(tensor, weights).map(|_| ())
    }

    /// The same; returns what was there.
    pub fn replace(&mut self, tensor: &str, weights: Matrix) -> Result<Matrix, Error> {
        let missing = || Error::MissingTensor { name: tensor.to_owned() };
        let linear = match tensor {
            "attn_q.weight" => &mut self.q,
            "attn_k.weight" => &mut self.k,
            "attn_v.weight" => &mut self.v,
            "attn_output.weight" => &mut self.o,
            "ffn_gate.weight" => self.gate.as_mut().ok_or_else(missing)?,
            "ffn_up.weight" => &mut self.up,
            "ffn_down.weight" => &mut self.down,
            _ => return Err(missing()),
        };
        linear.replace(tensor, weights)
    }

    /// The projections' matrices, in the order they are used.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let of_ffn = self.gate.iter().chain([&self.up, &self.down]);
        [&self.q, &self.k, &self.v, &self.o].into_iter().chain(of_ffn).map(Linear::weights)
    }

    /// Bytes of all norms.
    pub(crate) fn norm_bytes(&self) -> usize {
        let of_heads = self.qk_norms.iter().flatten().map(|norm| 4 * norm.len());
        let others = [&self.attn_norm].into_iter().chain(&self.ffn_norm).chain(self.post_norms.iter().flatten());
        others.map(Norm::byte_len).chain(of_heads).sum()
    }

    /// Positions that a token sees, its own among them; `None` if all.
    pub(crate) fn window(&self) -> Option<usize> {
        self.window
    }

    /// Runs `hidden` (`n x dim`) through the layer at positions `first..`, in place.
    pub fn forward(&self, engine: &Engine, ws: &mut Workspace, cache: &mut KvCache, first: usize, io: &mut LayerIo) {
        self.forward_by(engine, ws, io, |ws, x, out| self.attention(engine, ws, cache, first, x, out));
    }

    /// Runs a token of each of several texts through the layer, in place.
    pub(crate) fn forward_each(
        &self,
        engine: &Engine,
        ws: &mut Workspace,
        caches: &mut [KvCache],
        at: &[Place],
        io: &mut LayerIo,
    ) {
        self.forward_by(engine, ws, io, |ws, x, out| self.attention_of_each(engine, ws, caches, at, x, out));
    }

    fn forward_by(
        &self,
        engine: &Engine,
        ws: &mut Workspace,
        io: &mut LayerIo,
        attention: impl FnOnce(&mut Workspace, &[f32], &mut [f32]),
    ) {
        let is_parallel = engine.config().residual.is_parallel();
        let LayerIo { hidden, dim_wide, attended, ffn_wide } = io;
        self.attn_input(engine, hidden, dim_wide);
        attention(ws, dim_wide, attended);
        if !is_parallel {
            self.attn_output(engine, ws, attended, hidden);
        }
        self.ffn_input(engine, hidden, dim_wide);
        self.ffn_hidden(engine, ws, dim_wide, ffn_wide);
        if is_parallel {
            self.attn_output(engine, ws, attended, hidden);
        }
        self.ffn_output(engine, ws, ffn_wide, hidden);
    }

    /// Input of q, k and v: the normalised stream; both `n x dim`.
    pub fn attn_input(&self, engine: &Engine, hidden: &[f32], out: &mut [f32]) {
        self.attn_norm.apply_rows(engine, hidden, out);
    }

    /// Input of the output projection: causal attention over `x` (`n x dim`) at positions `first..first + n`
    /// and everything the cache holds before them; `out` is `n x q_dim`.
    pub fn attention(
        &self,
        engine: &Engine,
        ws: &mut Workspace,
        cache: &mut KvCache,
        first: usize,
        x: &[f32],
        out: &mut [f32],
    ) {
        let n = x.len() / engine.config().dim;
        cache.check_room(first, n);
        self.project(engine, ws, x);
        self.remember(engine, ws, cache, first, 0..n);
        ws.attention.attend(engine, cache, first, self.window, &ws.q, out);
    }

    /// The same for tokens of different texts: that of row `t` of `x` (`n x dim`) is at the place `at[t]`.
    fn attention_of_each(
        &self,
        engine: &Engine,
        ws: &mut Workspace,
        caches: &mut [KvCache],
        at: &[Place],
        x: &[f32],
        out: &mut [f32],
    ) {
        let width = engine.config().q_dim();
        self.project(engine, ws, x);
        for (t, (place, out)) in at.iter().zip(out.chunks_exact_mut(width)).enumerate() {
            let cache = &mut caches[place.text];
            cache.check_room(place.position, 1);
            self.remember(engine, ws, cache, place.position, t..t + 1);
            let Workspace { q, attention, .. } = ws;
            attention.attend(engine, cache, place.position, self.window, &q[t * width..(t + 1) * width], out);
        }
    }

    /// Queries, keys and values of `x` (`n x dim`), not turned yet.
    fn project(&self, engine: &Engine, ws: &mut Workspace, x: &[f32]) {
        let c = engine.config();
        let n = x.len() / c.dim;
        ws.x.set(engine, x, [&self.q, &self.k, &self.v]);
        for (y, width) in [(&mut ws.q, c.q_dim()), (&mut ws.k, c.kv_dim()), (&mut ws.v, c.kv_dim())] {
            y.resize(n * width, 0.0);
        }
        let Workspace { q, k, v, .. } = ws;
        multiply(engine, &ws.x, &mut ws.parts, [(&self.q, q), (&self.k, k), (&self.v, v)]);
        self.norm_heads(engine, ws);
    }

    /// Turns `rows` of queries and keys to positions `first..`, and puts keys and values into the cache.
    fn remember(&self, engine: &Engine, ws: &mut Workspace, cache: &mut KvCache, first: usize, rows: Range<usize>) {
        let width = engine.config().kv_dim();
        self.turn_heads(engine, ws, first, rows.clone());
        for (i, t) in rows.enumerate() {
            let kv = t * width..(t + 1) * width;
            cache.put(engine.kernels(), first + i, &ws.k[kv.clone()], &ws.v[kv]);
        }
    }

    fn norm_heads(&self, engine: &Engine, ws: &mut Workspace) {
        let Some(norms) = &self.qk_norms else { return };
        let (c, Workspace { q, k, unnormed, .. }) = (engine.config(), ws);
        for (heads, weight) in [q, k].into_iter().zip(norms) {
            unnormed.clear();
            unnormed.extend_from_slice(heads);
            for (x, out) in unnormed.chunks_exact(c.head_dim).zip(heads.chunks_exact_mut(c.head_dim)) {
                engine.kernels().rms_norm(x, weight, c.norm_eps, out);
            }
        }
    }

    fn turn_heads(&self, engine: &Engine, ws: &mut Workspace, first: usize, rows: Range<usize>) {
        let c = engine.config();
        let (rope, table) = match (self.rope, &c.local_rope, &mut ws.local_rope) {
            (LayerRope::None, ..) => return,
            (LayerRope::Local, Some(rope), Some(table)) => (rope, table),
            _ => (&c.rope, &mut ws.rope),
        };
        table.fill(first, rows.len());
        for (i, t) in rows.enumerate() {
            table.apply(rope, i, &mut ws.q[t * c.q_dim()..(t + 1) * c.q_dim()], c.head_dim);
            table.apply(rope, i, &mut ws.k[t * c.kv_dim()..(t + 1) * c.kv_dim()], c.head_dim);
        }
    }

    /// Adds the output projection of `attended` (`n x q_dim`) to `hidden`.
    pub fn attn_output(&self, engine: &Engine, ws: &mut Workspace, attended: &[f32], hidden: &mut [f32]) {
        let post_norm = self.post_norms.as_ref().map(|[norm, _]| norm);
        add_product(engine, ws, &self.o, post_norm, attended, hidden);
    }

    /// Input of gate and up: the normalised stream; both `n x dim`. In layers that are parallel this is the stream before
    /// [`Self::attn_output`].
    pub fn ffn_input(&self, engine: &Engine, hidden: &[f32], out: &mut [f32]) {
        self.ffn_norm.as_ref().unwrap_or(&self.attn_norm).apply_rows(engine, hidden, out);
    }

    /// Input of the down projection: `act(gate x) * (up x)`, or `act(up x)`; `out` is `n x hidden_dim`.
    pub fn ffn_hidden(&self, engine: &Engine, ws: &mut Workspace, x: &[f32], out: &mut [f32]) {
        let (activation, width) = (engine.config().activation, engine.config().hidden_dim);
        let Some(gate) = &self.gate else {
            ws.product(engine, &self.up, x, out);
            return engine.for_each_part(out, width, |_, out| activation::plain(activation, out));
        };
        ws.x.set(engine, x, [gate, &self.up]);
        ws.up.resize(out.len(), 0.0);
        multiply(engine, &ws.x, &mut ws.parts, [(gate, &mut *out), (&self.up, &mut ws.up)]);
        engine.for_each_part(out, width, |first, gate| {
            let up = &ws.up[first * width..][..gate.len()];
            match activation {
                Activation::Silu => engine.kernels().swiglu(gate, up),
                other => activation::gated(other, gate, up),
            }
        });
    }

    /// Adds the down projection of `x` (`n x hidden_dim`) to `hidden`.
    pub fn ffn_output(&self, engine: &Engine, ws: &mut Workspace, x: &[f32], hidden: &mut [f32]) {
        let post_norm = self.post_norms.as_ref().map(|[_, norm]| norm);
        add_product(engine, ws, &self.down, post_norm, x, hidden);
    }

    /// The output projection alone, before it is normalised, scaled and added; `out` is `n x dim`.
    pub fn attn_product(&self, engine: &Engine, ws: &mut Workspace, attended: &[f32], out: &mut [f32]) {
        ws.product(engine, &self.o, attended, out);
    }

    /// The bias of the output projection.
    pub fn attn_output_bias(&self) -> Option<&[f32]> {
        self.o.bias()
    }

    /// The bias of the down projection.
    pub fn ffn_output_bias(&self) -> Option<&[f32]> {
        self.down.bias()
    }

    /// The down projection alone; `out` is `n x dim`.
    pub fn ffn_product(&self, engine: &Engine, ws: &mut Workspace, x: &[f32], out: &mut [f32]) {
        ws.product(engine, &self.down, x, out);
    }
}

/// Where a token is.
pub(crate) struct Place {
    /// Index of its text.
    pub(crate) text: usize,
    /// Position in it.
    pub(crate) position: usize,
}

/// The residual stream of `n` tokens and the buffers it passes through, all sized by `resize`.
#[derive(Default)]
pub struct LayerIo {
    /// `n x dim`: the stream itself.
    pub hidden: Vec<f32>,
    pub(crate) dim_wide: Vec<f32>,
    attended: Vec<f32>,
    ffn_wide: Vec<f32>,
}

impl LayerIo {
    /// Bytes of the room for `n` tokens.
    pub(crate) fn byte_len(c: &Config, n: usize) -> usize {
        (2 * c.dim + c.q_dim() + c.hidden_dim).saturating_mul(4 * n)
    }

    /// Makes room for `n` tokens.
    pub fn resize(&mut self, engine: &Engine, n: usize) {
        let c = engine.config();
        self.hidden.resize(n * c.dim, 0.0);
        self.dim_wide.resize(n * c.dim, 0.0);
        self.attended.resize(n * c.q_dim(), 0.0);
        self.ffn_wide.resize(n * c.hidden_dim, 0.0);
    }
}

impl Workspace {
    /// Scratch for this engine's threads, and texts of at most `context` positions.
    pub fn new(engine: &Engine, context: usize) -> Self {
        let c = engine.config();
        Workspace {
            parts: Parts::new(engine.threads()),
            x: Activations::default(),
            q: Vec::new(),
            k: Vec::new(),
            v: Vec::new(),
            up: Vec::new(),
            delta: Vec::new(),
            unnormed: Vec::new(),
            attention: Attention::new(engine.threads()),
            rope: RopeTable::new(&c.rope, context),
            local_rope: c.local_rope.as_ref().map(|rope| RopeTable::new(rope, context)),
        }
    }

    /// Bytes of the scratch for `n` tokens at a time, over as many as `positions`, on so many threads.
    pub(crate) fn byte_len(c: &Config, positions: usize, n: usize, threads: usize) -> usize {
        let widest = c.dim.max(c.q_dim()).max(c.hidden_dim);
        let own = c.q_dim() + 2 * c.kv_dim() + c.hidden_dim + c.dim + c.q_dim();
        // Results in panels; inputs as codes, or in exact runs as numbers.
        let products = (2 * c.hidden_dim).max(c.q_dim() + 2 * c.kv_dim()) + widest;
        (own + products).saturating_mul(4 * n).saturating_add(Attention::byte_len(positions, threads))
    }

    /// Makes room for attention over this many positions.
    pub(crate) fn reserve(&mut self, positions: usize) -> Result<(), Error> {
        self.attention.reserve(positions)
    }

    /// `linear` times the vectors `x` (each `cols` wide).
    pub(crate) fn product(&mut self, engine: &Engine, linear: &Linear, x: &[f32], out: &mut [f32]) {
        self.x.set(engine, x, [linear]);
        multiply(engine, &self.x, &mut self.parts, [(linear, out)]);
    }
}

/// Writes what becomes the stream before the first layer to `hidden` (`n x dim`): the embeddings of `tokens` at positions
/// `first..`, scaled, and their learned `positions` if the model has such. `read` gives a row of `token_embd.weight`. The
/// error names a token that the vocabulary does not have, or the end of the learned positions.
pub fn embed(
    c: &Config,
    read: impl Fn(usize, &mut [f32]) -> Option<()>,
    positions: Option<&[f32]>,
    tokens: &[u32],
    first: usize,
    hidden: &mut [f32],
) -> Result<(), Error> {
    for (&token, out) in tokens.iter().zip(hidden.chunks_exact_mut(c.dim)) {
        let known = c.embedding_row(token).and_then(|row| read(row, out));
        known.ok_or(Error::Token { token, vocab_size: c.vocab_size })?;
    }
    ops::scale(hidden, c.scales.embedding);
    let Some(positions) = positions else { return Ok(()) };
    let rows = positions.get(first * c.dim..).and_then(|rows| rows.get(..hidden.len()));
    ops::add(hidden, rows.ok_or(Error::ContextFull { needed: first + tokens.len(), context: c.context_len })?);
    Ok(())
}

/// The learned positions of a model, if it has such.
pub fn load_positions(from: &dyn Checkpoint) -> Result<Option<Vec<f32>>, Error> {
    let c = from.config();
    if !c.learned_positions {
        return Ok(None);
    }
    let missing = || Error::MissingTensor { name: POSITIONS.to_owned() };
    let info = from.tensor(POSITIONS).ok_or_else(missing)?;
    check_shape(POSITIONS, (c.context_len, c.dim), (info.rows, info.cols))?;
    from.read_all(POSITIONS).ok_or_else(missing).map(Some)
}

fn add_product(
    engine: &Engine,
    ws: &mut Workspace,
    linear: &Linear,
    post_norm: Option<&Norm>,
    x: &[f32],
    hidden: &mut [f32],
) {
    let mut delta = std::mem::take(&mut ws.delta);
    delta.resize(hidden.len(), 0.0);
    ws.product(engine, linear, x, &mut delta);
    if let Some(norm) = post_norm {
        norm.apply_in_place(engine, &mut delta, &mut ws.unnormed);
    }
    ops::scale(&mut delta, engine.config().scales.residual);
    ops::add(hidden, &delta);
    ws.delta = delta;
}
