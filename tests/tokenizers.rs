//! Many lines of code and text, through our tokenizers and through the `tokenizers` crate with the published
//! pre-tokenizers: the same ids, and the same text back.
//!
//! `SPM_TEST_DATA` names a folder with `tokenizer-cases/`, `models/` and `corpora/`; `SPM_TEST_MODELS` one with GGUF files.
//! Lines are taken from there and from the repository's own `corpora/`, where `tools/fetch-corpus` puts them.
#![allow(clippy::print_stderr)] // How many lines were compared is worth reading.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use runtime::Tokenizer;
use serde_json::{Value, json};
use spm::{Checkpoint, TokenType, TokenizerKind, Vocabulary};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizerWrapper, SplitDelimiterBehavior, Tokenizer as Reference};

/// Lines to compare for each tokenizer, as far as there are as many.
const LINES: usize = 100_000;

/// Pre-tokenizers as the models' own `tokenizer.json` have them; the words of the step ByteLevel if there is none.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DIGITS: &str = r"\p{N}";
const DEEPSEEK: [&str; 5] = ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"];

fn published(pre: &str) -> (&'static [&'static str], bool) {
    match pre {
        "gpt-2" => (&[], true),
        "smollm" | "starcoder" | "refact" => (&[DIGITS], true),
        "qwen2" => (&[QWEN2], false),
        "llama-bpe" => (&[LLAMA3], false),
        "deepseek-coder" => (&DEEPSEEK, false),
        other => panic!("no reference for `{other}`"),
    }
}

fn folder(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        eprintln!("{variable} is not set: NOTHING COMPARED");
    }
    folder
}

#[test]
fn many_lines_have_the_ids_of_the_tokenizers_crate_and_come_back() {
    let Some(data) = folder("SPM_TEST_DATA") else { return };
    let lines = lines(&data);
    assert!(lines.len() > 10_000, "{} lines", lines.len());
    let mut compared = 0;
    for path in vocabularies(&data) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let v = gguf::read_vocabulary(&path).unwrap().unwrap();
        let reference = match v.kind {
            TokenizerKind::ByteLevelBpe => byte_level(&v),
            TokenizerKind::SentencePiece => sentence_piece(&v),
        };
        compare(&name, &v, &reference, &lines);
        compared += 1;
    }
    assert!(compared >= 7, "{compared} tokenizers");
}

/// Without the spaces that lines begin with: these files put a space before a text only where there is none (the step
/// `Metaspace`); here there is always one, as SentencePiece has it, or the text would not come back.
#[test]
fn many_lines_have_the_ids_that_the_folders_own_files_give() {
    let Some(data) = folder("SPM_TEST_DATA") else { return };
    let lines = lines(&data).into_iter().map(|line| line.trim_start().to_owned());
    // Special tokens' texts are those tokens to the crate, wherever they come from.
    let lines: Vec<String> = lines.filter(|line| !line.is_empty() && !line.contains("<unk>")).collect();
    assert!(lines.len() > 10_000, "{} lines", lines.len());
    let tiny = fs::read_dir(data.join("models/hf-tiny-random")).unwrap().map(|entry| entry.unwrap().path());
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for folder in tiny.chain([data.join("models/stories260K/hf")]) {
        let file = folder.join("tokenizer.json");
        let bytes = fs::read(&file).unwrap();
        if seen.contains(&bytes) {
            continue;
        }
        let model = hf::open(&folder).unwrap();
        let name = folder.strip_prefix(&data).unwrap().display().to_string();
        compare(&name, model.vocabulary().unwrap(), &Reference::from_file(&file).unwrap(), &lines);
        seen.push(bytes);
    }
    assert!(!seen.is_empty());
}

