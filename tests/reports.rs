//! `sparse-prune` as a program: where its statistics come from, and what it reports.

mod common;

use std::fs;
use std::path::Path;

use gguf::{GgmlType, GgufWriter};
use serde_json::Value;
use spm::synthetic::SyntheticModel;
use spm::{Checkpoint, Encoding, SparseModel};

struct Folder(tempfile::TempDir);

impl Folder {
    /// With a dense model, `dense.spm`, and a little project of two files of code, `project`.
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        common::write_spm(&folder.0.path().join("dense.spm"), &SyntheticModel::tiny(3), Encoding::F32);
        let vendored = folder.0.path().join("project/vendor");
        fs::create_dir_all(&vendored).unwrap();
        for (name, text) in
            [("project/a.py", "def a():\n    return 1\n"), ("project/b.py", "def b():\n    return a()\n")]
        {
            fs::write(folder.0.path().join(name), text.repeat(40)).unwrap();
        }
        fs::write(vendored.join("c.py"), "vendored").unwrap();
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Prunes the model to `out.spm`; exit code and standard error.
    fn prune(&self, more: &[&str]) -> (i32, String) {
        let (dense, out) = (self.path("dense.spm"), self.path("out.spm"));
        let done = common::run(common::SPARSE_PRUNE, &[&[dense.as_str(), "-o", &out][..], more].concat());
        (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
    }

    fn report(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path("out.report.json")).unwrap()).unwrap()
    }
}

#[test]
fn a_report_says_what_is_in_the_file() {
    let folder = Folder::new();
    let project = folder.path("project");
    let windows = ["--nsamples", "10", "--seqlen", "32"];
    let (code, said) = folder.prune(&[&["--calib", &project, "--method", "admm"][..], &windows].concat());
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("calibrated on 320 tokens from ") && said.contains("1 vendored folders"), "{said}");
    assert!(said.contains("warning: 320 calibration tokens for the 64 features of attn_in"), "{said}");

    let (report, model) = (folder.report(), SparseModel::open(Path::new(&folder.path("out.spm"))).unwrap());
    assert_eq!(report["source"]["sha256"], model.provenance().source_sha256.as_str());
    assert_eq!(report["calibration"]["sha256"], model.provenance().calibration_sha256.as_str());
    assert_eq!(report["calibration"]["passed_over"]["vendored folders"], 1);
    assert_eq!(report["judged_by"], "held_out");
    let totals = &report["totals"];
    assert_eq!(totals["file_bytes"], fs::metadata(folder.path("out.spm")).unwrap().len());
    let bytes_of = |name: &str| model.tensor(name).map_or(0, |t| t.bytes);
    assert_eq!(totals["embedding_bytes"], bytes_of("token_embd.weight"));
    assert_eq!(totals["head_bytes"], bytes_of("output.weight"));
    let matrices = report["matrices"].as_array().unwrap();
    assert_eq!(matrices.len(), 14);
    for m in matrices {
        let stored = model.tensor(m["name"].as_str().unwrap()).unwrap();
        assert_eq!((&m["kept"], &m["bytes"]), (&Value::from(stored.kept), &Value::from(stored.bytes)), "{m}");
        assert_eq!(m["encoding"], stored.encoding.as_str());
        assert!((0.0..1.0).contains(&m["relative_error"].as_f64().unwrap()), "{m}");
    }
    assert!(report["warnings"].as_array().unwrap().iter().any(|w| w["kind"] == "few_tokens"));
    let text = fs::read_to_string(folder.path("out.report.md")).unwrap();
    assert!(text.contains("pruned by admm (unstructured)") && text.contains("calibrated on 320 tokens"), "{text}");
}

