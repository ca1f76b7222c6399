//! `sparse-run` fills in the middle of a text, with other files before it, and keeps keys and values as it is told.

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use runtime::{EngineOptions, KvType, Model, OtherFile, Session, SessionOptions, Surroundings, Tokenizer};
use spm::synthetic::{SyntheticModel, padded_vocabulary};
use spm::{Checkpoint, Config, Encoding, Infill, SparseModel, TokenType};

const MARKS: [&str; 5] = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"];

struct Folder(tempfile::TempDir);

impl Folder {
    /// With `coder.spm`, which has tokens for filling in, and `plain.spm`, which has not.
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        for (name, marks) in [("coder.spm", &MARKS[..]), ("plain.spm", &[])] {
            let mut vocabulary = padded_vocabulary(300);
            for mark in marks {
                vocabulary.tokens.push((*mark).to_owned());
                vocabulary.types.push(TokenType::Control);
            }
            vocabulary.infill = Infill::by_text(&vocabulary.tokens, |_| true);
            let model = SyntheticModel::with_vocabulary(Config::new(2, 64, 160, 4, 2), vocabulary, 8);
            common::write_spm(&folder.path(name), &model, Encoding::F16);
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Exit code, standard output and standard error.
    fn run(&self, model: &str, args: &[&str]) -> (i32, String, String) {
        let model = self.path(model);
        let first = [model.to_str().unwrap(), "-n", "6", "--temp", "0", "-t", "1", "--kernel", "portable"];
        let done = common::run(common::SPARSE_RUN, &[&first[..], args].concat());
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
    }

    /// What the library writes to the same prompt.
    fn written(&self, around: &Surroundings, kv: KvType) -> String {
        let file = SparseModel::open(&self.path("coder.spm")).unwrap();
        let tokenizer = Tokenizer::new(file.vocabulary().unwrap()).unwrap();
        let options = EngineOptions { threads: 1, kernel: Some("portable".into()), ..Default::default() };
        let model = Arc::new(Model::load(&file, &options).unwrap());
        let mut session = Session::new(&model, &SessionOptions { context: 400, kv, ..Default::default() }).unwrap();
        let mut next = tokenizer.encode_infill(around).unwrap();
        let mut ids = Vec::new();
        while ids.len() < 6 {
            let logits = session.feed(&next).unwrap();
            let best = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32;
            if tokenizer.is_end(best) {
                break;
            }
            ids.push(best);
            next = vec![best];
        }
        tokenizer.decode(&ids)
    }
}

#[test]
fn the_middle_is_written_between_what_is_around_it() {
    let folder = Folder::new();
    let (before, after) = ("def f(x):\n    ", "\n    return y\n");
    let expected = folder.written(&Surroundings { before, after: Some(after), ..Default::default() }, KvType::F16);
    let hole = ["--fim-prefix", before, "--fim-suffix", after];
    let (code, out, said) = folder.run("coder.spm", &hole);
    assert_eq!((code, out), (0, format!("{before}{expected}{after}")), "{said}");
    let (_, out, _) = folder.run("coder.spm", &[&hole[..], &["--no-display-prompt"]].concat());
    assert_eq!(out, expected);

    fs::write(folder.path("before.py"), before).unwrap();
    fs::write(folder.path("after.py"), after).unwrap();
    let files = [folder.path("before.py"), folder.path("after.py")].map(|path| path.to_str().unwrap().to_owned());
    let files = ["--fim-prefix-file", &files[0], "--fim-suffix-file", &files[1], "--no-display-prompt"];
    assert_eq!(folder.run("coder.spm", &files).1, expected);
}

#[test]
fn other_files_come_first() {
    let folder = Folder::new();
    let path = folder.path("other.py");
    let path = path.to_str().unwrap();
    fs::write(path, "x = 1\n").unwrap();
    let name = path.trim_start_matches('/').to_owned();
    let others = [OtherFile { name, text: "x = 1\n".into() }];
    let around = Surroundings { before: "y = ", after: None, file: "a.py", repository: "mine", others: &others };
    let expected = folder.written(&around, KvType::F16);
    let context = ["--repo-file", "a.py", "--repo-name", "mine", "--repo-context", path];
    let (code, out, said) = folder.run("coder.spm", &[&["y = "][..], &context[..]].concat());
    assert_eq!((code, out), (0, format!("y = {expected}")), "{said}");

    let around = Surroundings { after: Some("\n"), ..around };
    let hole = ["--fim-prefix", "y = ", "--fim-suffix", "\n", "--no-display-prompt"];
    assert_eq!(folder.run("coder.spm", &[&hole[..], &context[..]].concat()).1, folder.written(&around, KvType::F16));
}

#[test]
fn what_cannot_be_filled_in_is_said() {
    let folder = Folder::new();
    let (code, out, said) = folder.run("plain.spm", &["--fim-prefix", "a", "--fim-suffix", "b"]);
    assert_eq!((code, out.as_str()), (2, ""), "{said}");
    assert!(said.contains("no tokens for filling in"), "{said}");
    for (args, expected) in [
        (&["--fim-prefix", "a", "text"][..], "cannot be used with"),
        (&["--fim-prefix", "-", "--fim-suffix", "-"], "not both"),
        (&["a", "--repo-context", "."], "is a folder; --repo-context takes files"),
        (&["a", "--repo-context", "/none.py"], "/none.py: cannot read"),
        (&["a", "--kv", "q4"], "possible values: f16, f32, q8"),
    ] {
        let (code, out, said) = folder.run("coder.spm", args);
        assert!(code != 0 && out.is_empty() && said.contains(expected), "{args:?}: {code} {said}");
    }
}

#[test]
fn keys_and_values_are_kept_as_asked() {
    let folder = Folder::new();
    let prompt = "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n";
    let around = Surroundings { before: prompt, ..Default::default() };
    for (name, kv) in [("f16", KvType::F16), ("f32", KvType::F32), ("q8", KvType::Q8)] {
        let (code, out, said) = folder.run("coder.spm", &[prompt, "--kv", name, "--no-display-prompt", "--stats"]);
        assert_eq!((code, out), (0, folder.written(&around, kv)), "{name}: {said}");
        assert!(said.contains(&format!("of keys and values as {kv:?}")), "{said}");
    }
}
