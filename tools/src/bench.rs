//! `spm bench`: the tests of llama-bench, with what a sparse model adds to its table.
//!
//! `ppN` feeds N random tokens at once; `tgN` feeds N random tokens one by one, from an empty context. Each test is
//! run once before it is measured (of `tgN` one token). Loading is not counted.

mod bandwidth;
mod expanded;
mod table;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use runtime::{EngineOptions, Layer, Model, Session, SessionOptions};
use spm::synthetic::SplitMix;
use spm::{Checkpoint, Encoding, Matrix};

use crate::cli::{self, name_file};
use crate::failure::Failure;
use crate::open::{AnyModel, LoadMode};
use crate::process;

use bandwidth::read_bandwidth;
use expanded::Expanded;

/// What is measured, and how often.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Model file
    pub model: PathBuf,
    /// Tokens read at once, a test each; 0 for none
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', default_value = "512", value_parser = tokens())]
    pub n_prompt: Vec<u32>,
    /// Tokens written one by one, a test each; 0 for none
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_value = "128", value_parser = tokens())]
    pub n_gen: Vec<u32>,
    /// Threads, a row each [default: one a core; where cores differ, one a big core]
    #[arg(short, long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Vec<u16>,
    /// Measurements of each test
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub repetitions: u16,
    /// How the table is written
    #[arg(short, long, value_enum, default_value_t = Format::Md)]
    pub output: Format,
    /// The same as -o json
    #[arg(long, conflicts_with = "output")]
    pub json: bool,
    /// Kernels to use instead of the best of this machine
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,
    /// How weights come into memory; GGUF files are always mapped
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub load: LoadMode,
    /// Also measure the dense model of the same values in the same engine, in turns with the sparse one: sparse-f16
    /// expanded to f16, all others to q8
    #[arg(long)]
    pub dense: bool,
    /// Do not measure the memory's bandwidth; the columns that need it stay empty
    #[arg(long)]
    pub no_bandwidth: bool,
}

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Markdown
    Md,
    /// Comma-separated values, a line of names first
    Csv,
    /// An array of objects, named as llama-bench names them where they are the same
    Json,
}

fn tokens() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=1 << 20)
}

/// Measures and writes the table to `out`.
pub fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let tests = args.tests()?;
    let file = AnyModel::open_with(&args.model, args.load)?;
    let mut sources = vec![Source { name: args.model_name(), dense: false, checkpoint: file.checkpoint() }];
    let expanded = if args.dense { Some(expand(file.checkpoint())?) } else { None };
    if let Some(dense) = &expanded {
        sources.push(Source { name: format!("{} (dense)", sources[0].name), dense: true, checkpoint: dense });
    }
    let mut rows = Vec::new();
    for threads in args.thread_counts() {
        let bandwidth = if args.no_bandwidth { None } else { read_bandwidth(threads) };
        let subjects = args.load(&sources, threads)?;
        let models: Vec<_> = subjects.iter().map(|s| (&*args.model, Arc::clone(&s.model))).collect();
        for test in &tests {
            let times = measure(&models, *test, args.repetitions.into())?;
            let found = subjects.iter().zip(times);
            rows.extend(found.map(|(subject, times)| Row::new(subject, *test, threads, times, bandwidth)));
        }
    }
    Ok(table::write(&rows, if args.json { Format::Json } else { args.output }, out)?)
}

impl BenchArgs {
    fn tests(&self) -> Result<Vec<Test>, Failure> {
        let prompts = self.n_prompt.iter().map(|&n| Test::Prompt(n as usize));
        let all: Vec<Test> = prompts.chain(self.n_gen.iter().map(|&n| Test::Generate(n as usize))).collect();
        let all: Vec<Test> = all.into_iter().filter(|t| t.tokens() > 0).collect();
        match all.is_empty() {
            true => Err(Failure::Usage("-p 0 and -n 0 leave nothing to measure; give one of them tokens".into())),
            false => Ok(all),
        }
    }

    fn thread_counts(&self) -> Vec<usize> {
        match self.threads.is_empty() {
            true => vec![process::default_threads()],
            false => self.threads.iter().map(|&n| n.into()).collect(),
        }
    }

