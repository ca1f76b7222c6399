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

/// GPT-4's words; `{}` is how many digits there are in one.
const GPT4: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|",
    r"\s+(?!\S)|\s+"
);
const DEEPSEEK_CODER: [&str; 5] = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"];

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
    let uses_regex = last.get("use_regex").and_then(Value::as_bool).unwrap_or(true);
    let patterns: Vec<&str> = before.iter().map(|step| pattern(step)).collect::<Option<_>>()?;
    match (&patterns[..], uses_regex) {
        ([], true) => Some("gpt-2"),
        ([r"\p{N}"], true) => Some("starcoder"),
        ([one], false) if *one == GPT4.replace("{}", "") => Some("qwen2"),
        ([one], false) if *one == GPT4.replace("{}", "{1,3}") => Some("llama-bpe"),
        (many, false) if *many == DEEPSEEK_CODER => Some("deepseek-coder"),
        _ => None,
    }
}

/// What a step cuts at, each match for itself.
fn pattern(step: &Value) -> Option<&str> {
    match kind(step) {
        "Digits" if step.get("individual_digits")?.as_bool()? => Some(r"\p{N}"),
        "Split" if step.get("behavior")?.as_str()? == "Isolated" && step.get("invert")?.as_bool() != Some(true) => {
            let pattern = step.get("pattern")?;
            pattern.get("Regex").or(pattern.get("String"))?.as_str()
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
