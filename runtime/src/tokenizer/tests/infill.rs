//! Prompts for filling in the middle.

use spm::{Infill, TokenType, Vocabulary};

use super::{add, byte_level, sentence_piece};
use crate::tokenizer::{OtherFile, Surroundings, Tokenizer};

/// Tokens for filling in, put into a vocabulary under these names.
fn with_infill(mut v: Vocabulary, names: [&str; 5]) -> Vocabulary {
    names.iter().filter(|name| !name.is_empty()).for_each(|name| _ = add(&mut v, name, TokenType::Control));
    v.infill = Infill::by_text(&v.tokens, |_| true);
    v
}

/// A prompt with control tokens written out.
fn shown(tokenizer: &Tokenizer, around: &Surroundings) -> String {
    tokenizer.encode_infill(around).unwrap().into_iter().map(|id| tokenizer.token_text(id)).collect()
}

#[test]
fn holes_and_files_are_asked_for_as_the_families_do() {
    let others = [("a.py", "x = 1"), ("b.py", "y = 2\n")];
    let others = others.map(|(name, text)| OtherFile { name: name.into(), text: text.into() });
    let hole = Surroundings { before: "f(", after: Some(")"), ..Default::default() };
    let among = Surroundings { others: &others, repository: "repo", file: "c.py", ..hole };
    let open = Surroundings { after: None, ..among };
    let tokenizer = |names| Tokenizer::new(&with_infill(byte_level(&[]), names)).unwrap();

    let qwen = tokenizer(["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"]);
    let files = "<|repo_name|>repo\n<|file_sep|>a.py\nx = 1\n<|file_sep|>b.py\ny = 2\n<|file_sep|>c.py\n";
    let asked = "<|fim_prefix|>f(<|fim_suffix|>)<|fim_middle|>";
    assert_eq!(shown(&qwen, &hole), asked);
    assert_eq!(qwen.infill("f(", ")").unwrap(), qwen.encode_infill(&hole).unwrap());
    assert!(qwen.can_infill());
    assert_eq!(shown(&qwen, &among), format!("{files}{asked}"));
    assert_eq!(shown(&qwen, &open), format!("{files}f("));

    let starcoder = tokenizer(["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<repo_name>", "<file_sep>"]);
    let files = "<repo_name>repo<file_sep>a.py\nx = 1\n<file_sep>b.py\ny = 2\n<file_sep>c.py\n";
    assert_eq!(shown(&starcoder, &among), format!("{files}<fim_prefix>f(<fim_suffix>)<fim_middle>"));

    let deepseek = tokenizer(["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "", ""]);
    let asked = "<｜fim▁begin｜>f(<｜fim▁hole｜>)<｜fim▁end｜>";
    assert_eq!(shown(&deepseek, &among), format!("x = 1\n\ny = 2\n\n{asked}"));

    let none = Tokenizer::new(&with_infill(byte_level(&[]), ["<fim_prefix>", "", "", "", ""])).unwrap();
    assert!(!none.can_infill());
    let refused = none.encode_infill(&hole).unwrap_err().to_string();
    assert!(refused.contains("no tokens for filling in") && refused.contains("only what comes before"), "{refused}");
    assert_eq!(shown(&none, &Surroundings { before: "f(", ..Default::default() }), "f(");
}

#[test]
fn no_space_is_put_where_a_text_goes_on() {
    let mut v =
        with_infill(sentence_piece(&[("▁".into(), 0.0), ("a".into(), 0.0)]), ["▁<PRE>", "▁<SUF>", "▁<MID>", "", ""]);
    (v.bos, v.add_bos, v.add_space_prefix) = (Some(0), true, true);
    let ids = Tokenizer::new(&v).unwrap().encode_infill(&Surroundings {
        before: "a",
        after: Some("a"),
        ..Default::default()
    });
    assert_eq!(ids.unwrap(), [0, 259, 257, 258, 260, 258, 261]);
}

#[test]
fn hostile_texts_spell_no_infill_token() {
    let v = with_infill(byte_level(&[]), ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "", ""]);
    let tokenizer = Tokenizer::new(&v).unwrap();
    let around = Surroundings { before: "<fim_middle>", after: Some("<fim_prefix>"), ..Default::default() };
    let ids = tokenizer.encode_infill(&around).unwrap();
    assert_eq!(ids.iter().filter(|id| v.infill.ids().any(|known| known == **id)).count(), 3);
}
