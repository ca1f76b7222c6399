//! The tokens that a model can write, where its head does not have a row for every one: a vocabulary shortlist, as
//! known from translation (Jean et al. 2015, "On Using Very Large Target Vocabulary", arXiv 1412.2007).

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::cursor::Cursor;
use crate::error::{Error, Fault};
use crate::tokenizer::{TokenType, TokenizerKind, Vocabulary};

const PLACE: &str = "section HEAD";

/// Ids of the tokens that the output head has rows for, in the order of the rows: ascending. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Shortlist {
    ids: Arc<[u32]>,
}

impl Shortlist {
    /// A list of these tokens of a vocabulary of `vocab_size`. They must be ascending, and at least one.
    pub fn new(ids: Vec<u32>, vocab_size: usize) -> Result<Self, Error> {
        let list = Shortlist { ids: ids.into() };
        list.check_ids(vocab_size)?;
        Ok(list)
    }

    /// The ids, ascending.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// How many there are: rows of the head.
    #[allow(clippy::len_without_is_empty)] // There is no empty one.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the head has a row for this token.
    pub fn contains(&self, id: u32) -> bool {
        self.ids.binary_search(&id).is_ok()
    }

    /// Row of a token in an embedding that is the head as well: the listed tokens come first, then all others, both
    /// ascending, so that the head is its first rows.
    pub fn tied_row(&self, id: u32) -> usize {
        match self.ids.binary_search(&id) {
            Ok(row) => row,
            Err(listed_before) => self.len() + id as usize - listed_before,
        }
    }

    /// The tokens of all rows of such an embedding, in their order.
    pub fn tied_order(&self, vocab_size: usize) -> impl Iterator<Item = u32> + '_ {
        let mut listed = self.ids.iter().copied().peekable();
        let others = (0..vocab_size as u32).filter(move |id| listed.next_if_eq(id).is_none());
        self.ids.iter().copied().chain(others)
    }

    /// A token without which some text could not be written, if one is missing.
    pub fn missing(&self, vocabulary: &Vocabulary) -> Option<u32> {
        needed_tokens(vocabulary).into_iter().find(|&id| !self.contains(id))
    }

    /// Refuses ids that are not ascending ones below `vocab_size`.
    pub(crate) fn check_ids(&self, vocab_size: usize) -> Result<(), Error> {
        let expected = || format!("1 to {vocab_size} tokens, ascending");
        match self.problem(vocab_size) {
            Some(value) => Err(Error::Config { key: "shortlist", value, expected: expected() }),
            None => Ok(()),
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.ids.iter().flat_map(|id| id.to_le_bytes()).collect()
    }

    /// Reads and checks the section.
    pub(crate) fn parse(bytes: &[u8], vocab_size: usize, vocabulary: Option<&Vocabulary>) -> Result<Self, Fault> {
        let mut c = Cursor::new(PLACE, bytes);
        let ids = (0..bytes.len() / 4).map(|_| c.u32("tokens")).collect::<Result<_, _>>()?;
        c.end()?;
        let found = Shortlist { ids };
        found.check(vocab_size, vocabulary)?;
        Ok(found)
    }

    /// What holds for every list, written or read.
    pub(crate) fn check(&self, vocab_size: usize, vocabulary: Option<&Vocabulary>) -> Result<(), Fault> {
        if let Some(problem) = self.problem(vocab_size) {
            return Err(Fault::new(PLACE, problem));
        }
        match vocabulary.and_then(|v| Some((v, self.missing(v)?))) {
            Some((v, id)) => Err(Fault::new(
                PLACE,
                format!(
                    "token {id}, {:?}, is not listed, and without it some text cannot be written",
                    v.tokens[id as usize]
                ),
            )),
            None => Ok(()),
        }
    }

    fn problem(&self, vocab_size: usize) -> Option<String> {
        let last = self.ids.last().copied();
        match (self.ids.windows(2).find(|pair| pair[0] >= pair[1]), last) {
            (_, None) => Some("no tokens, expected 1 or more".into()),
            (Some(pair), _) => Some(format!("token {} after {}, expected ascending order", pair[1], pair[0])),
            (None, Some(last)) if last as usize >= vocab_size => {
                Some(format!("token {last} of a vocabulary of {vocab_size}"))
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Shortlist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shortlist of {} tokens", self.len())
    }
}

/// The tokens that every shortlist has, ascending: all that are not plain text, and those that other text can be
/// written with. These are the single characters, and whatever characters alone do not spell; none of either where
/// there is a token for every byte.
pub fn needed_tokens(vocabulary: &Vocabulary) -> Vec<u32> {
    let v = vocabulary;
    let mut named: HashSet<u32> = [v.bos, v.eos, v.unk, v.pad].into_iter().flatten().collect();
    named.extend(&v.end_of_generation);
    let plain = |t: TokenType| matches!(t, TokenType::Normal | TokenType::Unused);
    let spells = Spelling::new(v);
    let all = v.tokens.iter().zip(&v.types).zip(0..);
    all.filter(|((text, kind), id)| !plain(**kind) || named.contains(id) || !spells.spells(text))
        .map(|(_, id)| id)
        .collect()
}

/// What a token's text can be written with instead.
struct Spelling {
    /// Any text, byte by byte.
    has_all_bytes: bool,
    /// Characters that are tokens.
    characters: HashSet<char>,
}

impl Spelling {
    fn new(v: &Vocabulary) -> Self {
        let of_type = |wanted| v.tokens.iter().zip(&v.types).filter(move |(_, t)| **t == wanted).map(|(text, _)| text);
        let bytes: HashSet<&String> = of_type(TokenType::Byte).collect();
        let allowed = |c: &char| v.kind == TokenizerKind::SentencePiece || is_byte(*c);
        Spelling {
            has_all_bytes: v.kind == TokenizerKind::SentencePiece && bytes.len() >= 256,
            characters: of_type(TokenType::Normal).filter_map(|text| only_char(text)).filter(allowed).collect(),
        }
    }

    fn spells(&self, text: &str) -> bool {
        self.has_all_bytes || only_char(text).is_none() && text.chars().all(|c| self.characters.contains(&c))
    }
}

fn only_char(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// Whether GPT-2's alphabet has this character: those of other tokens stand for themselves, not for a byte.
fn is_byte(c: char) -> bool {
    matches!(c as u32, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0x143)
}
