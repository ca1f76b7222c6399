//! `spm overlap` as a program: its numbers against masks counted weight by weight, and its report.

mod common;

use std::fs;
use std::path::Path;

use serde_json::Value;
use spm::synthetic::SyntheticModel;
use spm::{Checkpoint, Config, Encoding, SparseModel};

/// Sub-models of one random parent: of two calibration texts, and of the first with another seed.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        common::write_spm(Path::new(&folder.path("dense.spm")), &SyntheticModel::tiny(3), Encoding::F32);
        folder.lines("python.jsonl", &|i| format!("def f{i}(x{i}):\n    return [x{i}, {i}] # {}\n", i * 7 % 13));
        folder.lines("prose.jsonl", &|i| format!("Chapter {i}, in which WE meet Q{} again; and {i} more!\n", i * 3));
        for (name, text, seed) in [("python", "python", "0"), ("prose", "prose", "0"), ("again", "python", "1")] {
            folder.prune("dense.spm", name, text, seed);
        }
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn lines(&self, name: &str, text: &dyn Fn(usize) -> String) {
        let line = |i: usize| format!("{}\n", serde_json::json!({"text": text(i).repeat(3)}));
        fs::write(self.path(name), (0..60).map(line).collect::<String>()).unwrap();
    }

    fn prune(&self, from: &str, name: &str, text: &str, seed: &str) {
        let (from, out) = (self.path(from), self.path(&format!("{name}.spm")));
        let calib = self.path(&format!("{text}.jsonl"));
        let windows = ["--calib", &calib, "--seed", seed, "--nsamples", "4", "--seqlen", "64"];
        let how = [&from, "-o", &out, "--method", "wanda", "--no-report-files"];
        common::output_of(common::SPARSE_PRUNE, &[&how[..], &windows].concat());
    }

    fn overlap(&self, more: &[&str]) -> std::process::Output {
        let [python, prose, again] = ["python.spm", "prose.spm", "again.spm"].map(|name| self.path(name));
        let args = ["overlap", &python, &prose, "--reseed", &again];
        common::run(common::SPM, &[&args[..], more].concat())
    }
}

/// Weights that the wanted masks keep, of the matrices whose names end so.
fn count(models: &[&SparseModel], ending: &str, wanted: &dyn Fn(&[bool]) -> bool) -> (u64, u64) {
    let (mut all, mut found) = (0, 0);
    for t in models[0].tensors().iter().filter(|t| t.name.starts_with("blk.") && t.rows > 1 && t.name.ends_with(ending))
    {
        let masks: Vec<_> = models.iter().map(|m| m.matrix(&t.name).unwrap().mask()).collect();
        for (row, col) in (0..t.rows).flat_map(|row| (0..t.cols).map(move |col| (row, col))) {
            let kept: Vec<bool> = masks.iter().map(|mask| mask.is_kept(row, col)).collect();
            all += 1;
            found += u64::from(wanted(&kept));
        }
    }
    (all, found)
}

