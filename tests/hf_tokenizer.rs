//! `tokenizer.json` files made here give the ids that the `tokenizers` crate gives.

use std::fs;
use std::path::Path;

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

/// A model with this tokenizer, of one layer and width 4.
fn folder(path: &Path, tokenizer: &Value, config: &Value) {
    let n = tokenizer["model"]["vocab"].as_object().unwrap().len() + 4;
    let hf = json!({"model_type": "llama", "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 1, "vocab_size": n, "max_position_embeddings": 8, "tie_word_embeddings": true});
    fs::write(path.join("config.json"), hf.to_string()).unwrap();
    fs::write(path.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(path.join("tokenizer_config.json"), config.to_string()).unwrap();
    let layer = "model.layers.0";
    let square = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    let norms = ["input_layernorm", "post_attention_layernorm"];
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![n, 4]), ("model.norm.weight".into(), vec![4])];
    shapes.extend(square.iter().map(|name| (format!("{layer}.{name}.weight"), vec![4, 4])));
    shapes.extend(norms.iter().map(|name| (format!("{layer}.{name}.weight"), vec![4])));
    write_zeros(&path.join("model.safetensors"), &shapes);
}

/// A safetensors file: the length of a JSON header, the header, the values.
fn write_zeros(path: &Path, shapes: &[(String, Vec<usize>)]) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end, 0);
    fs::write(path, bytes).unwrap();
}

fn check(tokenizer: &Value, config: &Value) -> Vocabulary {
    let folder = tempfile::tempdir().unwrap();
    self::folder(folder.path(), tokenizer, config);
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
    let split = |digits: &str| {
        let pattern = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
    };
    let sequence = |first: Value, regex| json!({"type": "Sequence", "pretokenizers": [first, byte_level(regex)]});
    let digits = json!({"type": "Digits", "individual_digits": true});
    for (pre, expected) in [
        (byte_level(true), "gpt-2"),
        (sequence(digits, true), "starcoder"),
        (sequence(split(""), false), "qwen2"),
        (sequence(split("{1,3}"), false), "llama-bpe"),
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
        ("normalizer", json!({"type": "Lowercase"}), "key `normalizer`: is {\"type\":\"Lowercase\"}"),
        ("model", json!({"type": "Unigram"}), "key `type`: is `Unigram`, expected BPE"),
        ("added_tokens", json!([added(9999, "<x>", true)]), "token `<x>` has 9999, expected one below vocab_size"),
        ("added_tokens", json!([added(271, "a", true)]), "are both `a`"),
    ] {
        let mut tokenizer = plain.clone();
        tokenizer[key] = value;
        let folder = tempfile::tempdir().unwrap();
        self::folder(folder.path(), &plain, &json!({}));
        fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let error = hf::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
}