#[test]
fn nothing_of_the_users_is_replaced() {
    let folder = Folder::new();
    let magnitude = ["--method", "magnitude"];
    let forced = ["--method", "magnitude", "--force"];
    fs::write(folder.path("out.report.md"), "my notes").unwrap();
    let (code, said) = folder.prune(&forced);
    assert!(code == 1 && said.contains("out.report.md: exists already; it is no report of sparse-prune"), "{said}");
    assert!(!Path::new(&folder.path("out.spm")).exists(), "checked before any work");
    let (code, said) = folder.prune(&["--method", "magnitude", "--no-report-files"]);
    assert_eq!(code, 0, "{said}");
    assert!(!Path::new(&folder.path("out.report.json")).exists());
    assert_eq!(fs::read_to_string(folder.path("out.report.md")).unwrap(), "my notes");

    fs::remove_file(folder.path("out.report.md")).unwrap();
    fs::remove_file(folder.path("out.spm")).unwrap();
    assert_eq!(folder.prune(&magnitude).0, 0);
    fs::remove_file(folder.path("out.spm")).unwrap();
    let (code, said) = folder.prune(&magnitude);
    assert!(code == 1 && said.contains("out.report.json: exists already; replace it with --force"), "{said}");
    assert_eq!(folder.prune(&[&forced[..], &["--sparsity", "0.25"]].concat()).0, 0);
    assert_eq!(folder.report()["options"]["sparsity"], 0.25);
}

#[test]
fn an_imatrix_takes_the_place_of_text() {
    let folder = Folder::new();
    let model = SyntheticModel::tiny(3);
    let mut writer = GgufWriter::new();
    writer.text("general.type", "imatrix").u32("imatrix.chunk_count", 2).u32("imatrix.chunk_size", 8);
    for t in model.tensors().iter().filter(|t| t.name.starts_with("blk.") && t.rows > 1) {
        let sums: Vec<f32> = (0..t.cols).map(|j| ((j * 29 + 5) % 97) as f32 + 0.5).collect();
        writer.tensor(&format!("{}.in_sum2", t.name), &[t.cols, 1], GgmlType::F32, &sums).unwrap();
        writer.tensor(&format!("{}.counts", t.name), &[1, 1], GgmlType::F32, &[16.0]).unwrap();
    }
    let imatrix = folder.path("imatrix.gguf");
    writer.write(Path::new(&imatrix)).unwrap();
    let (code, said) = folder.prune(&["--imatrix", &imatrix]);
    assert_eq!(code, 0, "{said}");
    let (report, pruned) = (folder.report(), SparseModel::open(Path::new(&folder.path("out.spm"))).unwrap());
    assert_eq!((&report["calibration"]["tokens"], &report["judged_by"]), (&Value::from(16), &Value::from("norms")));
    let sha256 = report["calibration"]["sha256"].as_str().unwrap();
    let provenance = pruned.provenance();
    assert_eq!(provenance.calibration, format!("imatrix of 2 chunks of 8 tokens, sha256 {sha256}"));
    assert_eq!(provenance.calibration_sha256, sha256);

    let (code, said) = folder.prune(&["--imatrix", &imatrix, "--method", "admm", "--force"]);
    assert!(code == 2 && said.contains("--method admm needs calibration text, an imatrix has only norms"), "{said}");
    let (code, said) = folder.prune(&["--imatrix", &folder.path("dense.spm"), "--force"]);
    assert!(code == 3 && said.contains("dense.spm"), "{said}");
}

#[test]
fn domains_and_their_text_belong_together() {
    let folder = Folder::new();
    let project = folder.path("project");
    fs::write(folder.path("notes.txt"), "notes ".repeat(400)).unwrap();
    let (python, text) = (format!("python={project}"), format!("text={}", folder.path("notes.txt")));
    let mix = ["--mix", "python:3,text:1", "--nsamples", "8", "--seqlen", "32", "--calib", &python];
    let (code, said) = folder.prune(&mix);
    assert!(code == 2 && said.contains("needs text for `text`: give --calib text=FILE"), "{said}");
    let (code, said) = folder.prune(&[&mix[..], &["--calib", &text]].concat());
    assert_eq!(code, 0, "{said}");
    let report = folder.report();
    let windows: Vec<&Value> = report["calibration"]["mix"].as_array().unwrap().iter().map(|p| &p["windows"]).collect();
    assert_eq!(windows, [6, 2]);
    let pruned = SparseModel::open(Path::new(&folder.path("out.spm"))).unwrap();
    assert!(pruned.provenance().calibration.contains("mix of python 0.750 + text 0.250"));
}
