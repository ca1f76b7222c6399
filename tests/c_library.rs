//! A C program linked with the static library says what `sparse-run` says.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use spm::Encoding;
use spm::synthetic::SyntheticModel;

/// The static library lies beside the programs.
fn library() -> PathBuf {
    let path = Path::new(common::SPARSE_RUN).with_file_name("libsparse_run.a");
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

#[test]
fn c_prints_the_same_greedy_text_and_the_same_errors() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("hello");
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = Command::new("gcc")
        .args(["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-I"])
        .arg(here.join("runtime/include"))
        .arg(here.join("tests/c/hello.c"))
        .arg(library())
        .args(["-lpthread", "-ldl", "-lm", "-o"])
        .arg(&program)
        .output()
        .expect("gcc is needed for this test");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));

    let model = folder.path().join("model.spm");
    common::write_spm(&model, &SyntheticModel::tiny(5), Encoding::SparseQ4);
    let model = model.to_str().unwrap();
    let hello = program.to_str().unwrap();
    let from_c = Command::new(hello).args([model, "def f", "24"]).output().unwrap();
    assert!(from_c.status.success(), "{}", String::from_utf8_lossy(&from_c.stderr));
    let from_program = common::output_of(common::SPARSE_RUN, &[model, "def f", "-n", "24", "--temp", "0"]);
    assert_eq!(String::from_utf8_lossy(&from_c.stdout), from_program);
    assert!(from_program.len() > "def f".len());

    let missing = Command::new(hello).args(["no-such-file.spm", "x", "1"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no-such-file.spm: cannot open"));
}
