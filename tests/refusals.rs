//! Models that cannot be run are refused by a sentence that names the file and says what to do.

mod common;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use spm::synthetic::{SyntheticModel, padded_vocabulary};
use spm::{Config, Encoding};

/// A tokenizer of the letters.
fn tokenizer(pre: &Value) -> Value {
    let vocab: serde_json::Map<String, Value> = ('!'..='~').zip(0..).map(|(c, id)| (c.into(), json!(id))).collect();
    json!({"added_tokens": [], "pre_tokenizer": pre, "model": {"type": "BPE", "vocab": vocab, "merges": []}})
}

fn folder(pre: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    common::hf_folder::folder(folder.path(), &tokenizer(pre), &json!({}));
    folder
}

fn byte_level() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})
}

/// Both programs end with 3, print nothing, and say what is expected.
fn check(model: &Path, expected: &[&str]) {
    let model = model.to_str().unwrap();
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out.spm");
    let prune = [model, "-o", out.to_str().unwrap(), "--method", "magnitude"];
    for (program, args) in [(common::SPARSE_RUN, &[model, "a", "-n", "1"][..]), (common::SPARSE_PRUNE, &prune)] {
        let done = common::run(program, args);
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(3), "{program} {model}: {said}");
        assert!(done.stdout.is_empty() && !out.exists(), "{program} {model}");
        assert!(said.lines().count() == 1 && expected.iter().all(|text| said.contains(text)), "{expected:?}: {said}");
    }
}

#[test]
fn unknown_kinds_are_named() {
    let unknown = folder(&byte_level());
    let config = fs::read_to_string(unknown.path().join("config.json")).unwrap();
    for (kind, expected) in [
        ("mamba", &["config.json", "model type `mamba` is recurrent"][..]),
        ("frobnicator", &["config.json", "`frobnicator` is not known; known are llama"]),
    ] {
        fs::write(unknown.path().join("config.json"), config.replace("llama", kind)).unwrap();
        check(unknown.path(), expected);
    }
    let pre = folder(&json!({"type": "BertPreTokenizer"}));
    check(pre.path(), &["tokenizer.json", "BertPreTokenizer", "not known; convert the model to GGUF"]);
}

#[test]
fn what_is_missing_or_cut_is_named() {
    let whole = folder(&byte_level());
    let file = whole.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    check(whole.path(), &["model.safetensors", "download it again"]);

    fs::rename(&file, whole.path().join("model-00001-of-00002.safetensors")).unwrap();
    fs::write(whole.path().join("model-00001-of-00002.safetensors"), &bytes).unwrap();
    let map = json!({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}});
    fs::write(whole.path().join("model.safetensors.index.json"), map.to_string()).unwrap();
    check(whole.path(), &["model-00002-of-00002.safetensors", "is missing", "model.safetensors.index.json names it"]);
}

#[test]
fn an_unknown_pre_tokenizer_is_named_with_the_known_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.spm");
    let mut vocabulary = padded_vocabulary(300);
    vocabulary.pre = "gpt-9".into();
    let model = SyntheticModel::with_vocabulary(Config::new(2, 64, 160, 4, 2), vocabulary, 3);
    common::write_spm(&path, &model, Encoding::F16);
    let done = common::run(common::SPARSE_RUN, &[path.to_str().unwrap(), "a"]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(3), "{said}");
    for text in ["model.spm", "pre-tokenizer `gpt-9` is unknown; known are default, gpt-2", "update this program"] {
        assert!(said.contains(text), "{text}: {said}");
    }
}
