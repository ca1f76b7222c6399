//! Small models of random weights.

use gguf::{GgmlType, GgufWriter};

/// The shape of a small model.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) architecture: &'static str,
    pub(crate) layers: usize,
    pub(crate) dim: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) vocab: usize,
    pub(crate) tied: bool,
    pub(crate) kind: GgmlType,
    pub(crate) seed: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            architecture: "llama",
            layers: 2,
            dim: 64,
            hidden: 96,
            heads: 4,
            kv_heads: 2,
            vocab: 40,
            tied: false,
            kind: GgmlType::F32,
            seed: 1,
        }
    }
}

/// A tensor: name, dimensions, type, values.
pub(crate) type Weights = (String, Vec<usize>, GgmlType, Vec<f32>);

impl Shape {
    /// The tensors, from the published list of a Llama's, not from the code under test.
    pub(crate) fn weights(&self) -> Vec<Weights> {
        let kv = self.dim / self.heads * self.kv_heads;
        let mut named = vec![("token_embd.weight".to_owned(), vec![self.dim, self.vocab])];
        for i in 0..self.layers {
            let mut add = |name: &str, dims: &[usize]| named.push((format!("blk.{i}.{name}"), dims.to_vec()));
            add("attn_norm.weight", &[self.dim]);
            add("attn_q.weight", &[self.dim, self.dim]);
            add("attn_k.weight", &[self.dim, kv]);
            add("attn_v.weight", &[self.dim, kv]);
            add("attn_output.weight", &[self.dim, self.dim]);
            add("ffn_norm.weight", &[self.dim]);
            add("ffn_gate.weight", &[self.dim, self.hidden]);
            add("ffn_up.weight", &[self.dim, self.hidden]);
            add("ffn_down.weight", &[self.hidden, self.dim]);
            if self.architecture == "qwen2" {
                add("attn_q.bias", &[self.dim]);
                add("attn_k.bias", &[kv]);
                add("attn_v.bias", &[kv]);
            }
        }
        named.push(("output_norm.weight".to_owned(), vec![self.dim]));
        if !self.tied {
            named.push(("output.weight".to_owned(), vec![self.dim, self.vocab]));
        }
        let mut random = Random(self.seed);
        let filled = |(name, dims): (String, Vec<usize>)| {
            let kind = if dims.len() == 1 { GgmlType::F32 } else { self.kind };
            let values = (0..dims.iter().product()).map(|_| random.next()).collect();
            (name, dims, kind, values)
        };
        named.into_iter().map(filled).collect()
    }

    /// The metadata without a vocabulary.
    pub(crate) fn keys(&self) -> GgufWriter {
        let mut w = GgufWriter::new();
        let key = |name: &str| format!("{}.{name}", self.architecture);
        w.text("general.architecture", self.architecture);
        w.text("general.name", "tiny");
        w.u32(&key("block_count"), self.layers as u32);
        w.u32(&key("context_length"), 128);
        w.u32(&key("embedding_length"), self.dim as u32);
        w.u32(&key("feed_forward_length"), self.hidden as u32);
        w.u32(&key("attention.head_count"), self.heads as u32);
        w.u32(&key("attention.head_count_kv"), self.kv_heads as u32);
        w.f32(&key("attention.layer_norm_rms_epsilon"), 1e-6);
        w
    }

    /// The whole model without a vocabulary.
    pub(crate) fn writer(&self) -> GgufWriter {
        with(self.keys(), &self.weights())
    }
}

/// `writer` with these tensors.
pub(crate) fn with(mut writer: GgufWriter, weights: &[Weights]) -> GgufWriter {
    for (name, dims, kind, values) in weights {
        writer.tensor(name, dims, *kind, values).unwrap();
    }
    writer
}

/// Writes `bytes` to a file of its own and opens it as a model.
pub(crate) fn open(bytes: &[u8]) -> Result<gguf::GgufModel, gguf::Error> {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    gguf::open(file.path())
}

struct Random(u64);

impl Random {
    /// Even over -1..1.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}
