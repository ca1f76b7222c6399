//! The resolved shape of a decoder: everything the arithmetic depends on, and no family name.
//!
//! A model family is a way to *fill* this struct (`formats/gguf/src/family/`); the runtime reads nothing
//! else, so it runs what the file says, not what the file is called.

use crate::error::Error;
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
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// The head is the embedding matrix: the file has no `output.weight`.
    pub tied_head: bool,
    /// The tokens that the head has rows for; all if `None`. With a tied head, the rows of the embedding are in the
    /// order that [`Self::embedding_row`] says.
    pub shortlist: Option<Shortlist>,
    /// Query, key and value projections have biases.
    pub qkv_bias: bool,
}

/// Rotary position embedding with every scaling rule already applied.
///
/// Pair `i` of a head turns by `position * base^(-2i/dims) / freq_factors[i]`, and queries and keys are
/// multiplied by `attn_scale`. Linear, Llama-3 and YaRN scaling are all special cases.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Theta.
    pub base: f32,
    /// Leading dimensions of a head that turn; even.
    pub dims: usize,
    /// Which two dimensions form pair `i`.
    pub layout: RopeLayout,
    /// Divisors of the frequencies, `dims / 2` of them, or none at all.
    pub freq_factors: Vec<f32>,
    /// Factor on the rotated queries and keys (YaRN's `mscale`), 1 otherwise.
    pub attn_scale: f32,
}

/// Which two dimensions of a head form a rotary pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// `(2i, 2i + 1)`: ggml's NORM, the original Llama's.
    Interleaved,
    /// `(i, i + dims/2)`: ggml's NEOX, transformers' `rotate_half`.
    Halves,
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
            norm_eps: 1e-5,
            rope: Rope {
                base: 10_000.0,
                dims: head_dim,
                layout: RopeLayout::Interleaved,
                freq_factors: Vec::new(),
                attn_scale: 1.0,
            },
            tied_head: false,
            shortlist: None,
            qkv_bias: false,
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

    /// Refuses shapes that no decoder has, naming the field, its value and the bound.
    pub fn validate(&self) -> Result<(), Error> {
        let within = |key: &'static str, value: usize, max: usize| {
            if value == 0 || value > max {
                return Err(Error::Config { key, value: value.to_string(), expected: format!("1 to {max}") });
            }
            Ok(())
        };
        within("n_layers", self.n_layers, limits::LAYERS)?;
        within("dim", self.dim, limits::WIDTH)?;
        within("hidden_dim", self.hidden_dim, limits::WIDTH)?;
        within("n_heads", self.n_heads, limits::HEADS)?;
        within("n_kv_heads", self.n_kv_heads, self.n_heads)?;
        within("head_dim", self.head_dim, limits::WIDTH / self.n_heads)?;
        within("vocab_size", self.vocab_size, limits::VOCAB)?;
        within("context_len", self.context_len, limits::CONTEXT)?;
        within("rope.dims", self.rope.dims, self.head_dim)?;
        let refuse =
            |key, value: String, expected: &str| Err(Error::Config { key, value, expected: expected.to_owned() });
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return refuse(
                "n_kv_heads",
                self.n_kv_heads.to_string(),
                &format!("a divisor of n_heads, {}", self.n_heads),
            );
        }
        if !self.rope.dims.is_multiple_of(2) {
            return refuse("rope.dims", self.rope.dims.to_string(), "an even number");
        }
        if !self.rope.freq_factors.is_empty() && self.rope.freq_factors.len() != self.rope.dims / 2 {
            return refuse(
                "rope.freq_factors",
                format!("{} entries", self.rope.freq_factors.len()),
                &format!("rope.dims / 2 = {} entries", self.rope.dims / 2),
            );
        }
        let positive = |v: f32| v.is_finite() && v > 0.0;
        if !self.rope.freq_factors.iter().all(|&f| positive(f)) {
            return refuse("rope.freq_factors", "a factor that is not".into(), "finite and above zero");
        }
        if !positive(self.rope.base) {
            return refuse("rope.base", self.rope.base.to_string(), "a finite number above zero");
        }
        if !positive(self.rope.attn_scale) {
            return refuse("rope.attn_scale", self.rope.attn_scale.to_string(), "a finite number above zero");
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return refuse("norm_eps", self.norm_eps.to_string(), "a finite number, zero or more");
        }
        self.shortlist.as_ref().map_or(Ok(()), |list| list.check_ids(self.vocab_size))
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
        for i in 0..self.n_layers {
            let mut push = |name: &str, rows, cols| all.push((format!("blk.{i}.{name}"), rows, cols));
            push("attn_norm.weight", 1, self.dim);
            push("attn_q.weight", self.q_dim(), self.dim);
            push("attn_k.weight", self.kv_dim(), self.dim);
            push("attn_v.weight", self.kv_dim(), self.dim);
            push("attn_output.weight", self.dim, self.q_dim());
            push("ffn_norm.weight", 1, self.dim);
            push("ffn_gate.weight", self.hidden_dim, self.dim);
            push("ffn_up.weight", self.hidden_dim, self.dim);
            push("ffn_down.weight", self.dim, self.hidden_dim);
            if self.qkv_bias {
                push("attn_q.bias", 1, self.q_dim());
                push("attn_k.bias", 1, self.kv_dim());
                push("attn_v.bias", 1, self.kv_dim());
            }
        }
        all
    }
}
