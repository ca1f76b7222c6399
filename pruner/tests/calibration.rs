//! From files and folders to windows.

use std::fs;
use std::path::{Path, PathBuf};

use pruner::calibration::{Calibration, CalibrationOptions, Joints, Language};
use pruner::provenance::sha256_of_windows;

/// A token for every byte.
fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

fn text_of(windows: &[Vec<u32>]) -> String {
    windows.iter().flatten().filter_map(|&id| char::from_u32(id)).collect()
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

fn options(sources: &[&Path], nsamples: usize, seqlen: usize) -> CalibrationOptions {
    let sources = sources.iter().map(|p| p.to_path_buf()).collect();
    CalibrationOptions { sources, nsamples, seqlen, ..Default::default() }
}

#[test]
fn documents_are_packed_without_padding() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.txt", "abcdefghij");
    let joints = Joints { window_start: None, document_end: Some(0) };
    let options = CalibrationOptions { joints, ..options(&[&file, &file], 5, 4) };
    let found = Calibration::collect(&options, &bytes).unwrap();
    assert_eq!(text_of(&found.windows), "abcdefghij\0abcdefghi");
    assert!(found.windows.iter().all(|w| w.len() == 4));
    assert_eq!((found.documents, found.available), (2, 2));
    assert_eq!(found.sha256, sha256_of_windows(&found.windows));
    assert!(found.description().contains("5 windows of 4 tokens") && found.description().contains(&found.sha256));
    assert!(!found.description().contains(folder.path().to_str().unwrap()), "a file must not name its maker's paths");
}

#[test]
fn windows_may_begin_with_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.txt", "abcdefghij");
    let joints = Joints { window_start: Some(1), document_end: None };
    let options = CalibrationOptions { joints, ..options(&[&file], 3, 4) };
    let found = Calibration::collect(&options, &bytes).unwrap();
    assert_eq!(text_of(&found.windows), "\u{1}abc\u{1}def\u{1}ghi");
}

#[test]
fn languages_are_selected_by_extension() {
    let folder = tempfile::tempdir().unwrap();
    let names = [
        ("python", ["x.py", "y.pyi", "UP.PY"].as_slice()),
        ("java", &["z.java"]),
        ("cpp", &["a.cpp", "a.cc", "a.cxx", "a.hpp", "a.hh", "a.h"]),
        ("javascript", &["a.js", "a.mjs", "a.cjs", "a.jsx"]),
    ];
    for name in names.iter().flat_map(|(_, names)| names.iter()) {
        write(folder.path(), &format!("deep/er/{name}"), format!("[{name}]"));
    }
    write(folder.path(), "deep/README.md", "[README.md]");
    for (language, expected) in names {
        let language: Language = language.parse().unwrap();
        let all: String = expected.iter().map(|n| format!("[{n}]")).collect();
        let options = CalibrationOptions { language: Some(language), ..options(&[folder.path()], 1, all.len()) };
        let found = text_of(&Calibration::collect(&options, &bytes).unwrap().windows);
        assert!(expected.iter().all(|n| found.contains(&format!("[{n}]"))), "{language}: {found}");
        assert_eq!(found.len(), all.len());
    }
    assert!("c++".parse::<Language>().unwrap_err().to_string().contains("`cpp`"));
}

#[test]
fn a_named_file_needs_no_extension_of_the_language() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "script", "print(1)");
    let options = CalibrationOptions { language: Some(Language::Python), ..options(&[&file], 1, 8) };
    assert_eq!(text_of(&Calibration::collect(&options, &bytes).unwrap().windows), "print(1)");
}

