//! Every family is pruned to the end, and what comes out is the same masked model wherever it is run.

use std::ops::ControlFlow;
use std::sync::Arc;

use pruner::{Pattern, PruneOptions, ValueType, plan, prune};
use runtime::{EngineOptions, KvType, Model, Precision, Session, SessionOptions};
use spm::synthetic::{Reweighted, SyntheticModel};
use spm::{
    Activation, Checkpoint, Config, LayerKind, LayerRope, LongRope, Matrix, Norm, Provenance, Residual, Rope,
    RopeLayout, SparseModel, SpmWriter, WriterOptions,
};

/// What the published families differ in, several at a time.
fn families() -> Vec<(&'static str, Config)> {
    let kind = |windowed, rope| LayerKind { windowed, rope };
    let plain = || Config::new(2, 64, 160, 4, 2);
    let mut windowed = plain();
    windowed.window = Some(16);
    windowed.layers = vec![kind(true, LayerRope::None), kind(false, LayerRope::Main)];
    (windowed.qk_norm, windowed.tied_head) = (true, true);
    let mut scaled = plain();
    (scaled.scales.embedding, scaled.scales.residual, scaled.scales.logits) = (6.0, 0.3, 0.25);
    scaled.scales.attention = Some(0.1);
    scaled.rope.long = Some(LongRope { trained: 50, freq_factors: (1..=8).map(|i| i as f32).collect() });
    let mut normed = plain();
    (normed.post_norms, normed.activation, normed.head_dim) = (true, Activation::GeluTanh, 32);
    (normed.scales.attention_cap, normed.scales.logits_cap) = (Some(50.0), Some(30.0));
    normed.rope = Rope::new(1e6, 32, RopeLayout::Halves);
    normed.local_rope = Some(Rope::new(1e4, 32, RopeLayout::Halves));
    normed.window = Some(8);
    normed.layers = vec![kind(true, LayerRope::Local), kind(false, LayerRope::Main)];
    let mut biased = plain();
    (biased.norm, biased.gated, biased.activation) = (Norm::Layer, false, Activation::GeluTanh);
    (biased.qkv_bias, biased.attn_output_bias, biased.ffn_bias, biased.tied_head) = (true, true, true, true);
    let mut learned = biased.clone();
    (learned.learned_positions, learned.context_len) = (true, 128);
    learned.layers = vec![kind(false, LayerRope::None); 2];
    let mut parallel = biased.clone();
    (parallel.residual, parallel.activation, parallel.tied_head) = (Residual::Parallel, Activation::Gelu, false);
    parallel.rope.dims = 4;
    let mut one_norm = parallel.clone();
    (one_norm.residual, one_norm.head_bias) = (Residual::ParallelOneNorm, true);
    vec![
        ("windows, normalised heads", windowed),
        ("multipliers, divisors for long texts", scaled),
        ("norms after blocks, caps", normed),
        ("LayerNorm, biases", biased),
        ("learned positions", learned),
        ("parallel", parallel),
        ("parallel, one norm", one_norm),
    ]
}

fn windows() -> Vec<Vec<u32>> {
    (0..12).map(|w| (0..70 + w).map(|t| (t * t * 7 + t * 31 + w * 13) % 260).collect()).collect()
}

fn logits(model: &dyn Checkpoint) -> Vec<f32> {
    let options = EngineOptions { threads: 1, precision: Precision::Exact, ..EngineOptions::default() };
    let model = Arc::new(Model::load(model, &options).unwrap());
    let options = SessionOptions { context: 64, kv: KvType::F32, ..Default::default() };
    let mut session = Session::new(&model, &options).unwrap();
    let mut all = Vec::new();
    session.feed_each(&windows()[3][..40], |_, logits| all.extend_from_slice(logits)).unwrap();
    all
}

#[test]
fn pruned_models_are_the_masked_dense_ones() {
    let folder = tempfile::tempdir().unwrap();
    for (i, (name, config)) in families().into_iter().enumerate() {
        let source = SyntheticModel::new(config, 21);
        for method in ["wanda", "admm"] {
            let pattern = Pattern::Unstructured { sparsity: 0.5 };
            let options = PruneOptions { pattern, values: ValueType::Q8, threads: 2, ..PruneOptions::default() };
            let options = options.with_method(method).unwrap();
            let mut tensors: Vec<(String, Matrix)> = Vec::new();
            let report =
                prune(&source, &options, &windows(), &mut tensors, &mut |_| ControlFlow::Continue(())).unwrap();
            let matrices = if source.config().gated { 14 } else { 12 };
            assert_eq!(report.tensors.len(), matrices, "{name} {method}");
            assert!((report.sparsity() - 0.5).abs() < 1e-6, "{name} {method}: {}", report.sparsity());
            assert_eq!(plan(&source, &options, 12, 80).unwrap().tensor_bytes, report.bytes, "{name} {method}");

            let path = folder.path().join(format!("{i}-{method}.spm"));
            let mut writer = SpmWriter::create(&path, &WriterOptions::default()).unwrap();
            tensors.iter().for_each(|(name, matrix)| writer.push(name, matrix).unwrap());
            writer.finish(source.config(), source.vocabulary(), &Provenance::default()).unwrap();
            let pruned = SparseModel::open(&path).unwrap();
            assert_eq!(pruned.config(), source.config(), "{name} {method}");
            let weights = tensors.iter().map(|(name, m)| (name.clone(), expanded(m))).collect();
            let masked = logits(&Reweighted { source: &source, weights });
            assert!(logits(&pruned) == masked, "{name} {method}");
            assert!(masked.iter().all(|l| l.is_finite()) && masked != logits(&source), "{name} {method}");
        }
    }
}

/// Following the dense model loses less than not updating a weight.
#[test]
fn weight_updates_help_every_family() {
    for (name, config) in families() {
        let source = SyntheticModel::new(config, 22);
        let dense = logits(&source);
        let loss = |method: &str| {
            let options = PruneOptions { threads: 2, ..PruneOptions::default() }.with_method(method).unwrap();
            let mut tensors: Vec<(String, Matrix)> = Vec::new();
            prune(&source, &options, &windows(), &mut tensors, &mut |_| ControlFlow::Continue(())).unwrap();
            let weights = tensors.iter().map(|(name, m)| (name.clone(), expanded(m))).collect();
            let pruned = logits(&Reweighted { source: &source, weights });
            dense.iter().zip(&pruned).map(|(d, p)| f64::from(d - p).powi(2)).sum::<f64>()
        };
        let (admm, wanda) = (loss("admm"), loss("wanda"));
        assert!(admm < wanda, "{name}: {admm} and {wanda}");
    }
}

fn expanded(m: &Matrix) -> Vec<f32> {
    let mut all = vec![0.0; m.rows() * m.cols()];
    m.read_rows(0, &mut all).unwrap();
    all
}
