//! The shapes of published models, from the `config.json` that each comes with.
//!
//! Llama 3.2's scaling of long contexts is left out: it changes angles, not work.

use spm::{Config, RopeLayout};

use crate::failure::Failure;

/// A shape and what GGUF calls its family.
pub(super) struct Shape {
    pub(super) config: Config,
    pub(super) architecture: &'static str,
}

/// One line of the table below.
struct Published {
    name: &'static str,
    architecture: &'static str,
    n_layers: usize,
    dim: usize,
    hidden_dim: usize,
    n_heads: usize,
    n_kv_heads: usize,
    vocab_size: usize,
    context_len: usize,
    rope_base: f32,
    norm_eps: f32,
    tied_head: bool,
}

#[rustfmt::skip] // A table.
const PUBLISHED: [Published; 8] = [
    published("smollm2-135m", "llama", [30,  576,  1536,  9,  3,  49_152,   8_192],   100_000.0, 1e-5, true),
    published("qwen2.5-0.5b", "qwen2", [24,  896,  4864, 14,  2, 151_936,  32_768], 1_000_000.0, 1e-6, true),
    published("qwen2.5-1.5b", "qwen2", [28, 1536,  8960, 12,  2, 151_936,  32_768], 1_000_000.0, 1e-6, true),
    published("qwen2.5-3b",   "qwen2", [36, 2048, 11008, 16,  2, 151_936,  32_768], 1_000_000.0, 1e-6, true),
    published("llama-1b",     "llama", [16, 2048,  8192, 32,  8, 128_256, 131_072],   500_000.0, 1e-5, true),
    published("llama-3b",     "llama", [28, 3072,  8192, 24,  8, 128_256, 131_072],   500_000.0, 1e-5, true),
    published("llama-7b",     "llama", [32, 4096, 11008, 32, 32,  32_000,   4_096],    10_000.0, 1e-5, false),
    published("codellama-7b", "llama", [32, 4096, 11008, 32, 32,  32_016,  16_384], 1_000_000.0, 1e-5, false),
];

/// `counts`: layers, width, hidden width, heads, key and value heads, vocabulary, context.
const fn published(
    name: &'static str,
    architecture: &'static str,
    counts: [usize; 7],
    rope_base: f32,
    norm_eps: f32,
    tied_head: bool,
) -> Published {
    let [n_layers, dim, hidden_dim, n_heads, n_kv_heads, vocab_size, context_len] = counts;
    Published {
        name,
        architecture,
        n_layers,
        dim,
        hidden_dim,
        n_heads,
        n_kv_heads,
        vocab_size,
        context_len,
        rope_base,
        norm_eps,
        tied_head,
    }
}

impl Shape {
    /// The shape of the model called `name`, with another number of layers if given.
    pub(super) fn named(name: &str, layers: Option<usize>) -> Result<Self, Failure> {
        let Some(p) = PUBLISHED.iter().find(|p| p.name == name) else {
            let known = PUBLISHED.map(|p| p.name).join(", ");
            return Err(Failure::Usage(format!("--like {name}: no such model; known are {known}")));
        };
        let mut config = Config::new(layers.unwrap_or(p.n_layers), p.dim, p.hidden_dim, p.n_heads, p.n_kv_heads);
        config.vocab_size = p.vocab_size;
        config.context_len = p.context_len;
        config.norm_eps = p.norm_eps;
        config.rope.base = p.rope_base;
        config.tied_head = p.tied_head;
        if p.architecture == "qwen2" {
            config.rope.layout = RopeLayout::Halves;
            config.qkv_bias = true;
        }
        Ok(Shape { config, architecture: p.architecture })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_published_numbers_of_parameters() {
        let millions = [
            ("smollm2-135m", 134.5),
            ("qwen2.5-0.5b", 494.0),
            ("qwen2.5-1.5b", 1543.7),
            ("qwen2.5-3b", 3085.9),
            ("llama-1b", 1235.8),
            ("llama-3b", 3212.7),
            ("llama-7b", 6738.4),
            ("codellama-7b", 6738.5),
        ];
        for (name, expected) in millions {
            let config = Shape::named(name, None).unwrap().config;
            config.validate().unwrap();
            let found = config.tensors().iter().map(|(_, rows, cols)| rows * cols).sum::<usize>() as f64 / 1e6;
            assert!((found - expected).abs() < 0.1, "{name}: {found} million");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let Err(Failure::Usage(message)) = Shape::named("gpt-5", None) else { panic!("accepted") };
        assert!(message.contains("gpt-5") && message.contains("codellama-7b"), "{message}");
    }
}
