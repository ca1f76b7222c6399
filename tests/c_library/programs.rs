//! The programs of tests/c: the same text as `sparse-run`, with every compiler; no errors in memory, nothing left.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::common;
use super::{ADDRESS_SANITIZER, CLANG, CPP, Compiler, GCC, expected, stdout_of, succeed, write_model};

/// Runs what each program is for, by `run`.
fn check_all(model: &str, folder: &Path, build: &dyn Fn(&str) -> PathBuf, run: &dyn Fn(&Path, &[&str]) -> String) {
    let hello = build("hello");
    assert_eq!(run(&hello, &[model, "def f", "24"]), expected(model, "def f", &["-n", "24"]));

    let whole = expected(model, "def f", &["-n", "24"]);
    let added = &whole["def f".len()..];
    let stop: String = added.chars().skip(6).take(2).collect();
    let before = &added[..added.find(&stop).unwrap()];
    let state = folder.join("state");
    let completed = run(&build("complete"), &[model, "def f", &stop, "24", state.to_str().unwrap()]);
    let (shown, rest) = completed.split_at(before.len());
    assert_eq!(shown, before);
    let (count, one_by_one) = rest.trim_start_matches('\n').split_once('\n').unwrap();
    let count: usize = count.parse().unwrap();
    assert!((4..=added.len()).contains(&count), "{count} bytes before it stopped");
    assert_eq!(one_by_one, added);

    let asked = "<|fim_prefix|>def f(<|fim_suffix|>): pass<|fim_middle|>";
    let between = expected(model, asked, &["-n", "12", "--special", "--no-display-prompt"]);
    assert_eq!(run(&build("infill"), &[model, "def f(", "): pass", "12"]), between);

    let texts = run(&build("threads"), &[model, "def f", "class A", "16"]);
    let (one, two) = (expected(model, "def f", &["-n", "16"]), expected(model, "class A", &["-n", "16"]));
    assert_eq!(texts, format!("{one}\n{two}\n"));

    let refused = run(&build("arguments"), &[model, folder.to_str().unwrap()]);
    assert_eq!(refused, "0 failures\n");
}

#[test]
fn programs_of_every_compiler_say_what_sparse_run_says() {
    let folder = tempfile::tempdir().unwrap();
    let model = write_model(folder.path());
    for compiler in [GCC, CLANG, CPP] {
        check_all(&model, folder.path(), &|program| compiler.build(program, folder.path()), &stdout_of);
    }
    let hello = folder.path().join("hello-gcc1");
    let missing = Command::new(hello).args(["no-such-file.spm", "x", "1"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no-such-file.spm: cannot open"));
}

#[test]
fn address_sanitizer_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = write_model(folder.path());
    let run = |program: &Path, args: &[&str]| {
        // What cannot be had is an error of the library's, not the sanitizer's.
        let options = "detect_leaks=1:allocator_may_return_null=1";
        let done = succeed(Command::new(program).args(args).env("ASAN_OPTIONS", options));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    check_all(&model, folder.path(), &|program| ADDRESS_SANITIZER.build(program, folder.path()), &run);
}

#[test]
fn valgrind_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = write_model(folder.path());
    let run = |program: &Path, args: &[&str]| {
        let mut valgrind = Command::new("valgrind");
        // What stays reachable is the list of kernels, which is made once.
        valgrind.args(["-q", "--error-exitcode=9", "--leak-check=full", "--fair-sched=try"]);
        valgrind.args(["--errors-for-leak-kinds=definite,indirect,possible"]);
        let done = succeed(valgrind.arg(program).args(args));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let build = |program: &str| Compiler { name: "gcc", flags: &["-std=c99", "-g"] }.build(program, folder.path());
    check_all(&model, folder.path(), &build, &run);
}

/// Every one of them, alone and with all that follow: an error and nothing left, or the same text.
#[test]
fn memory_that_is_refused_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let model = write_model(folder.path());
    let wrapped = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "free"];
    let flags: Vec<String> = wrapped.iter().map(|name| format!("-Wl,--wrap={name}")).collect();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.push("-std=c99");
    let program = Compiler { name: "gcc", flags: &flags }.build("refusals", folder.path());
    let said = stdout_of(&program, &[&model]);
    let (allocations, rest) = said.split_once(" and ").unwrap();
    assert!(allocations.parse::<u32>().unwrap() > 300, "{said}");
    assert!(rest.trim_end().ends_with(" errors, 0 failures"), "{said}");
}

#[test]
fn loading_and_freeing_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.spm");
    common::write_spm(&path, &spm::synthetic::SyntheticModel::tiny(5), spm::Encoding::SparseQ8);
    let said = stdout_of(&GCC.build("cycles", folder.path()), &[path.to_str().unwrap()]);
    let (grown, threads) = said.trim().split_once(" KiB, ").unwrap();
    let grown: i64 = grown.parse().unwrap();
    assert!(grown < 256, "grew by {grown} KiB in 1000 cycles");
    assert_eq!(threads, "1 threads");
}
