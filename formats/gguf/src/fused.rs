//! Tensors that hold several of ours, one after another: their rows, or of a bias its values.

use spm::Config;

use crate::reader::{GgufFile, Tensor};

/// GGUF's name of a part without its ending, and its rows.
type Part = (&'static str, fn(&Config) -> usize);

/// A fused module of every layer, and what it holds.
pub(crate) struct Fused {
    /// Such as `attn_qkv`.
    pub(crate) name: &'static str,
    /// Ours, and how many outputs each has.
    pub(crate) parts: &'static [Part],
}

/// Queries, keys and values.
pub(crate) const QKV: Fused = Fused {
    name: "attn_qkv",
    parts: &[("attn_q", Config::q_dim), ("attn_k", Config::kv_dim), ("attn_v", Config::kv_dim)],
};

/// Gate and up, called up.
pub(crate) const GATE_UP: Fused =
    Fused { name: "ffn_up", parts: &[("ffn_gate", |c| c.hidden_dim), ("ffn_up", |c| c.hidden_dim)] };

/// All tensors of a model with the fused ones split, each with its shard. A fused one of another size than its parts
/// together is left as it is, for the check of all tensors to refuse.
pub(crate) fn split(shards: &[GgufFile], fused: &[Fused], c: &Config) -> Vec<(usize, Tensor)> {
    let mut all = Vec::new();
    for (i, shard) in shards.iter().enumerate() {
        for tensor in shard.tensors() {
            match fused.iter().find_map(|fused| parts(tensor, fused, c)) {
                Some(parts) => all.extend(parts.into_iter().map(|part| (i, part))),
                None => all.push((i, tensor.clone())),
            }
        }
    }
    all
}

/// The parts of `tensor`, if it is this fused one.
fn parts(tensor: &Tensor, fused: &Fused, c: &Config) -> Option<Vec<Tensor>> {
    let (module, kind) = tensor.name.rsplit_once('.')?;
    let (layer, short) = module.strip_prefix("blk.")?.split_once('.')?;
    let is_vector = tensor.dims.len() == 1;
    let outputs = if is_vector { tensor.cols() } else { tensor.rows() };
    let total: usize = fused.parts.iter().map(|(_, outputs)| outputs(c)).sum();
    if short != fused.name || outputs != total {
        return None;
    }
    let mut first = 0;
    let part = |(short, outputs): &(&str, fn(&Config) -> usize)| {
        let n = outputs(c);
        let bytes_before = |outputs: usize| match is_vector {
            true => tensor.kind.row_bytes(outputs),
            false => Some(outputs * tensor.row_bytes()),
        };
        let (start, end) = (bytes_before(first)?, bytes_before(first + n)?);
        first += n;
        Some(Tensor {
            name: format!("blk.{layer}.{short}.{kind}"),
            kind: tensor.kind,
            dims: if is_vector { vec![n] } else { vec![tensor.cols(), n] },
            range: tensor.range.start + start..tensor.range.start + end,
        })
    };
    fused.parts.iter().map(part).collect()
}
