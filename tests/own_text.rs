//! `sparse-prune --calib self:python`: calibrated on text that the model wrote itself. And on conversations, its own or others'.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use spm::synthetic::{SyntheticModel, padded_vocabulary};
use spm::{Checkpoint, Encoding, SparseModel};

const TEMPLATE: &str = "{% for m in messages %}[{{ m['role'] }}: {{ m['content'] }}]{% endfor %}\
                        {% if add_generation_prompt %}[assistant: {% endif %}";

/// A folder with a dense model.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        common::write_spm(&folder.path("dense.spm"), &SyntheticModel::tiny(3), Encoding::F32);
        folder
    }

    /// The same, of a model that answers.
    fn with_template() -> Self {
        let folder = Self::new();
        let mut vocabulary = padded_vocabulary(384);
        vocabulary.chat_template = Some(TEMPLATE.into());
        let config = SyntheticModel::tiny(3).config().clone();
        let model = SyntheticModel::with_vocabulary(config, vocabulary, 3);
        fs::remove_file(folder.path("dense.spm")).unwrap();
        common::write_spm(&folder.path("dense.spm"), &model, Encoding::F32);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Prunes the model to `out`; exit code and standard error.
    fn prune(&self, out: &str, more: &[&str]) -> (i32, String) {
        let (dense, out) = (self.path("dense.spm"), self.path(out));
        fs::create_dir_all(out.parent().unwrap()).unwrap();
        let args = [dense.to_str().unwrap(), "-o", out.to_str().unwrap(), "--method", "wanda", "--nsamples", "32"];
        let done = common::run(common::SPARSE_PRUNE, &[&args[..], &["--seqlen", "64"], more].concat());
        (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
    }
}

/// The files of text in `folder`, by name.
fn texts(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut texts: Vec<_> = all.filter(|p| p.extension().is_some_and(|e| e == "jsonl")).collect();
    texts.sort();
    texts
}

#[test]
fn what_a_model_writes_depends_on_the_seed_alone() {
    let folder = Folder::new();
    let own = ["--calib", "self:python"];
    for (out, more) in [("a/m.spm", ["-t", "1"]), ("b/m.spm", ["-t", "3"]), ("c/m.spm", ["--seed", "1"])] {
        let (code, said) = folder.prune(out, &[own, more].concat());
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("writing python to calibrate on: "), "{said}");
    }
    let text = |name: &str| fs::read(&texts(&folder.path(name))[0]).unwrap();
    assert!(text("a") == text("b") && text("a") != text("c"));
    assert!(fs::read(folder.path("a/m.spm")).unwrap() == fs::read(folder.path("b/m.spm")).unwrap());

    // The file and its report say who wrote the text; every text begins as a program does.
    let model = SparseModel::open(&folder.path("a/m.spm")).unwrap();
    let said = &model.provenance().calibration;
    assert!(said.starts_with("32 windows of 64 tokens, python, "), "{said}");
    assert!(said.ends_with(", python written by the model itself at temperature 0.8, top-k 100, top-p 0.95"), "{said}");
    let report: Value = serde_json::from_slice(&fs::read(folder.path("a/m.report.json")).unwrap()).unwrap();
    assert_eq!(report["calibration"]["description"], said.as_str());
    let lines: Vec<Value> = text("a").split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
    assert!(lines.len() > 1 && lines.iter().all(|line| line["text"].as_str().is_some_and(|text| text.len() > 48)));
}

