//! `tokenizer.ggml.*` as a [`Vocabulary`], with llama.cpp's defaults where the file says nothing.
//!
//! Three things differ from llama.cpp on purpose: scores are required for SentencePiece, a byte-level vocabulary
//! without an end token has none (llama.cpp then takes id 11), and merges must be of tokens in the vocabulary.

use std::collections::{BTreeSet, HashMap};

use spm::{Infill, TokenType, TokenizerKind, Vocabulary, limits};

use crate::error::{Error, shown};
use crate::keys::Keys;
use crate::reader::GgufFile;

const MODEL: &str = "tokenizer.ggml.model";
/// A model with merges where SentencePiece has scores.
const GEMMA4: &str = "gemma4";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";

/// The vocabulary of a file; `None` if it says that it has none.
pub(crate) fn read(file: &GgufFile) -> Result<Option<Vocabulary>, Error> {
    let keys = Keys::of(file);
    let model = keys.text(MODEL)?;
    let kind = match model {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some("gpt2") => TokenizerKind::ByteLevelBpe,
        Some("llama" | GEMMA4) => TokenizerKind::SentencePiece,
        Some(other) => {
            let known = "gpt2 (byte-level BPE), llama and gemma4 (SentencePiece)";
            return keys.refuse(MODEL, format!("is `{}`; known are {known}", shown(other)));
        }
    };
    let tokens = read_tokens(keys)?;
    let ids = index(keys, &tokens)?;
    let mut vocabulary = defaults(kind);
    vocabulary.types = read_types(keys, tokens.len())?;
    match kind {
        TokenizerKind::ByteLevelBpe => {
            vocabulary.pre = keys.text("tokenizer.ggml.pre")?.unwrap_or("default").to_owned();
            vocabulary.merges = read_merges(keys, &ids)?;
            apply_pre(&mut vocabulary);
        }
        TokenizerKind::SentencePiece => {
            vocabulary.scores = match model == Some(GEMMA4) {
                true => spm::scores_of_merges(&tokens, &read_merges(keys, &ids)?, |text| ids.get(text).copied()),
                false => read_scores(keys, tokens.len())?,
            };
            check_bytes(keys, &tokens, &vocabulary.types)?;
        }
    }
    read_settings(keys, &mut vocabulary, tokens.len())?;
    mark_special(keys, &mut vocabulary, &tokens, &ids)?;
    drop(ids);
    vocabulary.tokens = tokens;
    Ok(Some(vocabulary))
}

/// What llama.cpp assumes of each kind before it reads the keys.
fn defaults(kind: TokenizerKind) -> Vocabulary {
    let sentencepiece = kind == TokenizerKind::SentencePiece;
    Vocabulary {
        kind,
        pre: String::new(),
        tokens: Vec::new(),
        types: Vec::new(),
        scores: Vec::new(),
        merges: Vec::new(),
        bos: sentencepiece.then_some(1),
        eos: sentencepiece.then_some(2),
        unk: sentencepiece.then_some(0),
        pad: None,
        add_bos: sentencepiece,
        add_eos: false,
        add_space_prefix: sentencepiece,
        ignore_merges: false,
        end_of_generation: Vec::new(),
        infill: Infill::default(),
        chat_template: None,
    }
}

/// Pre-tokenizers whose vocabularies take whole words first, and those that begin texts with `bos`.
fn apply_pre(vocabulary: &mut Vocabulary) {
    const LLAMA3: [&str; 9] =
        ["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"];
    let pre = vocabulary.pre.as_str();
    let like_llama3 = LLAMA3.contains(&pre) || pre == "tekken";
    vocabulary.ignore_merges =
        like_llama3 || ["minicpm5", "youtu", "glm4", "glm5", "granite-embed-multi-97m"].contains(&pre);
    vocabulary.add_bos = like_llama3 || pre == "chameleon";
}

fn read_tokens(keys: Keys) -> Result<Vec<String>, Error> {
    let array = keys.array(TOKENS)?.ok_or_else(|| keys.missing(TOKENS))?;
    if array.is_empty() || array.len() > limits::VOCAB {
        return keys.refuse(TOKENS, format!("has {} entries, expected 1 to {}", array.len(), limits::VOCAB));
    }
    let Some(strings) = array.strings() else {
        return keys.refuse(TOKENS, format!("has entries of type {}, expected strings", array.kind().name()));
    };
    let mut tokens = Vec::with_capacity(array.len());
    for (id, token) in strings.enumerate() {
        match token {
            Some("") => tokens.push(format!("[EMPTY_{id}]")),
            Some(token) if token.len() <= limits::TOKEN_BYTES => tokens.push(token.to_owned()),
            Some(token) => {
                let problem = format!("entry {id} has {} bytes, expected at most {}", token.len(), limits::TOKEN_BYTES);
                return keys.refuse(TOKENS, problem);
            }
            None => return keys.refuse(TOKENS, format!("entry {id} is not UTF-8; the file is damaged")),
        }
    }
    Ok(tokens)
}