/// What a program waits for before its first token; a build that checks its arithmetic is given more.
#[cfg(target_os = "linux")]
#[test]
fn a_vocabulary_of_150_000_tokens_is_ready_at_once() {
    let Some(data) = folder("SPM_TEST_DATA") else { return };
    let path = data.join("tokenizer-cases/public/ggml-vocab-qwen2.gguf");
    let v = gguf::read_vocabulary(&path).unwrap().unwrap();
    let folder = tempfile::tempdir().unwrap();
    common::hf_folder::folder(folder.path(), &tokenizer_json(&v), &json!({}));
    let slower = if cfg!(debug_assertions) { 3.0 } else { 1.0 };
    let from_gguf = || Tokenizer::new(&gguf::read_vocabulary(&path).unwrap().unwrap()).unwrap();
    let from_folder = || Tokenizer::new(hf::open(folder.path()).unwrap().vocabulary().unwrap()).unwrap();
    let text = "def fib(n):\n    return n";
    assert_eq!(from_gguf().encode_plain(text), from_folder().encode_plain(text));
    for (name, time) in [("GGUF", best_time(&from_gguf)), ("tokenizer.json", best_time(&from_folder))] {
        eprintln!("{name}: {} tokens ready in {time:.1} ms of processor time", v.tokens.len());
        assert!(time <= 150.0 * slower, "{name}: {time} ms");
    }
}

/// Milliseconds that this thread works, the least of five times: waiting for a busy machine does not count.
#[cfg(target_os = "linux")]
fn best_time(work: &dyn Fn() -> Tokenizer) -> f64 {
    let clock = || {
        let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        stat.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e6
    };
    let once = || {
        let start = clock();
        std::hint::black_box(work());
        clock() - start
    };
    (0..5).map(|_| once()).fold(f64::MAX, f64::min)
}

/// Qwen's own file, in what matters.
fn tokenizer_json(v: &Vocabulary) -> Value {
    let text = |id: u32| v.tokens[id as usize].clone();
    let is_added = |kind: TokenType| kind != TokenType::Normal;
    let all = || v.tokens.iter().zip(&v.types).zip(0u32..);
    let vocab: serde_json::Map<String, Value> =
        all().filter(|((_, kind), _)| !is_added(**kind)).map(|((text, _), id)| (text.clone(), json!(id))).collect();
    let added: Vec<Value> = all()
        .filter(|((_, kind), _)| is_added(**kind))
        .map(|((text, kind), id)| json!({"id": id, "content": text, "special": *kind == TokenType::Control}))
        .collect();
    let merges: Vec<String> = v.merges.iter().map(|&(left, right)| format!("{} {}", text(left), text(right))).collect();
    let split = json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    json!({"added_tokens": added, "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges}})
}

fn compare(name: &str, v: &Vocabulary, reference: &Reference, lines: &[String]) {
    let tokenizer = Tokenizer::new(v).unwrap();
    let (mut tokens, mut other_ids, mut other_text) = (0, Vec::new(), Vec::new());
    for line in lines {
        let ids = tokenizer.encode_plain(line);
        tokens += ids.len();
        let expected = reference.encode_fast(line.as_str(), false).unwrap();
        if ids != expected.get_ids() {
            other_ids.push((line, ids.clone(), expected.get_ids().to_vec()));
        }
        let text = tokenizer.decode(&ids);
        let text = if v.add_space_prefix { text.strip_prefix(' ').unwrap_or(&text) } else { &text };
        if text != line {
            other_text.push(line);
        }
    }
    let (ids, texts) = (other_ids.len(), other_text.len());
    eprintln!("{name}: {} lines, {tokens} tokens, {ids} with other ids, {texts} not the same again", lines.len());
    assert_eq!(ids, 0, "{name}: {:?}", &other_ids[..other_ids.len().min(3)]);
    assert_eq!(texts, 0, "{name}: {:?}", &other_text[..other_text.len().min(3)]);
}

/// GGUF files with a vocabulary of a kind that is run.
fn vocabularies(data: &Path) -> Vec<PathBuf> {
    let cases = data.join("tokenizer-cases/public");
    let names = ["gpt-2", "starcoder", "qwen2", "llama-bpe", "deepseek-coder", "llama-spm", "phi-3", "gemma-4"];
    let mut all: Vec<PathBuf> = names.iter().map(|name| cases.join(format!("ggml-vocab-{name}.gguf"))).collect();
    let models = std::env::var_os("SPM_TEST_MODELS").map(PathBuf::from);
    let models = models.into_iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    all.extend(models.map(|e| e.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "gguf")));
    all.push(data.join("models/stories260K/stories260K.F16.gguf"));
    all
}

/// Lines that are not empty, of all files in turns.
fn lines(data: &Path) -> Vec<String> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpora");
    let files: Vec<Vec<String>> =
        [data.join("corpora"), own].iter().flat_map(|folder| files(folder)).map(|path| lines_of(&path)).collect();
    let longest = files.iter().map(Vec::len).max().unwrap_or(0);
    let in_turns = (0..longest).flat_map(|i| files.iter().filter_map(move |file| file.get(i)));
    in_turns.take(LINES).cloned().collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let is_text = |path: &PathBuf| path.extension().is_some_and(|e| e == "jsonl" || e == "txt");
    let of =
        |path: PathBuf| if path.is_dir() { files(&path) } else { Some(path).filter(is_text).into_iter().collect() };
    entries.into_iter().flat_map(of).collect()
}

