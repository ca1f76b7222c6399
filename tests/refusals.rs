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

/// A weight that is no number: nothing is made or measured with it.
#[test]
fn numbers_that_are_none_are_told() {
    let folder = folder(&byte_level());
    let file = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    // In the embedding, of every token.
    for place in bytes[header..].chunks_exact_mut(16).take(90) {
        place[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    }
    fs::write(&file, bytes).unwrap();
    let (model, out) = (folder.path().to_str().unwrap(), folder.path().join("out.spm"));
    let text = folder.path().join("text.txt");
    fs::write(&text, "abcdefgh".repeat(20)).unwrap();
    let items = folder.path().join("items.jsonl");
    let item = |answer: Value| json!({"question": "ab", "choices": ["c", "d"], "answer": answer}).to_string();
    fs::write(&items, item(json!(1))).unwrap();
    let problems = folder.path().join("problems.jsonl");
    fs::write(&problems, [item(json!("#### 1")), item(json!("#### 2"))].join("\n")).unwrap();
    let (out, text) = (out.to_str().unwrap(), text.to_str().unwrap());
    let (items, problems) = (items.to_str().unwrap(), problems.to_str().unwrap());
    for (program, args) in [
        (common::SPARSE_RUN, &[model, "ab", "-n", "2", "--no-display-prompt"][..]),
        (common::SPM, &["eval", model, "--text", text]),
        (common::SPM, &["logits", model, "--tokens", "1,2"]),
        (common::SPM, &["choice", model, "--items", items]),
        (common::SPM, &["exact", model, "--items", problems, "--shots", "0"]),
        (common::SPM, &["bench", model, "-p", "2", "-n", "2", "-r", "1", "--no-bandwidth"]),
        (common::SPM, &["compare", model, model, "--text", text]),
        (common::SPARSE_PRUNE, &[model, "-o", out, "--calib", text, "--method", "wanda", "--nsamples", "2"]),
        (common::SPARSE_PRUNE, &[model, "-o", out, "--calib", "self:python", "--method", "wanda", "--nsamples", "2"]),
    ] {
        let done = common::run(program, args);
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(3), "{args:?}: {said}");
        assert!(done.stdout.is_empty() && said.contains(model), "{args:?}: {said}");
        assert!(!said.contains("--resume"), "it would be the same again: {said}");
    }
    let left = |name: &str| folder.path().join(name).exists();
    assert!(!left("out.spm") && !left("out.spm.journal") && !left("out.report.json"));
}

#[test]
fn what_has_no_effect_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (dense, text, out) = (path("dense.spm"), path("text.py"), path("out.spm"));
    SyntheticModel::tiny(3).write(Path::new(&dense), Encoding::F16).unwrap();
    fs::write(&text, "x = 1\n".repeat(500)).unwrap();
    let prune = |source: &str, more: &[&str]| {
        let args = [source, "-o", &out, "--calib", &text, "--nsamples", "4", "--seqlen", "32", "--no-report-files"];
        let done = common::run(common::SPARSE_PRUNE, &[&args[..], more].concat());
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    for (more, expected) in [
        (&["--sensitivity", "kept.json"][..], "only --profile auto, --size and --speed measure"),
        (&["--size", "1MB", "--profile", "uniform"], "--size means --profile auto"),
        (&["--vocab-text", &text], "--vocab-text counts tokens for --vocab-shortlist"),
        (&["--sparsity", "1.5"], "--sparsity: sparsity `1.5`: expected"),
        (&["--threads", "-1"], "invalid value '-1' for '--threads"),
    ] {
        let (code, said) = prune(&dense, more);
        assert!(code == Some(2) && said.contains(expected), "{more:?}: {said}");
    }
    assert_eq!(prune(&dense, &["--method", "wanda"]).0, Some(0));
    let pruned = path("pruned.spm");
    fs::rename(&out, &pruned).unwrap();
    let (code, said) = prune(&pruned, &["--method", "wanda"]);
    assert!(code == Some(2) && said.contains("pruned.spm: 50.0 % of its weights are pruned already"), "{said}");
    assert!(!Path::new(&out).exists());
    // What was only stored otherwise is not pruned.
    assert_eq!(prune(&dense, &["--sparsity", "0", "--values", "q8"]).0, Some(0));
    fs::rename(&out, path("stored.spm")).unwrap();
    assert_eq!(prune(&path("stored.spm"), &["--method", "wanda"]).0, Some(0));

    let run = |args: &[&str]| {
        let done = common::run(common::SPARSE_RUN, &[&[&dense[..], "abc"], args].concat());
        (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, said, why) = run(&["-c", "2"]);
    assert!(code == Some(1) && said.is_empty() && why.contains("3 tokens do not fit in a context of 2"), "{said}{why}");
    let (code, _, why) = run(&["-c", "3000", "-n", "1"]);
    assert!(code == Some(0) && why.contains("-c 3000: the model reads 2048 tokens"), "{why}");
    let eval = ["eval", &dense, "--text", &text, "-c", "4096"];
    let done = common::run(common::SPM, &eval);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.code() == Some(2) && said.contains("-c 4096: the model reads 2048 tokens"), "{said}");
}
