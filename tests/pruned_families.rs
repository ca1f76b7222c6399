//! Folders of all families are pruned by half, written, opened and run: the logits are those of the dense model with the
//! same weights masked.
//!
//! `SPM_TEST_DATA` names a folder with `models/hf-tiny-random/` and `models/stories260K/`; `pruner/tests/families.rs` does the
//! same with synthetic models of what families differ in.
#![allow(clippy::print_stderr)] // What was compared is worth reading.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gguf::GgufModel;
use pruner::{Pattern, PruneOptions, ValueType, prune};
use runtime::{EngineOptions, KvType, Model, Precision, Session, SessionOptions};
use spm::synthetic::Reweighted;
use spm::{Checkpoint, Matrix, Provenance, SparseModel, SpmWriter, WriterOptions};

fn windows(vocab_size: usize) -> Vec<Vec<u32>> {
    let id = |w: u32, t: u32| (t * t * 7 + t * 31 + w * 13) % vocab_size as u32;
    (0..8).map(|w| (0..48).map(|t| id(w, t)).collect()).collect()
}

fn logits(model: &dyn Checkpoint) -> Vec<f32> {
    let ids = &windows(model.config().vocab_size)[3][..40];
    let options = EngineOptions { threads: 1, precision: Precision::Exact, ..EngineOptions::default() };
    let model = Arc::new(Model::load(model, &options).unwrap());
    let mut session = Session::new(&model, &SessionOptions { context: 64, kv: KvType::F32, batch: 16 }).unwrap();
    let mut all = Vec::new();
    session.feed_each(ids, |_, logits| all.extend_from_slice(logits)).unwrap();
    all
}

/// Prunes and writes; then weights as they were pruned, not pruned where the source has them so, run densely.
fn check(name: &str, source: &dyn Checkpoint, path: &Path) {
    let pattern = Pattern::Unstructured { sparsity: 0.5 };
    let options = PruneOptions { pattern, values: ValueType::F16, threads: 2, ..PruneOptions::default() };
    let options = options.with_method("wanda").unwrap();
    let mut tensors: Vec<(String, Matrix)> = Vec::new();
    let windows = windows(source.config().vocab_size);
    let report = prune(source, &options, &windows, &mut tensors, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!((report.sparsity() - 0.5).abs() < 1e-6, "{name}: {}", report.sparsity());

    let mut writer = SpmWriter::create(path, &WriterOptions::default()).unwrap();
    tensors.iter().for_each(|(name, matrix)| writer.push(name, matrix).unwrap());
    writer.finish(source.config(), source.vocabulary(), &Provenance::default()).unwrap();
    let pruned = SparseModel::open(path).unwrap();
    pruned.verify().unwrap();
    assert_eq!((pruned.config(), pruned.vocabulary()), (source.config(), source.vocabulary()), "{name}");

    let weights = tensors.iter().map(|(name, m)| (name.clone(), expanded(m))).collect();
    let masked = Reweighted { source, weights };
    check_masks(name, source, &masked);
    let (found, expected) = (logits(&pruned), logits(&masked));
    assert!(found == expected, "{name}: {} logits", found.len());
    assert!(found.iter().all(|l| l.is_finite()) && found != logits(source), "{name}");
    eprintln!("{name}: {} tensors, sparsity {:.4}, {} logits the same", tensors.len(), report.sparsity(), found.len());
}

/// What is kept of a matrix is what the model had there, in halves.
fn check_masks(name: &str, source: &dyn Checkpoint, masked: &Reweighted) {
    for info in source.tensors().iter().filter(|info| info.name.starts_with("blk.") && info.rows > 1) {
        let dense = source.read_all(&info.name).unwrap();
        for (was, is) in dense.iter().zip(&masked.weights[&info.name]) {
            let rounding = was.abs() * 1e-3 + 1e-6;
            assert!(*is == 0.0 || (was - is).abs() <= rounding, "{name} {}: {was} became {is}", info.name);
        }
    }
}

fn expanded(m: &Matrix) -> Vec<f32> {
    let mut all = vec![0.0; m.rows() * m.cols()];
    m.read_rows(0, &mut all).unwrap();
    all
}

fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("SPM_TEST_DATA").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("SPM_TEST_DATA is not set: NOTHING COMPARED");
    }
    folder
}

#[test]
fn folders_of_all_families_are_pruned_and_run() {
    let Some(data) = data() else { return };
    let out = tempfile::tempdir().unwrap();
    let mut families = 0;
    for entry in fs::read_dir(data.join("models/hf-tiny-random")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        check(&name, &hf::open(&folder).unwrap(), &out.path().join(format!("{name}.spm")));
        families += 1;
    }
    assert!(families >= 11, "{families} families");
}

#[test]
fn the_same_model_as_folder_and_as_gguf_is_pruned_alike() {
    let Some(data) = data() else { return };
    let out = tempfile::tempdir().unwrap();
    let stories = data.join("models/stories260K");
    check("stories260K, folder", &hf::open(&stories.join("hf")).unwrap(), &out.path().join("hf.spm"));
    for kind in ["F32", "F16", "Q8_0"] {
        let model = GgufModel::open(&stories.join(format!("stories260K.{kind}.gguf"))).unwrap();
        check(&format!("stories260K, {kind}"), &model, &out.path().join(format!("{kind}.spm")));
    }
}
