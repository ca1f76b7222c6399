//! `tokenizer.json` files made here give the ids that the `tokenizers` crate gives.

mod common;

use std::fs;

use runtime::{Special, Tokenizer};
use serde_json::{Value, json};
use spm::{Checkpoint, Vocabulary};

const TEXTS: [&str; 8] = [
    "",
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n",
    "  the  then\tthere 12345 they'll  ",
    "Ünïcödé 中文 \u{1F600} e\u{301}",
    "in the end, inthe theend",
    "a\r\n\r\n b",
    " leading and trailing ",
    "x=1;y=22;z=333",
];

/// GPT-2's alphabet: printable bytes stand for themselves, others for characters from U+0100 on.
fn alphabet() -> Vec<String> {
    let is_printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = 0x100..;
    let char_of =
        |b: u8| if is_printable(&b) { char::from(b) } else { char::from_u32(others.next().unwrap()).unwrap() };
    (0..=255u8).map(char_of).map(String::from).collect()
}

/// Vocabulary and merges: each merge makes the next token.
fn model(mut tokens: Vec<String>, merges: &[(&str, &str)], more: Value) -> Value {
    tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
    let vocab: serde_json::Map<String, Value> = tokens.into_iter().zip(0..).map(|(t, id)| (t, json!(id))).collect();
    let mut model = json!({"type": "BPE", "vocab": vocab,
        "merges": merges.iter().map(|(left, right)| format!("{left} {right}")).collect::<Vec<_>>()});
    model.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    model
}

fn check(tokenizer: &Value, config: &Value) -> Vocabulary {
    let folder = tempfile::tempdir().unwrap();
    common::hf_folder::folder(folder.path(), tokenizer, config);
    let model = hf::open(folder.path()).unwrap();
    let vocabulary = model.vocabulary().unwrap();
    let ours = Tokenizer::new(vocabulary).unwrap();
    let theirs = tokenizers::Tokenizer::from_bytes(tokenizer.to_string()).unwrap();
    for text in TEXTS {
        let expected = theirs.encode(text, true).unwrap();
        assert_eq!(ours.encode(text, Special::Parse), expected.get_ids(), "{text:?}");
        let plain = theirs.encode(text, false).unwrap();
        assert_eq!(ours.encode_plain(text), plain.get_ids(), "{text:?}");
    }
    vocabulary.clone()
}

const MERGES: [(&str, &str); 12] = [
    ("Ġ", "t"),
    ("h", "e"),
    ("Ġt", "he"),
    ("i", "n"),
    ("e", "n"),
    ("en", "d"),
    ("Ġ", "Ġ"),
    ("r", "e"),
    ("f", "i"),
    ("fi", "b"),
    ("1", "2"),
    ("2", "2"),
];

fn added(id: usize, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": special})
}

