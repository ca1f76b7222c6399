//! Importance matrices as llama.cpp lays them out, and what can be wrong with them.

use std::path::{Path, PathBuf};

use gguf::{GgmlType, GgufWriter, Imatrix, InputSums};

const WEIGHT: &str = "blk.0.attn_q.weight";

struct Folder(tempfile::TempDir);

impl Folder {
    fn write(&self, kind: Option<&str>, tensors: &[(&str, &[usize], GgmlType, &[f32])]) -> PathBuf {
        let mut writer = GgufWriter::new();
        kind.map(|kind| writer.text("general.type", kind));
        writer.u32("imatrix.chunk_count", 3).u32("imatrix.chunk_size", 512);
        for (name, dims, kind, values) in tensors {
            writer.tensor(name, dims, *kind, values).unwrap();
        }
        let path = self.0.path().join("imatrix.gguf");
        writer.write(&path).unwrap();
        path
    }

    fn inputs(&self, sums: (&[usize], GgmlType, &[f32]), counts: (&[usize], &[f32])) -> Result<InputSums, String> {
        let path = self.write(
            Some("imatrix"),
            &[
                ("blk.0.attn_q.weight.in_sum2", sums.0, sums.1, sums.2),
                ("blk.0.attn_q.weight.counts", counts.0, GgmlType::F32, counts.1),
            ],
        );
        Imatrix::open(&path).unwrap().inputs_of(WEIGHT, 4).map_err(|e| e.to_string())
    }
}

#[test]
fn sums_and_counts_are_those_of_the_file() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let sums = [1.5, 0.0, 1e30, 4.0];
    let found = folder.inputs((&[4, 1], GgmlType::F32, &sums), (&[1, 1], &[1536.0])).unwrap();
    assert_eq!(found, InputSums { squares: sums.map(f64::from).to_vec(), tokens: 1536 });
    let imatrix = Imatrix::open(&folder.0.path().join("imatrix.gguf")).unwrap();
    assert_eq!((imatrix.chunk_count(), imatrix.chunk_size()), (Some(3), Some(512)));
}

#[test]
fn every_fault_is_refused_by_name() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let good = [1.0; 4];
    let sums = |values: [f32; 4]| folder.inputs((&[4], GgmlType::F32, &values), (&[1], &[9.0]));
    for (found, expected) in [
        (sums([1.0, f32::NAN, 1.0, 1.0]), "in_sum2`: is NaN at column 1, expected a sum of squares"),
        (sums([1.0, 1.0, f32::INFINITY, 1.0]), "in_sum2`: is inf at column 2"),
        (sums([1.0, 1.0, 1.0, -0.5]), "in_sum2`: is -0.5 at column 3"),
        (folder.inputs((&[2, 2], GgmlType::F32, &good), (&[1], &[9.0])), "in_sum2`: is 2x2, expected 1x4"),
        (folder.inputs((&[4], GgmlType::F16, &good), (&[1], &[9.0])), "in_sum2`: is stored as F16, expected F32"),
        (folder.inputs((&[4], GgmlType::F32, &good), (&[2], &[9.0, 9.0])), "counts`: is 1x2, expected 1x1"),
        (folder.inputs((&[4], GgmlType::F32, &good), (&[1], &[0.0])), "counts`: is 0, expected 1 token or more"),
        (folder.inputs((&[4], GgmlType::F32, &good), (&[1], &[-3.0])), "counts`: is -3, expected 1 token"),
        (folder.inputs((&[4], GgmlType::F32, &good), (&[1], &[f32::NAN])), "counts`: is NaN, expected 1 token"),
    ] {
        let message = found.unwrap_err();
        assert!(message.contains(expected) && message.contains("imatrix.gguf"), "{message}");
    }
    let path = folder.write(Some("imatrix"), &[("blk.0.attn_q.weight.in_sum2", &[4], GgmlType::F32, &good)]);
    let message = Imatrix::open(&path).unwrap().inputs_of(WEIGHT, 4).unwrap_err().to_string();
    assert!(message.contains("tensor `blk.0.attn_q.weight.counts`: is missing"), "{message}");
    let message = Imatrix::open(&path).unwrap().inputs_of("blk.7.attn_q.weight", 4).unwrap_err().to_string();
    assert!(message.contains("tensor `blk.7.attn_q.weight.in_sum2`: is missing"), "{message}");
}

#[test]
fn other_files_are_refused() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let message = |path: &Path| Imatrix::open(path).unwrap_err().to_string();
    assert!(message(&folder.write(Some("model"), &[])).contains("key `general.type`: is `model`, expected `imatrix`"));
    assert!(message(&folder.write(None, &[])).contains("key `general.type`: is missing"));
    // As llama.cpp wrote it before: entries, then for each the length of its name and the name.
    let old = [&210i32.to_le_bytes()[..], &21i32.to_le_bytes(), b"blk.0.ffn_down.weight", &[0; 40]].concat();
    let path = folder.0.path().join("imatrix.dat");
    std::fs::write(&path, old).unwrap();
    let found = message(&path);
    assert!(found.contains("llama.cpp's old binary format") && found.contains("llama-imatrix"), "{found}");
}
