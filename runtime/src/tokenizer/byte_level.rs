//! Byte-level BPE: texts are cut by a pre-tokenizer, bytes become printable characters, and those are merged.

use spm::Vocabulary;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

use super::Bpe;
use crate::error::Error;

/// GPT-2's words.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// GPT-4's words with numbers of up to three digits: Llama 3.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with single digits: Qwen 2.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// CJK ideographs and Hangul, as DeepSeek has them.
const CJK: &str = r"[一-龥ࠀ-一가-퟿]+";

/// Pre-tokenizers by GGUF's names: patterns applied one after the other, each cutting what the ones before left.
const KNOWN: &[(&str, &[&str])] = &[
    ("default", &[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"]),
    ("gpt-2", &[GPT2]),
    ("starcoder", &[r"\p{N}", GPT2]),
    ("refact", &[r"\p{N}", GPT2]),
    ("smollm", &[r"\p{N}", GPT2]),
    ("qwen2", &[QWEN2]),
    ("llama-bpe", &[LLAMA3]),
    ("deepseek-coder", &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"]),
    (
        "deepseek-llm",
        &[r"[\r\n]", r"\s?[\p{Lu}\p{Ll}\p{Lt}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", CJK, r"\p{N}+"],
    ),
];

/// Names that GGUF files use for one of the above.
const SAME_AS: &[(&str, &str)] = &[
    ("", "default"),
    ("llama3", "llama-bpe"),
    ("llama-v3", "llama-bpe"),
    ("gpt2", "gpt-2"),
    ("deepseek-r1-qwen", "qwen2"),
];

pub(super) fn build(v: &Vocabulary) -> Result<Bpe, Error> {
    let patterns = patterns(&v.pre)?;
    check_bytes(v)?;
    let ids: Vocab = v.tokens.iter().cloned().zip(0..).collect();
    let text = |id: u32| v.tokens.get(id as usize).cloned().unwrap_or_default();
    let merges = v.merges.iter().map(|&(l, r)| (text(l), text(r))).collect::<Vec<_>>();
    let model = BPE::builder().vocab_and_merges(ids, merges).ignore_merges(v.ignore_merges).build();
    let model = model.map_err(|e| Error::Tokenizer { problem: e.to_string() })?;
    let mut bpe = Bpe::new(model);
    bpe.with_pre_tokenizer(Some(pre_tokenizer(patterns)?));
    Ok(bpe)
}

fn patterns(pre: &str) -> Result<&'static [&'static str], Error> {
    let name = SAME_AS.iter().find(|(alias, _)| *alias == pre).map_or(pre, |(_, name)| name);
    let found = KNOWN.iter().find(|(known, _)| *known == name).map(|(_, patterns)| *patterns);
    found.ok_or_else(|| {
        let known: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
        Error::Tokenizer { problem: format!("pre-tokenizer `{pre}` is unknown; known are {}", known.join(", ")) }
    })
}

fn pre_tokenizer(patterns: &[&str]) -> Result<PreTokenizerWrapper, Error> {
    let split = |pattern: &&str| {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map(PreTokenizerWrapper::Split)
    };
    let mut all = patterns
        .iter()
        .map(split)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::Tokenizer { problem: e.to_string() })?;
    all.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)));
    Ok(PreTokenizerWrapper::Sequence(Sequence::new(all)))
}

/// Printable ASCII, space and line end must be tokens, or texts would be lost without a word. Real vocabularies lack
/// some rarer bytes (SmolLM2 the control characters); those are left out of texts, as in the engines they come from.
fn check_bytes(v: &Vocabulary) -> Result<(), Error> {
    let mut have = [false; 256];
    for token in &v.tokens {
        let mut chars = token.chars();
        if let (Some(only), None) = (chars.next(), chars.next())
            && let Some(byte) = byte_of(only)
        {
            have[usize::from(byte)] = true;
        }
    }
    match (b' '..=b'~').chain([b'\n']).find(|b| !have[usize::from(*b)]) {
        Some(byte) => Err(Error::Tokenizer {
            problem: format!("no token for byte {byte:#04x}, so texts with it cannot be encoded"),
        }),
        None => Ok(()),
    }
}

/// Appends the bytes that a token's text in GPT-2's alphabet stands for.
pub(super) fn append_bytes(text: &str, out: &mut Vec<u8>) {
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// GPT-2's alphabet: printable bytes stand for themselves, the 68 others for characters from U+0100 on, in order.
fn byte_of(c: char) -> Option<u8> {
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
        let mut bytes: Vec<u8> = ByteLevel::alphabet().into_iter().filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('一'), None);
    }

    #[test]
    fn every_pattern_is_a_regular_expression() {
        for (name, patterns) in KNOWN {
            assert!(pre_tokenizer(patterns).is_ok(), "{name}");
        }
    }
}