fn lines_of(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let documents: Vec<String> = match path.extension().is_some_and(|e| e == "jsonl") {
        true => {
            let document = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["text"].as_str()?.to_owned());
            text.lines().take(20_000).filter_map(document).collect()
        }
        false => vec![text],
    };
    let lines = documents.iter().flat_map(|text| text.lines()).filter(|line| !line.is_empty());
    lines.take(LINES).map(str::to_owned).collect()
}

fn byte_level(v: &Vocabulary) -> Reference {
    let text = |id: u32| v.tokens[id as usize].clone();
    let merges = v.merges.iter().map(|&(left, right)| (text(left), text(right))).collect();
    let model = BPE::builder().vocab_and_merges(ids(v), merges).ignore_merges(v.ignore_merges);
    let mut reference = Reference::new(model.build().unwrap());
    let (patterns, own_words) = published(&v.pre);
    let mut steps: Vec<PreTokenizerWrapper> = patterns.iter().map(|pattern| split(pattern).into()).collect();
    steps.push(ByteLevel::new(false, false, own_words).into());
    reference.with_pre_tokenizer(Some(Sequence::new(steps)));
    add_tokens(&mut reference, v);
    reference
}

fn split(pattern: &str) -> Split {
    Split::new(SplitPattern::Regex(pattern.to_owned()), SplitDelimiterBehavior::Isolated, false).unwrap()
}

/// As transformers convert a SentencePiece model: every way to cut a token in two is a merge, the best score first.
fn sentence_piece(v: &Vocabulary) -> Reference {
    let ids = ids(v);
    let mut merges: Vec<(f32, String, String)> = Vec::new();
    for (token, score) in v.tokens.iter().zip(&v.scores) {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut cuts: Vec<(&str, &str)> =
            cuts.filter(|(left, right)| ids.contains_key(*left) && ids.contains_key(*right)).collect();
        cuts.sort_by_key(|(left, right)| (ids[*left], ids[*right]));
        merges.extend(cuts.into_iter().map(|(left, right)| (*score, left.to_owned(), right.to_owned())));
    }
    merges.sort_by(|a, b| {
        let key = |m: &(f32, String, String)| (m.1.chars().count(), m.2.chars().count());
        b.0.total_cmp(&a.0).then(key(b).cmp(&key(a)))
    });
    let merges = merges.into_iter().map(|(_, left, right)| (left, right)).collect();
    let unknown = v.unk.map(|id| v.tokens[id as usize].clone()).unwrap();
    let model = BPE::builder().vocab_and_merges(ids, merges).byte_fallback(true).fuse_unk(true).unk_token(unknown);
    let mut reference = Reference::new(model.build().unwrap());
    let spaces = NormalizerWrapper::Replace(Replace::new(" ", "▁").unwrap());
    let prefix = v.add_space_prefix.then(|| NormalizerWrapper::Prepend(Prepend::new("▁".into())));
    reference.with_normalizer(Some(Normalizers::new(prefix.into_iter().chain([spaces]).collect()))).unwrap();
    add_tokens(&mut reference, v);
    reference
}

fn ids(v: &Vocabulary) -> Vocab {
    v.tokens.iter().cloned().zip(0..).collect::<HashMap<_, _>>().into_iter().collect()
}

/// Those that are found in any text.
fn add_tokens(reference: &mut Reference, v: &Vocabulary) {
    let own = v.tokens.iter().zip(&v.types).filter(|(_, kind)| **kind == TokenType::UserDefined);
    let own: Vec<AddedToken> = own.map(|(text, _)| AddedToken::from(text.clone(), false).normalized(false)).collect();
    reference.add_tokens(own).unwrap();
}
