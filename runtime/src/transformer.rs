//! One decoder layer, step by step. Generation runs all steps for a few tokens; the pruner runs one step for
//! all its tokens, changes the weights of the next, and goes on.

use spm::{Checkpoint, Config, Matrix};

use crate::attention::Attention;
use crate::engine::Engine;
use crate::error::Error;
use crate::kv_cache::KvCache;
use crate::linear::{Activations, Linear, Parts, load_vector, multiply};
use crate::ops::{self, RopeTable};

/// The weights of one decoder layer.
pub struct Layer {
    attn_norm: Vec<f32>,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    ffn_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
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
    attention: Attention,
    rope: RopeTable,
}

impl Layer {
    /// Loads layer `index`, checking every shape.
    pub fn load(from: &dyn Checkpoint, engine: &Engine, index: usize) -> Result<Self, Error> {
        let c = engine.config();
        let name = |tensor: &str| format!("blk.{index}.{tensor}");
        let vector = |tensor: &str, len| load_vector(from, &name(tensor), len);
        let linear =
            |tensor: &str, rows, cols| Linear::load(from, engine, &name(&format!("{tensor}.weight")), (rows, cols));
        let bias = |tensor: &str, len| c.qkv_bias.then(|| vector(&format!("{tensor}.bias"), len)).transpose();
        Ok(Layer {
            attn_norm: vector("attn_norm.weight", c.dim)?,
            q: linear("attn_q", c.q_dim(), c.dim)?.with_bias(bias("attn_q", c.q_dim())?),
            k: linear("attn_k", c.kv_dim(), c.dim)?.with_bias(bias("attn_k", c.kv_dim())?),
            v: linear("attn_v", c.kv_dim(), c.dim)?.with_bias(bias("attn_v", c.kv_dim())?),
            o: linear("attn_output", c.dim, c.q_dim())?,
            ffn_norm: vector("ffn_norm.weight", c.dim)?,
            gate: linear("ffn_gate", c.hidden_dim, c.dim)?,
            up: linear("ffn_up", c.hidden_dim, c.dim)?,
            down: linear("ffn_down", c.dim, c.hidden_dim)?,
        })
    }

    /// Replaces the weights of one projection, named as in the file (`ffn_gate.weight`).
    pub fn set(&mut self, tensor: &str, weights: Matrix) -> Result<(), Error> {
        self.replace(tensor, weights).map(|_| ())
    }

    /// The same; returns what was there.
    pub fn replace(&mut self, tensor: &str, weights: Matrix) -> Result<Matrix, Error> {
        let linear = match tensor {
            "attn_q.weight" => &mut self.q,
            "attn_k.weight" => &mut self.k,
            "attn_v.weight" => &mut self.v,
            "attn_output.weight" => &mut self.o,
            "ffn_gate.weight" => &mut self.gate,
            "ffn_up.weight" => &mut self.up,
            "ffn_down.weight" => &mut self.down,
            _ => return Err(Error::MissingTensor { name: tensor.to_owned() }),
        };
        linear.replace(tensor, weights)
    }

