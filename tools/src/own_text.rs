//! Calibration text that the dense model writes itself, for those who have none: `--calib self:python`.
//!
//! A model that learned a language writes text of it, and pruning asks of text only that it makes the model do what it will
//! do (Williams, Chrysostomou, Aletras: Self-calibration for Language Model Quantization and Pruning, 2025). Each text goes
//! on from a short start of ours, drawn by the seed and the text's number; what the model makes of it depends on nothing
//! else. So texts are written many at a time, kept in a file beside the output, and a run that was stopped goes on after the
//! last one.

mod bytes;
mod file;
mod loops;
mod starts;
mod writing;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pruner::Language;
use pruner::calibration::Domain;
use runtime::{EngineOptions, Model, SamplerOptions, Sessions, Tokenizer};
use spm::Checkpoint;

use crate::failure::Failure;
use crate::{memory, process};
use bytes::InBytes;
use file::TextFile;
use writing::{SHORTEST, Writing};

/// What stands before the domain in `--calib`.
const PREFIX: &str = "self:";

/// Tokens of a text at most, its start among them.
const LONGEST: usize = 512;

/// What has to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Text of what.
    pub domain: Domain,
    /// Tokens of it at least.
    pub tokens: usize,
    /// Chooses the starts and the words.
    pub seed: u64,
}

/// The domain of `self:DOMAIN`; `None` if `source` is a path. An error if there is no such domain.
pub fn domain_of(source: &Path) -> Option<Result<Domain, Failure>> {
    let name = source.to_str()?.strip_prefix(PREFIX)?;
    Some(Domain::from_str(name).map_err(|e| Failure::Usage(format!("--calib {PREFIX}{name}: {e}"))))
}

/// How texts are drawn: wide enough that they differ, narrow enough that a small model stays with what it can write.
fn sampling(seed: u64) -> SamplerOptions {
    let (temperature, top_k, top_p) = (0.8, 100, 0.95);
    SamplerOptions { temperature, top_k, top_p, min_p: 0.0, repeat_penalty: 1.0, seed, ..SamplerOptions::default() }
}

/// One line for the provenance of what is calibrated on such text.
pub fn note(domain: Domain) -> String {
    let SamplerOptions { temperature, top_k, top_p, .. } = sampling(0);
    format!("{domain} written by the model itself at temperature {temperature}, top-k {top_k}, top-p {top_p}")
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
        let counted = |text: &str| self.tokenizer.encode_plain(text).len();
        let file = TextFile::open(&path, &counted)?;
        if file.tokens >= wanted.tokens {
            return Ok(path);
        }
        let model = match self.model.take() {
            Some(model) => model,
            None => self.load()?,
        };
        let sessions = sessions(&model)?;
        Writing::new(sessions, self.tokenizer, *wanted, file).run(self.interrupted)?;
        self.model = Some(model);
        Ok(path)
    }

    /// Another name for each set of texts: by all that they depend on.
    fn path(&self, wanted: &Wanted, folder: &Path) -> PathBuf {
        let Wanted { domain, tokens, seed } = wanted;
        let starts = starts::fingerprint(*domain);
        let on = format!("{} {starts} {LONGEST} {tokens} {seed} {:?}", self.identity, sampling(0));
        let hash = blake3::hash(on.as_bytes()).to_hex();
        folder.join(format!("self-{domain}-{}.jsonl", &hash[..12]))
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

/// The one language of all `domains`, if there is one.
pub fn one_language(domains: &[Domain]) -> Option<Language> {
    match domains {
        [Domain::Language(first), rest @ ..] if rest.iter().all(|d| *d == Domain::Language(*first)) => Some(*first),
        _ => None,
    }
}