#[test]
fn numbers_are_those_of_the_masks() {
    let folder = Folder::new();
    let done = folder.overlap(&["--json"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let found: Value = serde_json::from_slice(&done.stdout).unwrap();
    let open = |name: &str| SparseModel::open(Path::new(&folder.path(name))).unwrap();
    let (python, prose, again) = (open("python.spm"), open("prose.spm"), open("again.spm"));
    let models = [&python, &prose, &again];

    let (weights, both) = count(&models, "", &|kept| kept[0] && kept[1]);
    let (_, either) = count(&models, "", &|kept| kept[0] || kept[1]);
    let (_, sum) = count(&models, "", &|kept| kept[0]);
    let between = &found["all"]["between"];
    let near = |value: &Value, expected: f64| {
        assert!((value.as_f64().unwrap() - expected).abs() < 1e-12, "{value} and {expected}");
    };
    assert_eq!(between["both"], both);
    near(&between["jaccard_distance"], 1.0 - both as f64 / either as f64);
    near(&between["overlap"], both as f64 / sum as f64);
    // Half of every row is kept by all.
    assert_eq!(sum * 2, weights);
    near(&between["random_overlap"], 0.5);
    near(&between["random_jaccard_distance"], 2.0 / 3.0);
    let (_, reseeded) = count(&models, "", &|kept| kept[0] && kept[2]);
    assert_eq!(found["all"]["reseeded"]["both"], reseeded);
    assert!(both < reseeded, "other text changes more than another seed: {both}, {reseeded}");

    let (_, up) = count(&models, "ffn_up.weight", &|kept| kept[0] && kept[1]);
    let projections = found["projections"].as_array().unwrap();
    let of = |name: &str| projections.iter().find(|p| p["projection"] == name).unwrap();
    assert_eq!((of("ffn_up")["between"]["both"].as_u64(), projections.len()), (Some(up), 7));
    let by_layer: u64 =
        found["layers"].as_array().unwrap().iter().map(|l| l["between"]["both"].as_u64().unwrap()).sum();
    assert_eq!(by_layer, both);

    let (_, alone) = count(&models, "", &|kept| kept[0] && !kept[1]);
    let (_, alone_again) = count(&models, "", &|kept| kept[0] && !kept[1] && kept[2]);
    let own = &found["alone"][0]["all"];
    assert_eq!((&found["alone"][0]["label"], own["kept"].as_u64()), (&Value::from("python"), Some(alone)));
    near(&own["kept_again_share"], alone_again as f64 / alone as f64);
    near(&own["random_share"], 0.25);
    let summary = found["summary"].to_string();
    let percent = |both: u64| format!("{:.1} %", 100.0 * (1.0 - both as f64 / sum as f64));
    assert!(summary.contains(&format!("Masks of python and prose differ in {}", percent(both))), "{summary}");
    let noise = format!("Two random calibrations of python differ in {}", percent(reseeded));
    assert!(
        summary.contains(&noise) && summary.contains("Random masks of the same densities differ in 50.0 %"),
        "{summary}"
    );
    let left_out: Vec<&str> =
        found["left_out"].as_array().unwrap().iter().map(|l| l["tensor"].as_str().unwrap()).collect();
    assert_eq!(left_out, ["token_embd.weight", "output.weight"]);
    assert_eq!(found["warnings"], Value::Array(Vec::new()));
}

#[test]
fn the_report_is_one_whole_file_and_replaces_nothing() {
    let folder = Folder::new();
    let [html, figures, pictures] = ["o.html", "figures", "pictures"].map(|name| folder.path(name));
    let labels = ["--labels", "a<b>,\"c\" & d"];
    let done = folder.overlap(&[&["--html", &html, "--svg", &figures, "--png", &pictures][..], &labels].concat());
    let (said, text) = (String::from_utf8(done.stderr).unwrap(), String::from_utf8(done.stdout).unwrap());
    assert!(done.status.success(), "{said}");
    assert!(text.contains("\nlayer 1 ") && text.contains("kept by one model alone"), "{text}");
    common::check_page(&fs::read_to_string(&html).unwrap());
    for name in ["ruler", "heatmap", "languages", "alone"] {
        let svg = fs::read_to_string(Path::new(&figures).join(name).with_extension("svg")).unwrap();
        common::check_page(&svg);
        check_picture(&fs::read(Path::new(&pictures).join(name).with_extension("png")).unwrap(), &svg);
    }
    for more in [["--html", &html], ["--svg", &figures], ["--png", &pictures]] {
        let done = folder.overlap(&more);
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.code() == Some(1) && said.contains("exists already"), "{said}");
    }
}

/// Twice the size of the figure, on white, with text in its ink, which no shape but the ruler's lines has.
fn check_picture(png: &[u8], svg: &str) {
    let figure = roxmltree::Document::parse(svg).unwrap();
    let side = |name| figure.root_element().attribute(name).unwrap().parse::<u32>().unwrap();
    let picture = resvg::tiny_skia::Pixmap::decode_png(png).unwrap();
    assert_eq!((picture.width(), picture.height()), (2 * side("width"), 2 * side("height")));
    let colours: Vec<_> = picture.pixels().iter().map(|p| (p.red(), p.green(), p.blue(), p.alpha())).collect();
    assert_eq!(colours[0], (255, 255, 255, 255));
    assert!(colours.contains(&(0x5b, 0x68, 0x75, 255)) || colours.contains(&(0x1b, 0x27, 0x33, 255)));
}

#[test]
fn what_cannot_be_compared_is_refused_by_name() {
    let folder = Folder::new();
    let other = SyntheticModel::new(Config::new(2, 64, 96, 4, 2), 3);
    common::write_spm(Path::new(&folder.path("parent.spm")), &other, Encoding::F32);
    folder.prune("parent.spm", "other", "python", "0");
    let refuse = |args: &[&str], code: i32, expected: &str| {
        let paths: Vec<String> = args.iter().map(|name| folder.path(name)).collect();
        let args: Vec<&str> = std::iter::once("overlap").chain(paths.iter().map(String::as_str)).collect();
        let done = common::run(common::SPM, &args);
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.code() == Some(code) && said.contains(expected), "{said}");
    };
    refuse(&["python.spm", "other.spm"], 2, "other.spm: tensor `blk.0.ffn_gate.weight` is 96x64, in ");
    refuse(&["python.spm", "other.spm"], 2, "python.spm it is 160x64; only sub-models of one parent");
    refuse(&["python.spm"], 2, "one model has nothing to differ from");
    refuse(&["dense.spm", "parent.spm"], 2, "no matrix is sparse in all of them");
    refuse(&["python.spm", "python.jsonl"], 3, "python.jsonl");
}

#[test]
fn matrices_that_are_dense_in_one_model_are_left_out() {
    let folder = Folder::new();
    let [python, dense] = ["python.spm", "dense.spm"].map(|name| folder.path(name));
    // Only attention is pruned in the other.
    let half = folder.path("half.spm");
    let sparse = SparseModel::open(Path::new(&python)).unwrap();
    let parent = SparseModel::open(Path::new(&dense)).unwrap();
    let mut writer = spm::SpmWriter::create(Path::new(&half), &spm::WriterOptions::default()).unwrap();
    for t in sparse.tensors() {
        let from: &SparseModel = if t.name.contains("attn_") { &sparse } else { &parent };
        writer.push(&t.name, &from.matrix(&t.name).unwrap()).unwrap();
    }
    writer.finish(sparse.config(), sparse.vocabulary(), sparse.provenance()).unwrap();
    let text = common::output_of(common::SPM, &["overlap", &python, &half, "--json"]);
    let found: Value = serde_json::from_str(&text).unwrap();
    let left_out = found["left_out"].as_array().unwrap();
    let reasons: Vec<&Value> =
        left_out.iter().filter(|l| l["reason"] == "dense in half").map(|l| &l["tensor"]).collect();
    assert_eq!((reasons.len(), left_out.len()), (6, 8), "three of a layer, the embedding and the head");
    let warning = "half was calibrated on the same tokens as python, so what they differ in is no effect of the text";
    assert_eq!(found["warnings"], Value::from(vec![warning]));
    assert_eq!(
        (found["matrices"].as_array().unwrap().len(), &found["all"]["between"]["overlap"]),
        (8, &Value::from(1.0))
    );
}
