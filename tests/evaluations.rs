//! `spm eval` and `spm compare` as programs.

mod common;

use std::fs;
use std::path::Path;

use serde_json::Value;
use spm::synthetic::SyntheticModel;
use spm::{Checkpoint, Encoding};

struct Folder(tempfile::TempDir);

impl Folder {
    /// A dense model, two coarser ones in its image, and text of two languages.
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        for (name, seed, encoding) in [
            ("dense", 3, Encoding::F32),
            ("python", 3, Encoding::Q4),
            ("java", 4, Encoding::Q8),
            ("seed", 3, Encoding::Q8),
        ] {
            common::write_spm(Path::new(&folder.path(&format!("{name}.spm"))), &SyntheticModel::tiny(seed), encoding);
        }
        folder.lines("a.jsonl", &|i| format!("def f{i}(x):  # {i}\n    return 'a' + x\n"));
        folder.lines("b.jsonl", &|i| format!("int f{i}() {{ return {i}; /* b */ }}\n"));
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn lines(&self, name: &str, text: &dyn Fn(usize) -> String) {
        let line = |i: usize| format!("{}\n", serde_json::json!({"text": text(i)}));
        fs::write(self.path(name), (0..12).map(line).collect::<String>()).unwrap();
    }

    fn spm(&self, command: &str, models: &[&str], more: &[&str]) -> String {
        let models: Vec<String> = models.iter().map(|name| self.path(&format!("{name}.spm"))).collect();
        let models: Vec<&str> = models.iter().map(String::as_str).collect();
        common::output_of(common::SPM, &[&[command], &models[..], more, &["-c", "64", "-t", "1"]].concat())
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_reference_with_other_tokens_is_refused() {
    let folder = Folder::new();
    let dense = SyntheticModel::tiny(3);
    let mut vocabulary = dense.vocabulary().unwrap().clone();
    vocabulary.tokens.swap(70, 71);
    let other = SyntheticModel::with_vocabulary(dense.config().clone(), vocabulary, 3);
    common::write_spm(Path::new(&folder.path("other.spm")), &other, Encoding::F32);
    let (python, text, other) = (folder.path("python.spm"), folder.path("a.jsonl"), folder.path("other.spm"));
    let done = common::run(common::SPM, &["eval", &python, "--text", &text, "-c", "64", "--reference", &other]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("other.spm: other tokens (263) than the model's (263)"), "{said}");
}

#[test]
fn one_model_on_one_text() {
    let folder = Folder::new();
    let (text, dense) = (folder.path("a.jsonl"), folder.path("dense.spm"));
    let args = ["--text", &text, "--reference", &dense];
    let found = json(&folder.spm("eval", &["python"], &[&args[..], &["--json"]].concat()));
    // What others read by these names.
    for key in ["windows", "context", "tokens", "unsplit_tokens", "bytes", "unlisted_mean"] {
        assert!(found[key].is_number(), "{key}");
    }
    let estimates =
        ["perplexity", "perplexity_unsplit", "bits_per_byte", "top1", "kl_mean", "kl_p99", "top1_agreement"];
    for key in estimates.iter().chain(&["ln_perplexity_ratio", "accuracy"]) {
        let (value, interval) = (found[key].as_f64().unwrap(), &found["intervals"][key]);
        let (low, high) = (interval[0].as_f64().unwrap(), interval[1].as_f64().unwrap());
        assert!(low <= value && value <= high, "{key}: {value} in {interval}");
    }
    assert_eq!(found["accuracy_by_kind"], Value::Object(Default::default()), "no language is known");
    let ratio = found["ln_perplexity_ratio"].as_f64().unwrap();
    let alone = json(&folder.spm("eval", &["dense"], &["--text", &text, "--json", "--exact"]));
    let expected = (found["perplexity"].as_f64().unwrap() / alone["perplexity"].as_f64().unwrap()).ln();
    assert!((ratio - expected).abs() < 1e-9, "{ratio} and {expected}");

    let text = folder.spm("eval", &["python"], &[&args[..], &["--lang", "python"]].concat());
    for line in
        ["perplexity ", "bits per byte ", "  keywords ", "  literals ", "ln ratio ", "KL p99 ", "in brackets: 95 %"]
    {
        assert!(text.contains(&format!("\n{line}")), "{line}: {text}");
    }
}

#[test]
fn several_models_on_several_texts() {
    let folder = Folder::new();
    let texts = [format!("python={}", folder.path("a.jsonl")), format!("java={}", folder.path("b.jsonl"))];
    let seed = format!("python={}", folder.path("seed.spm"));
    let dense = folder.path("dense.spm");
    let args = ["--reseed", &seed, "--reference", &dense, "--text", &texts[0], &texts[1]];
    let models = ["python", "java"];
    let found = json(&folder.spm("eval", &models, &[&args[..], &["--json"]].concat()));
    let cells = found["cells"].as_array().unwrap();
    let names: Vec<(&str, &str)> =
        cells.iter().map(|c| (c["text"].as_str().unwrap(), c["model"].as_str().unwrap())).collect();
    let expected = ["python", "java", "python (reseed 1)"];
    assert_eq!(names, [expected.map(|m| ("python", m)), expected.map(|m| ("java", m))].concat());
    let alone = json(&folder.spm("eval", &["java"], &["--reference", &dense, "--text", &texts[0], "--json"]));
    for (key, value) in alone.as_object().unwrap().iter().filter(|(key, _)| *key != "confidence" && *key != "resamples")
    {
        assert_eq!(value, &cells[1][key], "{key}: a cell is what the model has alone");
    }
    assert!(cells[0]["accuracy_by_kind"]["keywords"]["tokens"].as_u64().unwrap() > 0);
    let matching = &found["matching"];
    assert_eq!((&matching[0]["text"], &matching[0]["others"][0]["model"]), (&"python".into(), &"java".into()));
    assert_eq!(matching[0]["reseeds"][0]["model"], "python (reseed 1)");
    let nats = matching[0]["others"][0]["nats"].as_f64().unwrap();
    let ln = |cell: &Value| cell["perplexity"].as_f64().unwrap().ln();
    assert!((nats - (ln(&cells[1]) - ln(&cells[0]))).abs() < 1e-9);

    let text = folder.spm("eval", &models, &args);
    assert!(text.contains("\n| calibration | python | java |\n|---|---:|---:|\n| python | **"), "{text}");
    assert!(text.contains("\n### mean KL to the reference, nats\n") && text.contains("\n- **java**: nats"), "{text}");
    assert!(text.contains("### next-token accuracy in java, by what the token is"), "{text}");
}

#[test]
fn a_model_beside_itself_and_beside_another() {
    let folder = Folder::new();
    let (text, page) = (format!("python={}", folder.path("a.jsonl")), folder.path("c.html"));
    let quick = ["--n-prompt", "8", "--n-gen", "2", "-r", "2", "-n", "4"];
    let args = [&quick[..], &["--text", &text, "--prompt", "def f(", "--prompt", "<b>"]].concat();
    let same = json(&folder.spm("compare", &["dense", "dense"], &[&args[..], &["--json"]].concat()));
    let b = &same["texts"][0]["b"];
    assert!(b["kl_mean"].as_f64().unwrap() < 1e-9 && b["top1_agreement"] == 1.0, "{b}");
    assert_eq!((&same["file_bytes_ratio"], &same["continuations"][0]["prompt"]), (&Value::from(1.0), &"def f(".into()));
    assert!(same["continuations"].as_array().unwrap().iter().all(|c| c["a"] == c["b"]));
    assert_eq!(same["speed"][1]["a"]["samples_ns"].as_array().unwrap().len(), 2);

    let said = folder.spm("compare", &["dense", "java"], &[&args[..], &["--html", &page]].concat());
    for line in ["file ", "read for a token ", "reading 8, tokens/s ", "writing 2, tokens/s ", "python: KL to A, mean"]
    {
        assert!(said.contains(&format!("\n{line}")), "{line}: {said}");
    }
    let html = fs::read_to_string(&page).unwrap();
    common::check_page(&html);
    assert!(html.contains("&lt;b&gt;") && !html.contains("<b><b>"), "{html}");
    let bytes = |name: &str| fs::metadata(folder.path(name)).unwrap().len();
    let found = json(&folder.spm("compare", &["dense", "java"], &["--n-prompt", "0", "--n-gen", "0", "--json"]));
    assert_eq!(found["b"]["file_bytes"], bytes("java.spm"));
    assert_eq!((&found["speed"], &found["texts"]), (&Value::Array(vec![]), &Value::Array(vec![])));
}

#[test]
fn senseless_arguments_are_refused() {
    let folder = Folder::new();
    let [model, text, page] = ["dense.spm", "a.jsonl", "a.html"].map(|name| folder.path(name));
    fs::write(&page, "mine").unwrap();
    let gone = format!("{text}.gone");
    for (args, code, said) in [
        (vec!["eval", &model], 2, "there is no text to evaluate on; give --text FILE or FOLDER"),
        (vec!["eval", &model, &model, "--text", &text], 2, "are both called `dense`; tell them apart with --labels"),
        (vec!["eval", &model, "--text", &text, "-c", "64", "--unscored", "64"], 2, "leaves nothing of windows of 64"),
        (vec!["eval", &model, "--text", &gone], 1, "a.jsonl.gone"),
        (vec!["compare", &model, &model, "--html", &page], 1, "a.html: exists already"),
        (vec!["compare", &model, &model, "--prompts", &gone], 1, "a.jsonl.gone: cannot read"),
        (vec!["compare", &model, &text], 3, "a.jsonl"),
    ] {
        let done = common::run(common::SPM, &args);
        let found = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.code() == Some(code) && found.contains(said), "{args:?}: {found}");
    }
    assert_eq!(fs::read_to_string(&page).unwrap(), "mine");
}
