//! From files and folders to windows.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use pruner::calibration::{Calibration, CalibrationOptions, Domain, Joints, Language, Mix, Part};
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
    of_domain(Domain::Any, sources, nsamples, seqlen)
}

fn of_domain(domain: Domain, sources: &[&Path], nsamples: usize, seqlen: usize) -> CalibrationOptions {
    let parts = vec![Part::whole(domain, sources.iter().map(|p| p.to_path_buf()).collect())];
    CalibrationOptions { parts, nsamples, seqlen, ..Default::default() }
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
    assert_eq!((found.documents(), found.available()), (2, 2));
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
        ("typescript", &["a.ts", "a.mts", "a.cts", "a.tsx"]),
        ("go", &["a.go"]),
        ("rust", &["a.rs"]),
        ("csharp", &["a.cs"]),
        ("php", &["a.php"]),
        ("ruby", &["a.rb", "a.rake"]),
        ("shell", &["a.sh", "a.bash", "a.zsh"]),
    ];
    for name in names.iter().flat_map(|(_, names)| names.iter()) {
        write(folder.path(), &format!("deep/er/{name}"), format!("[{name}]"));
    }
    write(folder.path(), "deep/README.md", "[README.md]");
    for (language, expected) in names {
        let language: Language = language.parse().unwrap();
        let all: String = expected.iter().map(|n| format!("[{n}]")).collect();
        let options = of_domain(Domain::Language(language), &[folder.path()], 1, all.len());
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
    let options = of_domain(Domain::Language(Language::Python), &[&file], 1, 8);
    assert_eq!(text_of(&Calibration::collect(&options, &bytes).unwrap().windows), "print(1)");
}

#[test]
fn a_named_file_is_taken_however_large() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..400_000).map(|i| format!("line {i}\n")).collect();
    let file = write(folder.path(), "large.txt", format!("{lines}{}\nthe end\n", "x".repeat(3 << 20)));
    let all = lines.len() + "the end\n".len();
    let found = Calibration::collect(&options(&[&file], all / 100, 100), &bytes).unwrap();
    assert_eq!(
        (found.available(), found.skipped.too_large),
        (4, 1),
        "three parts, a line that is too long, and the end"
    );
    let (text, whole) = (text_of(&found.windows), lines.lines().chain(["the end"]).collect::<HashSet<_>>());
    let taken: Vec<&str> = text.lines().rev().skip(1).collect();
    assert!(taken.iter().all(|line| whole.contains(line)) && taken.len() + 20 > whole.len(), "{}", taken.len());
    // Of a folder it is not.
    let error = Calibration::collect(&options(&[folder.path()], 1, 1), &bytes).unwrap_err().to_string();
    assert!(error.contains("1 above 2 MiB"), "{error}");
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
    let options = of_domain(Domain::Language(Language::Java), &[folder.path()], 1, 8);
    let found = Calibration::collect(&options, &bytes).unwrap();
    let text = text_of(&found.windows);
    assert!(text == "one\ntwo!" || text == "two!one\n", "{text:?}");
    assert_eq!(found.available(), 4);
    assert_eq!(found.skipped.too_large, 1);
    assert_eq!(found.documents(), 2);
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
        "calibration text (any text) gives 4 tokens from 1 documents (2 not text, 1 above 2 MiB, 1 empty passed over); 2 \
         windows of 4 need 8: add text, or ask for the 1 windows that it fills with --nsamples 1"
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
fn windows_are_of_many_documents_and_reading_stops_when_there_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    for i in 100..300 {
        write(folder.path(), &format!("{i}.py"), format!("{i}0123456"));
    }
    let tokenized = std::cell::Cell::new(0);
    let counting = |text: &str| {
        tokenized.set(tokenized.get() + 1);
        bytes(text)
    };
    let found = Calibration::collect(&options(&[folder.path()], 5, 7), &counting).unwrap();
    // Sixteen times 35 tokens, of which windows of 7 are taken from 0, 112, 224 and so on.
    assert_eq!((found.documents(), found.available(), tokenized.get()), (8, 200, 56));
    let beginnings: Vec<usize> =
        found.windows.iter().map(|w| text_of(std::slice::from_ref(w)).find("0123").unwrap_or(9)).collect();
    assert_eq!(beginnings, [3, 1, 9, 9, 9]);
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
fn of_one_document_every_seed_takes_other_windows() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..700).map(|i| format!("{i:09}\n")).collect();
    write(folder.path(), "long.txt", text.as_bytes());
    let with = |seed| {
        let options = CalibrationOptions { seed, ..options(&[folder.path()], 5, 100) };
        let windows = Calibration::collect(&options, &bytes).unwrap().windows;
        windows.iter().map(|w| text_of(std::slice::from_ref(w))[..9].parse().unwrap()).collect::<Vec<usize>>()
    };
    assert_eq!(with(0), [0, 140, 280, 420, 560]);
    for seed in 1..20 {
        let (windows, before) = (with(seed), with(seed - 1));
        assert!(windows.iter().zip(&before).all(|(a, b)| a != b), "{seed}: {windows:?}, {before:?}");
        assert!(windows.windows(2).all(|w| (130..=150).contains(&(w[1] - w[0]))), "{seed}: {windows:?}");
    }
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
    assert!(message(&options(&[folder.path()], usize::MAX, 2)).contains("at most 1048576"));
    assert!(message(&options(&[folder.path()], 1, 1)).contains("0 tokens from 0 documents"));
}

