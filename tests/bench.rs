//! `spm bench` as a program: what its tables say of a model whose numbers are known.

mod common;

use serde_json::Value;
use spm::synthetic::SyntheticModel;
use spm::{Checkpoint, Encoding};

fn bench(model: &std::path::Path, more: &[&str]) -> String {
    let args = [&["bench", model.to_str().unwrap(), "-r", "2", "-p", "9", "-n", "3", "-t", "1"], more].concat();
    common::output_of(common::SPM, &args)
}

#[test]
fn a_model_and_its_dense_twin() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.spm");
    let model = SyntheticModel::tiny(1);
    for (encoding, dense) in [(Encoding::SparseQ8, "q8"), (Encoding::SparseF16, "f16"), (Encoding::F16, "f16")] {
        let _ = std::fs::remove_file(&path);
        common::write_spm(&path, &model, encoding);
        let rows: Value =
            serde_json::from_str(&bench(&path, &["-o", "json", "--dense", "--no-bandwidth", "--kernel", "portable"]))
                .unwrap();
        let rows = rows.as_array().unwrap();
        let column = |name: &str| rows.iter().map(|r| r[name].to_string()).collect::<Vec<_>>();
        assert_eq!(column("test"), ["\"pp9\"", "\"pp9\"", "\"tg3\"", "\"tg3\""]);
        assert_eq!(column("dense"), ["false", "true", "false", "true"]);
        assert_eq!(rows[0]["encoding"], encoding.name());
        assert_eq!(rows[1]["encoding"], dense);
        assert_eq!(rows[0]["kernel"], "portable");
        let params: usize = model.tensors().iter().map(|t| t.rows * t.cols).sum();
        assert_eq!(rows[0]["model_n_params"], params);
        assert!(rows.iter().all(|r| r["samples_ns"].as_array().unwrap().len() == 2));
        assert!(rows.iter().all(|r| r["avg_ts"].as_f64().unwrap() > 0.0 && r["share_of_bandwidth"].is_null()));
        // Everything is kept here, so the sparse matrices hold masks on top of the same values.
        let bytes = |row: &Value| row["bytes_per_token"].as_u64().unwrap();
        assert_eq!(bytes(&rows[2]) > bytes(&rows[3]), encoding.is_sparse());
    }
}

#[test]
fn tables_for_people_say_what_bandwidth_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.spm");
    common::write_spm(&path, &SyntheticModel::tiny(1), Encoding::SparseQ4);
    let text = bench(&path, &[]);
    assert!(
        text.starts_with("| model ") && text.contains("| tiny.spm |") && text.contains(" GB/s (1 threads)"),
        "{text}"
    );
}

#[test]
fn senseless_arguments_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.spm");
    common::write_spm(&path, &SyntheticModel::tiny(1), Encoding::Q8);
    let path = path.to_str().unwrap();
    for (args, said) in [
        (&["bench", path, "-p", "0", "-n", "0"][..], "nothing to measure"),
        (&["bench", path, "--kernel", "abacus", "--no-bandwidth"], "abacus"),
        (&["bench", path, "-r", "0"], "0 is not in"),
        (&["bench", path, "-t", "1,0"], "0 is not in"),
    ] {
        let done = common::run(common::SPM, args);
        assert_eq!(done.status.code(), Some(2), "{args:?}");
        let message = String::from_utf8_lossy(&done.stderr);
        assert!(message.contains(said), "{message}");
    }
}
