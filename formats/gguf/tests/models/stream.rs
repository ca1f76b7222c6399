//! Files written tensor by tensor.

use gguf::{GgmlType, GgufWriter, TensorPlan, quantize};

fn plans() -> Vec<TensorPlan> {
    let plan = |name, dims: &[usize], kind| TensorPlan::new(name, dims, kind);
    let all = [plan("a", &[64, 2], GgmlType::Q8_0), plan("b", &[3], GgmlType::F32)];
    all.into_iter().map(Option::unwrap).collect()
}

#[test]
fn a_streamed_file_is_the_one_built_in_memory() {
    let values: Vec<f32> = (0..128).map(|i| i as f32 - 60.0).collect();
    let mut keys = GgufWriter::new();
    keys.text("general.architecture", "none");
    let mut whole = keys.clone();
    whole.tensor("a", &[64, 2], GgmlType::Q8_0, &values).unwrap();
    whole.tensor("b", &[3], GgmlType::F32, &values[..3]).unwrap();
    let mut stream = keys.stream(&plans(), Vec::new()).unwrap();
    stream.push("a", &quantize(GgmlType::Q8_0, &values).unwrap()).unwrap();
    stream.push("b", &quantize(GgmlType::F32, &values[..3]).unwrap()).unwrap();
    assert_eq!(stream.finish().unwrap(), whole.to_bytes());
}

#[test]
fn what_was_not_planned_is_refused() {
    let begin = || GgufWriter::new().stream(&plans(), Vec::new()).unwrap();
    for (name, len) in [("a", 135), ("b", 136), ("b", 12)] {
        let error = begin().push(name, &vec![0; len]).unwrap_err().to_string();
        assert!(error.contains("expected 136 of `a`"), "{error}");
    }
    let mut stream = begin();
    stream.push("a", &[0; 136]).unwrap();
    stream.push("b", &[0; 12]).unwrap();
    assert!(stream.push("c", &[]).unwrap_err().to_string().contains("`c` was not planned"));
    assert!(begin().finish().is_err_and(|e| e.to_string().contains("`a` was planned and not pushed")));
    assert_eq!(TensorPlan::new("x", &[33], GgmlType::Q8_0), None);
}