    /// The projections' matrices, in the order they are used.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down].into_iter().map(Linear::weights)
    }

    /// Runs `hidden` (`n x dim`) through the layer at positions `first..`, in place.
    pub fn forward(&self, engine: &Engine, ws: &mut Workspace, cache: &mut KvCache, first: usize, io: &mut LayerIo) {
        let LayerIo { hidden, dim_wide, attended, ffn_wide } = io;
        self.attn_input(engine, hidden, dim_wide);
        self.attention(engine, ws, cache, first, dim_wide, attended);
        self.attn_output(engine, ws, attended, hidden);
        self.ffn_input(engine, hidden, dim_wide);
        self.ffn_hidden(engine, ws, dim_wide, ffn_wide);
        self.ffn_output(engine, ws, ffn_wide, hidden);
    }

    /// Input of q, k and v: the normalised stream; both `n x dim`.
    pub fn attn_input(&self, engine: &Engine, hidden: &[f32], out: &mut [f32]) {
        norm_rows(engine, hidden, &self.attn_norm, out);
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
        let c = engine.config();
        let n = x.len() / c.dim;
        assert!(first + n <= cache.context(), "{n} positions from {first} in a cache of {}", cache.context());
        ws.x.set(engine, x, [&self.q, &self.k, &self.v]);
        for (y, width) in [(&mut ws.q, c.q_dim()), (&mut ws.k, c.kv_dim()), (&mut ws.v, c.kv_dim())] {
            y.resize(n * width, 0.0);
        }
        let Workspace { q, k, v, .. } = ws;
        multiply(engine, &ws.x, &mut ws.parts, [(&self.q, q), (&self.k, k), (&self.v, v)]);
        ws.rope.fill(first, n);
        for t in 0..n {
            ws.rope.apply(&c.rope, t, &mut ws.q[t * c.q_dim()..(t + 1) * c.q_dim()], c.head_dim);
            ws.rope.apply(&c.rope, t, &mut ws.k[t * c.kv_dim()..(t + 1) * c.kv_dim()], c.head_dim);
            let kv = t * c.kv_dim()..(t + 1) * c.kv_dim();
            cache.put(engine.kernels(), first + t, &ws.k[kv.clone()], &ws.v[kv]);
        }
        ws.attention.attend(engine, cache, first, &ws.q, out);
    }

    /// Adds the output projection of `attended` (`n x q_dim`) to `hidden`.
    pub fn attn_output(&self, engine: &Engine, ws: &mut Workspace, attended: &[f32], hidden: &mut [f32]) {
        add_product(engine, ws, &self.o, attended, hidden);
    }

    /// Input of gate and up: the normalised stream; both `n x dim`.
    pub fn ffn_input(&self, engine: &Engine, hidden: &[f32], out: &mut [f32]) {
        norm_rows(engine, hidden, &self.ffn_norm, out);
    }

    /// Input of the down projection: `silu(gate x) * (up x)`; `out` is `n x hidden_dim`.
    pub fn ffn_hidden(&self, engine: &Engine, ws: &mut Workspace, x: &[f32], out: &mut [f32]) {
        ws.x.set(engine, x, [&self.gate, &self.up]);
        ws.up.resize(out.len(), 0.0);
        multiply(engine, &ws.x, &mut ws.parts, [(&self.gate, &mut *out), (&self.up, &mut ws.up)]);
        let width = engine.config().hidden_dim;
        engine.for_each_part(out, width, |first, gate| {
            engine.kernels().swiglu(gate, &ws.up[first * width..][..gate.len()]);
        });
    }

    /// Adds the down projection of `x` (`n x hidden_dim`) to `hidden`.
    pub fn ffn_output(&self, engine: &Engine, ws: &mut Workspace, x: &[f32], hidden: &mut [f32]) {
        add_product(engine, ws, &self.down, x, hidden);
    }
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
    /// Scratch for this engine's threads.
    pub fn new(engine: &Engine) -> Self {
        Workspace {
            parts: Parts::new(engine.threads()),
            x: Activations::default(),
            q: Vec::new(),
            k: Vec::new(),
            v: Vec::new(),
            up: Vec::new(),
            delta: Vec::new(),
            attention: Attention::new(engine.threads()),
            rope: RopeTable::new(&engine.config().rope),
        }
    }

    /// Makes room for attention over this many positions.
    pub(crate) fn reserve(&mut self, positions: usize) {
        self.attention.reserve(positions);
    }

    /// `linear` times the vectors `x` (each `cols` wide).
    pub(crate) fn product(&mut self, engine: &Engine, linear: &Linear, x: &[f32], out: &mut [f32]) {
        self.x.set(engine, x, [linear]);
        multiply(engine, &self.x, &mut self.parts, [(linear, out)]);
    }
}

/// Writes the embeddings of `tokens` to `hidden` (`n x dim`); `table` is `token_embd.weight` of a model of this shape.
pub fn embed(config: &Config, table: &Matrix, tokens: &[u32], hidden: &mut [f32]) -> Result<(), Error> {
    for (&token, out) in tokens.iter().zip(hidden.chunks_exact_mut(table.cols())) {
        let known = config.embedding_row(token).and_then(|row| table.read_rows(row, out));
        known.ok_or(Error::Token { token, vocab_size: config.vocab_size })?;
    }
    Ok(())
}

fn norm_rows(engine: &Engine, hidden: &[f32], weight: &[f32], out: &mut [f32]) {
    let c = engine.config();
    engine.for_each_part(out, c.dim, |first, out| {
        for (x, out) in hidden[first * c.dim..].chunks_exact(c.dim).zip(out.chunks_exact_mut(c.dim)) {
            engine.kernels().rms_norm(x, weight, c.norm_eps, out);
        }
    });
}

fn add_product(engine: &Engine, ws: &mut Workspace, linear: &Linear, x: &[f32], hidden: &mut [f32]) {
    let mut delta = std::mem::take(&mut ws.delta);
    delta.resize(hidden.len(), 0.0);
    ws.product(engine, linear, x, &mut delta);
    ops::add(hidden, &delta);
    ws.delta = delta;
}