/// A project as people have them: what is taken is its own code.
#[test]
fn a_project_folder_gives_its_own_code() {
    let project = tempfile::tempdir().unwrap();
    let at = project.path();
    write(at, "src/main.py", "main");
    write(at, "src/copy.py", "main");
    write(at, "src/long.py", "x".repeat(2000));
    write(at, "src/made.py", "# Generated by hand: DO NOT EDIT\n");
    write(at, "src/api_pb2.py", "proto");
    write(at, "web/app.js", "app!");
    write(at, "web/app.min.js", "min");
    for vendored in ["node_modules/x", "third_party", "lib/site-packages", "target/debug", "build", "dist", "venv"] {
        write(at, &format!("{vendored}/a.py"), "vendored");
    }
    write(at, "env/pyvenv.cfg", "");
    write(at, "env/lib/a.py", "environment");
    for other in ["README.md", "Cargo.lock", "data.json", "data.jsonl", "logo.svg"] {
        write(at, other, "{\"text\": \"other\"}");
    }
    let found = Calibration::collect(&options(&[at], 1, 8), &bytes).unwrap();
    let text = text_of(&found.windows);
    assert!(text == "mainapp!" || text == "app!main", "{text}");
    let all = Calibration::collect(&options(&[at], 9, 1000), &bytes).unwrap_err().to_string();
    let expected = "8 tokens from 2 documents (8 vendored folders, 5 of another kind, 3 generated, 1 minified, 1 \
                    duplicates passed over); 9 windows of 1000 need 9000: add text, or ask for shorter windows";
    assert!(all.contains(expected), "{all}");

    let named = Calibration::collect(&options(&[&at.join("third_party")], 1, 8), &bytes).unwrap();
    assert_eq!(text_of(&named.windows), "vendored");
    let named = Calibration::collect(&options(&[&at.join("src/api_pb2.py")], 1, 5), &bytes).unwrap();
    assert_eq!(text_of(&named.windows), "proto");
    let prose = Calibration::collect(&of_domain(Domain::Text, &[at], 1, 17), &bytes).unwrap();
    assert_eq!(text_of(&prose.windows), "{\"text\": \"other\"}");
}

#[test]
fn a_folder_without_code_gives_every_text() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.md", "mark");
    write(folder.path(), "b.csv", "1,2;");
    write(folder.path(), "c.lock", "lock");
    write(folder.path(), "d.jsonl", "{\"text\": \"line\"}\n");
    write(folder.path(), "e.txt", "a line of prose longer than those of code ".repeat(30));
    let found = Calibration::collect(&options(&[folder.path()], 1, 12 + 42 * 30), &bytes).unwrap();
    let text = text_of(&found.windows);
    assert!(
        ["mark", "1,2;", "line", "prose"].iter().all(|part| text.contains(part)) && !text.contains("lock"),
        "{text}"
    );
    assert_eq!((found.available(), found.skipped.generated), (4, 1));
}

