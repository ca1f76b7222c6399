//! What the whole-path tests share: the programs, and files to give them.
#![allow(dead_code)] // Each test is a program of its own and uses a part of this.

pub(crate) mod hf_folder;

use std::path::Path;
use std::process::{Command, Output};

use spm::Encoding;
use spm::synthetic::SyntheticModel;

pub(crate) const SPARSE_RUN: &str = env!("CARGO_BIN_EXE_sparse-run");
pub(crate) const SPARSE_PRUNE: &str = env!("CARGO_BIN_EXE_sparse-prune");
pub(crate) const SPM: &str = env!("CARGO_BIN_EXE_spm");

/// Runs a program to its end.
pub(crate) fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).stdin(std::process::Stdio::null()).output().unwrap()
}

/// Runs a program that must succeed; its standard output.
pub(crate) fn output_of(program: &str, args: &[&str]) -> String {
    let done = run(program, args);
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Writes `model` with every matrix in `encoding`.
pub(crate) fn write_spm(path: &Path, model: &SyntheticModel, encoding: Encoding) {
    model.write(path, encoding).unwrap();
}

/// An HTML page or SVG file must be well-formed and need nothing but itself.
pub(crate) fn check_page(text: &str) {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text, options).unwrap_or_else(|e| panic!("{e}: {text}"));
    for element in document.descendants().filter(|node| node.is_element()) {
        let name = element.tag_name().name();
        assert!(!["script", "link", "img", "iframe", "object", "use", "image"].contains(&name), "<{name}>");
        for attribute in element.attributes() {
            let (name, value) = (attribute.name(), attribute.value());
            assert!(!["src", "href", "srcset", "data"].contains(&name) && !value.contains("url("), "{name}={value}");
        }
        let text = element.text().unwrap_or_default();
        assert!(name != "style" || !(text.contains("url(") || text.contains("@import")), "{text}");
    }
}
