//! Tokens that a model cannot write as tokens that it can: what a shortlist leaves of a text's tokens.
//!
//! A token's last merge is undone, then those of its parts that are not listed, down to single bytes: its bytes are
//! merged again with every token allowed that is shorter. Parts that are not listed have been split before, as tokens
//! are taken by length; so nothing recurses, and the work is that of encoding the vocabulary once.

use spm::Shortlist;

use super::merge::Merger;
use super::pieces::NONE;
use super::{Model, Tokenizer};
use crate::error::Error;

/// Splits the tokens that are not in a shortlist.
pub struct Splitter {
    /// The parts of all tokens that are split, one after another.
    parts: Vec<u32>,
    /// By token, where its parts begin and end; nowhere for tokens that are not split.
    places: Vec<(u32, u32)>,
}

impl Splitter {
    /// Splits every token that texts are merged to and that is not listed. The error names one that the listed ones
    /// cannot write; a list that a file was opened with leaves none.
    pub fn new(tokenizer: &Tokenizer, listed: &Shortlist) -> Result<Self, Error> {
        let pieces = &tokenizer.pieces;
        let unlisted =
            (0..pieces.len() as u32).filter(|&id| !listed.contains(id) && pieces.find(pieces.get(id)) == Some(id));
        let mut unlisted: Vec<u32> = unlisted.collect();
        unlisted.sort_by_key(|&id| pieces.get(id).len());
        let mut all = Splitter { parts: Vec::new(), places: vec![WHOLE; pieces.len()] };
        let (mut merger, mut found) = (Merger::default(), Vec::new());
        for id in unlisted {
            found.clear();
            tokenizer.append_parts(id, &mut merger, &mut found);
            let from = all.parts.len();
            found.iter().for_each(|&part| all.push(part));
            let parts = &all.parts[from..];
            let is_same = parts.iter().flat_map(|&part| pieces.get(part)).eq(pieces.get(id));
            if !is_same || !parts.iter().all(|&part| listed.contains(part)) {
                let text = tokenizer.token_text(id);
                let problem = format!("token {id}, {text:?}, is not listed, and no listed tokens write the same");
                return Err(Error::Tokenizer { problem });
            }
            // Parts are no more than the bytes of all tokens, which fit in 32 bits.
            all.places[id as usize] = (from as u32, all.parts.len() as u32);
        }
        Ok(all)
    }

    /// Appends a token's parts, or itself if it is listed.
    pub fn append(&self, id: u32, ids: &mut Vec<u32>) {
        match self.place(id) {
            Some((from, to)) => ids.extend(&self.parts[from..to]),
            None => ids.push(id),
        }
    }

    /// Some tokens as listed ones, of the same text.
    pub fn split(&self, ids: &[u32]) -> Vec<u32> {
        let mut all = Vec::with_capacity(ids.len());
        ids.iter().for_each(|&id| self.append(id, &mut all));
        all
    }

    /// The same for tokens split here.
    fn push(&mut self, id: u32) {
        match self.place(id) {
            Some((from, to)) => self.parts.extend_from_within(from..to),
            None => self.parts.push(id),
        }
    }

    fn place(&self, id: u32) -> Option<(usize, usize)> {
        let place = self.places.get(id as usize).filter(|place| **place != WHOLE);
        place.map(|&(from, to)| (from as usize, to as usize))
    }
}

/// The place of a token that is not split.
const WHOLE: (u32, u32) = (NONE, NONE);

impl Tokenizer {
    /// Appends the shorter tokens that a token's own bytes are merged to; bytes of characters that are no token.
    fn append_parts(&self, id: u32, merger: &mut Merger, parts: &mut Vec<u32>) {
        let bytes = self.pieces.get(id);
        let shorter = bytes.len().saturating_sub(1);
        match &self.model {
            Model::ByteLevel(model) => model.merge(bytes, shorter, merger, parts),
            Model::SentencePiece(model) => {
                let Ok(text) = std::str::from_utf8(bytes) else { return };
                model.merge(text, shorter, &self.pieces, merger, |part, bytes| match part {
                    part if part == NONE || bytes.len() > shorter => {
                        parts.extend(bytes.iter().filter_map(|&b| model.byte_id(b)))
                    }
                    part => parts.push(part),
                });
            }
        }
    }
}
