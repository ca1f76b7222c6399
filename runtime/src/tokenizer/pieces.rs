//! What every token stands for, and the way back from text to token.
//!
//! One block of bytes and one table of ids: a map of strings would take ten times the memory.

use std::hash::{BuildHasher, RandomState};

use spm::{TokenType, TokenizerKind, Vocabulary};

use super::{byte_level, sentence_piece};
use crate::error::Error;

/// Stands for "no token".
pub(super) const NONE: u32 = u32::MAX;

/// The bytes of every token, one after another, and an index of those that merging may make.
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// Where each begins, and where the last ends.
    starts: Vec<u32>,
    shown: Vec<bool>,
    /// Open addressing, ids by hash of their bytes. The hash has a secret key: a file cannot make it slow.
    slots: Vec<u32>,
    hasher: RandomState,
    longest: usize,
}

impl Pieces {
    /// Decodes all tokens; two ordinary tokens of the same text are refused.
    pub(super) fn new(v: &Vocabulary) -> Result<Self, Error> {
        let mut all = Pieces {
            bytes: Vec::new(),
            starts: Vec::with_capacity(v.tokens.len() + 1),
            shown: Vec::with_capacity(v.tokens.len()),
            slots: vec![NONE; (v.tokens.len() * 3 / 2).next_power_of_two()],
            hasher: RandomState::new(),
            longest: 0,
        };
        all.starts.push(0);
        for (text, &kind) in v.tokens.iter().zip(&v.types) {
            all.push(text, kind, v.kind)?;
        }
        all.bytes.shrink_to_fit();
        for (id, (text, &kind)) in (0..).zip(v.tokens.iter().zip(&v.types)) {
            if is_mergeable(text, kind, v.kind) {
                all.index(id)?;
            }
        }
        Ok(all)
    }

    fn push(&mut self, text: &str, kind: TokenType, tokenizer: TokenizerKind) -> Result<(), Error> {
        match (kind, tokenizer) {
            (TokenType::Byte, _) => self.bytes.extend(sentence_piece::byte_of(text)),
            (TokenType::Normal | TokenType::Unused, TokenizerKind::ByteLevelBpe) => {
                byte_level::append_bytes(text, &mut self.bytes);
            }
            (TokenType::Normal | TokenType::Unused, TokenizerKind::SentencePiece) => {
                sentence_piece::append_bytes(text, &mut self.bytes);
            }
            _ => self.bytes.extend(text.as_bytes()),
        }
        let end = u32::try_from(self.bytes.len());
        self.starts.push(end.map_err(|_| Error::Tokenizer { problem: "the tokens take more than 4 GiB".into() })?);
        self.shown.push(matches!(kind, TokenType::Normal | TokenType::UserDefined | TokenType::Byte));
        Ok(())
    }

    fn index(&mut self, id: u32) -> Result<(), Error> {
        let slot = self.slot(self.get(id));
        let other = self.slots[slot];
        if other != NONE {
            let text = String::from_utf8_lossy(self.get(id));
            return Err(Error::Tokenizer { problem: format!("tokens {other} and {id} are both {text:?}") });
        }
        self.slots[slot] = id;
        self.longest = self.longest.max(self.get(id).len());
        Ok(())
    }

    /// The slot that holds the token of these bytes, or the free one where it would be. A third is always free.
    fn slot(&self, bytes: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash_one(bytes) as usize & mask;
        while self.slots[slot] != NONE && self.get(self.slots[slot]) != bytes {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// The token that merging makes for these bytes.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<u32> {
        // Merging asks for ever longer texts: those that no token reaches are not worth hashing.
        let found = if bytes.len() > self.longest { NONE } else { self.slots[self.slot(bytes)] };
        Some(found).filter(|&id| id != NONE)
    }

    pub(super) fn len(&self) -> usize {
        self.shown.len()
    }

    /// The bytes of a token; for control tokens, how they are written.
    pub(super) fn get(&self, id: u32) -> &[u8] {
        match self.starts.get(id as usize..).unwrap_or_default() {
            [from, to, ..] => self.bytes.get(*from as usize..*to as usize).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Whether a token is text, not control.
    pub(super) fn is_shown(&self, id: u32) -> bool {
        self.shown.get(id as usize).copied().unwrap_or(false)
    }
}

/// Whether merging may make this token. Not the ones that no text reaches because they are written in characters that
/// texts have no more by then, and never control tokens: a text must not be able to spell them.
fn is_mergeable(text: &str, kind: TokenType, tokenizer: TokenizerKind) -> bool {
    let written = match tokenizer {
        TokenizerKind::ByteLevelBpe => text.chars().all(|c| byte_level::byte_of(c).is_some()),
        TokenizerKind::SentencePiece => !text.contains(' '),
    };
    let plain = match kind {
        TokenType::Normal | TokenType::Unused => true,
        // Those are stored as they are written, which is not the alphabet that merging works in unless it is ASCII.
        TokenType::UserDefined => text.is_ascii(),
        TokenType::Control | TokenType::Unknown | TokenType::Byte => false,
    };
    plain && written && !text.is_empty()
}
