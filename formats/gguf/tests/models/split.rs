//! Models in several files.

use std::path::{Path, PathBuf};

use gguf::GgufWriter;
use spm::Checkpoint;

use crate::tiny::{self, Shape, Weights};

/// Writes the default model in three files and returns the folder and the first of them.
fn three_files() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let weights = Shape::default().weights();
    let (a, b) = (weights.len() / 3, weights.len() / 3 * 2);
    write(folder.path(), 0, &weights[..a]);
    write(folder.path(), 1, &weights[a..b]);
    write(folder.path(), 2, &weights[b..]);
    let first = part(folder.path(), 0);
    (folder, first)
}

fn part(folder: &Path, i: u16) -> PathBuf {
    folder.join(format!("m-{:05}-of-00003.gguf", i + 1))
}

fn write(folder: &Path, i: u16, weights: &[Weights]) {
    let mut keys = if i == 0 { Shape::default().keys() } else { GgufWriter::new() };
    keys.u16("split.no", i).u16("split.count", 3).i32("split.tensors.count", Shape::default().weights().len() as i32);
    tiny::with(keys, weights).write(&part(folder, i)).unwrap();
}

fn refusal(path: &Path) -> String {
    gguf::open(path).expect_err("refused").to_string()
}

#[test]
fn the_parts_are_one_model() {
    let (folder, first) = three_files();
    let model = gguf::open(&first).unwrap();
    assert_eq!(model.shard_paths(), [0, 1, 2].map(|i| part(folder.path(), i)));
    for (name, _, _, values) in Shape::default().weights() {
        assert_eq!(model.read_all(&name).unwrap(), values, "{name}");
    }
}

#[test]
fn another_part_names_the_first() {
    let (folder, first) = three_files();
    let message = refusal(&part(folder.path(), 1));
    assert!(message.contains(&format!("open {}", first.display())), "{message}");
}

#[test]
fn a_missing_part_is_named() {
    let (folder, first) = three_files();
    std::fs::remove_file(part(folder.path(), 2)).unwrap();
    let message = refusal(&first);
    assert!(message.contains("m-00003-of-00003.gguf: is missing: it is part 3 of the 3"), "{message}");
}

#[test]
fn a_part_of_another_model_is_refused() {
    let (folder, first) = three_files();
    std::fs::copy(part(folder.path(), 2), part(folder.path(), 1)).unwrap();
    let message = refusal(&first);
    assert!(message.contains("m-00002-of-00003.gguf: key `split.no`: is 2, expected 1"), "{message}");
    Shape::default().writer().write(&part(folder.path(), 1)).unwrap();
    assert!(refusal(&first).contains("key `split.no`: is missing, expected 1"));
}

#[test]
fn wrong_totals_and_repeated_tensors_are_refused() {
    let (folder, first) = three_files();
    let weights = Shape::default().weights();
    write(folder.path(), 2, &weights[..1]);
    assert!(refusal(&first).contains("`split.tensors.count`: is 21, but the files hold 15 tensors"));
    write(folder.path(), 2, &weights[..7]);
    assert!(refusal(&first).contains("`token_embd.weight`: is in an earlier file too"));
}
