//! SentencePiece BPE: the pair whose union has the highest score is joined first; what is left becomes bytes.
//!
//! The `tokenizers` crate merges by rank, so the scores are turned into ranks: every way to cut a token into two tokens
//! is a merge, ranked by the token's score.

use std::collections::HashMap;

use spm::{TokenType, Vocabulary};
use tokenizers::models::bpe::{BPE, Vocab};

use super::Bpe;
use crate::error::Error;

/// What stands for a space.
pub(super) const SPACE: &str = "\u{2581}";

/// Longer tokens are never made by joining: real ones have a few dozen bytes, and the work grows with the square.
const LONGEST: usize = 256;

pub(super) fn build(v: &Vocabulary) -> Result<Bpe, Error> {
    check_bytes(v)?;
    let ids: Vocab = v.tokens.iter().cloned().zip(0..).collect();
    let mut model = BPE::builder().vocab_and_merges(ids, merges(v)).byte_fallback(true);
    if let Some(unk) = v.unk.and_then(|id| v.tokens.get(id as usize)) {
        model = model.unk_token(unk.clone()).fuse_unk(true);
    }
    let model = model.build().map_err(|e| Error::Tokenizer { problem: e.to_string() })?;
    Ok(Bpe::new(model))
}

fn merges(v: &Vocabulary) -> Vec<(String, String)> {
    let joined = |t: TokenType| matches!(t, TokenType::Normal | TokenType::UserDefined | TokenType::Unused);
    let parts: HashMap<&str, usize> =
        v.tokens.iter().enumerate().filter(|(i, _)| joined(v.types[*i])).map(|(i, t)| (t.as_str(), i)).collect();
    let mut all: Vec<(f32, usize, usize)> = Vec::new();
    for (i, token) in v.tokens.iter().enumerate().filter(|(i, t)| joined(v.types[*i]) && t.len() <= LONGEST) {
        for (at, _) in token.char_indices().skip(1) {
            if let (Some(&l), Some(&r)) = (parts.get(&token[..at]), parts.get(&token[at..])) {
                all.push((v.scores[i], l, r));
            }
        }
    }
    // Equal scores keep the order of the ids.
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    all.into_iter().map(|(_, l, r)| (v.tokens[l].clone(), v.tokens[r].clone())).collect()
}

/// All 256 byte tokens, or an unknown token to stand for what is missing.
fn check_bytes(v: &Vocabulary) -> Result<(), Error> {
    let mut have = [false; 256];
    let bytes = v.tokens.iter().zip(&v.types).filter(|(_, t)| **t == TokenType::Byte);
    bytes.filter_map(|(text, _)| byte_of(text)).for_each(|b| have[usize::from(b)] = true);
    match have.iter().position(|have| !have) {
        Some(byte) if v.unk.is_none() => Err(Error::Tokenizer {
            problem: format!("no token for byte {byte:#04x} and no unknown token, so texts with it cannot be encoded"),
        }),
        _ => Ok(()),
    }
}

/// Spaces become `▁`, with one more in front if the model wants it.
pub(super) fn escape(text: &str, add_space_prefix: bool) -> String {
    let prefix = if add_space_prefix { SPACE } else { "" };
    format!("{prefix}{}", text.replace(' ', SPACE))
}

/// The byte that `<0x0A>` stands for.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}
