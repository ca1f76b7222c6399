//! The gguf-rs crate as oracle: it must see the same keys, names, types, shapes and offsets in a good file.

use std::collections::BTreeMap;

use gguf::{GgmlType, GgufFile, Value};

use crate::tiny::{self, Shape};

#[test]
fn both_readers_see_the_same_file() {
    for kind in [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0, GgmlType::Q5_0, GgmlType::Q4_0] {
        let shape = Shape { kind, ..Shape::default() };
        let mut keys = shape.keys();
        keys.alignment(128).bool("test.flag", true).i32("test.negative", -7).u16("test.short", 9);
        keys.texts("test.texts", &["one", "two", "", "four", "ünf"]);
        keys.floats("test.floats", &[0.5, -2.0]).integers("test.integers", &[1, -1, i32::MAX]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), tiny::with(keys, &shape.weights()).to_bytes()).unwrap();
        compare(file.path());
    }
}

/// Compares all that gguf-rs gets right: everything but sizes of rare types.
pub(crate) fn compare(path: &std::path::Path) {
    let ours = GgufFile::open(path).unwrap();
    // The plain constructor would keep three elements of each tokenizer array.
    let mut container = gguf_rs::get_gguf_container_array_size(path.to_str().unwrap(), u64::MAX).unwrap();
    let theirs = container.decode().unwrap();
    let metadata: BTreeMap<_, _> = ours.metadata().iter().map(|(k, v)| (k.clone(), text(v))).collect();
    let expected: BTreeMap<_, _> = theirs.metadata().iter().map(|(k, v)| (k.clone(), json(v))).collect();
    let differing: Vec<_> = metadata.iter().filter(|(k, v)| expected.get(*k) != Some(v)).collect();
    assert_eq!((metadata.len(), differing), (expected.len(), vec![]));
    assert_eq!(ours.alignment(), theirs.alignment());
    assert_eq!(ours.tensors().len(), theirs.tensors().len());
    for (a, b) in ours.tensors().iter().zip(theirs.tensors()) {
        let dims: Vec<u64> = a.dims.iter().map(|d| *d as u64).collect();
        assert_eq!((&a.name, a.kind as u32, dims), (&b.name, b.kind, b.shape.clone()));
        assert_eq!(a.range.start as u64, theirs.data_offset() + b.offset, "{}", a.name);
        assert_eq!(a.range.len() as u64, b.size, "{}", a.name);
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Unsigned(v) => v.to_string(),
        Value::Signed(v) => v.to_string(),
        Value::Float(v) => (*v as f32).to_string(),
        Value::Bool(v) => v.to_string(),
        Value::Text(v) => v.clone(),
        Value::Array(a) => {
            let strings = a.strings().map(|all| all.map(|s| s.unwrap().to_owned()).collect());
            let integers = || a.integers().map(|all| all.iter().map(i64::to_string).collect());
            let floats = || a.floats().map(|all| all.iter().map(f32::to_string).collect());
            let all: Vec<String> = strings.or_else(integers).or_else(floats).unwrap();
            all.join("|")
        }
    }
}

fn json(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(v) => v.clone(),
        serde_json::Value::Number(v) if v.is_f64() => (v.as_f64().unwrap() as f32).to_string(),
        serde_json::Value::Array(all) => all.iter().map(json).collect::<Vec<_>>().join("|"),
        other => other.to_string(),
    }
}
