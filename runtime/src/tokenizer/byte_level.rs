//! Byte-level BPE: texts are cut into words by a pre-tokenizer, and the bytes of each are merged by rank.
//!
//! The words come from the `tokenizers` crate's regular expressions; merging is our own. The crate's BPE keeps every
//! token twice as a string in maps: 40 MB for Qwen's vocabulary where this takes 6, and four times the time to load.

use std::collections::HashMap;

use spm::Vocabulary;

use super::merge::{Merger, Pair, Symbol};
use super::pieces::{NONE, Pieces};
use super::words::Words;
use crate::error::Error;

/// Encodes by rank.
pub(super) struct ByteLevel {
    words: Words,
    byte_ids: [u32; 256],
    /// Rank and result by pair. The map's hash has a secret key: a file cannot make it slow.
    merges: HashMap<(u32, u32), (u32, u32)>,
    ignore_merges: bool,
}

impl ByteLevel {
    pub(super) fn new(v: &Vocabulary, pieces: &Pieces) -> Result<Self, Error> {
        Ok(ByteLevel {
            words: Words::new(&v.pre)?,
            byte_ids: byte_ids(pieces)?,
            merges: merges(v, pieces)?,
            ignore_merges: v.ignore_merges,
        })
    }

    /// Appends the tokens of a text.
    pub(super) fn encode(&self, text: &str, pieces: &Pieces, merger: &mut Merger, ids: &mut Vec<u32>) {
        self.words.each(text, &mut |word| {
            let whole = if self.ignore_merges { pieces.find(word.as_bytes()) } else { None };
            match whole {
                Some(id) => ids.push(id),
                None => self.merge(word.as_bytes(), merger, ids),
            }
        });
    }

    fn merge(&self, word: &[u8], merger: &mut Merger, ids: &mut Vec<u32>) {
        merger.clear();
        word.iter().for_each(|&byte| merger.push(self.byte_ids[usize::from(byte)], 1));
        let pair = |l: &Symbol, r: &Symbol| {
            let &(rank, id) = self.merges.get(&(l.id, r.id))?;
            Some(Pair { priority: !rank, id })
        };
        ids.extend(merger.run(pair).map(|s| s.id).filter(|&id| id != NONE));
    }
}

fn merges(v: &Vocabulary, pieces: &Pieces) -> Result<HashMap<(u32, u32), (u32, u32)>, Error> {
    let mut merges = HashMap::with_capacity(v.merges.len());
    let mut joined = Vec::new();
    for (&(left, right), rank) in v.merges.iter().zip(0..) {
        let n = v.tokens.len();
        if left.max(right) as usize >= n {
            let problem = format!("merge {rank} joins tokens {left} and {right}, the vocabulary has {n}");
            return Err(Error::Tokenizer { problem });
        }
        joined.clear();
        joined.extend([pieces.get(left), pieces.get(right)].concat());
        let id = pieces.find(&joined).ok_or_else(|| Error::Tokenizer {
            problem: format!("merge {rank} makes {:?}, which is no token", String::from_utf8_lossy(&joined)),
        })?;
        // Of two ranks for a pair the better one counts.
        merges.entry((left, right)).or_insert((rank, id));
    }
    Ok(merges)
}

/// Printable ASCII, space and line end must be tokens, or texts would be lost without a word. Real vocabularies lack
/// some rarer bytes (SmolLM2 the control characters); those are left out of texts, as in the engines they come from.
fn byte_ids(pieces: &Pieces) -> Result<[u32; 256], Error> {
    let ids: [u32; 256] = std::array::from_fn(|byte| pieces.find(&[byte as u8]).unwrap_or(NONE));
    match (b' '..=b'~').chain([b'\n']).find(|&byte| ids[usize::from(byte)] == NONE) {
        Some(byte) => Err(Error::Tokenizer {
            problem: format!("no token for byte {byte:#04x}, so texts with it cannot be encoded"),
        }),
        None => Ok(ids),
    }
}

/// Appends the bytes that a token's text in GPT-2's alphabet stands for; a text not in it stands for itself.
pub(super) fn append_bytes(text: &str, out: &mut Vec<u8>) {
    match text.chars().all(|c| byte_of(c).is_some()) {
        true => out.extend(text.chars().filter_map(byte_of)),
        false => out.extend(text.as_bytes()),
    }
}

/// GPT-2's alphabet: printable bytes stand for themselves, the 68 others for characters from U+0100 on, in order.
pub(super) fn byte_of(c: char) -> Option<u8> {
    match c as u32 {
        b @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(b as u8),
        b @ 0x100..=0x120 => Some((b - 0x100) as u8),
        b @ 0x121..=0x142 => Some((b - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_that_of_the_tokenizers_crate() {
        use tokenizers::pre_tokenizers::byte_level::ByteLevel;
        let mut bytes: Vec<u8> = ByteLevel::alphabet().into_iter().filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('一'), None);
    }
}
