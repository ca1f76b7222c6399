//! What begins and ends a text, from `tokenizer_config.json`, `generation_config.json`, `config.json` and the
//! post-processor; and the chat template.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Error;
use crate::json::{self, Json};

/// Of the files beside `tokenizer.json`.
const MOST_BYTES: u64 = 16 << 20;

/// Special tokens that end a turn or a text wherever they are.
const ENDS: [&str; 9] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "</s>",
    "<｜end▁of▁sentence｜>",
];

#[derive(Default)]
pub(super) struct Settings {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) unk: Option<u32>,
    pub(super) pad: Option<u32>,
    pub(super) add_bos: bool,
    pub(super) add_eos: bool,
    pub(super) ends: Vec<u32>,
    pub(super) chat_template: Option<String>,
}

impl Settings {
    pub(super) fn read(folder: &Path, config: Json, file: Json, ids: &HashMap<String, u32>) -> Result<Self, Error> {
        let own = beside(folder, "tokenizer_config.json")?;
        let generation = beside(folder, "generation_config.json")?;
        let named = |key: &str| text_of_token(own.get(key)).and_then(|text| ids.get(text).copied());
        let numbered =
            |value: Option<&Value>| numbers(value).filter(|id| ids.values().any(|known| known == id)).collect();
        let mut ends: BTreeSet<u32> = numbered(generation.get("eos_token_id"));
        let of_config: BTreeSet<u32> = numbered(config.value("eos_token_id"));
        let eos = named("eos_token").or(of_config.first().copied());
        ends.extend(of_config.iter().copied().chain(eos));
        let special = |text: &&str| is_special(file, text);
        ends.extend(ENDS.iter().filter(|text| special(text)).filter_map(|text| ids.get(*text)));
        let flag = |key: &str| own.get(key).and_then(Value::as_bool);
        let (first, last) = template(file);
        let of_bos = numbered(config.value("bos_token_id")).first().copied();
        Ok(Settings {
            bos: named("bos_token").or(of_bos),
            eos,
            unk: named("unk_token"),
            pad: named("pad_token"),
            add_bos: first.or(flag("add_bos_token")).unwrap_or(false),
            add_eos: last.or(flag("add_eos_token")).unwrap_or(false),
            ends: ends.into_iter().collect(),
            chat_template: chat_template(folder, &own)?,
        })
    }
}

/// A file of the folder that need not be there.
fn beside(folder: &Path, name: &str) -> Result<Map<String, Value>, Error> {
    let path = folder.join(name);
    if path.exists() { json::read(&path, MOST_BYTES) } else { Ok(Map::new()) }
}

/// A token is named by its text, or described.
fn text_of_token(value: Option<&Value>) -> Option<&str> {
    let value = value?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// One id or a list of them.
fn numbers(value: Option<&Value>) -> impl Iterator<Item = u32> + '_ {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    value.into_iter().chain(list).filter_map(|v| u32::try_from(v.as_u64()?).ok())
}

fn is_special(file: Json, text: &str) -> bool {
    let added = file.value("added_tokens").and_then(Value::as_array).into_iter().flatten();
    added.filter(|token| token["special"] == true).any(|token| token["content"] == text)
}

/// Whether the post-processor puts a special token before and after a text; `None` if it says nothing of that.
fn template(file: Json) -> (Option<bool>, Option<bool>) {
    let Some(processor) = file.value("post_processor") else { return (None, None) };
    let steps =
        processor.get("processors").and_then(Value::as_array).map_or(std::slice::from_ref(processor), |all| all);
    let single = steps.iter().find_map(|step| step.get("single").and_then(Value::as_array));
    let is_special = |piece: Option<&Value>| piece.map(|piece| piece.get("SpecialToken").is_some());
    single.map_or((None, None), |pieces| (is_special(pieces.first()), is_special(pieces.last())))
}

/// In a file of its own, in `tokenizer_config.json`, or there as one of several of which `default` is taken.
fn chat_template(folder: &Path, own: &Map<String, Value>) -> Result<Option<String>, Error> {
    let path = folder.join("chat_template.jinja");
    if path.exists() {
        return json::read_text(&path, MOST_BYTES).map(Some);
    }
    let named = |all: &Value| -> Option<String> {
        let default = all.as_array()?.iter().find(|one| one["name"] == "default")?;
        Some(default.get("template")?.as_str()?.to_owned())
    };
    Ok(own.get("chat_template").and_then(|value| value.as_str().map(str::to_owned).or_else(|| named(value))))
}
