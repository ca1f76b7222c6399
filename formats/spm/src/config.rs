//! The resolved shape of a decoder: everything the arithmetic depends on, and no family name.
//!
//! A model family is a way to *fill* this struct (`formats/gguf/src/family/`); the runtime reads nothing
//! else, so it runs what the file says, not what the file is called.

use crate::rope::{Rope, RopeLayout};
use crate::shortlist::Shortlist;

/// Upper bounds that every opened model must respect, so that no size computed from them can overflow.
pub mod limits {
    /// Decoder layers.
    pub const LAYERS: usize = 1024;
    /// Model width, hidden width, heads times head size.
    pub const WIDTH: usize = 1 << 20;
    /// Attention heads.
    pub const HEADS: usize = 4096;
    /// Vocabulary entries.
    pub const VOCAB: usize = 1 << 22;
    /// Context positions.
    pub const CONTEXT: usize = 1 << 26;
    /// Bytes of one vocabulary entry.
    pub const TOKEN_BYTES: usize = 1 << 16;
}

/// The table of learned positions.
pub const POSITIONS: &str = "position_embd.weight";

/// A decoder, in Llama's words.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Decoder layers.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Width inside the feed-forward block.
    pub hidden_dim: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads` (grouped-query attention).
    pub n_kv_heads: usize,
    /// Width of one head; need not be `dim / n_heads`.
    pub head_dim: usize,
    /// Rows of the embedding, and of the head unless there is a shortlist.
    pub vocab_size: usize,
    /// Positions the model was trained for.
    pub context_len: usize,
    /// How the stream is normalised.
    pub norm: Norm,
    /// Epsilon of all norms.
    pub norm_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Another one, for the layers that name it.
    pub local_rope: Option<Rope>,
    /// A row of `position_embd.weight` (`context_len x dim`) is added to the embedding of each token.
    pub learned_positions: bool,
    /// Positions that a token of a windowed layer sees, its own among them.
    pub window: Option<usize>,
    /// What differs between layers, one entry each; all are [`LayerKind::default`] if there is none.
    pub layers: Vec<LayerKind>,
    /// The head is the embedding matrix: the file has no `output.weight`.
    pub tied_head: bool,
    /// The tokens that the head has rows for; all if `None`. With a tied head, the rows of the embedding are in the
    /// order that [`Self::embedding_row`] says.
    pub shortlist: Option<Shortlist>,
    /// Query, key and value projections have biases.
    pub qkv_bias: bool,
    /// The attention's output projection has a bias.
    pub attn_output_bias: bool,
    /// The projections of the feed-forward block have biases.
    pub ffn_bias: bool,
    /// The output head has a bias.
    pub head_bias: bool,
    /// Every head of queries and keys is normalised (RMS, one weight a dimension) before it turns.
    pub qk_norm: bool,
    /// What attention and feed-forward block add to the stream is normalised (RMS) before.
    pub post_norms: bool,
    /// How a layer's two blocks follow each other.
    pub residual: Residual,
    /// The non-linearity of the feed-forward block.
    pub activation: Activation,
    /// The feed-forward block is `down(act(gate x) * up x)`, else `down(act(up x))`.
    pub gated: bool,
    /// Factors, and bounds of scores.
    pub scales: Scales,
}

/// How the stream is normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Norm {
    /// `x / sqrt(mean(x^2) + eps) * w` (Zhang and Sennrich 2019).
    #[default]
    Rms,
    /// `(x - mean(x)) / sqrt(var(x) + eps) * w + b` (Ba, Kiros and Hinton 2016).
    Layer,
}

/// How a layer's two blocks follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residual {
    /// The feed-forward block reads the stream after attention has added to it.
    #[default]
    Serial,
    /// Both read the stream as it comes, each through its own norm.
    Parallel,
    /// Both read the stream as it comes, through one norm.
    ParallelOneNorm,
}

/// The non-linearity of a feed-forward block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    #[default]
    Silu,
    /// `x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2`.
    GeluTanh,
    /// `x (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
}

/// What differs between layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerKind {
    /// Tokens see [`Config::window`] positions alone.
    pub windowed: bool,
    /// Which rotary embedding.
    pub rope: LayerRope,
}

/// Which rotary embedding a layer has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayerRope {
    /// [`Config::rope`].
    #[default]
    Main,
    /// [`Config::local_rope`].
    Local,
    /// None: keys and queries stay as they are.
    None,
}

/// Factors, and bounds of scores; [`Scales::default`] changes nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// Factor on embeddings, before positions are added.
    pub embedding: f32,
    /// Factor on what a block adds to the stream.
    pub residual: f32,
    /// Factor on the scores of attention; `1 / sqrt(head_dim)` if `None`.
    pub attention: Option<f32>,
    /// Factor on the logits, before their cap.
    pub logits: f32,
    /// Scores of attention become `cap * tanh(score / cap)`.
    pub attention_cap: Option<f32>,
    /// The same for logits.
    pub logits_cap: Option<f32>,
}

impl Default for Scales {
    fn default() -> Self {
        Scales { embedding: 1.0, residual: 1.0, attention: None, logits: 1.0, attention_cap: None, logits_cap: None }
    }
}

impl Residual {
    /// Whether the feed-forward block reads the stream without what attention adds.
    pub fn is_parallel(self) -> bool {
        self != Residual::Serial
    }
}

