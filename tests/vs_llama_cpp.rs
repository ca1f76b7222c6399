//! `benches/vs_llama_cpp` with a llama-bench that only says what it would measure.
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use spm::Encoding;
use spm::synthetic::SyntheticModel;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/vs_llama_cpp");

/// Writes its arguments down and claims 100 tokens a second; as llama-quantize it copies.
const FAKE: &str = r#"#!/bin/sh
echo "$*$OMP_WAIT_POLICY$GOMP_SPINCOUNT" >> "$(dirname "$0")/calls"
case "$0" in
*llama-quantize) shift $(($# - 3)); exec cp "$1" "$2" ;;
esac
echo '[{"n_prompt": 4, "n_gen": 0, "avg_ts": 100.0, "model_size": 1048576, "build_number": 7},
{"n_prompt": 0, "n_gen": 2, "avg_ts": 100.0, "model_size": 1048576, "build_number": 7}]'
"#;

struct Setting {
    folder: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        common::write_spm(&folder.path().join("ours.spm"), &SyntheticModel::tiny(1), Encoding::SparseQ8);
        fs::write(folder.path().join("peer.gguf"), b"GGUF").unwrap();
        for name in ["llama-bench", "llama-quantize"] {
            let path = folder.path().join(name);
            fs::write(&path, FAKE).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Setting { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the script in the folder with both programs given.
    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new("python3");
        // Must not reach the engines.
        command.env("OMP_WAIT_POLICY", "passive").env("GOMP_SPINCOUNT", "0");
        command.arg(Path::new(SCRIPT)).args(args).arg("--llama").arg(self.folder.path());
        command.current_dir(self.folder.path()).output().unwrap()
    }

    fn compare(&self, more: &[&str]) -> Output {
        let args = ["ours.spm", "peer.gguf", "--spm", common::SPM, "-p", "4", "-n", "2", "-t", "1"];
        self.run(&[&args[..], more].concat())
    }

    fn calls(&self) -> Vec<String> {
        fs::read_to_string(self.path("calls")).unwrap().lines().map(str::to_owned).collect()
    }
}

#[test]
fn engines_take_turns_and_are_compared_test_by_test() {
    let setting = Setting::new();
    let done = setting.compare(&["--rounds", "3"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    assert_eq!(setting.calls(), vec!["-m peer.gguf -p 4 -n 2 -t 1 -r 1 -o json"; 3]);
    assert!(text.contains("ours: ours.spm,") && text.contains("peer: peer.gguf, 1.0 MiB, llama.cpp build 7"), "{text}");
    assert!(text.contains("too few to quote"), "{text}");
    for test in ["pp4", "tg2"] {
        let line = text.lines().find(|l| l.starts_with(&format!("| {test} |"))).unwrap();
        let cells: Vec<f64> = line.split('|').filter_map(|c| c.trim().parse().ok()).collect();
        let [ours, peer, ratio, lowest, highest, _best] = cells[..] else { panic!("{line}") };
        assert_eq!(peer, 100.0);
        assert!((ratio - ours / peer).abs() < 0.01 && lowest <= ratio && ratio <= highest, "{line}");
    }
}

#[test]
fn records_say_what_was_measured_and_where_nothing_is() {
    let setting = Setting::new();
    let done = setting.compare(&["--rounds", "7", "--record", "record.md"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = fs::read_to_string(setting.path("record.md")).unwrap();
    for expected in ["# ours.spm against peer.gguf", "Commit: ", "vs_llama_cpp ours.spm peer.gguf", "rustc ", "| tg2 |"]
    {
        assert!(text.contains(expected), "no {expected} in {text}");
    }
    assert!(!text.contains(&*setting.folder.path().to_string_lossy()), "{text}");
}

#[test]
fn peers_are_made_once() {
    let setting = Setting::new();
    for _ in 0..2 {
        let done = setting.run(&["peers", "peer.gguf", "made", "--types", "Q4_0,F16", "--pure"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(String::from_utf8_lossy(&done.stdout), "made/peer.pure-Q4_0.gguf\nmade/peer.pure-F16.gguf\n");
    }
    assert_eq!(setting.calls()[0], "--allow-requantize --pure peer.gguf made/peer.pure-Q4_0.gguf.unfinished Q4_0");
    assert_eq!(setting.calls().len(), 2);
    assert_eq!(fs::read(setting.path("made/peer.pure-F16.gguf")).unwrap(), b"GGUF");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let setting = Setting::new();
    for (args, said) in [
        (&["missing.spm", "peer.gguf"][..], "missing.spm: no such file"),
        (&["ours.spm", "peer.gguf", "--rounds", "0"], "0: expected a whole number"),
        (&["ours.spm", "peer.gguf", "--rounds", "2", "--record", "r.md"], "at least 7 rounds"),
        (&["ours.spm", "peer.gguf", "-p", "0", "-n", "0"], "nothing to measure"),
        (&["peer.gguf", "peer.gguf"], "ended with 3"),
    ] {
        let done = setting.run(&[args, &["--spm", common::SPM]].concat());
        let message = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && message.contains(said), "{args:?}: {message}");
    }
    // A build that may use what it must not is told by its settings.
    fs::create_dir(setting.path("bin")).unwrap();
    fs::rename(setting.path("llama-bench"), setting.path("bin/llama-bench")).unwrap();
    fs::write(setting.path("CMakeCache.txt"), "GGML_NATIVE:BOOL=ON\n").unwrap();
    let message = setting.compare(&["--no-avx512"]).stderr;
    assert!(String::from_utf8_lossy(&message).contains("may use AVX-512"));
}
