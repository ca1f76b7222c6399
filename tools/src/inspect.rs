//! What is in a model file, as a table and as JSON.

use std::io::{self, Write};

use serde_json::{Value, json};
use spm::{Checkpoint, Config, TensorInfo};

use crate::open::AnyModel;
use crate::process::megabytes;

/// Prints the model, its tensors and the totals for people.
pub fn print_table(model: &AnyModel, out: &mut impl Write) -> io::Result<()> {
    let checkpoint = model.checkpoint();
    for (key, value) in facts(model) {
        writeln!(out, "{key:<22}{}", plain(&value))?;
    }
    let width = checkpoint.tensors().iter().map(|t| t.name.len()).max().unwrap_or(0).max(5);
    writeln!(
        out,
        "\n{:<width$} {:>14}  {:<10} {:>12} {:>8} {:>12} {:>7}",
        "tensor", "shape", "encoding", "kept", "sparsity", "bytes", "bits/w"
    )?;
    for t in checkpoint.tensors() {
        let shape = format!("{}x{}", t.rows, t.cols);
        writeln!(
            out,
            "{:<width$} {shape:>14}  {:<10} {:>12} {:>8.4} {:>12} {:>7.3}",
            t.name,
            t.encoding,
            t.kept,
            sparsity(t.kept, weights(t)),
            t.bytes,
            bits_per_weight(t.bytes, weights(t)),
        )?;
    }
    let total = Totals::of(checkpoint);
    writeln!(
        out,
        "\n{} tensors, {} weights, {} kept (sparsity {:.4}), {}, {:.3} bits a weight",
        checkpoint.tensors().len(),
        total.weights,
        total.kept,
        sparsity(total.kept, total.weights),
        megabytes(total.bytes),
        bits_per_weight(total.bytes, total.weights),
    )
}

/// The same for programs.
pub fn to_json(model: &AnyModel) -> Value {
    let checkpoint = model.checkpoint();
    let tensors: Vec<Value> = checkpoint.tensors().iter().map(tensor_json).collect();
    let total = Totals::of(checkpoint);
    json!({
        "model": facts(model).into_iter().map(|(k, v)| (k.replace(' ', "_"), v)).collect::<serde_json::Map<_, _>>(),
        "tensors": tensors,
        "totals": {
            "tensors": checkpoint.tensors().len(),
            "weights": total.weights,
            "kept": total.kept,
            "sparsity": sparsity(total.kept, total.weights),
            "bytes": total.bytes,
            "bits_per_weight": bits_per_weight(total.bytes, total.weights),
        },
    })
}

fn tensor_json(t: &TensorInfo) -> Value {
    json!({
        "name": t.name,
        "shape": [t.rows, t.cols],
        "encoding": t.encoding,
        "kept": t.kept,
        "sparsity": sparsity(t.kept, weights(t)),
        "bytes": t.bytes,
        "bits_per_weight": bits_per_weight(t.bytes, weights(t)),
    })
}

fn facts(model: &AnyModel) -> Vec<(&'static str, Value)> {
    let c = model.checkpoint().config();
    let mut all = vec![
        (
            "format",
            json!(match model {
                AnyModel::Sparse(_) => "sparse model file",
                AnyModel::Gguf(_) => "GGUF",
                AnyModel::Folder(_) => "Hugging Face folder",
            }),
        ),
        ("layers", json!(c.n_layers)),
        ("dim", json!(c.dim)),
        ("hidden dim", json!(c.hidden_dim)),
        ("heads", json!(c.n_heads)),
        ("kv heads", json!(c.n_kv_heads)),
        ("head dim", json!(c.head_dim)),
        ("vocabulary", json!(c.vocab_size)),
        ("head rows", json!(c.head_rows())),
        ("context", json!(c.context_len)),
        ("norm epsilon", number(c.norm_eps)),
        ("rope base", number(c.rope.base)),
        ("rope dims", json!(c.rope.dims)),
        ("rope layout", json!(format!("{:?}", c.rope.layout).to_lowercase())),
        ("tied head", json!(c.tied_head)),
        ("qkv bias", json!(c.qkv_bias)),
    ];
    all.extend(unusual(c));
    if let Some(v) = model.checkpoint().vocabulary() {
        all.push(("tokenizer", json!(format!("{:?} {}", v.kind, v.pre).trim())));
        all.push(("tokens", json!(v.tokens.len())));
        all.push(("chat template", json!(v.chat_template.is_some())));
    }
    if let AnyModel::Sparse(file) = model {
        let p = file.provenance();
        all.extend([
            ("identity", json!(file.identity())),
            ("file bytes", json!(file.file_len())),
            ("made by", json!(p.tool)),
            ("source", json!(p.source)),
            ("source sha256", json!(p.source_sha256)),
            ("method", json!(p.method)),
            ("sparsity", number(p.sparsity)),
            ("pattern", json!(p.pattern)),
            ("shortlist", json!(p.shortlist)),
            ("calibration", json!(p.calibration)),
            ("calibration sha256", json!(p.calibration_sha256)),
        ]);
    }
    all
}

