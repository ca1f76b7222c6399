//! Keys and values kept as bytes or halves, against those kept as they are.

use std::sync::Arc;

use sparse_run::{EngineOptions, KvType, Model, Precision, Session, SessionOptions};
use spm::synthetic::SyntheticModel;
use spm::{Config, LayerKind, LayerRope};

const CONTEXT: usize = 160;

/// Heads of 48: a whole group of scaled numbers and half of one. Every other layer has a window.
fn model() -> Arc<Model> {
    let mut config = Config::new(4, 96, 160, 4, 2);
    (config.head_dim, config.rope.dims, config.context_len) = (48, 48, CONTEXT);
    config.window = Some(24);
    let layer = |windowed| LayerKind { windowed, rope: LayerRope::Main };
    config.layers = vec![layer(false), layer(true), layer(false), layer(true)];
    let options = EngineOptions { threads: 2, precision: Precision::Exact, ..EngineOptions::default() };
    Arc::new(Model::load(&SyntheticModel::new(config, 31), &options).unwrap())
}

fn ids() -> Vec<u32> {
    (0..CONTEXT as u32).map(|t| (t * t * 7 + t * 31) % 250).collect()
}

fn logits(model: &Arc<Model>, kv: KvType, batch: usize) -> Vec<f32> {
    let mut session = Session::new(model, &SessionOptions { context: CONTEXT, kv, batch }).unwrap();
    let mut all = Vec::new();
    session.feed_each(&ids(), |_, logits| all.extend_from_slice(logits)).unwrap();
    all
}

#[test]
fn bytes_change_logits_little_and_halves_less() {
    let model = model();
    let exact = logits(&model, KvType::F32, 64);
    let (min, max) = exact.iter().fold((f32::MAX, f32::MIN), |(min, max), &l| (min.min(l), max.max(l)));
    let distance = |kv| {
        let pairs = logits(&model, kv, 64).into_iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2));
        (pairs.sum::<f64>() / exact.len() as f64).sqrt() / f64::from(max - min)
    };
    let (halves, bytes) = (distance(KvType::F16), distance(KvType::Q8));
    assert!(halves > 0.0 && halves < 3e-4, "halves: {halves} of the range");
    assert!(bytes > halves && bytes < 5e-3, "bytes: {bytes} of the range, halves {halves}");
}

#[test]
fn bytes_are_the_same_however_a_text_is_fed() {
    let model = model();
    assert!(logits(&model, KvType::Q8, 64) == logits(&model, KvType::Q8, 1));
}

#[test]
fn bytes_take_little_more_than_half_of_the_memory() {
    let model = model();
    let bytes = |kv| Session::cache_bytes(&model, 4096, kv) as f64;
    assert_eq!(bytes(KvType::F32) / bytes(KvType::F16), 2.0);
    let share = bytes(KvType::Q8) / bytes(KvType::F16);
    assert!((0.5..0.6).contains(&share), "{share}");
}
