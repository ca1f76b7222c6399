//! Typed look-ups in the metadata, with errors that name the key.

use std::path::Path;

use crate::error::Error;
use crate::metadata::{Array, Value};
use crate::reader::GgufFile;

/// The metadata of a file, asked for by type. `None` means that the key is absent; a key of another type is
/// an error.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    file: &'a GgufFile,
}

impl<'a> Keys<'a> {
    pub(crate) fn of(file: &'a GgufFile) -> Self {
        Keys { file }
    }

    pub(crate) fn path(self) -> &'a Path {
        self.file.path()
    }

    pub(crate) fn u64(self, key: &str) -> Result<Option<u64>, Error> {
        self.typed(key, "a number from 0 up", Value::as_u64)
    }

    pub(crate) fn f32(self, key: &str) -> Result<Option<f32>, Error> {
        self.typed(key, "a float", Value::as_f32)
    }

    pub(crate) fn bool(self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "a truth value", Value::as_bool)
    }

    pub(crate) fn text(self, key: &str) -> Result<Option<&'a str>, Error> {
        self.typed(key, "text", Value::as_str)
    }

    pub(crate) fn array(self, key: &str) -> Result<Option<&'a Array>, Error> {
        self.typed(key, "an array", Value::as_array)
    }

    pub(crate) fn value(self, key: &str) -> Option<&'a Value> {
        self.file.metadata().get(key)
    }

    /// The error for a key that must be there.
    pub(crate) fn missing(self, key: &str) -> Error {
        Error::key(self.path(), key, "is missing; convert the model again with a current llama.cpp")
    }

    pub(crate) fn refuse<T>(self, key: &str, problem: impl Into<String>) -> Result<T, Error> {
        Err(Error::key(self.path(), key, problem))
    }

    fn typed<T>(self, key: &str, expected: &str, get: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, Error> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let problem = || format!("is {}, expected {expected}; the file is damaged", value.describe());
        get(value).map(Some).ok_or_else(|| Error::key(self.path(), key, problem()))
    }
}
