//! Where the matrices of a layer read their inputs.

use spm::Config;

use crate::statistics::Beside;

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
    pub(crate) fn beside(self) -> Beside {
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
