//! A `tokenizer.json` with its large lists read as what they are: a tree of values would take several times as long.

use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::json;

/// What a file holds.
#[derive(Default)]
pub(super) struct File {
    /// All but the lists.
    pub(super) map: Map<String, Value>,
    /// The model's tokens and their ids; `None` if there is no such object.
    pub(super) vocab: Option<Vec<(String, u64)>>,
    /// The model's merges, of two tokens each.
    pub(super) merges: Option<Vec<(String, String)>>,
}

impl File {
    /// Reads a file of at most `most` bytes.
    pub(super) fn read(path: &Path, most: u64) -> Result<Self, Error> {
        let bytes = json::read_bytes(path, most)?;
        let mut file = File::default();
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let read = Object { file: &mut file, is_model: false }.deserialize(&mut json).and_then(|()| json.end());
        match read {
            Ok(()) => Ok(file),
            Err(e) => Err(Error::folder(path, format!("is not a tokenizer in JSON ({e}); download it again"))),
        }
    }
}

/// The file itself, or the model in it.
struct Object<'f> {
    file: &'f mut File,
    is_model: bool,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Object { file, is_model } = self;
        let mut others = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            match (is_model, &key[..]) {
                (false, "model") => entries.next_value_seed(Object { file: &mut *file, is_model: true })?,
                (true, "vocab") => file.vocab = entries.next_value_seed(Vocab)?,
                (true, "merges") => file.merges = Some(entries.next_value_seed(Merges)?),
                _ => {
                    let value = entries.next_value()?;
                    others.insert(key, value);
                }
            }
        }
        if is_model {
            file.map.insert("model".to_owned(), Value::Object(others));
        } else {
            file.map.extend(others);
        }
        Ok(())
    }
}

struct Vocab;

impl<'de> DeserializeSeed<'de> for Vocab {
    type Value = Option<Vec<(String, u64)>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Vocab {
    type Value = Option<Vec<(String, u64)>>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("tokens and their ids")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            all.push(entry);
        }
        Ok(Some(all))
    }

    /// Of models of other kinds, which are refused by their kind.
    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
        while all.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

struct Merges;

impl<'de> DeserializeSeed<'de> for Merges {
    type Value = Vec<(String, String)>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Merges {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
        let mut merges = Vec::new();
        while let Some(merge) = all.next_element_seed(Merge)? {
            merges.push(merge);
        }
        Ok(merges)
    }
}

/// Newer files have lists of two, older ones text with a space between.
struct Merge;

impl<'de> DeserializeSeed<'de> for Merge {
    type Value = (String, String);

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Merge {
    type Value = (String, String);

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a merge of two tokens")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let (left, right) = text.split_once(' ').ok_or_else(|| E::custom(format!("`{text}` is not a merge of two")))?;
        Ok((left.to_owned(), right.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        let (left, right) = (parts.next_element()?, parts.next_element()?);
        match (left, right, parts.next_element::<IgnoredAny>()?) {
            (Some(left), Some(right), None) => Ok((left, right)),
            _ => Err(A::Error::custom("a merge is not of two tokens")),
        }
    }
}