/// The id of each token's text.
fn index<'t>(keys: Keys, tokens: &'t [String]) -> Result<HashMap<&'t str, u32>, Error> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, token) in (0u32..).zip(tokens) {
        if let Some(first) = ids.insert(token.as_str(), id) {
            return keys.refuse(TOKENS, format!("entries {first} and {id} are both `{}`", shown(token)));
        }
    }
    Ok(ids)
}

fn read_types(keys: Keys, n_tokens: usize) -> Result<Vec<TokenType>, Error> {
    let Some(array) = keys.array(TYPES)? else {
        return Ok(vec![TokenType::Normal; n_tokens]);
    };
    let numbers = array.integers().unwrap_or_default();
    check_len(keys, TYPES, numbers.len(), n_tokens)?;
    let types = numbers[..n_tokens].iter().enumerate().map(|(id, n)| match n {
        0 => Ok(TokenType::Normal),
        n => TokenType::from_gguf(*n).ok_or((id, *n)),
    });
    let bad =
        |(id, n)| Error::key(keys.path(), TYPES, format!("entry {id} is {n}, expected 1 to 6; the file is damaged"));
    types.collect::<Result<_, _>>().map_err(bad)
}

fn read_scores(keys: Keys, n_tokens: usize) -> Result<Vec<f32>, Error> {
    let array = keys.array(SCORES)?.ok_or_else(|| keys.missing(SCORES))?;
    let integers = || array.integers().map(|all| all.into_iter().map(|v| v as f32).collect());
    let mut scores = array.floats().or_else(integers).unwrap_or_default();
    check_len(keys, SCORES, scores.len(), n_tokens)?;
    scores.truncate(n_tokens);
    match scores.iter().position(|s| s.is_nan()) {
        Some(id) => keys.refuse(SCORES, format!("entry {id} is not a number; the file is damaged")),
        None => Ok(scores),
    }
}

fn check_len(keys: Keys, key: &str, have: usize, n_tokens: usize) -> Result<(), Error> {
    if have < n_tokens {
        return keys.refuse(key, format!("has {have} numbers for {n_tokens} tokens; the file is damaged"));
    }
    Ok(())
}

fn read_merges(keys: Keys, ids: &HashMap<&str, u32>) -> Result<Vec<(u32, u32)>, Error> {
    let array = keys.array(MERGES)?.ok_or_else(|| keys.missing(MERGES))?;
    let Some(strings) = array.strings() else {
        return keys.refuse(MERGES, format!("has entries of type {}, expected strings", array.kind().name()));
    };
    let mut merges = Vec::with_capacity(array.len());
    for (rank, merge) in strings.enumerate() {
        match merge.and_then(|m| merge_ids(m, ids)) {
            Some(pair) => merges.push(pair),
            None => {
                let merge = shown(merge.unwrap_or("bytes that are not UTF-8"));
                let problem =
                    format!("entry {rank}, `{merge}`, is not two tokens of the vocabulary; the file is damaged");
                return keys.refuse(MERGES, problem);
            }
        }
    }
    Ok(merges)
}

/// `left right`, split at the first space after the first byte: a part may itself be a space.
fn merge_ids(merge: &str, ids: &HashMap<&str, u32>) -> Option<(u32, u32)> {
    let space = merge.bytes().skip(1).position(|b| b == b' ')? + 1;
    Some((*ids.get(&merge[..space])?, *ids.get(&merge[space + 1..])?))
}

