//! Typed look-ups in a JSON object, with errors that name the key. A key that is null counts as absent.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, shown};

/// Reads a JSON file that must hold an object, of at most `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> Result<Map<String, Value>, Error> {
    match serde_json::from_slice(&read_bytes(path, most)?) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::folder(path, "is not a JSON object; download it again")),
        Err(e) => Err(Error::folder(path, format!("is not JSON ({e}); download it again"))),
    }
}

/// Reads a file of text, of at most `most` bytes.
pub(crate) fn read_text(path: &Path, most: u64) -> Result<String, Error> {
    let text = String::from_utf8(read_bytes(path, most)?);
    text.map_err(|e| Error::folder(path, format!("is not UTF-8 ({e}); download it again")))
}

pub(crate) fn read_bytes(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    let io = |action| move |source| spm::Error::Io { action, path: path.to_owned(), source };
    let meta = std::fs::metadata(path).map_err(io("open"))?;
    if !meta.is_file() {
        return Err(spm::Error::NotAFile { path: path.to_owned() }.into());
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(io("open"))?.take(most + 1).read_to_end(&mut bytes).map_err(io("read"))?;
    match bytes.len() as u64 > most {
        true => Err(Error::folder(path, format!("has more than {most} bytes; it is not what its name says"))),
        false => Ok(bytes),
    }
}

/// An object of a JSON file. `None` means that the key is absent; a key of another type is an error.
#[derive(Clone, Copy)]
pub(crate) struct Json<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl<'a> Json<'a> {
    pub(crate) fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Json { path, map }
    }

    pub(crate) fn path(self) -> &'a Path {
        self.path
    }

    pub(crate) fn value(self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn count(self, key: &str) -> Result<Option<usize>, Error> {
        let count = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
        self.typed(key, "a whole number from 0 up", count)
    }

    pub(crate) fn required(self, key: &str) -> Result<usize, Error> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn f32(self, key: &str) -> Result<Option<f32>, Error> {
        self.typed(key, "a number", |v| v.as_f64().map(|v| v as f32))
    }

    pub(crate) fn bool(self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn text(self, key: &str) -> Result<Option<&'a str>, Error> {
        self.typed(key, "text", Value::as_str)
    }

    pub(crate) fn list(self, key: &str) -> Result<Option<&'a [Value]>, Error> {
        self.typed(key, "a list", |v| v.as_array().map(Vec::as_slice))
    }

    pub(crate) fn floats(self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        let floats = |v: &Value| v.as_array()?.iter().map(|v| v.as_f64().map(|v| v as f32)).collect();
        self.typed(key, "a list of numbers", floats)
    }

    pub(crate) fn object(self, key: &str) -> Result<Option<Json<'a>>, Error> {
        let map = self.typed(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Json { path: self.path, map }))
    }

    /// The error for a key that must be there.
    pub(crate) fn missing(self, key: &str) -> Error {
        Error::key(self.path, key, "is missing; download the file again")
    }

    pub(crate) fn refuse<T>(self, key: &str, problem: impl Into<String>) -> Result<T, Error> {
        Err(Error::key(self.path, key, problem))
    }

    fn typed<T>(self, key: &str, expected: &str, get: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, Error> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let problem = || format!("is {}, expected {expected}", shown(&value.to_string()));
        get(value).map(Some).ok_or_else(|| Error::key(self.path, key, problem()))
    }
}
