//! `sparse-prune` within a size of the file, a size of memory, and with a head of some tokens.

mod common;

use std::fs;
use std::path::Path;

use spm::synthetic::{SyntheticModel, padded_vocabulary};
use spm::{Checkpoint, Config, Encoding, SparseModel};

struct Folder(tempfile::TempDir);

impl Folder {
    /// With a dense model of 2000 tokens, `dense.spm`, and text.
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        let mut config = Config::new(2, 128, 352, 4, 2);
        config.tied_head = false;
        let model = SyntheticModel::with_vocabulary(config, padded_vocabulary(2000), 5);
        common::write_spm(&folder.0.path().join("dense.spm"), &model, Encoding::F16);
        let lines = (0..400).map(|i| format!("def f{i}(x):\n    return x * {} + {i}\n", i * 7919 % 1009));
        fs::write(folder.0.path().join("text.py"), lines.collect::<String>()).unwrap();
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Prunes the model to `out`; exit code, standard output and standard error.
    fn prune(&self, out: &str, more: &[&str]) -> (i32, String, String) {
        let (dense, text, out) = (self.path("dense.spm"), self.path("text.py"), self.path(out));
        let args = [&dense, "-o", &out, "--calib", &text, "--seqlen", "64", "--values", "q4", "-t", "2"];
        let more = if more.contains(&"--nsamples") { more.to_vec() } else { [more, &["--nsamples", "12"]].concat() };
        let done = common::run(common::SPARSE_PRUNE, &[&args[..], &more].concat());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
    }