/// Byte tokens are written `<0x0A>`; anything else would later be taken for a byte that it is not.
fn check_bytes(keys: Keys, tokens: &[String], types: &[TokenType]) -> Result<(), Error> {
    let is_byte = |t: &str| {
        let hex = t.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
        hex.is_some_and(|h| h.len() == 2 && h.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let bad = tokens.iter().zip(types).position(|(t, kind)| *kind == TokenType::Byte && !is_byte(t));
    match bad {
        Some(id) => keys.refuse(
            TOKENS,
            format!("entry {id}, `{}`, is typed a byte, expected <0x00> to <0xFF>", shown(&tokens[id])),
        ),
        None => Ok(()),
    }
}

fn read_settings(keys: Keys, vocabulary: &mut Vocabulary, n_tokens: usize) -> Result<(), Error> {
    let special = |name, default: Option<u32>| {
        let id = special_id(keys, name, n_tokens)?;
        Ok(id.or(default.filter(|id| (*id as usize) < n_tokens)))
    };
    vocabulary.bos = special("bos", vocabulary.bos)?;
    vocabulary.eos = special("eos", vocabulary.eos)?;
    vocabulary.unk = special("unknown", vocabulary.unk)?;
    vocabulary.pad = special("padding", vocabulary.pad)?;
    let flag = |name: &str, default| Ok(keys.bool(&format!("tokenizer.ggml.{name}"))?.unwrap_or(default));
    vocabulary.add_bos = flag("add_bos_token", vocabulary.add_bos)?;
    vocabulary.add_eos = flag("add_eos_token", vocabulary.add_eos)?;
    vocabulary.add_space_prefix = flag("add_space_prefix", vocabulary.add_space_prefix)?;
    vocabulary.chat_template = keys.text("tokenizer.chat_template")?.map(str::to_owned);
    Ok(())
}

/// The id under `tokenizer.ggml.{name}_token_id`. One outside the vocabulary (-1 is usual) means none.
fn special_id(keys: Keys, name: &str, n_tokens: usize) -> Result<Option<u32>, Error> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    if keys.value(&key).and_then(|v| v.as_u64()).is_none() {
        return Ok(None);
    }
    let id = keys.u64(&key)?;
    Ok(id.and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < n_tokens))
}

/// Texts that end a generation wherever they are tokens (llama.cpp's list, and CodeLlama's `▁<EOT>`).
const ENDS: [&str; 23] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "▁<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Finds the tokens that end a generation, and types as control what llama.cpp takes for control by its text.
fn mark_special(
    keys: Keys,
    vocabulary: &mut Vocabulary,
    tokens: &[String],
    ids: &HashMap<&str, u32>,
) -> Result<(), Error> {
    vocabulary.infill = infill(keys, vocabulary, tokens, ids)?;
    let mut ends: BTreeSet<u32> = vocabulary.infill.ends().collect();
    let known = ENDS.iter().filter_map(|text| Some((*text, *ids.get(text)?)));
    let marks: Vec<u32> = known.filter(|(text, _)| !is_merged(vocabulary, ids, text)).map(|(_, id)| id).collect();
    for id in marks {
        ends.insert(id);
        vocabulary.types[id as usize] = TokenType::Control;
    }
    ends.extend(vocabulary.eos);
    ends.extend(special_id(keys, "eot", ids.len())?);
    ends.extend(special_id(keys, "eom", ids.len())?);
    unmark(vocabulary, ids, &mut ends);
    vocabulary.end_of_generation = ends.into_iter().collect();
    Ok(())
}

/// The tokens for filling in the middle: those that the file names, and others by their text, which become control tokens.
fn infill(
    keys: Keys,
    vocabulary: &mut Vocabulary,
    tokens: &[String],
    ids: &HashMap<&str, u32>,
) -> Result<Infill, Error> {
    let id = |name| special_id(keys, name, tokens.len());
    let named = Infill {
        prefix: id("fim_pre")?,
        suffix: id("fim_suf")?,
        middle: id("fim_mid")?,
        pad: id("fim_pad")?,
        repository: id("fim_rep")?,
        file: id("fim_sep")?,
    };
    let all = named.or(Infill::by_text(tokens, |text| !is_merged(vocabulary, ids, text)));
    let is_named = |wanted: u32| named.ids().any(|id| id == wanted);
    all.ids().filter(|id| !is_named(*id)).for_each(|id| vocabulary.types[id as usize] = TokenType::Control);
    Ok(all)
}

/// Whether merging makes this token: then it is text of documents (Qwen2.5-Coder's `</s>`, which HTML is full of), not a mark
/// that a template sets.
fn is_merged(vocabulary: &Vocabulary, ids: &HashMap<&str, u32>, text: &str) -> bool {
    let splits = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
    let mut pairs = splits.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?)));
    pairs.any(|pair| vocabulary.merges.contains(&pair))
}

/// Two vocabularies in which a token of the list is ordinary, told by the other tokens they have.
fn unmark(vocabulary: &mut Vocabulary, ids: &HashMap<&str, u32>, ends: &mut BTreeSet<u32>) {
    let has = |text: &str| ids.get(text).is_some_and(|id| ends.contains(id));
    let calls = has("<|call|>") || has("<|calls|>");
    let end_is_text = calls && (has("<|return|>") || has("<|flush|>"));
    let slash_s_is_text = has("<|tool_response>") || has("<|plamo:eos|>");
    let changes = [(end_is_text, "<|end|>", TokenType::UserDefined), (slash_s_is_text, "</s>", TokenType::Normal)];
    for (_, text, kind) in changes.into_iter().filter(|(applies, ..)| *applies) {
        if let Some(id) = ids.get(text) {
            ends.remove(id);
            vocabulary.types[*id as usize] = kind;
        }
    }
}
