//! `benches/matrix` on small models, and with an `spm` whose answers are known.
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;
use spm::Encoding;
use spm::synthetic::SyntheticModel;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/matrix");

/// Its own calibration is 0.1 better, seed 1 is 0.02 worse than seed 0; each call is written down.
const FAKE: &str = r#"#!/usr/bin/env python3
import json, math, os, sys
args = sys.argv
with open(os.path.join(os.path.dirname(args[0]), "calls"), "a") as calls:
    calls.write(" ".join(args[1:]) + "\n")
labels = args[args.index("--labels") + 1].split(",")
texts = [text.split("=")[0] for text in args[args.index("--text") + 1:args.index("--windows")]]
seed = 0.02 if ".seed1." in args[2] else 0.0
cells = []
for text in texts:
    for label in labels:
        perplexity = math.exp(1 + seed + (0.0 if label == text else 0.1))
        cells.append({"model": label, "text": text, "perplexity_unsplit": perplexity, "bits_per_byte": 1.0,
                      "accuracy_by_kind": {"keyword": {"tokens": 5, "accuracy": 0.5}}, "intervals": {}})
others = lambda text: [{"model": l, "nats": 0.1 + seed, "interval": [0.05, 0.15 + 2 * seed]} for l in labels if l != text]
print(json.dumps({
    "models": [{"label": label} for label in labels],
    "texts": [{"name": t, "language": t, "windows": 2, "context": 8, "documents": 12} for t in texts],
    "cells": cells, "matching": [{"text": t, "others": others(t)} for t in texts]}))
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    /// With a list of two languages and two seeds.
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        let mut files = Vec::new();
        for (seed, domain) in [(0, "python"), (0, "java"), (1, "python"), (1, "java")] {
            let name = if seed == 0 { format!("{domain}.spm") } else { format!("{domain}.seed1.spm") };
            common::write_spm(&folder.path(&name), &SyntheticModel::tiny(7 + seed), Encoding::SparseQ8);
            let file = folder.path(&name);
            files.push(json!({"domain": domain, "method": "wanda", "sparsity": 0.5, "seed": seed, "file": file}));
        }
        common::write_spm(&folder.path("dense.spm"), &SyntheticModel::tiny(7), Encoding::F32);
        let text = (0..30).map(|i| json!({"text": format!("x{i} = {i}\n").repeat(20)}).to_string() + "\n");
        fs::write(folder.path("text.jsonl"), text.collect::<String>()).unwrap();
        let dev = json!({"python": folder.path("text.jsonl"), "java": folder.path("text.jsonl")});
        let list = json!({"model": folder.path("dense.spm"), "dev": dev, "files": files});
        fs::write(folder.path("submodels.json"), list.to_string()).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, spm: &Path, more: &[&str]) -> Output {
        let mut command = Command::new("python3");
        command.arg(SCRIPT).arg(self.path("submodels.json")).args(more).env("SPM", spm);
        command.output().unwrap()
    }
}

#[test]
fn differences_and_noise_are_those_that_spm_says() {
    let folder = Folder::new();
    let fake = folder.path("spm");
    fs::write(&fake, FAKE).unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let done = folder.run(&fake, &["--no-reference"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8(done.stdout).unwrap();
    // Means over the two seeds, of the differences and of the ends of their intervals.
    assert!(said.contains("| python |  | +0.1100 (+0.0500 to +0.1700) | 0.0200, 0.0200 |"), "{said}");
    assert!(said.contains(
        "better than 1 of 1 others, clearly (by more than any other seed made, with an interval above 0) than 1"
    ));
    assert!(said.contains("Over all 2 pairs") && said.contains("+0.1100 nats a token"), "{said}");
    assert!(said.contains("| **2.7457 (2.7183 to 2.7732)** | 3.0345 (3.0042 to 3.0649) |"), "{said}");

    // What is there is not measured again, unless it was asked for in another way.
    let calls = || fs::read_to_string(folder.path("calls")).unwrap().lines().count();
    assert_eq!((calls(), String::from_utf8(folder.run(&fake, &["--no-reference"]).stdout).unwrap()), (2, said));
    folder.run(&fake, &["--no-reference", "--windows", "3"]);
    assert_eq!(calls(), 4);
    // Nor is a model that was made anew what it was.
    fs::remove_file(folder.path("java.seed1.spm")).unwrap();
    common::write_spm(&folder.path("java.seed1.spm"), &SyntheticModel::tiny(9), Encoding::SparseQ8);
    folder.run(&fake, &["--no-reference", "--windows", "3"]);
    assert_eq!(calls(), 5);
}

#[test]
fn small_models_are_judged_on_the_beginnings_of_documents() {
    let folder = Folder::new();
    let args = ["--windows", "2", "--ctx-size", "64", "--document-bytes", "20"];
    let done = folder.run(Path::new(common::SPM), &args);
    let (said, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{err}");
    assert!(said.starts_with("## wanda, 50% pruned\n") && said.contains("### mean KL to the dense model"), "{said}");
    // Of the two models of a seed one is the other's copy.
    assert!(said.contains("| python |  | +0.0000"), "{said}");
    let cut = fs::read_to_string(folder.path("matrix/python.20.jsonl")).unwrap();
    assert_eq!(cut.lines().next(), Some(r#"{"text": "x0 = 0\nx0 = 0\n"}"#));
}