#[test]
fn byte_level_vocabularies() {
    let bpe = || model(alphabet(), &MERGES, json!({}));
    let n = 256 + MERGES.len();
    let byte_level =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |pattern: &str, behavior: &str, invert: bool| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert});
    let isolated = |pattern: &str| split(pattern, "Isolated", false);
    let gpt4 = |letters: &str, others: &str, digits: &str| {
        format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?{letters}+|\p{{N}}{digits}| ?[^\s{others}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
    let capitals = |ending: &str, digits: &str| {
        let (upper, lower) = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]");
        format!(
            r"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{ending}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{ending}|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
    let endings = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
    let deepseek3 = [
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    ];
    let sequence = |mut steps: Vec<Value>, regex| {
        steps.push(byte_level(regex));
        json!({"type": "Sequence", "pretokenizers": steps})
    };
    let digits = json!({"type": "Digits", "individual_digits": true});
    let qwen2 = gpt4(r"\p{L}", r"\p{L}", "");
    for (pre, expected) in [
        (byte_level(true), "gpt-2"),
        (sequence(vec![digits], true), "starcoder"),
        (sequence(vec![isolated(&qwen2)], false), "qwen2"),
        (sequence(vec![split(&qwen2, "Removed", true)], false), "qwen2"),
        (sequence(vec![isolated(&gpt4(r"\p{L}", r"\p{L}", "{1,3}"))], false), "llama-bpe"),
        (sequence(vec![isolated(&gpt4(r"[\p{L}\p{M}]", r"\p{L}\p{M}", ""))], false), "qwen35"),
        (sequence(vec![isolated(&capitals(endings, "{1,3}"))], false), "gpt-4o"),
        (sequence(vec![isolated(&capitals("", ""))], false), "tekken"),
        (sequence(deepseek3.iter().map(|pattern| isolated(pattern)).collect(), false), "deepseek-v3"),
    ] {
        let tokenizer = json!({"version": "1.0", "added_tokens": [added(n, "<|end|>", true), added(n + 1, "<think>", false)],
            "normalizer": null, "pre_tokenizer": pre, "post_processor": null, "decoder": null, "model": bpe()});
        let found = check(&tokenizer, &json!({"eos_token": {"content": "<|end|>"}, "chat_template": "{{ x }}"}));
        assert_eq!((&found.pre[..], found.eos, found.add_bos), (expected, Some(n as u32), false));
        assert_eq!((&found.end_of_generation[..], found.chat_template.as_deref()), (&[n as u32][..], Some("{{ x }}")));
        assert_eq!(found.tokens.len(), n + 4);
    }
}

#[test]
fn sentencepiece_with_bytes_and_a_first_token() {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..=255u8).map(|b| format!("<0x{b:02X}>")));
    tokens.extend("▁abcdefghijklmnopqrstuvwxyz".chars().map(String::from));
    let merges = MERGES.map(|(left, right)| (left.replace('Ġ', "▁"), right.replace('Ġ', "▁")));
    let merges: Vec<(&str, &str)> = merges[..10].iter().map(|(l, r)| (&l[..], &r[..])).collect();
    let bpe = model(tokens, &merges, json!({"byte_fallback": true, "unk_token": "<unk>", "fuse_unk": true}));
    let template = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
    let added: Vec<Value> = ["<unk>", "<s>", "</s>"].iter().zip(0..).map(|(text, id)| added(id, text, true)).collect();
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    for (normalizer, pre, prefix) in [
        (json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}), json!(null), true),
        (replace, json!(null), false),
    ] {
        let tokenizer = json!({"version": "1.0", "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre,
            "post_processor": template, "decoder": null, "model": bpe});
        let found = check(&tokenizer, &json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}));
        assert_eq!((found.bos, found.eos, found.add_bos, found.add_space_prefix), (Some(1), Some(2), true, prefix));
    }
}

#[test]
fn what_is_not_known_is_refused() {
    let plain = json!({"version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": model(alphabet(), &MERGES, json!({}))});
    for (key, value, expected) in [
        (
            "pre_tokenizer",
            json!({"type": "BertPreTokenizer"}),
            "key `pre_tokenizer`: is {\"type\":\"BertPreTokenizer\"}",
        ),
        (
            "pre_tokenizer",
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
            "which is not known; convert the model to GGUF",
        ),
        ("normalizer", json!({"type": "Lowercase"}), "key `normalizer`: is {\"type\":\"Lowercase\"}"),
        ("model", json!({"type": "Unigram"}), "key `type`: is `Unigram`, expected BPE"),
        ("added_tokens", json!([added(9999, "<x>", true)]), "token `<x>` has 9999, expected one below vocab_size"),
        ("added_tokens", json!([added(271, "a", true)]), "are both `a`"),
    ] {
        let mut tokenizer = plain.clone();
        tokenizer[key] = value;
        let folder = tempfile::tempdir().unwrap();
        common::hf_folder::folder(folder.path(), &plain, &json!({}));
        fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let error = hf::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
}
