//! What the writer wrote comes back: same names, shapes, values, in the file's encoding and in ours.

use gguf::GgmlType;
use half::f16;
use proptest::prelude::*;
use spm::{Checkpoint, Encoding};

use crate::tiny::{self, Shape};

fn shapes() -> impl Strategy<Value = Shape> {
    let kinds =
        prop::sample::select(vec![GgmlType::F32, GgmlType::F16, GgmlType::Q8_0, GgmlType::Q5_0, GgmlType::Q4_0]);
    let architectures = prop::sample::select(vec!["llama", "qwen2"]);
    let sizes = (1..3usize, 1..4usize, 1..4usize, 1..3usize, 1..4usize, 1..50usize);
    (architectures, sizes, kinds, any::<bool>(), any::<u64>()).prop_map(
        |(architecture, (layers, width, hidden, kv_heads, groups, vocab), kind, tied, seed)| {
            let (dim, hidden) = (32 * width * kv_heads * groups, 32 * hidden);
            let heads = kv_heads * groups;
            Shape { architecture, layers, dim, hidden, heads, kv_heads, vocab, tied, kind, seed }
        },
    )
}

/// How far a stored value may be from `v`, in a block whose largest value is `max`.
fn tolerance(kind: GgmlType, max: f32, v: f32) -> f32 {
    match kind {
        GgmlType::F32 => 0.0,
        GgmlType::F16 => (f16::from_f32(v).to_f32() - v).abs(),
        GgmlType::Q8_0 => max / 127.0 * 0.51 + max * 1e-3,
        // The far end of the scale has one level less.
        GgmlType::Q5_0 => max / 16.0 * 1.01,
        _ => max / 8.0 * 1.01,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_tensor_comes_back(shape in shapes()) {
        let model = tiny::open(&shape.writer().to_bytes()).unwrap();
        let weights = shape.weights();
        prop_assert_eq!(model.tensors().len(), weights.len());
        for (info, (name, dims, kind, values)) in model.tensors().iter().zip(&weights) {
            prop_assert_eq!((&info.name, info.cols, info.rows), (name, dims[0], *dims.get(1).unwrap_or(&1)));
            prop_assert_eq!(&info.encoding, kind.name());
            prop_assert_eq!(info.bytes as usize, kind.row_bytes(info.cols).unwrap() * info.rows);
            let found = model.read_all(name).unwrap();
            for (f, v) in found.chunks(32).zip(values.chunks(32)) {
                let max = v.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for (f, v) in f.iter().zip(v) {
                    prop_assert!((f - v).abs() <= tolerance(*kind, max, *v), "{name}: {f} for {v}");
                }
            }
            same_as_matrix(&model, name, &found)?;
        }
    }
}

/// All types of the writer are kept exactly by `matrix`.
fn same_as_matrix(model: &gguf::GgufModel, name: &str, values: &[f32]) -> Result<(), TestCaseError> {
    for matrix in [model.matrix(name).unwrap(), model.exact_matrix(name).unwrap()] {
        let mut rows = vec![f32::NAN; values.len()];
        matrix.read_rows(0, &mut rows).unwrap();
        prop_assert!(rows.iter().zip(values).all(|(a, b)| a.to_bits() == b.to_bits()), "{name} as a matrix");
    }
    Ok(())
}

#[test]
fn matrices_keep_the_files_encoding() {
    let cases = [
        (GgmlType::F32, Encoding::F32),
        (GgmlType::F16, Encoding::F16),
        (GgmlType::Q8_0, Encoding::Q8),
        (GgmlType::Q5_0, Encoding::Q5),
        (GgmlType::Q4_0, Encoding::Q4),
    ];
    for (kind, encoding) in cases {
        let model = tiny::open(&Shape { kind, ..Shape::default() }.writer().to_bytes()).unwrap();
        assert_eq!(model.matrix("blk.0.ffn_up.weight").unwrap().encoding(), encoding);
        assert_eq!(model.matrix("blk.0.ffn_norm.weight").unwrap().encoding(), Encoding::F32);
    }
}

/// The file's own pages serve where they can, and the last tensor, which has no slack after it, is copied.
#[test]
fn f16_is_borrowed_from_the_file() {
    let model = tiny::open(&Shape { kind: GgmlType::F16, ..Shape::default() }.writer().to_bytes()).unwrap();
    assert!(model.matrix("token_embd.weight").unwrap().is_mapped());
    assert!(!model.matrix("output.weight").unwrap().is_mapped());
}

#[test]
fn rows_outside_a_tensor_are_refused() {
    let model = tiny::open(&Shape::default().writer().to_bytes()).unwrap();
    let mut row = vec![0.0; 64];
    assert!(model.read_rows("token_embd.weight", 39, &mut row).is_some());
    assert!(model.read_rows("token_embd.weight", 40, &mut row).is_none());
    assert!(model.read_rows("token_embd.weight", usize::MAX, &mut row).is_none());
    assert!(model.read_rows("token_embd.weight", 0, &mut row[..63]).is_none());
    assert!(model.read_rows("nothing", 0, &mut row).is_none());
    assert!(model.matrix("nothing").is_none());
    assert!(model.exact_matrix("nothing").is_none());
}

#[test]
fn alignment_and_names_are_as_the_file_says() {
    let shape = Shape::default();
    let mut keys = shape.keys();
    keys.alignment(256);
    let writer = tiny::with(keys, &shape.weights());
    let model = tiny::open(&writer.to_bytes()).unwrap();
    assert_eq!(model.name(), "tiny");
    assert_eq!(model.metadata_str("general.architecture"), Some("llama"));
    assert_eq!(model.metadata_str("general.alignment"), None);
    assert_eq!(model.shard_paths().len(), 1);
    assert_eq!(model.read_all("output_norm.weight").unwrap(), shape.weights()[19].3);
}
