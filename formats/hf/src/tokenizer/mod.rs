//! `tokenizer.json` as a [`Vocabulary`]: byte-level BPE, and SentencePiece's BPE with byte fallback. What begins and ends a
//! text, and the chat template, are in files beside it.
//!
//! A pre-tokenizer, normalizer or model that is not known is refused, never taken for another.

mod file;
mod pre;
mod settings;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;
use spm::{Infill, TokenType, TokenizerKind, Vocabulary, limits};

use self::file::File;
use self::settings::Settings;
use crate::error::{Error, shown};
use crate::json::Json;

/// Of a `tokenizer.json`; Gemma's has 33 MB.
const MOST_BYTES: u64 = 128 << 20;

/// The vocabulary of a folder, of `vocab_size` tokens; `None` if it has no `tokenizer.json`.
pub(crate) fn read(folder: &Path, config: Json, vocab_size: usize) -> Result<Option<Vocabulary>, Error> {
    let path = folder.join("tokenizer.json");
    if !path.exists() {
        return Ok(None);
    }
    let File { map, vocab, merges } = File::read(&path, MOST_BYTES)?;
    let file = Json::new(&path, &map);
    let model = file.object("model")?.ok_or_else(|| file.missing("model"))?;
    match model.text("type")?.unwrap_or("BPE") {
        "BPE" => {}
        other => return model.refuse("type", format!("is `{}`, expected BPE", shown(other))),
    }
    let words = pre::resolve(file)?;
    let mut tokens = Tokens::new(vocab_size);
    tokens.add_model(model, vocab.ok_or_else(|| model.missing("vocab"))?, words.kind)?;
    tokens.add_added(file)?;
    tokens.fill();
    let settings = Settings::read(folder, config, file, &tokens.ids)?;
    let merges = merge_ids(model, &merges.ok_or_else(|| model.missing("merges"))?, &tokens.ids)?;
    let infill = Infill::by_text(&tokens.texts, |text| is_added(file, text));
    let is_sentencepiece = words.kind == TokenizerKind::SentencePiece;
    let id = |text: &str| tokens.ids.get(text).copied();
    let scores = if is_sentencepiece { spm::scores_of_merges(&tokens.texts, &merges, id) } else { Vec::new() };
    Ok(Some(Vocabulary {
        kind: words.kind,
        pre: words.pre,
        scores,
        merges: if is_sentencepiece { Vec::new() } else { merges },
        types: tokens.types,
        tokens: tokens.texts,
        bos: settings.bos,
        eos: settings.eos,
        unk: settings.unk,
        pad: settings.pad,
        add_bos: settings.add_bos,
        add_eos: settings.add_eos,
        add_space_prefix: words.space_prefix,
        ignore_merges: model.bool("ignore_merges")?.unwrap_or(false),
        end_of_generation: with(settings.ends, infill.ends()),
        infill,
        chat_template: settings.chat_template,
    }))
}

/// Texts and types by id, and ids by text.
struct Tokens {
    texts: Vec<String>,
    types: Vec<TokenType>,
    ids: HashMap<String, u32>,
}

impl Tokens {
    /// None of `n` yet.
    fn new(n: usize) -> Self {
        Tokens { texts: vec![String::new(); n], types: vec![TokenType::Unused; n], ids: HashMap::new() }
    }

    fn set(&mut self, file: Json, key: &str, text: &str, id: Option<u64>, kind: TokenType) -> Result<(), Error> {
        let n = self.texts.len();
        let place = id.and_then(|id| usize::try_from(id).ok()).filter(|id| *id < n);
        let Some(place) = place else {
            let id = id.map_or("no id".to_owned(), |id| id.to_string());
            return file.refuse(key, format!("token `{}` has {id}, expected one below vocab_size, {n}", shown(text)));
        };
        if text.is_empty() || text.len() > limits::TOKEN_BYTES {
            let len = text.len();
            return file.refuse(key, format!("token {place} has {len} bytes, expected 1 to {}", limits::TOKEN_BYTES));
        }
        if let Some(other) = self.ids.insert(text.to_owned(), place as u32).filter(|other| *other as usize != place) {
            return file.refuse(key, format!("tokens {other} and {place} are both `{}`", shown(text)));
        }
        self.texts[place] = text.to_owned();
        self.types[place] = kind;
        Ok(())
    }

    /// Names the ids that the file does not, which are unused.
    fn fill(&mut self) {
        let unnamed = self.texts.iter_mut().enumerate().filter(|(_, text)| text.is_empty());
        unnamed.for_each(|(id, text)| *text = format!("[PAD{id}]"));
    }

    fn add_model(&mut self, model: Json, vocab: Vec<(String, u64)>, kind: TokenizerKind) -> Result<(), Error> {
        self.ids.reserve(vocab.len());
        for (text, id) in vocab {
            let is_byte = kind == TokenizerKind::SentencePiece && is_byte(&text);
            self.set(model, "vocab", &text, Some(id), if is_byte { TokenType::Byte } else { TokenType::Normal })?;
        }
        Ok(())
    }

    fn add_added(&mut self, file: Json) -> Result<(), Error> {
        const KEY: &str = "added_tokens";
        for token in file.list(KEY)?.unwrap_or_default() {
            let text = token.get("content").and_then(Value::as_str).unwrap_or_default();
            let is_special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
            let kind = if is_special { TokenType::Control } else { TokenType::UserDefined };
            self.set(file, KEY, text, token.get("id").and_then(Value::as_u64), kind)?;
        }
        Ok(())
    }
}

/// Whether a token was added to the model's own, and no text is merged to it.
fn is_added(file: Json, text: &str) -> bool {
    let added = file.value("added_tokens").and_then(Value::as_array).into_iter().flatten();
    added.into_iter().any(|token| token.get("content").and_then(Value::as_str) == Some(text))
}

/// More ends, in order.
fn with(ends: Vec<u32>, more: impl Iterator<Item = u32>) -> Vec<u32> {
    let all: BTreeSet<u32> = ends.into_iter().chain(more).collect();
    all.into_iter().collect()
}

/// `<0x0A>`.
fn is_byte(text: &str) -> bool {
    let hex = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    hex.is_some_and(|h| h.len() == 2 && h.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Pairs of ids, in order of rank.
fn merge_ids(model: Json, merges: &[(String, String)], ids: &HashMap<String, u32>) -> Result<Vec<(u32, u32)>, Error> {
    let mut all = Vec::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        match (ids.get(left), ids.get(right)) {
            (Some(left), Some(right)) => all.push((*left, *right)),
            _ => {
                let merge = shown(&format!("{left} {right}"));
                return model.refuse("merges", format!("entry {rank}, `{merge}`, is not two tokens of the vocabulary"));
            }
        }
    }
    Ok(all)
}
