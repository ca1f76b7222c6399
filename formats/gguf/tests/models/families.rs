//! The shapes that families read, with rope scaling against the published formulas in f64.

use gguf::{GgmlType, GgufModel};
use spm::{Checkpoint, RopeLayout};

use crate::tiny::{self, Shape};

fn open_with(shape: &Shape, add: impl Fn(&mut gguf::GgufWriter)) -> GgufModel {
    let mut keys = shape.keys();
    add(&mut keys);
    tiny::open(&tiny::with(keys, &shape.weights()).to_bytes()).unwrap()
}

#[test]
fn a_plain_llama() {
    let model = open_with(&Shape::default(), |_| {});
    let config = model.config();
    assert_eq!((config.n_layers, config.dim, config.hidden_dim), (2, 64, 96));
    assert_eq!((config.n_heads, config.n_kv_heads, config.head_dim), (4, 2, 16));
    assert_eq!((config.vocab_size, config.context_len, config.norm_eps), (40, 128, 1e-6));
    assert!(!config.tied_head && !config.qkv_bias);
    assert_eq!((config.rope.base, config.rope.dims, config.rope.attn_scale), (10_000.0, 16, 1.0));
    assert_eq!(config.rope.layout, RopeLayout::Interleaved);
    assert!(config.rope.freq_factors.is_empty() && model.vocabulary().is_none());
}

#[test]
fn qwen2_has_biases_and_halves() {
    let shape = Shape { architecture: "qwen2", tied: true, ..Shape::default() };
    let model = open_with(&shape, |w| {
        w.f32("qwen2.rope.freq_base", 1e6);
    });
    let config = model.config();
    assert!(config.tied_head && config.qkv_bias);
    assert_eq!((config.rope.layout, config.rope.base), (RopeLayout::Halves, 1e6));
}

#[test]
fn heads_may_be_given_for_each_layer() {
    let shape = Shape::default();
    let bytes = shape.writer().to_bytes();
    // The count as it stands is a u32 of 4; an array of two takes its place in a file written afresh.
    let mut keys = gguf::GgufWriter::new();
    keys.text("general.architecture", "llama").u32("llama.block_count", 2).u32("llama.context_length", 128);
    keys.u32("llama.embedding_length", 64).integers("llama.feed_forward_length", &[96, 96]);
    keys.integers("llama.attention.head_count", &[4, 4]).integers("llama.attention.head_count_kv", &[2, 2]);
    keys.f32("llama.attention.layer_norm_rms_epsilon", 1e-6);
    let model = tiny::open(&tiny::with(keys, &shape.weights()).to_bytes()).unwrap();
    assert_eq!(model.config(), tiny::open(&bytes).unwrap().config());
}

#[test]
fn linear_scaling_divides_every_frequency() {
    for key in ["llama.rope.scaling.factor", "llama.rope.scale_linear"] {
        let model = open_with(&Shape::default(), |w| {
            w.f32(key, 4.0);
        });
        assert_eq!(model.config().rope.freq_factors, [4.0; 8]);
    }
    let none = open_with(&Shape::default(), |w| {
        w.f32("llama.rope.scaling.factor", 4.0).text("llama.rope.scaling.type", "none");
    });
    assert!(none.config().rope.freq_factors.is_empty());
}

#[test]
fn llama3_factors_come_from_the_tensor() {
    let shape = Shape::default();
    let factors: Vec<f32> = (1..=8).map(|i| i as f32).collect();
    let mut writer = shape.writer();
    writer.tensor("rope_freqs.weight", &[8], GgmlType::F32, &factors).unwrap();
    let model = tiny::open(&writer.to_bytes()).unwrap();
    assert_eq!(model.config().rope.freq_factors, factors);
}

/// YaRN's published formula: dimension `2 ln(context / (turns 2 pi)) / ln base` bounds the ramp.
#[test]
fn yarn_blends_by_frequency() {
    let model = open_with(&Shape { heads: 1, kv_heads: 1, ..Shape::default() }, |w| {
        w.text("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4.0);
        w.u32("llama.rope.scaling.original_context_length", 32768).f32("llama.rope.freq_base", 1e6);
    });
    let rope = &model.config().rope;
    assert_eq!(rope.freq_factors.len(), 32);
    let bound = |turns: f64| 64.0 * (32768.0 / (turns * std::f64::consts::TAU)).ln() / (2.0 * 1e6f64.ln());
    let (low, high) = (bound(32.0).floor(), bound(1.0).ceil());
    assert_eq!((low, high), (11.0, 20.0));
    for (pair, found) in rope.freq_factors.iter().enumerate() {
        let interpolated = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
        let frequency = (1.0 - interpolated) + interpolated / 4.0;
        assert!((f64::from(*found) * frequency - 1.0).abs() < 1e-6, "pair {pair}: {found}");
    }
    assert!((f64::from(rope.attn_scale) - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-6);
}