    fn model_name(&self) -> String {
        cli::file_name(&self.model)
    }

    fn load<'a>(&self, sources: &'a [Source], threads: usize) -> Result<Vec<Subject<'a>>, Failure> {
        let engine = EngineOptions { threads, kernel: self.kernel.clone(), ..EngineOptions::default() };
        let load = |source: &'a Source| {
            let model = Model::load(source.checkpoint, &engine).map_err(|e| name_file(e.into(), &self.model))?;
            Ok(Subject { source, model: Arc::new(model) })
        };
        sources.iter().map(load).collect()
    }
}

/// The model with dense matrices, in memory.
fn expand(model: &dyn Checkpoint) -> Result<Expanded<'_>, Failure> {
    let advice = "leave out --dense, or measure a smaller model";
    process::check_memory("the dense model", Expanded::most_bytes(model), advice)?;
    Expanded::new(model).map_err(|e| Failure::Runtime(format!("cannot expand the model: {e}; leave out --dense")))
}

/// One measurement's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// So many tokens at once.
    Prompt(usize),
    /// So many tokens one by one.
    Generate(usize),
}

impl Test {
    pub(crate) fn tokens(self) -> usize {
        match self {
            Test::Prompt(n) | Test::Generate(n) => n,
        }
    }

    /// llama-bench's name, such as `pp512`.
    pub(crate) fn name(self) -> String {
        match self {
            Test::Prompt(n) => format!("pp{n}"),
            Test::Generate(n) => format!("tg{n}"),
        }
    }

    fn run(self, session: &mut Session, tokens: &[u32]) -> Result<(), runtime::Error> {
        session.truncate(0);
        match self {
            Test::Prompt(_) => session.feed(tokens).map(drop),
            Test::Generate(_) => tokens.chunks(1).try_for_each(|token| session.feed(token).map(drop)),
        }
    }

    /// llama-bench's: the whole prompt, or one token.
    fn warm_up(self, session: &mut Session, tokens: &[u32]) -> Result<(), runtime::Error> {
        match self {
            Test::Prompt(_) => self.run(session, tokens),
            Test::Generate(_) => self.run(session, &tokens[..1]),
        }
    }
}

/// A model to measure, not loaded.
struct Source<'a> {
    name: String,
    dense: bool,
    checkpoint: &'a dyn Checkpoint,
}

/// A model to measure, loaded for some number of threads.
struct Subject<'a> {
    source: &'a Source<'a>,
    model: Arc<Model>,
}

fn session(model: &Arc<Model>, tokens: usize) -> Result<Session, Failure> {
    let options = SessionOptions { context: tokens, ..SessionOptions::default() };
    let needed = Session::memory_needed(model.config(), &options, model.engine().threads()) as u64;
    process::check_memory(&format!("a context of {tokens} tokens"), needed, "ask for fewer with -p, -n")?;
    Ok(Session::new(model, &options)?)
}

fn matrices(model: &Model) -> impl Iterator<Item = &Matrix> {
    model.layers().iter().flat_map(Layer::matrices)
}

/// The encoding of most weights of the layers, as they are multiplied with.
pub(crate) fn encoding(model: &Model) -> &'static str {
    let weights_in = |encoding: Encoding| -> usize {
        matrices(model).filter(|m| m.encoding() == encoding).map(|m| m.rows() * m.cols()).sum()
    };
    Encoding::ALL.into_iter().max_by_key(|e| weights_in(*e)).map_or("", Encoding::name)
}

/// Share of the layers' weights that are zero and not stored.
pub(crate) fn sparsity(model: &Model) -> f64 {
    let all: u64 = matrices(model).map(|m| m.rows() as u64 * m.cols() as u64).sum();
    1.0 - matrices(model).map(Matrix::kept).sum::<u64>() as f64 / all.max(1) as f64
}