    fn pruned(&self, out: &str, more: &[&str]) -> Vec<u8> {
        let (code, _, said) = self.prune(out, more);
        assert_eq!(code, 0, "{more:?}: {said}");
        fs::read(self.path(out)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The number before `MB` in the line of `key`.
fn megabytes(text: &str, key: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key} in {text}"));
    let number = line.split_whitespace().collect::<Vec<_>>().windows(2).find(|w| w[1].starts_with("MB")).unwrap()[0];
    number.parse().unwrap()
}

#[test]
fn a_file_of_a_size_is_measured_once_for_all_sizes() {
    let folder = Folder::new();
    let kept = folder.path("kept.json");
    let (code, plan, said) = folder.prune("out.spm", &["--size", "2MB", "--dry-run"]);
    assert_eq!(code, 0, "{said}");
    assert!(megabytes(&plan, "file") == 2.0 && plan.contains("2.0 MB at most"), "{plan}");
    assert_eq!(folder.names(), ["dense.spm", "text.py"]);

    let large = folder.pruned("large.spm", &["--size", "2MB", "--sensitivity", &kept, "--no-report-files"]);
    let measures = fs::read(&kept).unwrap();
    let small = folder.pruned("small.spm", &["--size", "1.2MB", "--sensitivity", &kept, "--no-report-files"]);
    assert!(small.len() < large.len() && small.len() <= 1_200_000 && large.len() <= 2_000_000);
    let shared_out = ["--profile", "auto", "--sparsity", "0.5", "--sensitivity", &kept, "--no-report-files", "--force"];
    folder.pruned("large.spm", &shared_out);
    assert!(fs::read(&kept).unwrap() == measures, "a sparsity to share out has its measures too");
    // Nothing is left where nobody asked to keep it.
    assert!(folder.pruned("same.spm", &["--size", "1.2MB", "--no-report-files"]) == small);
    assert_eq!(folder.names(), ["dense.spm", "kept.json", "large.spm", "same.spm", "small.spm", "text.py"]);

    let other = ["--size", "1.2MB", "--sensitivity", &kept, "--nsamples", "11", "--force"];
    let (code, _, said) = folder.prune("same.spm", &other);
    assert!(
        code == 2
            && said.contains("kept.json: was measured otherwise (calibration tokens, calibration windows differ)"),
        "{said}"
    );
    fs::write(&kept, "my notes").unwrap();
    let (code, _, said) = folder.prune("same.spm", &["--size", "1.2MB", "--sensitivity", &kept, "--force"]);
    assert!(code == 1 && said.contains("kept.json: holds no sensitivities"), "{said}");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "my notes");
    let (code, _, said) = folder.prune("same.spm", &["--size", "100KB", "--force", "--dry-run"]);
    assert!(code == 1 && said.contains("100000 bytes are too few: the smallest mix takes "), "{said}");
}

#[test]
fn memory_that_is_allowed_is_kept_to() {
    let folder = Folder::new();
    let (_, plan, _) = folder.prune("out.spm", &["--method", "admm", "--dry-run"]);
    let ample = megabytes(&plan, "memory");
    assert!(!plan.contains("states"), "{plan}");
    let less = format!("{:.1}MB", ample * 0.91);
    let (code, plan, said) = folder.prune("out.spm", &["--method", "admm", "--max-memory", &less, "--dry-run"]);
    assert_eq!(code, 0, "{said}");
    assert!(megabytes(&plan, "memory") <= ample * 0.91 && megabytes(&plan, "states") > 0.5, "{plan}");
    let expected = folder.pruned("ample.spm", &["--method", "admm"]);
    assert!(folder.pruned("less.spm", &["--method", "admm", "--max-memory", &less]) == expected);
    let (code, _, said) = folder.prune("out.spm", &["--method", "admm", "--max-memory", "1MB"]);
    assert!(code == 4 && said.contains("and 1000000 are allowed; allow more with --max-memory"), "{said}");
    for (windows, expected) in [
        (["--nsamples", "18446744073709551615"], "calibration windows `18446744073709551615`: expected at most"),
        (["--nsamples", "0"], "calibration windows `0`: expected 1 or more"),
    ] {
        let (code, _, said) = folder.prune("out.spm", &[&windows[..], &["--dry-run"]].concat());
        assert!(code == 2 && said.contains(expected), "{said}");
    }
    let (dense, out, text) = (folder.path("dense.spm"), folder.path("out.spm"), folder.path("text.py"));
    let longer = common::run(common::SPARSE_PRUNE, &[&dense, "-o", &out, "--calib", &text, "--seqlen", "100000"]);
    let said = String::from_utf8(longer.stderr).unwrap();
    assert!(said.contains("tokens a window `100000`: expected at most 2048, the context of the model"), "{said}");
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_head_has_rows_for_some_tokens() {
    let folder = Folder::new();
    let whole = folder.pruned("whole.spm", &["--method", "wanda"]);
    let (code, _, said) = folder.prune("plan.spm", &["--vocab-shortlist", "900", "--dry-run"]);
    assert!(code == 0 && said.contains("head: 900 of 2000 rows"), "{said}");
    let short = folder.pruned("short.spm", &["--method", "wanda", "--vocab-shortlist", "900"]);
    assert!(short.len() < whole.len());
    let model = SparseModel::open(Path::new(&folder.path("short.spm"))).unwrap();
    assert_eq!(model.tensor("output.weight").unwrap().rows, 900);
    assert!(model.provenance().shortlist.starts_with("900: 900 tokens, by "), "{}", model.provenance().shortlist);

    // A third, counted in more text too.
    let more = folder.path("more.py");
    fs::write(&more, "class A:\n    pass\n").unwrap();
    let auto = ["--method", "wanda", "--vocab-shortlist", "auto", "--vocab-text", &more];
    folder.pruned("auto.spm", &auto);
    let model = SparseModel::open(Path::new(&folder.path("auto.spm"))).unwrap();
    assert_eq!(model.tensor("output.weight").unwrap().rows, 666);
    assert!(model.provenance().shortlist.ends_with(" of 2 documents"), "{}", model.provenance().shortlist);

    let (short, text, dense) = (folder.path("short.spm"), folder.path("text.py"), folder.path("dense.spm"));
    let eval = ["eval", &short, "--text", &text, "-c", "64", "--windows", "4", "--reference", &dense, "--json"];
    let found: serde_json::Value = serde_json::from_str(&common::output_of(common::SPM, &eval)).unwrap();
    let number = |key: &str| found[key].as_f64().unwrap_or_else(|| panic!("{key} of {found}"));
    // It cannot judge others: some tokens it cannot write.
    let turned = ["eval", &dense, "--text", &text, "-c", "64", "--windows", "4", "--reference", &short];
    let done = common::run(common::SPM, &turned);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.code() == Some(2) && said.contains("it can write 900 of 2000 tokens"), "{said}");
    let turned = [
        "compare",
        &short,
        &dense,
        "--text",
        &text,
        "-c",
        "64",
        "--windows",
        "4",
        "--n-prompt",
        "0",
        "--n-gen",
        "0",
        "--json",
    ];
    let compared: serde_json::Value = serde_json::from_str(&common::output_of(common::SPM, &turned)).unwrap();
    let text = &compared["texts"][0];
    assert!(text["one_vocabulary"] == true && text["b"]["perplexity"].is_number(), "{text}");
    assert!(text["b"].get("ln_perplexity_ratio").is_none(), "{text}");
    assert!(number("kl_mean") >= 0.0 && (0.0..1.0).contains(&number("unlisted_mean")) && number("perplexity") > 1.0);

    let (code, _, said) = folder.prune("more.spm", &["--vocab-shortlist", "2001"]);
    assert!(code == 2 && said.contains("at most 2000"), "{said}");
    let (code, _, said) = folder.prune("more.spm", &["--vocab-shortlist", "some"]);
    assert!(code == 2 && said.contains("some"), "{said}");
}