#[test]
fn a_stopped_run_goes_on_with_the_text_that_is_there() {
    let folder = Folder::new();
    folder.prune("whole/m.spm", &["--calib", "self:java"]);
    let whole = &texts(&folder.path("whole"))[0];
    let (name, bytes) = (whole.file_name().unwrap(), fs::read(whole).unwrap());
    for (out, left) in [("some", bytes.len() / 2), ("none", 0), ("all", bytes.len())] {
        fs::create_dir_all(folder.path(out)).unwrap();
        fs::write(folder.path(out).join(name), &bytes[..left]).unwrap();
        let (code, said) = folder.prune(&format!("{out}/m.spm"), &["--calib", "self:java"]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(said.contains("writing java"), left < bytes.len(), "{said}");
        assert!(fs::read(folder.path(out).join(name)).unwrap() == bytes, "{out}");
    }
    // What is in the file is not what the model wrote.
    fs::write(folder.path("all").join(name), "{\"text\": \"x\"}\n").unwrap();
    let (code, said) = folder.prune("all/n.spm", &["--calib", "self:java"]);
    assert!(code == 1 && said.contains("line 1: not a text that the model wrote; delete the file"), "{code} {said}");
}

#[test]
fn own_text_can_be_part_of_a_mix() {
    let folder = Folder::new();
    let prose = folder.path("prose.txt");
    fs::write(&prose, "Some words that somebody wrote. ".repeat(60)).unwrap();
    let prose = format!("text={}", prose.display());
    let (code, said) = folder.prune(
        "mix/m.spm",
        &["--mix", "code:0.5,text:0.5", "--calib", "code=self:java", "--calib", "code=self:go", "--calib", &prose],
    );
    assert_eq!(code, 0, "{said}");
    assert_eq!(texts(&folder.path("mix")).len(), 2);
    let said = SparseModel::open(&folder.path("mix/m.spm")).unwrap().provenance().calibration.clone();
    assert!(said.contains("mix of code 0.500 + text 0.500") && said.contains(", java written by the model"), "{said}");
    assert!(said.contains(", go written by the model"), "{said}");
}

#[test]
fn nothing_is_written_for_nothing() {
    let folder = Folder::new();
    let own = ["--calib", "self:python"];
    let (code, _) = folder.prune("dry/m.spm", &[&own[..], &["--dry-run"]].concat());
    assert_eq!(code, 0);
    let (code, said) = folder.prune("dry/m.spm", &[&own[..], &["--dry-run", "--vocab-shortlist", "200"]].concat());
    assert!(code == 2 && said.contains("nothing is written in a dry run"), "{said}");
    fs::write(folder.path("dry/there.spm"), "mine").unwrap();
    let (code, said) = folder.prune("dry/there.spm", &own);
    assert!(code == 1 && said.contains("there.spm: exists already"), "{code} {said}");
    let (code, said) = folder.prune("dry/m.spm", &["--calib", "self:perl"]);
    assert!(code == 2 && said.contains("--calib self:perl: domain `perl`: expected `code`, `text`"), "{said}");
    let (code, said) = folder.prune("dry/m.spm", &[own, own].concat());
    assert!(code == 2 && said.contains("--calib self:python: given twice"), "{said}");
    assert!(texts(&folder.path("dry")).is_empty());
}

#[test]
fn a_model_that_answers_can_write_conversations() {
    let folder = Folder::with_template();
    let own = ["--calib", "self:python:chat"];
    let (code, said) = folder.prune("a/m.spm", &own);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("writing python:chat to calibrate on: "), "{said}");
    let file = &texts(&folder.path("a"))[0];
    assert!(file.file_name().unwrap().to_str().unwrap().starts_with("self-python-chat-"), "{file:?}");
    let written = fs::read_to_string(file).unwrap();
    for line in written.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let [asked, answered] = &line["messages"].as_array().unwrap()[..] else { panic!("{line}") };
        assert_eq!((asked["role"].as_str(), answered["role"].as_str()), (Some("user"), Some("assistant")));
        assert!(asked["content"].as_str().is_some_and(|text| text.len() > 10), "{line}");
    }
    let said = SparseModel::open(&folder.path("a/m.spm")).unwrap().provenance().calibration.clone();
    assert!(said.contains(", python:chat written by the model itself at temperature 0.8"), "{said}");

    // Given as a file, they make the same windows.
    let (code, _) = folder.prune("b/m.spm", &["--calib", file.to_str().unwrap(), "--lang", "python"]);
    assert_eq!(code, 0);
    let again = SparseModel::open(&folder.path("b/m.spm")).unwrap().provenance().calibration.clone();
    assert!(said.starts_with(&again), "{again}");
    // So are they text to judge by.
    let args =
        ["eval", folder.0.path().join("a/m.spm").to_str().unwrap(), "--text", file.to_str().unwrap(), "-c", "64"]
            .map(str::to_owned);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert!(common::run(common::SPM, &args).status.success());

    let (code, said) = Folder::new().prune("m.spm", &own);
    assert!(code == 2 && said.contains("self:python:chat: this model has no chat template; use self:python"), "{said}");
    let (code, said) = folder.prune("c/m.spm", &["--calib", "self:perl:chat"]);
    assert!(code == 2 && said.contains("--calib self:perl:chat: domain `perl`"), "{said}");
}

#[test]
fn conversations_are_calibration_text_by_the_models_template() {
    let line = |user: &str| format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"{user}\"}}]}}\n");
    let chats: String = (0..200).map(|i| line(&format!("What is {i} and {i}?"))).collect();
    let text: String = (0..200).map(|i| format!("{{\"text\": \"[user: What is {i} and {i}?]\"}}\n")).collect();
    let folder = Folder::with_template();
    for (name, lines) in [("chats", &chats), ("text", &text)] {
        fs::write(folder.path(&format!("{name}.jsonl")), lines).unwrap();
        let file = folder.path(&format!("{name}.jsonl"));
        let (code, said) = folder.prune(&format!("{name}/m.spm"), &["--calib", file.to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
    }
    let of = |name: &str| SparseModel::open(&folder.path(name)).unwrap().provenance().calibration.clone();
    assert_eq!(of("chats/m.spm"), of("text/m.spm"), "the template's text, whose tokens have the same hash");

    let without = Folder::new();
    fs::write(without.path("chats.jsonl"), &chats).unwrap();
    let chats = without.path("chats.jsonl");
    let (code, said) = without.prune("m.spm", &["--calib", chats.to_str().unwrap()]);
    assert!(code != 0 && said.contains("this model has no chat template; give `text`"), "{code} {said}");
}
