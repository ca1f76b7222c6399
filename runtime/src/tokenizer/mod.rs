//! Text to token ids and back, as the model was trained.
//!
//! Merging is the `tokenizers` crate's; here is what GGUF vocabularies need around it: pre-tokenizers by name, special
//! tokens that are text unless asked for, and the bytes of every token, so that text can be shown as it comes.

mod byte_level;
mod sentence_piece;

use aho_corasick::{AhoCorasick, MatchKind};
use spm::{TokenType, TokenizerKind, Vocabulary};
use tokenizers::models::bpe::BPE;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl};

use crate::error::Error;

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
    kind: TokenizerKind,
    bpe: Bpe,
    add_space_prefix: bool,
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

type Bpe = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

impl Tokenizer {
    /// Builds the tokenizer of a vocabulary; an unknown pre-tokenizer is refused by name.
    pub fn new(vocabulary: &Vocabulary) -> Result<Self, Error> {
        let v = vocabulary;
        let bpe = match v.kind {
            TokenizerKind::ByteLevelBpe => byte_level::build(v)?,
            TokenizerKind::SentencePiece => sentence_piece::build(v)?,
        };
        Ok(Tokenizer {
            kind: v.kind,
            bpe,
            add_space_prefix: v.add_space_prefix,
            pieces: Pieces::new(v),
            always: Matcher::new(v, &[TokenType::UserDefined])?,
            special: Matcher::new(v, &[TokenType::UserDefined, TokenType::Control, TokenType::Unknown])?,
            bos: v.bos,
            eos: v.eos,
            add_bos: v.add_bos,
            end_ids: v.end_of_generation.clone(),
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
        let mut from = 0;
        // SentencePiece begins a text, and what follows a special token, with a space.
        if let Some(matcher) = matcher {
            for (range, id) in matcher.find(text) {
                self.append_text(&text[from..range.start], ids);
                ids.push(id);
                from = range.end;
            }
        }
        self.append_text(&text[from..], ids);
    }

    fn append_text(&self, text: &str, ids: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let escaped;
        let text = match self.kind {
            TokenizerKind::ByteLevelBpe => text,
            TokenizerKind::SentencePiece => {
                escaped = sentence_piece::escape(text, self.add_space_prefix);
                &escaped
            }
        };
        // The only failures are about unknown tokens, which the builders rule out.
        if let Ok(encoding) = self.bpe.encode_fast(text, false) {
            ids.extend(encoding.get_ids());
        }
    }
}

/// The bytes of every token, one after another.
struct Pieces {
    bytes: Vec<u8>,
    /// Where each begins, and where the last ends.
    starts: Vec<u32>,
    shown: Vec<bool>,
}

impl Pieces {
    fn new(v: &Vocabulary) -> Self {
        let mut all = Pieces { bytes: Vec::new(), starts: vec![0], shown: Vec::new() };
        for (text, kind) in v.tokens.iter().zip(&v.types) {
            match (kind, v.kind) {
                (TokenType::Byte, _) => all.bytes.extend(sentence_piece::byte_of(text)),
                (TokenType::Normal, TokenizerKind::ByteLevelBpe) => byte_level::append_bytes(text, &mut all.bytes),
                (TokenType::Normal, TokenizerKind::SentencePiece) => {
                    all.bytes.extend(text.replace(sentence_piece::SPACE, " ").as_bytes());
                }
                _ => all.bytes.extend(text.as_bytes()),
            }
            all.starts.push(u32::try_from(all.bytes.len()).unwrap_or(u32::MAX));
            all.shown.push(matches!(kind, TokenType::Normal | TokenType::UserDefined | TokenType::Byte));
        }
        all
    }

    fn len(&self) -> usize {
        self.shown.len()
    }

    fn get(&self, id: u32) -> &[u8] {
        match self.starts.get(id as usize..).unwrap_or_default() {
            [from, to, ..] => self.bytes.get(*from as usize..*to as usize).unwrap_or_default(),
            _ => &[],
        }
    }

    fn is_shown(&self, id: u32) -> bool {
        self.shown.get(id as usize).copied().unwrap_or(false)
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
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
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
