//! README.md read by someone else: a reader in Python that shares no code with this crate.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use spm::{Checkpoint, SparseModel};

#[test]
fn a_reader_written_from_the_specification_sees_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.spm");
    common::write(&path, &common::model());
    let [meta, vocabulary, head] = compare(&path);
    assert_eq!(head, "null");
    assert!(meta.contains(r#""prune.method": "magnitude""#) && meta.contains(r#""model.dim": 64"#), "{meta}");
    assert!(vocabulary.contains("<|end|>"), "{vocabulary}");
}

#[test]
fn padded_rows_are_read_alike() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.spm");
    common::write(&path, &common::padded_model());
    compare(&path);
}

#[test]
fn a_head_of_some_tokens_is_read_alike() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.spm");
    for tied_head in [false, true] {
        let model = common::shortlisted_model(tied_head);
        common::write(&path, &model);
        let [_, _, head] = compare(&path);
        let ids = model.config().shortlist.as_ref().unwrap().ids();
        assert_eq!(head, format!("{ids:?}"));
        fs::remove_file(&path).unwrap();
    }
}

/// Compares every tensor; the last three lines of the other reader.
fn compare(path: &Path) -> [String; 3] {
    let model = SparseModel::open(path).unwrap();
    model.verify().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_spm.py");
    let run = Command::new("python3").arg(script).arg(path).output().expect("python3 is needed for this test");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = String::from_utf8(run.stdout).unwrap();
    let mut lines = text.lines();

    for info in model.tensors() {
        let matrix = model.matrix(&info.name).unwrap();
        let weights: Vec<u8> =
            model.read_all(&info.name).unwrap().iter().flat_map(|w| (w + 0.0).to_le_bytes()).collect();
        let expected = format!(
            "{} {} {} {} {} {:08x}",
            info.name,
            info.rows,
            info.cols,
            matrix.encoding() as u16,
            matrix.kept(),
            crc32(&weights)
        );
        assert_eq!(lines.next(), Some(expected.as_str()), "{}", info.encoding);
    }
    let mut line = || lines.next().unwrap().to_owned();
    [line(), line(), line()]
}

/// The checksum of zip and of Python's zlib, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 })
    })
}
