//! The shapes that families read, with rope scaling against the published formulas in f64.

use gguf::{GgmlType, GgufModel};
use spm::{Activation, Checkpoint, Norm, Residual, RopeLayout};

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

/// A model of another family: width 64, hidden width 96, 4 heads of 16, 2 of keys, 4 layers, 40 tokens, and these tensors
/// of each layer with their dimensions, the fastest first.
fn open_family(
    architecture: &'static str,
    of_layers: &[(&str, &[usize])],
    outside: &[(&str, &[usize])],
    add: impl Fn(&mut gguf::GgufWriter),
) -> GgufModel {
    let mut writer = Shape { architecture, layers: 4, ..Shape::default() }.keys();
    add(&mut writer);
    let mut weights = Vec::new();
    let mut put = |name: String, dims: &[usize]| {
        let values = (0..dims.iter().product()).map(|i: usize| (weights.len() + i) as f32).collect();
        weights.push((name, dims.to_vec(), GgmlType::F32, values));
    };
    put("token_embd.weight".into(), &[64, 40]);
    put("output_norm.weight".into(), &[64]);
    outside.iter().for_each(|(name, dims)| put(name.to_string(), dims));
    (0..4).for_each(|i| of_layers.iter().for_each(|(name, dims)| put(format!("blk.{i}.{name}"), dims)));
    tiny::open(&tiny::with(writer, &weights).to_bytes()).unwrap()
}

const ATTENTION: [(&str, &[usize]); 6] = [
    ("attn_norm.weight", &[64]),
    ("ffn_norm.weight", &[64]),
    ("attn_q.weight", &[64, 64]),
    ("attn_k.weight", &[64, 32]),
    ("attn_v.weight", &[64, 32]),
    ("attn_output.weight", &[64, 64]),
];
const GATED: [(&str, &[usize]); 3] =
    [("ffn_gate.weight", &[64, 96]), ("ffn_up.weight", &[64, 96]), ("ffn_down.weight", &[96, 64])];
const BIASES: [(&str, &[usize]); 8] = [
    ("attn_norm.bias", &[64]),
    ("attn_q.bias", &[64]),
    ("attn_k.bias", &[32]),
    ("attn_v.bias", &[32]),
    ("attn_output.bias", &[64]),
    ("ffn_up.bias", &[96]),
    ("ffn_down.bias", &[64]),
    ("ffn_norm.bias", &[64]),
];
const QK_NORMS: [(&str, &[usize]); 2] = [("attn_q_norm.weight", &[16]), ("attn_k_norm.weight", &[16])];
const POST_NORMS: [(&str, &[usize]); 2] = [("post_attention_norm.weight", &[64]), ("post_ffw_norm.weight", &[64])];

#[test]
fn windows_and_rotations_of_layers_are_the_family_s() {
    let llama = [&ATTENTION[..], &GATED].concat();
    let model = open_family("llama", &llama, &[], |w| {
        w.u32("llama.attention.sliding_window", 8);
    });
    assert!((0..4).all(|i| model.config().window_of(i) == Some(8)));

    let model = open_family("smollm3", &llama, &[], |_| {});
    let turns: Vec<bool> = (0..4).map(|i| model.config().rope_of(i).is_some()).collect();
    assert_eq!(turns, [true, true, true, false]);

    let gemma2 = [&llama[..], &POST_NORMS].concat();
    let model = open_family("gemma2", &gemma2, &[], |w| {
        w.u32("gemma2.attention.sliding_window", 8).f32("gemma2.attn_logit_softcapping", 40.0);
    });
    let c = model.config();
    assert_eq!([0, 1, 2, 3].map(|i| c.window_of(i).is_some()), [true, false, true, false]);
    assert_eq!((c.scales.attention_cap, c.scales.logits_cap, c.scales.embedding), (Some(40.0), Some(30.0), 8.0));
    assert!(c.post_norms && c.activation == Activation::GeluTanh);

    let gemma3 = [&gemma2[..], &QK_NORMS].concat();
    let model = open_family("gemma3", &gemma3, &[], |w| {
        w.u32("gemma3.attention.sliding_window", 8).f32("gemma3.rope.freq_base", 1e6);
        w.f32("gemma3.rope.scaling.factor", 8.0).text("gemma3.rope.scaling.type", "linear");
    });
    let c = model.config();
    // The first five of six layers.
    assert!((0..4).all(|i| c.window_of(i) == Some(8) && c.rope_of(i).is_some_and(|rope| rope.base == 1e4)));
    assert!(c.local_rope.as_ref().unwrap().freq_factors.is_empty() && c.rope.freq_factors == [8.0; 8]);
    assert!(c.qk_norm && c.rope.base == 1e6);
}

#[test]
fn granite_has_four_multipliers() {
    let model = open_family("granite", &[&ATTENTION[..], &GATED].concat(), &[], |w| {
        w.f32("granite.embedding_scale", 12.0).f32("granite.residual_scale", 0.22);
        w.f32("granite.attention.scale", 0.015625).f32("granite.logit_scale", 8.0);
    });
    let scales = model.config().scales;
    assert_eq!(
        (scales.embedding, scales.residual, scales.attention, scales.logits),
        (12.0, 0.22, Some(0.015625), 0.125)
    );
}