#[test]
fn one_document_is_worth_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(folder.path(), "a.py", "one document");
    let b = write(folder.path(), "b.py", "another");
    let warned = |sources: &[&Path], nsamples| {
        let found = Calibration::collect(&options(sources, nsamples, 1), &bytes).unwrap();
        found.warnings().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let expected = "all 5 calibration tokens are of one document: give --calib more files, or a folder of them";
    assert_eq!(warned(&[&a], 5), [expected]);
    assert!(warned(&[&a, &b], 5).is_empty());
}

/// Options of a mix of letters: each domain's text is one letter over and over.
fn mixed(folder: &Path, mix: &str, nsamples: usize) -> CalibrationOptions {
    let mix: Mix = mix.parse().unwrap();
    let parts = mix.shares().iter().map(|&(domain, share)| {
        let letter = domain.name()[..1].to_owned();
        let source = write(folder, domain.name(), letter.repeat(4000));
        Part { domain, share, sources: vec![source] }
    });
    CalibrationOptions { parts: parts.collect(), nsamples, seqlen: 10, ..Default::default() }
}

#[test]
fn a_mix_gives_each_domain_its_share_of_whole_windows() {
    let folder = tempfile::tempdir().unwrap();
    let found = Calibration::collect(&mixed(folder.path(), "python:7,code:2,text:1", 100), &bytes).unwrap();
    let letters: String = found.windows.iter().map(|w| text_of(&[w[..1].to_vec()])).collect();
    assert!(found.windows.iter().all(|w| w.len() == 10 && w.iter().all(|id| *id == w[0])), "a window is of one domain");
    let share = |text: &str, letter| text.matches(letter).count();
    assert_eq!(["p", "c", "t"].map(|letter| share(&letters, letter)), [70, 20, 10]);
    for (letter, expected) in [("p", 35usize), ("c", 10), ("t", 5)] {
        assert!(share(&letters[..50], letter).abs_diff(expected) <= 1, "{letters}");
    }
    let held_out: String = letters.chars().skip(9).step_by(10).collect();
    assert_eq!(["p", "c", "t"].map(|letter| share(&held_out, letter)), [7, 2, 1]);
    let taken: Vec<_> = found.parts.iter().map(|p| (p.domain.name(), p.windows, p.documents)).collect();
    assert_eq!(taken, [("python", 70, 1), ("code", 20, 1), ("text", 10, 1)]);
    let description = found.description();
    assert!(description.contains("mix of python 0.700 + code 0.200 + text 0.100, 3 documents"), "{description}");
}

#[test]
fn a_mix_that_cannot_be_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let message = |options: &CalibrationOptions| Calibration::collect(options, &bytes).unwrap_err().to_string();
    let options = mixed(folder.path(), "python:0.9,text:0.1", 4);
    let expected = "mix `text:0.1`: expected 0.100 of 4 windows to be one; ask for 10 with --nsamples 10";
    assert_eq!(message(&options), expected);
    assert!(Calibration::collect(&CalibrationOptions { nsamples: 10, ..options.clone() }, &bytes).is_ok());

    let mut options = CalibrationOptions { nsamples: 100, ..options };
    options.parts[1].sources = vec![write(folder.path(), "short", "t".repeat(55))];
    let found = message(&options);
    let expected = "calibration text (text) gives 55 tokens from 1 documents; 10 windows of 10 need 100: add text, or ask \
                    for the";
    assert!(found.starts_with(expected), "{found}");
    let fitting: usize = found.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(Calibration::collect(&CalibrationOptions { nsamples: fitting, ..options.clone() }, &bytes).is_ok());
    let more = CalibrationOptions { nsamples: fitting + 1, ..options.clone() };
    assert!(Calibration::collect(&more, &bytes).is_err(), "{fitting} are not the most");

    options.parts[1].sources.clear();
    assert_eq!(message(&options), "calibration text `text`: expected at least one file or folder");
    options.parts[1] = options.parts[0].clone();
    assert_eq!(message(&options), "mix `python`: expected each domain once");
    options.parts[1] = Part { share: -1.0, ..Part::whole(Domain::Code, vec![folder.path().to_owned()]) };
    assert_eq!(message(&options), "mix `code:-1`: expected a share above 0");
}
