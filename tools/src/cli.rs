//! Options and steps that more than one program has.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use runtime::{EngineOptions, Model, Precision, Splitter, Tokenizer};
use spm::Config;

use crate::chat::DocumentTokens;
use crate::failure::Failure;
use crate::open::{AnyModel, LoadMode};
use crate::process;

/// A number of bytes, such as `180MB`, `1.2GB`, `700MiB` or `123456`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl std::str::FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit: f64 = match &unit.trim().to_ascii_lowercase()[..] {
            "" | "b" => 1.0,
            "kb" | "k" => 1e3,
            "mb" | "m" => 1e6,
            "gb" | "g" => 1e9,
            "kib" => 1024.0,
            "mib" => 1024.0 * 1024.0,
            "gib" => 1024.0 * 1024.0 * 1024.0,
            _ => return Err("expected a size such as 180MB, 1.2GB or 700MiB".to_owned()),
        };
        let bytes =
            number.parse::<f64>().map_err(|_| "expected a number before the unit, such as 180MB".to_owned())? * unit;
        // Beyond 2^53 not every number of bytes has an f64.
        if (1.0..9e15).contains(&bytes) {
            Ok(ByteSize(bytes as u64))
        } else {
            Err("expected 1 byte or more".to_owned())
        }
    }
}

/// How a model is run.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Threads [default: one a core; where cores differ, one a big core]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
    /// Full-precision activations: slow, the reference for comparisons
    #[arg(long)]
    pub exact: bool,
    /// Kernels to use instead of the best of this machine
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,
    /// How weights come into memory; GGUF files are always mapped
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub load: LoadMode,
}

impl RunArgs {
    /// The same for the runtime.
    pub fn engine(&self) -> EngineOptions {
        EngineOptions {
            threads: self.threads.map_or_else(process::default_threads, usize::from),
            precision: if self.exact { Precision::Exact } else { Precision::Int8 },
            kernel: self.kernel.clone(),
            ..EngineOptions::default()
        }
    }
}

/// An open model with all that is needed to run it.
pub struct Ready {
    /// Where it was opened.
    pub path: PathBuf,
    /// The weights.
    pub model: Arc<Model>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template, if the file has one.
    pub chat_template: Option<String>,
    /// Bytes of the files whose own pages the weights are read from; 0 if they were copied.
    pub mapped: u64,
}

impl Ready {
    /// Opens and loads the model at `path`.
    pub fn load(path: &Path, run: &RunArgs) -> Result<Self, Failure> {
        Self::load_within(path, run, None)
    }

    /// The same, to run it in as many bytes as `limit`.
    pub fn load_within(path: &Path, run: &RunArgs, limit: Option<u64>) -> Result<Self, Failure> {
        let named = |failure| name_file(failure, path);
        let file = AnyModel::open_within(path, run.load, limit)?;
        let checkpoint = file.checkpoint();
        let vocabulary = checkpoint.vocabulary().ok_or(runtime::Error::NoVocabulary).map_err(|e| named(e.into()))?;
        Ok(Ready {
            path: path.to_owned(),
            tokenizer: Tokenizer::new(vocabulary).map_err(|e| named(e.into()))?,
            chat_template: vocabulary.chat_template.clone(),
            mapped: file.mapped_bytes(path),
            model: Arc::new(Model::load(checkpoint, &run.engine()).map_err(|e| named(e.into()))?),
        })
    }
}

impl Ready {
    /// How texts and conversations are made tokens of.
    pub fn document_tokens(&self) -> DocumentTokens<'_> {
        DocumentTokens { tokenizer: &self.tokenizer, template: self.chat_template.as_deref() }
    }

    /// For a model that cannot write every token: how it writes the others.
    pub fn splitter(&self) -> Result<Option<Splitter>, Failure> {
        splitter(&self.tokenizer, self.model.config()).map_err(|e| self.failure(e))
    }

    /// What went wrong while it ran, with its file's name where the file is to blame.
    pub fn failure(&self, error: runtime::Error) -> Failure {
        name_file(error.into(), &self.path)
    }
}

/// For a model of shape `config` that cannot write every token: how it writes the others.
pub fn splitter(tokenizer: &Tokenizer, config: &Config) -> Result<Option<Splitter>, runtime::Error> {
    config.shortlist.as_ref().map(|list| Splitter::new(tokenizer, list)).transpose()
}

/// What a file or folder is called, also if its path ends in dots.
pub fn file_name(path: &Path) -> String {
    let whole = || path.canonicalize().ok().and_then(|whole| whole.file_name().map(OsString::from));
    let name = path.file_name().map(OsString::from).or_else(whole);
    name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Says which file a bad one is.
pub fn name_file(failure: Failure, path: &Path) -> Failure {
    match failure {
        Failure::BadFile(message) if !message.contains(&*path.to_string_lossy()) => {
            Failure::BadFile(format!("{}: {message}", path.display()))
        }
        other => other,
    }
}

/// Text from the arguments: itself, standard input for `-`, or a file.
pub fn text_argument(text: Option<&str>, file: Option<&PathBuf>) -> Result<Option<String>, Failure> {
    let not_text = |name: &str| Failure::Usage(format!("{name}: not UTF-8 text"));
    if let Some(path) = file {
        let bytes = fs::read(path).map_err(|e| Failure::Runtime(format!("{}: cannot read: {e}", path.display())))?;
        return String::from_utf8(bytes).map(Some).map_err(|_| not_text(&path.to_string_lossy()));
    }
    if text == Some("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes)?;
        return String::from_utf8(bytes).map(Some).map_err(|_| not_text("standard input"));
    }
    Ok(text.map(str::to_owned))
}

/// Parses command-line arguments; clap's own exit code for bad ones is 2, ours too.
pub fn parse<T: clap::Parser>() -> T {
    T::parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("180MB", 180_000_000), ("1.2GB", 1_200_000_000), ("2 KiB", 2048), ("123456", 123_456)] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MB", "12XB", "-5MB", "0", "1e3", "1.2.3MB", "nan", "99999999999GB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
