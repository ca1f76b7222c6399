//! Kinds of text, and which files of a folder are of one.

use std::fmt;
use std::path::{Path, PathBuf};

use super::language::Language;
use crate::error::Error;

/// A kind of text to calibrate on. It chooses among the files of folders; a file that is named itself is taken
/// whatever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Domain {
    /// Code of any language where a folder has some, else every text.
    #[default]
    Any,
    /// Code of any language.
    Code,
    /// Prose: `.md`, `.txt`, `.rst` and the like.
    Text,
    /// Code of one language.
    Language(Language),
}

/// Extensions of code in languages that have no name in [`Language`].
const OTHER_CODE: [&str; 36] = [
    "adb", "ads", "clj", "cljs", "cr", "cu", "d", "dart", "ex", "exs", "erl", "f", "f90", "f95", "fs", "groovy", "hs",
    "hxx", "jl", "kt", "kts", "lua", "m", "ml", "mli", "mm", "nim", "pas", "pl", "pm", "r", "scala", "sql", "swift",
    "vb", "zig",
];

const PROSE: [&str; 8] = ["md", "markdown", "txt", "rst", "adoc", "org", "tex", "typ"];

impl Domain {
    /// Lower-case name, such as `python` or `text`.
    pub fn name(self) -> &'static str {
        match self {
            Domain::Any => "any text",
            Domain::Code => "code",
            Domain::Text => "text",
            Domain::Language(language) => language.name(),
        }
    }

    /// Of all files of a folder those to take: of the kinds that will do, best first, the first one that occurs.
    /// What is in JSONL cannot be told by its name, so it is taken only where nothing better is.
    pub(super) fn choose(self, mut files: Vec<PathBuf>) -> Vec<PathBuf> {
        let of_language = |path: &Path| matches!(self, Domain::Language(l) if has_extension(path, l.extensions()));
        let is_prose = |path: &Path| has_extension(path, &PROSE);
        let kinds: [&dyn Fn(&Path) -> bool; 2] = match self {
            Domain::Any => [&is_code, &|_| true],
            Domain::Code => [&is_code, &is_jsonl],
            Domain::Text => [&is_prose, &is_jsonl],
            Domain::Language(_) => [&of_language, &is_jsonl],
        };
        match kinds.iter().find(|kind| files.iter().any(|path| kind(path))) {
            Some(kind) => files.retain(|path| kind(path)),
            None => files.clear(),
        }
        files
    }
}

/// Whether `path` has the extension of a programming language.
pub(super) fn is_code(path: &Path) -> bool {
    has_extension(path, &OTHER_CODE) || Language::ALL.iter().any(|l| has_extension(path, l.extensions()))
}

/// Whether each line of `path` is a document.
pub(super) fn is_jsonl(path: &Path) -> bool {
    has_extension(path, &["jsonl"])
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    extensions.iter().any(|e| e.eq_ignore_ascii_case(extension))
}

impl From<Option<Language>> for Domain {
    fn from(language: Option<Language>) -> Self {
        language.map_or(Domain::Any, Domain::Language)
    }
}

/// The name of a domain that can be part of a mix.
impl std::str::FromStr for Domain {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let known = || Language::ALL.map(|l| format!("`{}`", l.name())).join(", ");
        match text {
            "code" => Ok(Domain::Code),
            "text" => Ok(Domain::Text),
            _ => match text.parse() {
                Ok(language) => Ok(Domain::Language(language)),
                Err(_) => Err(Error::option("domain", text, format!("`code`, `text` or one of {}", known()))),
            },
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_listed_once() {
        for (i, extension) in OTHER_CODE.iter().enumerate() {
            assert!(!OTHER_CODE[..i].contains(extension), "{extension}");
            assert!(Language::ALL.iter().all(|l| !l.extensions().contains(extension)), "{extension}");
        }
    }

    #[test]
    fn names_are_read_back() {
        let domains = Language::ALL.map(Domain::Language).into_iter().chain([Domain::Code, Domain::Text]);
        for domain in domains {
            assert_eq!(domain.name().parse::<Domain>().unwrap(), domain);
        }
        let message = "prose".parse::<Domain>().unwrap_err().to_string();
        assert!(message.starts_with("domain `prose`: expected `code`, `text` or one of `python`, "), "{message}");
    }
}
