//! The library in C programs: what they print, what they are refused, what they leave behind, and how they are linked.

#[path = "../common/mod.rs"]
mod common;

mod linking;
mod programs;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use spm::synthetic::{SyntheticModel, padded_vocabulary};
use spm::{Config, Encoding, TokenType};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The library, which cargo puts beside the programs, or where it builds it.
fn library(name: &str) -> PathBuf {
    let beside = Path::new(common::SPARSE_RUN).with_file_name(name);
    let built = beside.with_file_name("deps").join(name);
    let times = [built, beside].map(|path| (path.metadata().and_then(|meta| meta.modified()).ok(), path));
    match times.into_iter().max() {
        Some((Some(_), newest)) => newest,
        _ => panic!("{name} is missing: run `cargo build --workspace` first"),
    }
}

/// A compiler for tests/c, and how it is called.
struct Compiler<'f> {
    name: &'static str,
    flags: &'f [&'f str],
}

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-pedantic", "-Werror"];
const GCC: Compiler<'static> = Compiler { name: "gcc", flags: &["-std=c99"] };
const CLANG: Compiler<'static> = Compiler { name: "clang", flags: &["-std=c99"] };
const CPP: Compiler<'static> = Compiler { name: "g++", flags: &["-std=c++11", "-x", "c++"] };
const ADDRESS_SANITIZER: Compiler<'static> = Compiler { name: "gcc", flags: &["-std=c99", "-g", "-fsanitize=address"] };

impl Compiler<'_> {
    /// Builds tests/c/`program`.c, linked with the static library.
    fn build(&self, program: &str, folder: &Path) -> PathBuf {
        let built = folder.join(format!("{program}-{}{}", self.name, self.flags.len()));
        let mut command = Command::new(self.name);
        command.args(self.flags).args(WARNINGS).arg("-I").arg(root().join("runtime/include"));
        command.arg(root().join(format!("tests/c/{program}.c"))).args(["-x", "none"]).arg(library("libsparse_run.a"));
        command.args(["-lpthread", "-ldl", "-lm", "-o"]).arg(&built);
        succeed(&mut command);
        built
    }
}

/// Runs what must succeed.
fn succeed(command: &mut Command) -> Output {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; .ci/run installs what is needed"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{command:?}: {}\n{}\n{}", done.status, text(&done.stdout), text(&done.stderr));
    done
}

fn stdout_of(program: &Path, args: &[&str]) -> String {
    String::from_utf8_lossy(&succeed(Command::new(program).args(args)).stdout).into_owned()
}

/// A small model that can fill in, in `folder`.
fn write_model(folder: &Path) -> String {
    let mut vocabulary = padded_vocabulary(263);
    for text in ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"] {
        vocabulary.tokens.push(text.into());
        vocabulary.types.push(TokenType::Control);
    }
    let model = SyntheticModel::with_vocabulary(Config::new(2, 64, 160, 4, 2), vocabulary, 5);
    let path = folder.join("model.spm");
    common::write_spm(&path, &model, Encoding::SparseQ4);
    path.to_str().unwrap().to_owned()
}

/// What `sparse-run` says of the same.
fn expected(model: &str, prompt: &str, more: &[&str]) -> String {
    common::output_of(common::SPARSE_RUN, &[&[model, prompt, "--temp", "0"], more].concat())
}