/// Times of `repetitions` runs of each model, which was opened at its path. They take turns: so noise of the machine meets all.
pub(crate) fn measure(
    models: &[(&Path, Arc<Model>)],
    test: Test,
    repetitions: usize,
) -> Result<Vec<Vec<Duration>>, Failure> {
    let mut sessions = models.iter().map(|(_, m)| session(m, test.tokens())).collect::<Result<Vec<_>, _>>()?;
    let tokens: Vec<_> = models.iter().map(|(_, m)| random_tokens(test.tokens(), m.config().vocab_size)).collect();
    let mut times = vec![Vec::with_capacity(repetitions); models.len()];
    for ((session, tokens), (path, _)) in sessions.iter_mut().zip(&tokens).zip(models) {
        test.warm_up(session, tokens).map_err(|e| name_file(e.into(), path))?;
    }
    for _ in 0..repetitions {
        for (((session, tokens), times), (path, _)) in sessions.iter_mut().zip(&tokens).zip(&mut times).zip(models) {
            let started = Instant::now();
            test.run(session, tokens).map_err(|e| name_file(e.into(), path))?;
            times.push(started.elapsed());
        }
    }
    Ok(times)
}

/// The same tokens for the same numbers.
fn random_tokens(n: usize, vocab_size: usize) -> Vec<u32> {
    let mut random = SplitMix::new(0);
    (0..n).map(|_| (random.bits() % vocab_size as u64) as u32).collect()
}

/// One line of the table.
struct Row {
    model: String,
    dense: bool,
    /// Bytes of all tensors.
    size: u64,
    params: u64,
    threads: usize,
    kernel: &'static str,
    test: Test,
    times: Vec<Duration>,
    sparsity: f64,
    encoding: &'static str,
    /// Weights that one decoded token reads, in bytes.
    bytes_per_token: u64,
    /// What the machine can read, in bytes a second.
    bandwidth: Option<f64>,
}

impl Row {
    fn new(subject: &Subject, test: Test, threads: usize, times: Vec<Duration>, bandwidth: Option<f64>) -> Self {
        let tensors = subject.source.checkpoint.tensors();
        Row {
            model: subject.source.name.clone(),
            dense: subject.source.dense,
            size: tensors.iter().map(|t| t.bytes).sum(),
            params: tensors.iter().map(|t| t.rows as u64 * t.cols as u64).sum(),
            threads,
            kernel: subject.model.engine().kernels().name(),
            test,
            times,
            sparsity: sparsity(&subject.model),
            encoding: encoding(&subject.model),
            bytes_per_token: subject.model.bytes_per_token() as u64,
            bandwidth,
        }
    }

    /// Tokens a second of each run.
    fn speeds(&self) -> Vec<f64> {
        self.times.iter().map(|t| self.test.tokens() as f64 / t.as_secs_f64()).collect()
    }

    /// Bytes of weights read a second. A prompt reads them once for many tokens, so only decoding has this.
    fn read_speed(&self) -> Option<f64> {
        let decodes = matches!(self.test, Test::Generate(_));
        decodes.then(|| self.bytes_per_token as f64 * mean(&self.speeds()))
    }

    /// Share of what the machine can read.
    fn share(&self) -> Option<f64> {
        Some(self.read_speed()? / self.bandwidth?)
    }
}

fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / all.len() as f64
}

/// The sample's; 0 of a single number, as llama-bench has it.
fn standard_deviation(all: &[f64]) -> f64 {
    let mean = mean(all);
    let squares: f64 = all.iter().map(|x| (x - mean).powi(2)).sum();
    (squares / (all.len().max(2) - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use spm::synthetic::SyntheticModel;

    use super::*;

    #[test]
    fn means_and_deviations() {
        assert_eq!(mean(&[1.0, 2.0, 6.0]), 3.0);
        assert_eq!(standard_deviation(&[1.0, 2.0, 6.0]), 7f64.sqrt());
        assert_eq!(standard_deviation(&[5.0]), 0.0);
    }

    #[test]
    fn tests_run_from_an_empty_context() {
        let model = Arc::new(Model::load(&SyntheticModel::tiny(1), &EngineOptions::default()).unwrap());
        let models = [(Path::new("tiny"), model)];
        for test in [Test::Prompt(70), Test::Generate(3)] {
            let times = measure(&models, test, 4).unwrap();
            assert_eq!(times.iter().map(Vec::len).collect::<Vec<_>>(), [4]);
        }
        let [(_, model)] = &models;
        assert_eq!((encoding(model), sparsity(model)), ("f32", 0.0));
    }
}
