//! Calibration text that the dense model writes itself, for those who have none: `--calib self:python`, or conversations, for
//! models that answer: `--calib self:python:chat`.
//!
//! A model that learned a language writes text of it, and pruning asks of text only that it makes the model do what it will
//! do (Williams, Chrysostomou, Aletras: Self-calibration for Language Model Quantization and Pruning, 2025). Each text goes
//! on from a short start of ours, drawn by the seed and the text's number; what the model makes of it depends on nothing
//! else. So texts are written many at a time, kept in a file beside the output, and a run that was stopped goes on after the
//! last one.

mod bytes;
mod file;
mod loops;
mod requests;
mod starts;
mod writing;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pruner::Language;
use pruner::calibration::Domain;
use runtime::{EngineOptions, Model, SamplerOptions, Sessions, Tokenizer};
use spm::Checkpoint;

use crate::calibration::document_tokens;
use crate::failure::Failure;
use crate::{memory, process};
use bytes::InBytes;
use file::TextFile;
use writing::{SHORTEST, Writing};

/// What stands before the domain in `--calib`,
const PREFIX: &str = "self:";
/// and after it, for conversations.
const CHAT: &str = ":chat";

/// Tokens of a text at most, its start among them.
const LONGEST: usize = 512;

/// Text of a domain, or conversations about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Of what.
    pub domain: Domain,
    /// Whether the model answers requests.
    pub chat: bool,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.domain, if self.chat { CHAT } else { "" })
    }
}

/// What has to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Text of what.
    pub kind: Kind,
    /// Tokens of it at least.
    pub tokens: usize,
    /// Chooses the starts and the words.
    pub seed: u64,
}

/// What `self:DOMAIN` or `self:DOMAIN:chat` asks for; `None` if `source` is a path. An error if there is no such domain.
pub fn kind_of(source: &Path) -> Option<Result<Kind, Failure>> {
    let name = source.to_str()?.strip_prefix(PREFIX)?;
    let (domain, chat) = name.strip_suffix(CHAT).map_or((name, false), |domain| (domain, true));
    let domain = Domain::from_str(domain).map_err(|e| Failure::Usage(format!("--calib {PREFIX}{name}: {e}")));
    Some(domain.map(|domain| Kind { domain, chat }))
}

/// How texts are drawn: wide enough that they differ, narrow enough that a small model stays with what it can write.
fn sampling(seed: u64) -> SamplerOptions {
    let (temperature, top_k, top_p) = (0.8, 100, 0.95);
    SamplerOptions { temperature, top_k, top_p, min_p: 0.0, repeat_penalty: 1.0, seed, ..SamplerOptions::default() }
}

/// One line for the provenance of what is calibrated on such text.
pub fn note(kind: Kind) -> String {
    let SamplerOptions { temperature, top_k, top_p, .. } = sampling(0);
    format!("{kind} written by the model itself at temperature {temperature}, top-k {top_k}, top-p {top_p}")
}

/// A model that writes calibration text.
pub struct Author<'a> {
    source: &'a dyn Checkpoint,
    tokenizer: &'a Tokenizer,
    /// Tells the model from any other.
    identity: &'a str,
    threads: usize,
    interrupted: &'a AtomicBool,
    /// Loaded when there is something to write.
    model: Option<Arc<Model>>,
}

impl<'a> Author<'a> {
    /// The dense model `source`, whose files `identity` tells from any other.
    pub fn new(
        source: &'a dyn Checkpoint,
        tokenizer: &'a Tokenizer,
        identity: &'a str,
        threads: usize,
        interrupted: &'a AtomicBool,
    ) -> Self {
        Author { source, tokenizer, identity, threads, interrupted, model: None }
    }

    /// The file of text that is `wanted`, in `folder`: what is there already is gone on with.
    pub fn write(&mut self, wanted: &Wanted, folder: &Path) -> Result<PathBuf, Failure> {
        let path = self.path(wanted, folder);
        let tokenize = document_tokens(self.source, self.tokenizer);
        if wanted.kind.chat && tokenize.template.is_none() {
            return Err(no_template(wanted.kind));
        }
        let file = TextFile::open(&path, &tokenize)?;
        if file.tokens >= wanted.tokens {
            return Ok(path);
        }
        let model = match self.model.take() {
            Some(model) => model,
            None => self.load()?,
        };
        let sessions = sessions(&model)?;
        Writing::new(sessions, tokenize, *wanted, file).run(self.interrupted)?;
        self.model = Some(model);
        Ok(path)
    }

    /// Another name for each set of texts: by all that they depend on.
    fn path(&self, wanted: &Wanted, folder: &Path) -> PathBuf {
        let Wanted { kind: Kind { domain, chat }, tokens, seed } = wanted;
        let (starts, name) = match chat {
            true => (starts::fingerprint_of_requests(*domain), format!("{domain}-chat")),
            false => (starts::fingerprint(*domain), domain.to_string()),
        };
        let on = format!("{} {starts} {LONGEST} {tokens} {seed} {:?}", self.identity, sampling(0));
        let hash = blake3::hash(on.as_bytes()).to_hex();
        folder.join(format!("self-{name}-{}.jsonl", &hash[..12]))
    }

    fn load(&self) -> Result<Arc<Model>, Failure> {
        let source = InBytes(self.source);
        let bytes = source.tensors().iter().filter_map(|t| source.matrix_bytes(&t.name)).sum();
        process::check_memory("the model that writes calibration text", bytes, "give text with --calib FILE")?;
        let options = EngineOptions { threads: self.threads, ..EngineOptions::default() };
        Ok(Arc::new(Model::load(&source, &options)?))
    }
}

fn sessions(model: &Arc<Model>) -> Result<Sessions, Failure> {
    let context = LONGEST.min(model.config().context_len);
    if context <= SHORTEST {
        let message =
            format!("a model that reads {context} tokens writes no text of {SHORTEST}; give text with --calib FILE");
        return Err(Failure::Usage(message));
    }
    memory::sessions(model, usize::MAX, context, "give text with --calib FILE")
}

fn no_template(kind: Kind) -> Failure {
    let without = Kind { chat: false, ..kind };
    Failure::Usage(format!("--calib {PREFIX}{kind}: this model has no chat template; use {PREFIX}{without}"))
}

/// The one language of all `kinds`, if there is one.
pub fn one_language(kinds: &[Kind]) -> Option<Language> {
    match kinds {
        [Kind { domain: Domain::Language(first), .. }, rest @ ..] => {
            rest.iter().all(|kind| kind.domain == Domain::Language(*first)).then_some(*first)
        }
        _ => None,
    }
}
