//! The result for programs.

use serde_json::{Map, Value, json};

use super::words::sentences;
use super::{Alone, MatrixCounts, Overlap, Reading, Shared};

pub(super) fn to_json(overlap: &Overlap) -> Value {
    let label = |i: usize| overlap.models[i].subject.label.as_str();
    let pair = |(a, b): (usize, usize), reseeded: bool| {
        let mut found = shared_json(overlap.shared(a, b, &|_| true));
        found.extend([("first".to_owned(), json!(label(a))), ("second".to_owned(), json!(label(b)))]);
        found.insert("reseeded".to_owned(), json!(reseeded));
        Value::Object(found)
    };
    let different = overlap.family.different_pairs().map(|p| pair(p, false));
    let pairs: Vec<Value> = different.chain(overlap.family.reseeded_pairs().map(|p| pair(p, true))).collect();
    let layers = overlap.layers().into_iter().map(|layer| {
        let mut found = reading_json(overlap.reading(&|m| m.layer == Some(layer)));
        found.insert("layer".into(), json!(layer));
        Value::Object(found)
    });
    let projections = overlap.projections().into_iter().map(|projection| {
        let mut found = reading_json(overlap.reading(&|m| m.projection == projection));
        found.insert("projection".into(), json!(projection));
        Value::Object(found)
    });
    json!({
        "models": (0..overlap.models.len()).map(|i| model_json(overlap, i)).collect::<Vec<_>>(),
        "summary": sentences(overlap),
        "warnings": overlap.warnings,
        "left_out": overlap.left_out.iter().map(|l| json!({"tensor": l.tensor, "reason": l.reason})).collect::<Vec<_>>(),
        "all": reading_json(overlap.reading(&|_| true)),
        "pairs": pairs,
        "projections": projections.collect::<Vec<_>>(),
        "layers": layers.collect::<Vec<_>>(),
        "alone": overlap.labels().iter().enumerate().map(|(i, label)| alone_of(overlap, i, label)).collect::<Vec<_>>(),
        "matrices": overlap.matrices.iter().map(|m| matrix_json(overlap, m)).collect::<Vec<_>>(),
    })
}

fn model_json(overlap: &Overlap, i: usize) -> Value {
    let model = &overlap.models[i];
    let weights: u64 = overlap.matrices.iter().map(|m| m.counts.weights).sum();
    let kept: u64 = overlap.matrices.iter().map(|m| m.counts.kept[i]).sum();
    json!({
        "label": model.subject.label,
        "path": model.subject.path.to_string_lossy(),
        "reseed_of": model.subject.reseed_of.map(|of| overlap.models[of].subject.label.as_str()),
        "method": model.method,
        "calibration": model.calibration,
        "weights": weights,
        "kept": kept,
        "density": kept as f64 / weights as f64,
    })
}

fn shared_json(shared: Shared) -> Map<String, Value> {
    let fields = [
        ("both", json!(shared.both)),
        ("overlap", json!(shared.overlap())),
        ("jaccard_distance", json!(shared.distance())),
        ("random_overlap", json!(shared.chance_overlap())),
        ("random_jaccard_distance", json!(shared.chance_distance())),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn reading_json(reading: Reading) -> Map<String, Value> {
    let one = |shared: Option<Shared>| shared.map_or(Value::Null, |s| Value::Object(shared_json(s)));
    [("between".to_owned(), one(reading.between)), ("reseeded".to_owned(), one(reading.reseeded))].into_iter().collect()
}

fn alone_of(overlap: &Overlap, i: usize, label: &str) -> Value {
    let projections = overlap.projections().into_iter();
    let by_projection: Map<String, Value> =
        projections.map(|p| (p.to_owned(), alone_json(overlap.alone(i, &|m| m.projection == p)))).collect();
    json!({"label": label, "all": alone_json(overlap.alone(i, &|_| true)), "projections": by_projection})
}

fn alone_json(alone: Alone) -> Value {
    json!({
        "kept": alone.alone,
        "share": alone.share(),
        "random_share": alone.chance_share(),
        "kept_again_share": alone.again_share(),
    })
}

fn matrix_json(overlap: &Overlap, m: &MatrixCounts) -> Value {
    let mut found = reading_json(overlap.reading_of(m));
    found.extend([
        ("tensor".to_owned(), json!(m.tensor)),
        ("layer".to_owned(), json!(m.layer)),
        ("projection".to_owned(), json!(m.projection)),
        ("weights".to_owned(), json!(m.counts.weights)),
        ("kept".to_owned(), json!(m.counts.kept)),
        ("kept_alone".to_owned(), json!(m.counts.alone)),
        ("kept_by_all".to_owned(), json!(m.counts.common)),
    ]);
    Value::Object(found)
}
