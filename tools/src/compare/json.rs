//! The comparison for programs.

use serde_json::{Value, json};

use super::{Compared, Quality, Side, Speed};
use crate::bootstrap::{CONFIDENCE, RESAMPLES};
use crate::eval;

pub(super) fn to_json(compared: &Compared) -> Value {
    let [a, b] = &compared.sides;
    let continuations = compared.continuations.iter().map(|c| {
        let [a, b] = &c.texts;
        json!({"prompt": c.prompt, "a": a, "b": b})
    });
    json!({
        "a": side(a),
        "b": side(b),
        "file_bytes_ratio": b.file_bytes as f64 / a.file_bytes.max(1) as f64,
        "bytes_per_token_ratio": b.bytes_per_token as f64 / a.bytes_per_token.max(1) as f64,
        "engine": compared.engine,
        "summary": compared.sentences(),
        "speed": compared.speeds.iter().map(speed).collect::<Vec<_>>(),
        "texts": compared.texts.iter().map(quality).collect::<Vec<_>>(),
        "continuations": continuations.collect::<Vec<_>>(),
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
    })
}

fn side(side: &Side) -> Value {
    json!({
        "label": side.label,
        "path": side.path.to_string_lossy(),
        "file_bytes": side.file_bytes,
        "bytes_per_token": side.bytes_per_token,
        "sparsity": side.sparsity,
        "encoding": side.encoding,
    })
}

fn speed(speed: &Speed) -> Value {
    let [a, b] = [0, 1].map(|side| {
        let (median, slowest, fastest) = speed.tokens_per_second(side);
        let samples: Vec<u64> = speed.times[side].iter().map(|t| t.as_nanos() as u64).collect();
        json!({"median_ts": median, "slowest_ts": slowest, "fastest_ts": fastest, "samples_ns": samples})
    });
    json!({"test": speed.test.name(), "tokens": speed.test.tokens(), "a": a, "b": b, "ratio": speed.ratio()})
}

fn quality(quality: &Quality) -> Value {
    let [a, b] = [0, 1].map(|side| Value::Object(eval::to_json(&quality.texts[side], &quality.found[side])));
    json!({"text": quality.texts[0].name, "one_vocabulary": quality.one_vocabulary, "a": a, "b": b})
}