impl Config {
    /// A plain decoder of the given shape; callers then set what differs.
    pub fn new(n_layers: usize, dim: usize, hidden_dim: usize, n_heads: usize, n_kv_heads: usize) -> Self {
        let head_dim = dim.checked_div(n_heads).unwrap_or(0);
        Config {
            n_layers,
            dim,
            hidden_dim,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size: 0,
            context_len: 2048,
            norm: Norm::Rms,
            norm_eps: 1e-5,
            rope: Rope::new(10_000.0, head_dim, RopeLayout::Interleaved),
            local_rope: None,
            learned_positions: false,
            window: None,
            layers: Vec::new(),
            tied_head: false,
            shortlist: None,
            qkv_bias: false,
            attn_output_bias: false,
            ffn_bias: false,
            head_bias: false,
            qk_norm: false,
            post_norms: false,
            residual: Residual::Serial,
            activation: Activation::Silu,
            gated: true,
            scales: Scales::default(),
        }
    }

    /// Width of all query heads together, the columns of `attn_output`.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// What is special about layer `index`.
    pub fn layer_kind(&self, index: usize) -> LayerKind {
        self.layers.get(index).copied().unwrap_or_default()
    }

    /// Positions that a token sees in layer `index`; `None` if all up to its own.
    pub fn window_of(&self, index: usize) -> Option<usize> {
        self.window.filter(|_| self.layer_kind(index).windowed)
    }

    /// The rotary embedding of layer `index`, if it has one.
    pub fn rope_of(&self, index: usize) -> Option<&Rope> {
        match self.layer_kind(index).rope {
            LayerRope::Main => Some(&self.rope),
            LayerRope::Local => self.local_rope.as_ref(),
            LayerRope::None => None,
        }
    }

    /// Factor on the scores of attention.
    pub fn attention_scale(&self) -> f32 {
        self.scales.attention.unwrap_or(1.0 / (self.head_dim as f32).sqrt())
    }

    /// Rows of the output head.
    pub fn head_rows(&self) -> usize {
        self.shortlist.as_ref().map_or(self.vocab_size, Shortlist::len)
    }

    /// Row of a token in `token_embd.weight`; `None` if it is not below `vocab_size`.
    pub fn embedding_row(&self, token: u32) -> Option<usize> {
        match &self.shortlist {
            _ if token as usize >= self.vocab_size => None,
            Some(list) if self.tied_head => Some(list.tied_row(token)),
            _ => Some(token as usize),
        }
    }

    /// Every tensor such a decoder needs: name and shape `(rows, cols)`; vectors have one row.
    pub fn tensors(&self) -> Vec<(String, usize, usize)> {
        let mut all = vec![
            ("token_embd.weight".to_owned(), self.vocab_size, self.dim),
            ("output_norm.weight".to_owned(), 1, self.dim),
        ];
        if !self.tied_head {
            all.push(("output.weight".to_owned(), self.head_rows(), self.dim));
        }
        if self.learned_positions {
            all.push((POSITIONS.to_owned(), self.context_len, self.dim));
        }
        if self.norm == Norm::Layer {
            all.push(("output_norm.bias".to_owned(), 1, self.dim));
        }
        if self.head_bias {
            all.push(("output.bias".to_owned(), 1, self.head_rows()));
        }
        for i in 0..self.n_layers {
            let mut push = |name: &str, rows, cols| all.push((format!("blk.{i}.{name}"), rows, cols));
            self.each_of_layer(&mut push);
        }
        all
    }

    /// The tensors of a layer: short name, rows, columns.
    fn each_of_layer(&self, push: &mut dyn FnMut(&str, usize, usize)) {
        let has_ffn_norm = self.residual != Residual::ParallelOneNorm;
        push("attn_norm.weight", 1, self.dim);
        push("attn_q.weight", self.q_dim(), self.dim);
        push("attn_k.weight", self.kv_dim(), self.dim);
        push("attn_v.weight", self.kv_dim(), self.dim);
        push("attn_output.weight", self.dim, self.q_dim());
        if has_ffn_norm {
            push("ffn_norm.weight", 1, self.dim);
        }
        if self.gated {
            push("ffn_gate.weight", self.hidden_dim, self.dim);
        }
        push("ffn_up.weight", self.hidden_dim, self.dim);
        push("ffn_down.weight", self.dim, self.hidden_dim);
        let vectors = [
            (self.qkv_bias, "attn_q.bias", self.q_dim()),
            (self.qkv_bias, "attn_k.bias", self.kv_dim()),
            (self.qkv_bias, "attn_v.bias", self.kv_dim()),
            (self.attn_output_bias, "attn_output.bias", self.dim),
            (self.ffn_bias && self.gated, "ffn_gate.bias", self.hidden_dim),
            (self.ffn_bias, "ffn_up.bias", self.hidden_dim),
            (self.ffn_bias, "ffn_down.bias", self.dim),
            (self.norm == Norm::Layer, "attn_norm.bias", self.dim),
            (self.norm == Norm::Layer && has_ffn_norm, "ffn_norm.bias", self.dim),
            (self.qk_norm, "attn_q_norm.weight", self.head_dim),
            (self.qk_norm, "attn_k_norm.weight", self.head_dim),
            (self.post_norms, "post_attention_norm.weight", self.dim),
            (self.post_norms, "post_ffw_norm.weight", self.dim),
        ];
        vectors.iter().filter(|(has, ..)| *has).for_each(|(_, name, len)| push(name, 1, *len));
    }
}