#[test]
fn lines_of_jsonl_are_documents() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{{\"text\": \"{}\"}}", "x".repeat(3 << 20));
    let lines = format!(
        "{{\"text\": \"one\\n\", \"lang\": 1}}\n\n{{\"body\": \"x\"}}\nno json\n{long}\n{{\"text\": \"two!\"}}"
    );
    write(folder.path(), "a.jsonl", lines);
    // With a language too: what is in the lines is not told by the extension.
    let options = CalibrationOptions { language: Some(Language::Java), ..options(&[folder.path()], 1, 8) };
    let found = Calibration::collect(&options, &bytes).unwrap();
    let text = text_of(&found.windows);
    assert!(text == "one\ntwo!" || text == "two!one\n", "{text:?}");
    assert_eq!(found.available, 4);
    assert_eq!(found.skipped.too_large, 1);
    assert_eq!(found.documents, 2);
}

#[test]
fn what_is_not_text_is_passed_over_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "binary.py", b"\x7fELF\0\0");
    write(folder.path(), "latin1.py", b"caf\xe9");
    write(folder.path(), "blank.py", " \n\t\n");
    write(folder.path(), "huge.py", vec![b'x'; (2 << 20) + 1]);
    write(folder.path(), ".hidden.py", "hidden");
    write(folder.path(), ".gitignore", "built/\n");
    write(folder.path(), "built/out.py", "built");
    write(folder.path(), "good.py", "good");
    let error = Calibration::collect(&options(&[folder.path()], 2, 4), &bytes).unwrap_err().to_string();
    assert_eq!(
        error,
        "calibration text gives 4 tokens from 1 documents (2 not text, 1 above 2 MiB, 1 empty passed over); 2 windows \
         of 4 need 8: add text, or ask for at most 1 windows"
    );
    let found = Calibration::collect(&options(&[folder.path()], 1, 4), &bytes).unwrap();
    assert_eq!(text_of(&found.windows), "good");
}

#[test]
fn a_folder_that_is_ignored_from_above_is_still_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(".git")).unwrap();
    write(folder.path(), ".gitignore", "data/\n");
    write(folder.path(), "data/a.py", "good");
    let found = Calibration::collect(&options(&[&folder.path().join("data")], 1, 4), &bytes).unwrap();
    assert_eq!(text_of(&found.windows), "good");
}

#[test]
fn reading_stops_when_there_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..50 {
        write(folder.path(), &format!("{i:02}.py"), "0123456789");
    }
    let tokenized = std::cell::Cell::new(0);
    let counting = |text: &str| {
        tokenized.set(tokenized.get() + 1);
        bytes(text)
    };
    let found = Calibration::collect(&options(&[folder.path()], 5, 7), &counting).unwrap();
    assert_eq!((found.documents, found.available, tokenized.get()), (4, 50, 4));
}

#[test]
fn the_seed_alone_decides_the_order() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..20u8 {
        write(folder.path(), &format!("{i}.py"), [b'a' + i]);
    }
    let with = |seed| {
        let options = CalibrationOptions { seed, ..options(&[folder.path()], 1, 20) };
        text_of(&Calibration::collect(&options, &bytes).unwrap().windows)
    };
    assert_eq!(with(3), with(3));
    assert_ne!(with(3), with(4));
    let mut letters: Vec<char> = with(3).chars().collect();
    letters.sort_unstable();
    assert_eq!(letters.into_iter().collect::<String>(), "abcdefghijklmnopqrst");
}

#[test]
fn missing_sources_and_senseless_sizes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere");
    let message = |options: &CalibrationOptions| Calibration::collect(options, &bytes).unwrap_err().to_string();
    assert!(message(&options(&[&nowhere], 1, 1)).contains("nowhere: cannot open"));
    assert!(message(&options(&[], 1, 1)).contains("at least one file or folder"));
    assert!(message(&options(&[folder.path()], 0, 1)).contains("calibration windows"));
    assert!(message(&options(&[folder.path()], 1, 0)).contains("tokens a window"));
    assert!(message(&options(&[folder.path()], usize::MAX, 2)).contains("fewer windows"));
    assert!(message(&options(&[folder.path()], 1, 1)).contains("0 tokens from 0 documents"));
}
