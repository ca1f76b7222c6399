//! Options and steps that more than one program has.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use runtime::{EngineOptions, Model, Precision, Tokenizer};

use crate::failure::Failure;
use crate::open::{AnyModel, LoadMode};
use crate::process;

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
        }
    }
}

/// An open model with all that is needed to run it.
pub struct Ready {
    /// The weights.
    pub model: Arc<Model>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template, if the file has one.
    pub chat_template: Option<String>,
}

impl Ready {
    /// Opens and loads the model at `path`.
    pub fn load(path: &Path, run: &RunArgs) -> Result<Self, Failure> {
        let named = |failure| name_file(failure, path);
        let file = AnyModel::open_with(path, run.load)?;
        let checkpoint = file.checkpoint();
        let vocabulary = checkpoint.vocabulary().ok_or(runtime::Error::NoVocabulary).map_err(|e| named(e.into()))?;
        Ok(Ready {
            tokenizer: Tokenizer::new(vocabulary).map_err(|e| named(e.into()))?,
            chat_template: vocabulary.chat_template.clone(),
            model: Arc::new(Model::load(checkpoint, &run.engine()).map_err(|e| named(e.into()))?),
        })
    }
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