#[test]
fn plain_blocks_have_biases_and_layer_norms() {
    let plain = [&ATTENTION[..], &GATED[1..], &BIASES].concat();
    let eps = |w: &mut gguf::GgufWriter, name: &str| {
        w.f32(name, 1e-5);
    };
    let model = open_family("starcoder2", &plain, &[("output_norm.bias", &[64])], |w| {
        eps(w, "starcoder2.attention.layer_norm_epsilon");
    });
    let c = model.config();
    assert_eq!(
        (c.norm, c.activation, c.gated, c.residual),
        (Norm::Layer, Activation::GeluTanh, false, Residual::Serial)
    );
    assert!(c.qkv_bias && c.attn_output_bias && c.ffn_bias);

    let fused: Vec<(&str, &[usize])> = plain.iter().copied().filter(|(name, _)| !is_of_qkv(name)).collect();
    let qkv: [(&str, &[usize]); 2] = [("attn_qkv.weight", &[64, 128]), ("attn_qkv.bias", &[128])];
    let gpt2 = [&fused[..], &qkv].concat();
    let outside: [(&str, &[usize]); 2] = [("output_norm.bias", &[64]), ("position_embd.weight", &[64, 128])];
    let model = open_family("gpt2", &gpt2, &outside, |_| {});
    assert!(model.config().learned_positions && (0..4).all(|i| model.config().rope_of(i).is_none()));
    // Values count up from the number of tensors before, so that parts are known by theirs.
    let (q, k, v) =
        (all(&model, "blk.1.attn_q.weight"), all(&model, "blk.1.attn_k.weight"), all(&model, "blk.1.attn_v.weight"));
    assert_eq!((k[0] - q[0], v[0] - q[0], v[32 * 64 - 1] - q[0]), (64.0 * 64.0, 96.0 * 64.0, 128.0 * 64.0 - 1.0));
    let (q, v) = (all(&model, "blk.1.attn_q.bias"), all(&model, "blk.1.attn_v.bias"));
    assert_eq!((v[0] - q[0], v.len()), (96.0, 32));

    let model = open_family("gptneox", &gpt2, &outside[..1], |w| {
        w.u32("gptneox.rope.dimension_count", 4);
    });
    assert_eq!((model.config().residual, model.config().rope.dims), (Residual::Parallel, 4));
    let phi2: Vec<(&str, &[usize])> = gpt2.iter().copied().filter(|(name, _)| !name.starts_with("ffn_norm")).collect();
    let outside: [(&str, &[usize]); 3] =
        [("output_norm.bias", &[64]), ("output.weight", &[64, 40]), ("output.bias", &[40])];
    let model = open_family("phi2", &phi2, &outside, |_| {});
    assert!(model.config().residual == Residual::ParallelOneNorm && model.config().head_bias);
}

fn is_of_qkv(name: &str) -> bool {
    ["attn_q.", "attn_k.", "attn_v."].iter().any(|start| name.starts_with(start))
}

fn all(model: &GgufModel, name: &str) -> Vec<f32> {
    let all = model.read_all(name).unwrap();
    let matrix = model.exact_matrix(name).unwrap();
    let mut same = vec![0.0; all.len()];
    matrix.read_rows(0, &mut same).unwrap();
    assert_eq!(all, same, "{name}");
    all
}

#[test]
fn phi3_is_split_and_has_divisors_for_long_texts() {
    let layers: [(&str, &[usize]); 6] = [
        ("attn_norm.weight", &[64]),
        ("ffn_norm.weight", &[64]),
        ("attn_qkv.weight", &[64, 128]),
        ("attn_output.weight", &[64, 64]),
        ("ffn_up.weight", &[64, 192]),
        ("ffn_down.weight", &[96, 64]),
    ];
    let factors: [(&str, &[usize]); 2] = [("rope_factors_long.weight", &[8]), ("rope_factors_short.weight", &[8])];
    let model = open_family("phi3", &layers, &factors, |w| {
        w.u32("phi3.rope.scaling.original_context_length", 32).f32("phi3.rope.scaling.attn_factor", 1.25);
    });
    let c = model.config();
    assert_eq!((c.context_len, c.rope.attn_scale), (128, 1.25));
    // A tensor's values count from its place among all.
    let [short, long] = [3u8, 2].map(|place| (place..place + 8).map(f32::from).collect::<Vec<f32>>());
    assert_eq!((c.rope.freq_factors_for(32), c.rope.freq_factors_for(33)), (&short[..], &long[..]));
    let (gate, up) = (all(&model, "blk.2.ffn_gate.weight"), all(&model, "blk.2.ffn_up.weight"));
    assert_eq!((gate.len(), up.len(), up[0] - gate[0]), (96 * 64, 96 * 64, 96.0 * 64.0));
}

#[test]
fn what_is_not_run_is_named_with_the_reason() {
    for (architecture, reason) in [
        ("mamba", "is recurrent, which is not supported"),
        ("granitehybrid", "mixes attention with recurrent or convolutional layers"),
        ("qwen3moe", "chooses among experts for every token"),
        ("frobnicator", "is not supported; this program runs: llama, qwen2"),
    ] {
        let error =
            tiny::open(&Shape { architecture, ..Shape::default() }.writer().to_bytes()).unwrap_err().to_string();
        assert!(error.contains(&format!("architecture `{architecture}` {reason}")), "{error}");
    }
}