/// What a plain decoder does not have.
fn unusual(c: &Config) -> Vec<(&'static str, Value)> {
    let plain = Config::new(c.n_layers, c.dim, c.hidden_dim, c.n_heads, c.n_kv_heads);
    let name = |value: &dyn std::fmt::Debug| json!(format!("{value:?}").to_lowercase());
    let windowed = (0..c.n_layers).filter(|i| c.window_of(*i).is_some()).count();
    let unturned = (0..c.n_layers).filter(|i| c.rope_of(*i).is_none()).count();
    let all = [
        ("norm", name(&c.norm), c.norm != plain.norm),
        ("activation", name(&c.activation), c.activation != plain.activation),
        ("gated feed-forward", json!(c.gated), !c.gated),
        ("attention output bias", json!(c.attn_output_bias), c.attn_output_bias),
        ("feed-forward bias", json!(c.ffn_bias), c.ffn_bias),
        ("head bias", json!(c.head_bias), c.head_bias),
        ("normalised heads", json!(c.qk_norm), c.qk_norm),
        ("norms after blocks", json!(c.post_norms), c.post_norms),
        ("residual", name(&c.residual), c.residual != plain.residual),
        ("learned positions", json!(c.learned_positions), c.learned_positions),
        ("window", json!(c.window), windowed > 0),
        ("layers with a window", json!(windowed), windowed > 0),
        ("layers without rope", json!(unturned), unturned > 0),
        ("local rope base", json!(c.local_rope.as_ref().map(|rope| number(rope.base))), c.local_rope.is_some()),
        ("embedding scale", number(c.scales.embedding), c.scales.embedding != 1.0),
        ("residual scale", number(c.scales.residual), c.scales.residual != 1.0),
        ("attention scale", json!(c.scales.attention.map(number)), c.scales.attention.is_some()),
        ("logits scale", number(c.scales.logits), c.scales.logits != 1.0),
        ("attention cap", json!(c.scales.attention_cap.map(number)), c.scales.attention_cap.is_some()),
        ("logits cap", json!(c.scales.logits_cap.map(number)), c.scales.logits_cap.is_some()),
    ];
    all.into_iter().filter(|(.., is_unusual)| *is_unusual).map(|(key, value, _)| (key, value)).collect()
}

/// In as few digits as tell it from other singles.
fn number(value: f32) -> Value {
    json!(value.to_string().parse::<f64>().unwrap_or(value.into()))
}

/// Text from a file may hold anything; a terminal gets it without control characters.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect(),
        other => other.to_string(),
    }
}

struct Totals {
    weights: u64,
    kept: u64,
    bytes: u64,
}

impl Totals {
    fn of(model: &dyn Checkpoint) -> Self {
        let all = model.tensors();
        Totals {
            weights: all.iter().map(weights).sum(),
            kept: all.iter().map(|t| t.kept).sum(),
            bytes: all.iter().map(|t| t.bytes).sum(),
        }
    }
}

fn weights(t: &TensorInfo) -> u64 {
    t.rows as u64 * t.cols as u64
}

fn sparsity(kept: u64, weights: u64) -> f64 {
    if weights == 0 { 0.0 } else { 1.0 - kept as f64 / weights as f64 }
}

fn bits_per_weight(bytes: u64, weights: u64) -> f64 {
    if weights == 0 { 0.0 } else { bytes as f64 * 8.0 / weights as f64 }
}
