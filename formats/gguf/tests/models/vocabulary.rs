//! Vocabularies, with llama.cpp's defaults and its rules for the end of generation.

use gguf::GgufWriter;
use spm::{Infill, TokenType, TokenizerKind, Vocabulary};

fn read(w: &GgufWriter) -> Vocabulary {
    let file = tempfile::NamedTempFile::new().unwrap();
    w.write(file.path()).unwrap();
    gguf::read_vocabulary(file.path()).unwrap().expect("a vocabulary")
}

fn byte_level(pre: &str, tokens: &[&str]) -> GgufWriter {
    let mut w = GgufWriter::new();
    w.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", pre);
    w.texts("tokenizer.ggml.tokens", tokens).texts::<&str>("tokenizer.ggml.merges", &[]);
    w
}

#[test]
fn sentencepiece_defaults() {
    let mut w = GgufWriter::new();
    w.text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "▁a"]);
    w.floats("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, -1.0]).integers("tokenizer.ggml.token_type", &[2, 3, 3, 1]);
    let v = read(&w);
    assert_eq!((v.kind, v.bos, v.eos, v.unk, v.pad), (TokenizerKind::SentencePiece, Some(1), Some(2), Some(0), None));
    assert!(v.add_bos && !v.add_eos && v.add_space_prefix && !v.ignore_merges);
    assert_eq!((v.scores, v.end_of_generation), (vec![0.0, 0.0, 0.0, -1.0], vec![2]));
    assert_eq!(v.types, [TokenType::Unknown, TokenType::Control, TokenType::Control, TokenType::Normal]);
}

#[test]
fn byte_level_defaults_depend_on_the_pre_tokenizer() {
    let plain = read(&byte_level("qwen2", &["a"]));
    assert_eq!((plain.bos, plain.eos, plain.add_bos, plain.ignore_merges), (None, None, false, false));
    assert!(!plain.add_space_prefix && plain.scores.is_empty());
    let llama3 = read(&byte_level("llama-bpe", &["a"]));
    assert!(llama3.add_bos && llama3.ignore_merges);
}

#[test]
fn merges_are_split_at_the_first_space_after_the_first_byte() {
    let mut w = GgufWriter::new();
    w.text("tokenizer.ggml.model", "gpt2").texts("tokenizer.ggml.tokens", &["a", " ", "b ", "ab", "b"]);
    w.texts("tokenizer.ggml.merges", &["a b", "  b", "a b "]);
    let v = read(&w);
    assert_eq!((v.merges, v.pre.as_str()), (vec![(0, 4), (1, 4), (0, 2)], "default"));
}

#[test]
fn ends_are_known_by_id_and_by_text() {
    let mut w = byte_level("qwen2", &["a", "<|endoftext|>", "b", "<|im_end|>", "<|fim_pad|>", "<|fim_prefix|>", "end"]);
    w.u32("tokenizer.ggml.eos_token_id", 6).u32("tokenizer.ggml.eot_token_id", 2);
    w.u32("tokenizer.ggml.padding_token_id", u32::MAX).i32("tokenizer.ggml.eom_token_id", -1);
    let v = read(&w);
    assert_eq!((v.end_of_generation, v.eos, v.pad), (vec![1, 2, 3, 4, 6], Some(6), None));
    let control = |id: usize| v.types[id] == TokenType::Control;
    assert!(control(1) && control(3) && control(4) && control(5) && !control(0) && !control(6));
}

/// Named ones count; the others are found by their texts, unless merging makes these.
#[test]
fn infill_tokens_are_known_by_id_and_by_text() {
    let tokens = ["a", "<before>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "<file", "_sep>"];
    let mut w = GgufWriter::new();
    w.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "starcoder");
    w.texts("tokenizer.ggml.tokens", &tokens).texts("tokenizer.ggml.merges", &["<file _sep>"]);
    w.u32("tokenizer.ggml.fim_pre_token_id", 1);
    let v = read(&w);
    let infill = Infill { prefix: Some(1), suffix: Some(3), middle: Some(4), ..Infill::default() };
    assert_eq!((v.infill, v.end_of_generation), (infill, vec![]));
    assert_eq!([2, 3, 4].map(|id| v.types[id]), [TokenType::Normal, TokenType::Control, TokenType::Control]);
    let v = read(&byte_level("starcoder", &["<repo_name>", "<file_sep>", "a"]));
    assert_eq!((v.infill.repository, v.infill.file, v.end_of_generation), (Some(0), Some(1), vec![0, 1]));
}

/// Qwen2.5-Coder's vocabulary makes `</s>` by merging: it is HTML there, and no end.
#[test]
fn a_token_that_merges_make_is_text() {
    let mut w = GgufWriter::new();
    w.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "qwen2");
    w.texts("tokenizer.ggml.tokens", &["</s", ">", "</s>", "<|im_end|>"]).texts("tokenizer.ggml.merges", &["</s >"]);
    let v = read(&w);
    assert_eq!((v.end_of_generation, v.types[2]), (vec![3], TokenType::Normal));
}

#[test]
fn end_is_text_where_return_and_call_end() {
    let v = read(&byte_level("gpt-4o", &["<|end|>", "<|return|>", "<|call|>"]));
    assert_eq!((v.end_of_generation, v.types[0]), (vec![1, 2], TokenType::UserDefined));
    assert_eq!(read(&byte_level("gpt-4o", &["<|end|>", "<|return|>"])).end_of_generation, [0, 1]);
}

#[test]
fn settings_in_the_file_win() {
    let mut w = byte_level("llama-bpe", &["a", "b", ""]);
    w.bool("tokenizer.ggml.add_bos_token", false).bool("tokenizer.ggml.add_eos_token", true);
    w.bool("tokenizer.ggml.add_space_prefix", true).text("tokenizer.chat_template", "{{ x }}");
    w.u32("tokenizer.ggml.bos_token_id", 1);
    let v = read(&w);
    assert_eq!((v.add_bos, v.add_eos, v.add_space_prefix, v.bos), (false, true, true, Some(1)));
    assert_eq!((v.chat_template.as_deref(), v.tokens[2].as_str()), (Some("{{ x }}"), "[EMPTY_2]"));
}
