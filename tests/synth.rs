//! `spm synth` as a program: what it writes can be opened, checked and run by all the others.

mod common;

use gguf::GgufModel;
use serde_json::Value;
use spm::{Checkpoint, SparseModel};

fn synth(path: &std::path::Path, more: &[&str]) {
    let args = ["synth", "--like", "smollm2-135m", "--layers", "1", "-o", path.to_str().unwrap()];
    common::output_of(common::SPM, &[&args[..], more].concat());
}

#[test]
fn sparse_models_verify_and_run() {
    let folder = tempfile::tempdir().unwrap();
    // Bits a weight of rows of 576 columns: mask or places, codes, scales, factors, and the longer stream of q4.
    for (i, (more, encoding, sparsity, bits)) in [
        (&["--sparsity", "0.7", "--values", "q4"][..], "sparse-q4", 0.7, 2.57),
        (&["--sparsity", "0.5", "--values", "q8"], "sparse-q8", 0.5, 5.31),
        (&["--pattern", "16:32", "--values", "q8"], "sparse-q8", 0.5, 5.31),
        (&["--pattern", "4:8", "--values", "q4"], "sparse-q4", 0.5, 3.31),
        (&["--pattern", "2:4", "--values", "q8", "--head", "q5"], "2:4-q8", 0.5, 5.31),
        (&["--pattern", "2:4", "--values", "q4"], "2:4-q4", 0.5, 3.31),
        (&["--pattern", "2:4", "--values", "f16", "--head", "q4"], "sparse-f16", 0.5, 9.0),
        (&["--sparsity", "0", "--values", "q8"], "q8", 0.0, 8.5),
        (&["--sparsity", "0", "--values", "q5"], "q5", 0.0, 5.5),
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.path().join(format!("{i}.spm"));
        synth(&path, more);
        let name = path.to_str().unwrap();
        assert!(common::output_of(common::SPM, &["verify", name]).ends_with(": ok\n"));
        let text = common::output_of(common::SPARSE_RUN, &[name, "def f", "-n", "2", "--temp", "0", "-c", "64"]);
        assert!(text.starts_with("def f"), "{text}");
        let table: Value = serde_json::from_str(&common::output_of(common::SPM, &["inspect", "--json", name])).unwrap();
        let up = table["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "blk.0.ffn_up.weight").unwrap();
        assert_eq!(up["encoding"], encoding);
        assert!((up["sparsity"].as_f64().unwrap() - sparsity).abs() < 1e-3, "{up}");
        assert!((up["bits_per_weight"].as_f64().unwrap() - bits).abs() < 0.03, "{up}");
    }
}

#[test]
fn sparse_nibbles_have_a_dense_twin_of_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q4.spm");
    synth(&path, &["--values", "q4"]);
    let model = SparseModel::open(&path).unwrap();
    let sparse = model.matrix("blk.0.ffn_up.weight").unwrap();
    let dense = sparse.to_dense().unwrap();
    // q4 has other levels.
    assert_eq!((sparse.encoding().name(), dense.encoding().name()), ("sparse-q4", "q8"));
    let (mut expected, mut found) = (vec![0.0; sparse.cols()], vec![0.0; sparse.cols()]);
    sparse.read_row(3, &mut expected);
    dense.read_row(3, &mut found);
    // Scales of rows are rounded to halves.
    assert!(found.iter().zip(&expected).all(|(f, e)| (f - e).abs() <= e.abs() / 2048.0));
}

#[test]
fn the_dense_file_has_the_same_weights_and_shape() {
    let folder = tempfile::tempdir().unwrap();
    let (sparse, dense) = (folder.path().join("f16.spm"), folder.path().join("f16.gguf"));
    synth(&sparse, &["--sparsity", "0", "--values", "f16", "--head", "f16", "--seed", "3"]);
    synth(&dense, &["--gguf", "F16", "--seed", "4"]);
    synth(&dense, &["--gguf", "F16", "--seed", "3", "--force"]);
    let (sparse, dense) = (SparseModel::open(&sparse).unwrap(), GgufModel::open(&dense).unwrap());
    assert_eq!(sparse.config(), dense.config());
    assert_eq!(sparse.vocabulary(), dense.vocabulary());
    for t in sparse.tensors() {
        assert_eq!(sparse.read_all(&t.name), dense.read_all(&t.name), "{}", t.name);
    }
}

#[test]
fn quantized_dense_files_have_the_types_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, head, expected) in [("Q8_0", "q4", "Q4_0"), ("Q4_0", "q5", "Q5_0"), ("F16", "q8", "Q8_0")] {
        let path = folder.path().join(format!("{kind}.gguf"));
        synth(&path, &["--gguf", kind, "--head", head]);
        let model = GgufModel::open(&path).unwrap();
        assert_eq!(model.tensor("blk.0.ffn_down.weight").unwrap().encoding, kind);
        assert_eq!(model.tensor("token_embd.weight").unwrap().encoding, expected);
        assert_eq!(model.tensor("output_norm.weight").unwrap().encoding, "F32");
        assert!(common::output_of(common::SPM, &["verify", path.to_str().unwrap()]).ends_with(": ok\n"));
    }
}

#[test]
fn senseless_arguments_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there.gguf");
    std::fs::write(&there, b"mine").unwrap();
    let there = there.to_str().unwrap();
    for (args, code, said) in [
        (&["--like", "gpt-5", "-o", there][..], 2, "known are smollm2-135m"),
        (&["--like", "llama-7b", "--sparsity", "1", "-o", there], 2, "sparsity"),
        (&["--like", "llama-7b", "--values", "q5", "-o", there], 2, "`q5`: expected `f16`, `q8` or `q4`"),
        (&["--like", "llama-7b", "--gguf", "Q4_K", "-o", there], 2, "expected Q8_0"),
        (&["--like", "llama-7b", "--gguf", "F16", "--values", "q4", "-o", there], 2, "cannot be used with"),
        (&["--like", "llama-7b", "--gguf", "F16", "-o", there], 1, "there.gguf: exists already"),
        (&["--like", "llama-7b", "--gguf", "F16", "--force", "-o", there], 1, "there.gguf: exists already"),
        (&["--like", "llama-7b", "--force", "-o", there], 1, "no sparse model"),
    ] {
        let done = common::run(common::SPM, &[&["synth"], args].concat());
        let message = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{args:?}: {message}");
        assert!(message.contains(said), "{message}");
    }
    assert_eq!(std::fs::read(there).unwrap(), b"mine");
}
