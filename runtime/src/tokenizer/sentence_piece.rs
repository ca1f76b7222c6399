//! SentencePiece BPE: the pair whose union has the highest score is joined first; what is left becomes bytes.
//!
//! Not the `tokenizers` crate's BPE: that one wants every way to cut every token as a merge by rank, which takes
//! several times the memory of the vocabulary, to look up what the score says directly.

use spm::{TokenType, Vocabulary};

use super::merge::{Merger, Pair, Symbol, joined_len};
use super::pieces::{NONE, Pieces};
use crate::error::Error;

/// What stands for a space in tokens.
const SPACE: &str = "\u{2581}";

/// Encodes by score.
pub(super) struct SentencePiece {
    /// By token; order is that of the scores.
    priorities: Vec<u32>,
    byte_ids: [u32; 256],
    unk: Option<u32>,
    add_space_prefix: bool,
}

impl SentencePiece {
    pub(super) fn new(v: &Vocabulary) -> Result<Self, Error> {
        if let Some(id) = v.scores.iter().position(|s| s.is_nan()) {
            return Err(Error::Tokenizer { problem: format!("the score of token {id} is no number") });
        }
        Ok(SentencePiece {
            priorities: v.scores.iter().map(|&s| in_order(s)).collect(),
            byte_ids: byte_ids(v)?,
            unk: v.unk,
            add_space_prefix: v.add_space_prefix,
        })
    }

    /// Appends the tokens of a text that begins a text, or follows a special token; not `spaced`, one that goes on.
    pub(super) fn encode(&self, text: &str, spaced: bool, pieces: &Pieces, merger: &mut Merger, ids: &mut Vec<u32>) {
        let prefix = if spaced && self.add_space_prefix { " " } else { "" };
        let text = format!("{prefix}{}", text.replace(SPACE, " "));
        self.merge(&text, usize::MAX, pieces, merger, |id, bytes| match id {
            NONE => self.fall_back(bytes, ids),
            id => ids.push(id),
        });
    }

    /// The token of a byte.
    pub(super) fn byte_id(&self, byte: u8) -> Option<u32> {
        Some(self.byte_ids[usize::from(byte)]).filter(|&id| id != NONE)
    }

    /// Shows what `text` is merged to, each no longer than `longest` bytes: a token and its bytes, or [`NONE`] and those
    /// of a character that is none.
    pub(super) fn merge(
        &self,
        text: &str,
        longest: usize,
        pieces: &Pieces,
        merger: &mut Merger,
        mut show: impl FnMut(u32, &[u8]),
    ) {
        merger.clear();
        for c in text.chars() {
            let mut utf8 = [0; 4];
            let utf8 = c.encode_utf8(&mut utf8).as_bytes();
            merger.push(pieces.find(utf8).unwrap_or(NONE), utf8.len() as u32);
        }
        let bytes = text.as_bytes();
        let pair = |l: &Symbol, r: &Symbol| {
            let id = pieces.find(&bytes[l.range().start..r.range().end]).filter(|_| joined_len(l, r) <= longest)?;
            Some(Pair { priority: *self.priorities.get(id as usize)?, id })
        };
        merger.run(pair).for_each(|symbol| show(symbol.id, &bytes[symbol.range()]));
    }

    /// Bytes for a character that is no token. A space is written as the model has it, as SentencePiece does.
    fn fall_back(&self, bytes: &[u8], ids: &mut Vec<u32>) {
        let bytes = if bytes == b" " { SPACE.as_bytes() } else { bytes };
        let found = bytes.iter().map(|&b| self.byte_ids[usize::from(b)]);
        match found.clone().all(|id| id != NONE) {
            true => ids.extend(found),
            false => ids.extend(self.unk),
        }
    }
}

/// Maps scores to numbers of the same order; both zeros are the same score.
fn in_order(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// All 256 byte tokens, or an unknown token to stand for what is missing.
fn byte_ids(v: &Vocabulary) -> Result<[u32; 256], Error> {
    let mut ids = [NONE; 256];
    for ((text, _), id) in v.tokens.iter().zip(&v.types).zip(0..).filter(|((_, t), _)| **t == TokenType::Byte) {
        let byte = byte_of(text).ok_or_else(|| Error::Tokenizer {
            problem: format!("byte token {id} is {text:?}, expected `<0x00>` to `<0xFF>`"),
        })?;
        ids[usize::from(byte)] = id;
    }
    match ids.iter().position(|id| *id == NONE) {
        Some(byte) if v.unk.is_none() => Err(Error::Tokenizer {
            problem: format!("no token for byte {byte:#04x} and no unknown token, so texts with it cannot be encoded"),
        }),
        _ => Ok(ids),
    }
}

/// Appends the bytes that a token's text stands for.
pub(super) fn append_bytes(text: &str, out: &mut Vec<u8>) {
    for (i, part) in text.split(SPACE).enumerate() {
        out.extend((i > 0).then_some(b' '));
        out.extend(part.as_bytes());
    }
}

/// The byte that `<0x0A>` stands for.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hex { u8::from_str_radix(hex, 16).ok() } else { None }
}
