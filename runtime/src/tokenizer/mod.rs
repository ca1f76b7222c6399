//! Text to token ids and back, as the model was trained.
//!
//! Pre-tokenizers by name, special tokens that are text unless asked for, and the bytes of every token, so that text can
//! be shown as it comes. A vocabulary is a stranger's: what contradicts itself is refused, and none can make encoding
//! slow, recursive or large.

mod byte_level;
mod infill;
mod merge;
mod pieces;
mod sentence_piece;
mod split;
mod words;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use spm::{TokenType, TokenizerKind, Vocabulary};

use self::byte_level::ByteLevel;
use self::merge::Merger;
use self::pieces::Pieces;
use self::sentence_piece::SentencePiece;
pub use self::split::Splitter;
use crate::error::Error;

/// Longer tokens are refused; real ones have at most a few hundred bytes.
const LONGEST_TOKEN: usize = 1 << 16;

/// Special tokens together; they become an automaton some fifty times as large. Gemma's 6,400 take 64 KiB.
const SPECIAL_BYTES: usize = 1 << 18;

/// Longer texts are cut, which bounds the memory of merging and keeps its positions in 32 bits.
const LONGEST_TEXT: usize = 1 << 28;

/// What becomes of special tokens such as `<|endoftext|>` in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// They are text like any other: for texts from users.
    AsText,
    /// They become their token: for rendered chat templates.
    Parse,
}

/// A vocabulary ready to use.
pub struct Tokenizer {
    model: Model,
    pieces: Pieces,
    /// Tokens that are found in every text before merging.
    always: Option<Matcher>,
    /// Those, and the control tokens.
    special: Option<Matcher>,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    end_ids: Vec<u32>,
}

enum Model {
    ByteLevel(ByteLevel),
    SentencePiece(SentencePiece),
}

impl Tokenizer {
    /// Builds the tokenizer of a vocabulary; an unknown pre-tokenizer is refused by name.
    pub fn new(vocabulary: &Vocabulary) -> Result<Self, Error> {
        let v = vocabulary;
        check(v)?;
        let pieces = Pieces::new(v)?;
        let mut end_ids = v.end_of_generation.clone();
        end_ids.sort_unstable();
        Ok(Tokenizer {
            model: match v.kind {
                TokenizerKind::ByteLevelBpe => Model::ByteLevel(ByteLevel::new(v, &pieces)?),
                TokenizerKind::SentencePiece => Model::SentencePiece(SentencePiece::new(v)?),
            },
            pieces,
            always: Matcher::new(v, &[TokenType::UserDefined])?,
            special: Matcher::new(v, &[TokenType::UserDefined, TokenType::Control, TokenType::Unknown])?,
            bos: v.bos,
            eos: v.eos,
            add_bos: v.add_bos,
            end_ids,
        })
    }

    /// The tokens of a prompt: with the beginning-of-text token if the model wants one.
    pub fn encode(&self, text: &str, special: Special) -> Vec<u32> {
        let mut ids: Vec<u32> = self.bos.filter(|_| self.add_bos).into_iter().collect();
        self.append(text, special, &mut ids);
        ids
    }

    /// The tokens of the text alone.
    pub fn encode_plain(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.append(text, Special::AsText, &mut ids);
        ids
    }

    /// The text of a token, as bytes: a character may be spread over several tokens. Control tokens have none.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        if self.pieces.is_shown(id) { self.pieces.get(id) } else { &[] }
    }

    /// How a token is written, control tokens too; bytes that are no text are replaced.
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.pieces.get(id)).into_owned()
    }

    /// The text of some tokens.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The id of a special token by its text.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.special.as_ref()?.id_of(text)
    }

    /// Tokens of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// Beginning-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// End-of-text token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether a prompt begins with `bos`.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// Whether a token ends generation.
    pub fn is_end(&self, id: u32) -> bool {
        self.end_ids.binary_search(&id).is_ok()
    }

    /// All tokens that end generation, ascending.
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    fn append(&self, text: &str, special: Special, ids: &mut Vec<u32>) {
        let matcher = match special {
            Special::AsText => &self.always,
            Special::Parse => &self.special,
        };
        let (mut from, mut merger) = (0, Merger::default());
        if let Some(matcher) = matcher {
            for (range, id) in matcher.find(text) {
                self.append_text(&text[from..range.start], &mut merger, ids);
                ids.push(id);
                from = range.end;
            }
        }
        self.append_text(&text[from..], &mut merger, ids);
    }

    fn append_text(&self, mut text: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        while !text.is_empty() {
            let (now, later) = text.split_at(cut(text, LONGEST_TEXT));
            match &self.model {
                Model::ByteLevel(model) => model.encode(now, &self.pieces, merger, ids),
                Model::SentencePiece(model) => model.encode(now, &self.pieces, merger, ids),
            }
            text = later;
        }
    }
}

/// The last place to cut a text at or before `at`.
fn cut(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// What the rest relies on: lists of equal length, ids that are tokens, and texts of bearable length.
fn check(v: &Vocabulary) -> Result<(), Error> {
    let n = v.tokens.len();
    let refuse = |problem: String| Err(Error::Tokenizer { problem });
    if n == 0 || n >= u32::MAX as usize {
        return refuse(format!("{n} tokens, expected 1 to {}", u32::MAX - 1));
    }
    if v.types.len() != n {
        return refuse(format!("{} token types for {n} tokens", v.types.len()));
    }
    if v.kind == TokenizerKind::SentencePiece && v.scores.len() != n {
        return refuse(format!("{} scores for {n} tokens", v.scores.len()));
    }
    if let Some(id) = v.tokens.iter().position(|t| t.len() > LONGEST_TOKEN) {
        return refuse(format!("token {id} has {} bytes, expected at most {LONGEST_TOKEN}", v.tokens[id].len()));
    }
    let named = [v.bos, v.eos, v.unk, v.pad].into_iter().flatten();
    match named.chain(v.end_of_generation.iter().copied()).find(|&id| id as usize >= n) {
        Some(id) => refuse(format!("special token {id} is not below the vocabulary's {n}")),
        None => Ok(()),
    }
}

/// Finds tokens in text as they are written: the leftmost, and of several there the longest.
struct Matcher {
    automaton: AhoCorasick,
    tokens: Vec<(String, u32)>,
}

impl Matcher {
    fn new(v: &Vocabulary, types: &[TokenType]) -> Result<Option<Self>, Error> {
        let wanted =
            v.tokens.iter().zip(&v.types).zip(0..).filter(|((text, t), _)| types.contains(t) && !text.is_empty());
        let tokens: Vec<(String, u32)> = wanted.map(|((text, _), id)| (text.clone(), id)).collect();
        if tokens.is_empty() {
            return Ok(None);
        }
        let bytes: usize = tokens.iter().map(|(text, _)| text.len()).sum();
        if bytes > SPECIAL_BYTES {
            let problem = format!("special tokens take {bytes} bytes, expected at most {SPECIAL_BYTES}");
            return Err(Error::Tokenizer { problem });
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(tokens.iter().map(|(text, _)| text))
            .map_err(|e| Error::Tokenizer { problem: format!("{} special tokens: {e}", tokens.len()) })?;
        Ok(Some(Matcher { automaton, tokens }))
    }

    fn find<'t>(&'t self, text: &'t str) -> impl Iterator<Item = (std::ops::Range<usize>, u32)> + 't {
        self.automaton.find_iter(text).map(|m| (m.range(), self.tokens[m.pattern().as_usize()].1))
    }

    fn id_of(&self, text: &str) -> Option<u32> {
        self.tokens.iter().find(|(t, _)| t == text).map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests;
