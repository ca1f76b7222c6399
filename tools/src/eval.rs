//! `spm eval`: one model or several on one text or several.

mod matching;
mod matrix;
mod single;
mod texts;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use runtime::{Model, Splitter};
use serde_json::{Map, Value, json};

use crate::bootstrap::Estimate;
use crate::cli::{Ready, RunArgs};
use crate::evaluate::{self, Evaluation, Fault, evaluate};
use crate::failure::Failure;
use crate::lexical::Kind;
use crate::process;
use crate::progress::counting_bar;
use crate::subjects::{Subject, SubjectArgs};

pub use texts::{Text, TextArgs};

/// What is evaluated on what.
#[derive(Args, Clone, Debug)]
pub struct EvalArgs {
    /// The models
    #[command(flatten)]
    pub subjects: SubjectArgs,
    /// The texts
    #[command(flatten)]
    pub texts: TextArgs,
    /// Compare with this model, usually the dense one that was pruned; it runs with exact activations
    #[arg(long, value_name = "MODEL")]
    pub reference: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    pub json: bool,
    /// How models are run
    #[command(flatten)]
    pub run: RunArgs,
}

/// Evaluates and prints to `out`.
pub fn run(args: &EvalArgs, out: &mut dyn Write) -> Result<(), Failure> {
    args.texts.check()?;
    if args.texts.text.is_empty() {
        return Err(Failure::Usage("there is no text to evaluate on; give --text FILE or FOLDER".into()));
    }
    let interrupted = process::interrupt_flag()?;
    let subjects = args.subjects.subjects()?;
    let loaded = Loaded::load(&subjects, &args.run)?;
    let reference = args.reference.as_ref().map(|path| load_reference(path, &loaded, &args.run)).transpose()?;
    let texts = args.texts.read(&loaded.ready[0].document_tokens(), loaded.context())?;
    let mut found = Vec::new();
    for text in &texts {
        found.push(on_text(&loaded, reference.as_ref(), text, args.texts.unscored(), &interrupted)?);
    }
    match (&subjects[..], &texts[..]) {
        ([_], [text]) => single::write(text, &found[0][0], args.json, out),
        _ => matrix::Matrix { subjects: &subjects, texts: &texts, reference: args.reference.as_deref(), found: &found }
            .write(args.json, out),
    }
}

/// Models of one vocabulary, with what it takes to write text in their tokens.
pub struct Loaded {
    /// The models.
    pub ready: Vec<Ready>,
    splitters: Vec<Option<Splitter>>,
}

impl Loaded {
    /// Loads all of them; an error if they have not one vocabulary.
    pub fn load(subjects: &[Subject], run: &RunArgs) -> Result<Self, Failure> {
        let ready = subjects.iter().map(|s| Ready::load(&s.path, run)).collect::<Result<Vec<_>, _>>()?;
        let mut splitters = Vec::new();
        for (subject, own) in subjects.iter().zip(&ready) {
            if !have_one_vocabulary(own, &ready[0]) {
                let (path, known) = (subject.path.display(), subjects[0].path.display());
                let advice = "their numbers a token cannot be compared; evaluate them one by one";
                return Err(Failure::Usage(format!("{path}: other tokens than {known}; {advice}")));
            }
            splitters.push(own.splitter()?);
        }
        Ok(Loaded { ready, splitters })
    }

    /// Tokens that all of them read at a time.
    pub fn context(&self) -> usize {
        self.ready.iter().map(|ready| ready.model.config().context_len).min().unwrap_or(0)
    }

    /// The same for scoring.
    pub fn subjects(&self) -> Vec<evaluate::Subject<'_>> {
        let all = self.ready.iter().zip(&self.splitters);
        all.map(|(ready, splitter)| evaluate::Subject { model: &ready.model, splitter: splitter.as_ref() }).collect()
    }
}

/// Whether two models read and write text in the same tokens.
pub fn have_one_vocabulary(a: &Ready, b: &Ready) -> bool {
    let sizes = |r: &Ready| (r.model.config().vocab_size, r.tokenizer.vocab_size());
    let same = |id: u32| a.tokenizer.token_bytes(id) == b.tokenizer.token_bytes(id);
    sizes(a) == sizes(b) && (0..a.tokenizer.vocab_size() as u32).all(same)
}

