//! The vocabulary of a GGUF file, with the defaults that llama.cpp has for what a file does not say.

use std::collections::HashMap;

use spm::{TokenType, TokenizerKind, Vocabulary};

use crate::error::Fault;
use crate::reader::Keys;

/// Texts of tokens that end generation wherever they occur (as llama.cpp has them).
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<｜end▁of▁sentence｜>",
    // Padding, and the separators of files and repositories: the completion of a file ends there.
    "<|fim_pad|>",
    "<fim_pad>",
    "<|repo_name|>",
    "<|fim_repo|>",
    "<reponame>",
    "<|file_sep|>",
];

/// Keys that name a token which ends generation.
const END_KEYS: &[&str] =
    &["eos_token_id", "eot_token_id", "eom_token_id", "fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id"];

/// Reads the vocabulary; `None` when the file has none.
pub(crate) fn read(keys: &Keys) -> Result<Option<Vocabulary>, Fault> {
    let kind = match keys.text("tokenizer.ggml.model")? {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some("gpt2") => TokenizerKind::ByteLevelBpe,
        Some("llama") => TokenizerKind::SentencePiece,
        Some(other) => {
            let problem = format!("is `{other}`; known are gpt2 (byte-level BPE) and llama (SentencePiece)");
            return Err(Fault::key("tokenizer.ggml.model", problem).unsupported());
        }
    };
    let is_bytes = kind == TokenizerKind::ByteLevelBpe;
    let pre = keys.text("tokenizer.ggml.pre")?.unwrap_or_default().to_owned();
    let is_llama3 = matches!(pre.as_str(), "llama-bpe" | "llama3" | "llama-v3");
    let tokens = needed(keys.texts("tokenizer.ggml.tokens")?, "tokenizer.ggml.tokens")?;
    let types = types(keys, tokens.len())?;
    let merges = if is_bytes { merges(keys, &tokens)? } else { Vec::new() };
    let scores = if is_bytes { Vec::new() } else { scores(keys, tokens.len())? };
    let flag = |name: &str, default| Ok(keys.bool(&format!("tokenizer.ggml.{name}"))?.unwrap_or(default));
    let id = |name: &str, default: Option<u32>| token_id(keys, name, tokens.len(), default);
    let spm_default = |id: u32| Some(id).filter(|_| !is_bytes);
    Ok(Some(Vocabulary {
        kind,
        bos: id("bos_token_id", spm_default(1))?,
        eos: id("eos_token_id", spm_default(2))?,
        unk: id("unknown_token_id", spm_default(0))?,
        pad: id("padding_token_id", None)?,
        add_bos: flag("add_bos_token", !is_bytes || is_llama3)?,
        add_eos: flag("add_eos_token", false)?,
        add_space_prefix: flag("add_space_prefix", !is_bytes)?,
        ignore_merges: is_llama3,
        end_of_generation: ends(keys, &tokens)?,
        chat_template: keys.text("tokenizer.chat_template")?.map(str::to_owned),
        pre: if is_bytes { pre } else { String::new() },
        tokens,
        types,
        scores,
        merges,
    }))
}

fn needed<T>(value: Option<T>, key: &str) -> Result<T, Fault> {
    value.ok_or_else(|| Fault::key(key, "is missing; convert the model again together with its tokenizer"))
}

fn types(keys: &Keys, n: usize) -> Result<Vec<TokenType>, Fault> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(numbers) = keys.integers(KEY)? else { return Ok(vec![TokenType::Normal; n]) };
    check_len(KEY, numbers.len(), n)?;
    let parse =
        |n: i64| TokenType::from_gguf(n).ok_or_else(|| Fault::key(KEY, format!("has the type {n}, expected 1 to 6")));
    numbers.into_iter().map(parse).collect()
}

fn scores(keys: &Keys, n: usize) -> Result<Vec<f32>, Fault> {
    const KEY: &str = "tokenizer.ggml.scores";
    let scores = needed(keys.floats(KEY)?, KEY)?;
    check_len(KEY, scores.len(), n)?;
    match scores.iter().position(|s| s.is_nan()) {
        Some(i) => Err(Fault::key(KEY, format!("has no number for token {i}"))),
        None => Ok(scores),
    }
}

/// Merges are written `left right`; texts may hold spaces only as `Ġ`.
fn merges(keys: &Keys, tokens: &[String]) -> Result<Vec<(u32, u32)>, Fault> {
    const KEY: &str = "tokenizer.ggml.merges";
    let texts = needed(keys.texts(KEY)?, KEY)?;
    let ids: HashMap<&str, u32> = tokens.iter().map(String::as_str).zip(0..).collect();
    let parse = |text: &String| {
        // The first character may itself be the space of some odd vocabularies.
        let at = text.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at)?;
        Some((*ids.get(&text[..at])?, *ids.get(&text[at + 1..])?))
    };
    let merge = |(i, text): (usize, &String)| {
        parse(text).ok_or_else(|| Fault::key(KEY, format!("merge {i} is `{text}`, which is not two tokens")))
    };
    texts.iter().enumerate().map(merge).collect()
}

fn check_len(key: &str, len: usize, n: usize) -> Result<(), Fault> {
    if len == n { Ok(()) } else { Err(Fault::key(key, format!("has {len} entries for {n} tokens"))) }
}

/// A token named by a key; files that say -1 or nothing have none.
fn token_id(keys: &Keys, name: &str, n: usize, default: Option<u32>) -> Result<Option<u32>, Fault> {
    let key = format!("tokenizer.ggml.{name}");
    match keys.integer(&key)? {
        None => Ok(default.filter(|&id| (id as usize) < n)),
        Some(id) if id == u32::MAX as usize => Ok(None),
        Some(id) if id < n => Ok(Some(id as u32)),
        Some(id) => Err(Fault::key(&key, format!("is token {id} of {n}"))),
    }
}

fn ends(keys: &Keys, tokens: &[String]) -> Result<Vec<u32>, Fault> {
    let mut ids: Vec<u32> = Vec::new();
    for name in END_KEYS {
        ids.extend(token_id(keys, name, tokens.len(), None)?);
    }
    ids.extend(tokens.iter().zip(0..).filter(|(text, _)| END_TEXTS.contains(&text.as_str())).map(|(_, id)| id));
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
