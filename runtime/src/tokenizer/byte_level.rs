//! Byte-level BPE: texts are cut into words by a pre-tokenizer, and the bytes of each are merged by rank.
//!
//! The words come from the `tokenizers` crate's regular expressions; merging is our own. The crate's BPE keeps every
//! token twice as a string in maps: 40 MB for Qwen's vocabulary where this takes 6, and four times the time to load.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use spm::Vocabulary;

use super::merge::{Merger, Pair, Symbol, joined_len};
use super::pieces::{NONE, Pieces};
use super::words::Words;
use crate::error::Error;

/// Rank and result by pair, see [`pair_key`].
type Merges = HashMap<u64, (u32, u32), Multiply>;

/// Encodes by rank.
pub(super) struct ByteLevel {
    words: Words,
    byte_ids: [u32; 256],
    merges: Merges,
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
                None => self.merge(word.as_bytes(), usize::MAX, merger, ids),
            }
        });
    }

    /// Appends the tokens that `bytes`, a word or a part of one, are merged to, none of more than `longest` bytes.
    pub(super) fn merge(&self, bytes: &[u8], longest: usize, merger: &mut Merger, ids: &mut Vec<u32>) {
        merger.clear();
        bytes.iter().for_each(|&byte| merger.push(self.byte_ids[usize::from(byte)], 1));
        let pair = |l: &Symbol, r: &Symbol| {
            let &(rank, id) = self.merges.get(&pair_key(l.id, r.id)).filter(|_| joined_len(l, r) <= longest)?;
            Some(Pair { priority: !rank, id })
        };
        ids.extend(merger.run(pair).map(|s| s.id).filter(|&id| id != NONE));
    }
}

fn merges(v: &Vocabulary, pieces: &Pieces) -> Result<Merges, Error> {
    let mut merges = Merges::with_capacity_and_hasher(v.merges.len(), Multiply::new());
    let mut joined = Vec::new();
    for (&(left, right), rank) in v.merges.iter().zip(0..) {
        let n = v.tokens.len();
        if left.max(right) as usize >= n {
            let problem = format!("merge {rank} joins tokens {left} and {right}, the vocabulary has {n}");
            return Err(Error::Tokenizer { problem });
        }
        joined.clear();
        joined.extend(pieces.get(left));
        joined.extend(pieces.get(right));
        let id = pieces.find(&joined).ok_or_else(|| Error::Tokenizer {
            problem: format!("merge {rank} makes {:?}, which is no token", String::from_utf8_lossy(&joined)),
        })?;
        // Of two ranks for a pair the better one counts.
        merges.entry(pair_key(left, right)).or_insert((rank, id));
    }
    Ok(merges)
}

fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Hashes a number by multiplying it with a random one: as hard to attack from a file as the standard hash, for which
/// no file knows the key either, and three times as fast at what merging does most.
#[derive(Clone, Copy)]
struct Multiply {
    key: u64,
    hash: u64,
}

impl Multiply {
    fn new() -> Self {
        Multiply { key: RandomState::new().hash_one(0) | 1, hash: 0 }
    }
}

impl BuildHasher for Multiply {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Multiply {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u64(u64::from(b)));
    }

    fn write_u64(&mut self, n: u64) {
        let wide = u128::from(self.hash ^ n) * u128::from(self.key);
        self.hash = (wide >> 64) as u64 ^ wide as u64;
    }

    fn finish(&self) -> u64 {
        self.hash
    }
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
