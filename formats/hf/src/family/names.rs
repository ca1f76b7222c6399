//! What a family calls its tensors, as modules (a name without `.weight` or `.bias`) outside and inside of layers.

use spm::Config;

use crate::place::Features;

/// The modules of a family.
pub(crate) struct Names {
    /// What all names but the head's begin with; official files of some families leave it out.
    pub(crate) root: &'static str,
    /// Ours, and theirs.
    pub(super) outside: &'static [(&'static str, &'static str)],
    /// What comes before the number of a layer.
    pub(super) layers: &'static str,
    /// Inside of layers: blocks of ours, theirs, and which part of it.
    pub(super) inside: &'static [&'static [Module]],
    /// Matrices of layers are stored as (inputs, outputs).
    pub(super) transposed: bool,
    /// What is to be added to the weights of norms.
    pub(super) norm_plus: f32,
}

/// Ours, theirs, and which part of it is ours.
pub(super) type Module = (&'static str, &'static str, Piece);

/// Which part of their module's outputs are ours.
#[derive(Clone, Copy)]
pub(super) enum Piece {
    All,
    /// Of queries, keys and values, one after another.
    Query,
    Key,
    Value,
    /// The same for each head.
    QueryOfHeads,
    KeyOfHeads,
    ValueOfHeads,
    /// Of gate and up, one after another.
    Gate,
    Up,
}

/// Where one of our tensors comes from.
pub(crate) struct Whence {
    pub(crate) name: String,
    pub(crate) features: Features,
    pub(crate) transposed: bool,
    pub(crate) plus: f32,
}

/// Of a family with Llama's names.
pub(super) const LLAMA: Names = Names {
    root: "model.",
    outside: OUTSIDE,
    layers: "model.layers",
    inside: &[NORMS, SELF_ATTENTION, GATED],
    transposed: false,
    norm_plus: 0.0,
};

/// Of a family with Gemma 2's names: norms after the blocks, too, and all norms less one.
pub(super) const GEMMA2: Names = Names {
    inside: &[
        &[
            ("attn_norm", "input_layernorm", Piece::All),
            ("post_attention_norm", "post_attention_layernorm", Piece::All),
            ("ffn_norm", "pre_feedforward_layernorm", Piece::All),
            ("post_ffw_norm", "post_feedforward_layernorm", Piece::All),
        ],
        SELF_ATTENTION,
        GATED,
    ],
    norm_plus: 1.0,
    ..LLAMA
};

pub(super) const OUTSIDE: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// A norm before each block.
pub(super) const NORMS: &[Module] =
    &[("attn_norm", "input_layernorm", Piece::All), ("ffn_norm", "post_attention_layernorm", Piece::All)];

pub(super) const SELF_ATTENTION: &[Module] = &[
    ("attn_q", "self_attn.q_proj", Piece::All),
    ("attn_k", "self_attn.k_proj", Piece::All),
    ("attn_v", "self_attn.v_proj", Piece::All),
    ("attn_q_norm", "self_attn.q_norm", Piece::All),
    ("attn_k_norm", "self_attn.k_norm", Piece::All),
    ("attn_output", "self_attn.o_proj", Piece::All),
];

/// A gated feed-forward block.
const GATED: &[Module] = &[
    ("ffn_gate", "mlp.gate_proj", Piece::All),
    ("ffn_up", "mlp.up_proj", Piece::All),
    ("ffn_down", "mlp.down_proj", Piece::All),
];

impl Names {
    /// Where our tensor `name`, of `rows` rows or one, comes from; `None` if the family has no name for it.
    pub(crate) fn whence(&self, c: &Config, name: &str, rows: usize) -> Option<Whence> {
        let (module, kind) = name.rsplit_once('.')?;
        let plus = if kind == "weight" && module.ends_with("norm") { self.norm_plus } else { 0.0 };
        let Some((index, short)) = module.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            let (_, theirs) = self.outside.iter().find(|(ours, _)| *ours == module)?;
            let n = if rows == 1 { self.len_outside(c, module) } else { rows };
            let name = format!("{theirs}.{kind}");
            return Some(Whence { name, features: Features::all(n), transposed: false, plus });
        };
        let (_, theirs, piece) = self.inside.iter().copied().flatten().find(|(ours, ..)| *ours == short)?;
        let features = piece.features(c, if rows == 1 { len_inside(c, short) } else { rows });
        let name = format!("{}.{index}.{theirs}.{kind}", self.layers);
        Some(Whence { name, features, transposed: self.transposed && rows > 1, plus })
    }

    fn len_outside(&self, c: &Config, module: &str) -> usize {
        if module == "output" { c.head_rows() } else { c.dim }
    }
}

/// The length of a vector of a module.
fn len_inside(c: &Config, short: &str) -> usize {
    match short {
        "attn_q" => c.q_dim(),
        "attn_k" | "attn_v" => c.kv_dim(),
        "attn_q_norm" | "attn_k_norm" => c.head_dim,
        "ffn_gate" | "ffn_up" => c.hidden_dim,
        _ => c.dim,
    }
}

impl Piece {
    /// Of a module of which `n` outputs are ours.
    fn features(self, c: &Config, n: usize) -> Features {
        let (q, kv, d) = (c.q_dim(), c.kv_dim(), c.head_dim);
        let of_heads = |nth| Features { first: nth * d, run: d, stride: 3 * d, of: 3 * q };
        match self {
            Piece::All => Features::all(n),
            Piece::Query => Features::part(0, n, q + 2 * kv),
            Piece::Key => Features::part(q, n, q + 2 * kv),
            Piece::Value => Features::part(q + kv, n, q + 2 * kv),
            Piece::QueryOfHeads => of_heads(0),
            Piece::KeyOfHeads => of_heads(1),
            Piece::ValueOfHeads => of_heads(2),
            Piece::Gate => Features::part(0, n, 2 * c.hidden_dim),
            Piece::Up => Features::part(c.hidden_dim, n, 2 * c.hidden_dim),
        }
    }
}