fn load_reference(path: &Path, loaded: &Loaded, run: &RunArgs) -> Result<Arc<Model>, Failure> {
    let reference = Ready::load(path, &RunArgs { exact: true, ..run.clone() })?;
    let refuse = |why: &str| Err(Failure::Usage(format!("--reference {}: {why}", path.display())));
    if let Some(list) = &reference.model.config().shortlist {
        let (rows, all) = (list.len(), reference.model.config().vocab_size);
        return refuse(&format!(
            "it can write {rows} of {all} tokens, so it cannot judge all text; give the dense model"
        ));
    }
    if !have_one_vocabulary(&reference, &loaded.ready[0]) {
        let (own, other) = (loaded.ready[0].model.config().vocab_size, reference.model.config().vocab_size);
        return refuse(&format!("other tokens ({other}) than the model's ({own}), so they cannot be compared"));
    }
    Ok(reference.model)
}

/// Evaluates all models on `text`, with a progress bar.
pub fn on_text(
    loaded: &Loaded,
    reference: Option<&Arc<Model>>,
    text: &Text,
    unscored: usize,
    interrupted: &AtomicBool,
) -> Result<Vec<Evaluation>, Failure> {
    let bar = counting_bar(text.windows.len(), "windows");
    let mut progress = |done: usize, so_far: &[Evaluation]| {
        bar.set_position(done as u64);
        let total = so_far[0].total();
        let perplexity = (total.nll / total.unsplit_tokens as f64).exp();
        bar.set_message(format!("{}, perplexity {perplexity:.4}", text.name));
    };
    let found = evaluate(&loaded.subjects(), reference, &text.windows, unscored, interrupted, &mut progress);
    bar.finish_and_clear();
    found.map_err(|fault| match fault {
        Fault::Interrupted => Failure::Interrupted,
        Fault::Model(Some(i), error) => loaded.ready[i].failure(error),
        Fault::Model(None, error) => match error.into() {
            Failure::BadFile(message) => Failure::BadFile(format!("the reference: {message}")),
            other => other,
        },
    })
}

/// What was found on one text, for programs.
pub fn to_json(text: &Text, found: &Evaluation) -> Map<String, Value> {
    let total = found.total();
    let (mut all, mut intervals) = (Map::new(), Map::new());
    let mut put = |key: &str, estimate: Estimate| {
        intervals.insert(key.to_owned(), json!(estimate.interval.map(|(low, high)| [low, high])));
        all.insert(key.to_owned(), json!(estimate.value));
    };
    put("perplexity", found.perplexity());
    put("perplexity_unsplit", found.perplexity_unsplit());
    put("bits_per_byte", found.bits_per_byte());
    put("top1", found.top1());
    put("accuracy", found.accuracy());
    if found.is_compared() {
        put("ln_perplexity_ratio", found.ln_ratio());
        put("kl_mean", found.mean_kl());
        put("kl_p99", found.kl_percentile(99.0));
        put("top1_agreement", found.agreement());
        all.insert("unlisted_mean".to_owned(), json!(found.mean_unlisted()));
    }
    let kinds = Kind::ALL.into_iter().filter_map(|kind| {
        let estimate = found.accuracy_of(kind)?;
        let interval = estimate.interval.map(|(low, high)| [low, high]);
        let tokens = total.kinds[kind as usize].0;
        Some((kind.name().to_owned(), json!({"tokens": tokens, "accuracy": estimate.value, "interval": interval})))
    });
    let kinds: Map<String, Value> = kinds.collect();
    all.extend([
        ("windows".to_owned(), json!(text.windows.len())),
        ("context".to_owned(), json!(text.context)),
        ("documents".to_owned(), json!(found.scored_documents())),
        ("tokens".to_owned(), json!(total.tokens)),
        ("unsplit_tokens".to_owned(), json!(total.unsplit_tokens)),
        ("bytes".to_owned(), json!(total.bytes)),
        ("accuracy_by_kind".to_owned(), json!(kinds)),
        ("intervals".to_owned(), Value::Object(intervals)),
    ]);
    all
}

/// For people: the number, and the interval if there is one.
pub fn shown(estimate: Estimate, digits: usize) -> String {
    let value = estimate.value;
    match estimate.interval {
        Some((low, high)) => format!("{value:.digits$} ({low:.digits$} to {high:.digits$})"),
        None => format!("{value:.digits$}"),
    }
}
