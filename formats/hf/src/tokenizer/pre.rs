//! Which kind of tokenizer a `tokenizer.json` describes: told by its pre-tokenizer and normalizer.

use serde_json::Value;
use spm::TokenizerKind;

use crate::error::{Error, shown};
use crate::json::Json;

/// What cuts a text before it is merged.
pub(super) struct Words {
    pub(super) kind: TokenizerKind,
    /// GGUF's name of the pre-tokenizer; empty for SentencePiece.
    pub(super) pre: String,
    pub(super) space_prefix: bool,
}

/// What is cut before byte-level BPE, each pattern of what those before it left, and GGUF's name for it.
const KNOWN: &[(&str, &[&str])] = &[
    ("starcoder", &[r"\p{N}", GPT2]),
    ("gpt-2", &[GPT2]),
    (
        "qwen2",
        &[concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|",
            r"\s+(?!\S)|\s+"
        )],
    ),
    (
        "llama-bpe",
        &[concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|",
            r"\s+(?!\S)|\s+"
        )],
    ),
    (
        "qwen35",
        &[concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|",
            r"\s*[\r\n]+|\s+(?!\S)|\s+"
        )],
    ),
    (
        "gpt-4o",
        &[concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
            r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )],
    ),
    (
        "tekken",
        &[concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
            r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )],
    ),
    ("deepseek-coder", &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"]),
    (
        "deepseek-v3",
        &[
            r"\p{N}{1,3}",
            r"[一-龥぀-ゟ゠-ヿ]+",
            concat!(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"##,
                r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
        ],
    ),
];

/// What stands for the words of the step `ByteLevel` itself.
const GPT2: &str = "GPT-2";

/// Resolves the pre-tokenizer of a file; one that is not known is refused with its description.
pub(super) fn resolve(file: Json) -> Result<Words, Error> {
    let steps = steps(file.value("pre_tokenizer"), "pretokenizers");
    let normalizers = steps_of_normalizer(file)?;
    if steps.iter().any(|step| kind(step) == "ByteLevel") {
        let pre = byte_level(&steps).ok_or_else(|| unknown(file, "pre_tokenizer"))?;
        return Ok(Words { kind: TokenizerKind::ByteLevelBpe, pre: pre.to_owned(), space_prefix: false });
    }
    let model = file.object("model")?;
    if model.map_or(Ok(None), |model| model.bool("byte_fallback"))? != Some(true) {
        return Err(unknown(file, "pre_tokenizer"));
    }
    let space_prefix = match &steps[..] {
        [] => normalizers.iter().any(|step| kind(step) == "Prepend"),
        [step] if kind(step) == "Metaspace" => prepends(step),
        // Gemma's: cut at spaces, of which the normalizer has left none.
        [step] if kind(step) == "Split" && !normalizers.is_empty() => {
            normalizers.iter().any(|step| kind(step) == "Prepend")
        }
        _ => return Err(unknown(file, "pre_tokenizer")),
    };
    Ok(Words { kind: TokenizerKind::SentencePiece, pre: String::new(), space_prefix })
}

/// GGUF's name for the steps that end in byte-level BPE.
fn byte_level(steps: &[&Value]) -> Option<&'static str> {
    let (last, before) = steps.split_last()?;
    let is = |key: &str| last.get(key).and_then(Value::as_bool);
    if is("add_prefix_space") == Some(true) {
        return None;
    }
    let own = is("use_regex").unwrap_or(true).then_some(GPT2);
    let patterns: Vec<&str> = before.iter().map(|step| pattern(step)).chain(own.map(Some)).collect::<Option<_>>()?;
    let same =
        |known: &[&str]| known.len() == patterns.len() && known.iter().zip(&patterns).all(|(k, p)| is_same(k, p));
    KNOWN.iter().find(|(_, known)| same(known)).map(|(name, _)| *name)
}

/// Whether a pattern is a known one: files write line ends as characters, too.
fn is_same(known: &str, pattern: &str) -> bool {
    known == pattern || known == pattern.replace('\r', r"\r").replace('\n', r"\n")
}

/// What a step cuts at, each match for itself.
fn pattern(step: &Value) -> Option<&str> {
    match kind(step) {
        "Digits" if step.get("individual_digits")?.as_bool()? => Some(r"\p{N}"),
        "Split" => {
            let pattern = step.get("pattern")?;
            let pattern = pattern.get("Regex").or(pattern.get("String"))?.as_str()?;
            let is_inverted = step.get("invert").and_then(Value::as_bool) == Some(true);
            match (step.get("behavior")?.as_str()?, is_inverted) {
                ("Isolated", false) => Some(pattern),
                // What does not match is dropped, of patterns that match everything: nothing.
                ("Removed", true) if pattern.ends_with(r"|\s+") => Some(pattern),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The normalizers that change no text that matters, or that SentencePiece's spaces are made with.
fn steps_of_normalizer(file: Json<'_>) -> Result<Vec<&Value>, Error> {
    let all = steps(file.value("normalizer"), "normalizers");
    let is_known = |step: &&Value| match kind(step) {
        "NFC" | "Prepend" => true,
        "Replace" => step.get("content").and_then(Value::as_str) == Some("▁"),
        _ => false,
    };
    match all.iter().all(is_known) {
        true => Ok(all),
        false => Err(unknown(file, "normalizer")),
    }
}

/// The steps of a sequence, or the one there is.
fn steps<'a>(value: Option<&'a Value>, key: &str) -> Vec<&'a Value> {
    match value {
        Some(all) if kind(all) == "Sequence" => all.get(key).and_then(Value::as_array).into_iter().flatten().collect(),
        one => one.into_iter().collect(),
    }
}

fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn prepends(metaspace: &Value) -> bool {
    let scheme = metaspace.get("prepend_scheme").and_then(Value::as_str);
    let old = metaspace.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true);
    scheme.map_or(old, |scheme| scheme != "never")
}

fn unknown(file: Json, key: &str) -> Error {
    let found = file.value(key).map_or("missing".to_owned(), |v| shown(&v.to_string()));
    let problem = format!("is {found}, which is not known; convert the model to GGUF with a current llama.cpp instead");
    Error::key(file.path(), key, problem)
}
