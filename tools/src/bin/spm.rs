//! `spm`: look at model files, check them, measure them.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::{Parser, Subcommand};
use pruner::Language;
use runtime::{Model, Precision, Session, SessionOptions, Special, Splitter, Tokenizer};
use serde_json::json;
use spm::Config;
use tools::bench::{self, BenchArgs};
use tools::cli::{Ready, RunArgs, text_argument};
use tools::evaluate::{Evaluation, evaluate};
use tools::open::{AnyModel, open_vocabulary};
use tools::overlap::{self, OverlapArgs};
use tools::synth::{self, SynthArgs};
use tools::{Failure, dump, inspect, process};

/// Look at model files (.spm, .gguf), check them, measure them.
///
/// Exit codes: 0 ok, 1 runtime, 2 usage, 3 bad model file, 4 not enough memory, 130 interrupted.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a model's shape, its tensors and where it came from
    Inspect {
        /// Model file
        model: PathBuf,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Read every byte and check it: checksums, structure, numbers that are not finite
    Verify {
        /// Model file
        model: PathBuf,
    },
    /// Measure how well a model predicts text, and how far it is from another
    Eval(EvalArgs),
    /// Measure how fast a model reads and writes: llama-bench's tests and table, and more columns
    ///
    /// sparsity, encoding: of the layers' matrices, as they are multiplied with. bytes/token: weights that one decoded
    /// token reads. GB/s: these bytes by the tokens a second. of bandwidth: share of what this machine reads, measured
    /// here: as many threads each sum a private buffer of 64-bit integers, in all four times the last-level cache and at
    /// least 512 MB; median of 7 passes. A model that fits in the cache can exceed it.
    Bench(BenchArgs),
    /// Show in which weights sub-models of one parent differ, against random masks and another seed of the calibration
    ///
    /// overlap: share of the kept weights that both masks keep. jaccard distance: 1 less the intersection by the union.
    /// random: what independent masks of the same densities p and q are expected to have, p q of a matrix in common.
    /// seeds: models that --reseed says to differ by the calibration's seed alone; what they differ in is noise.
    Overlap(OverlapArgs),
    /// Make a model with the shape of a real one and random weights, for measuring speed
    Synth(SynthArgs),
    /// Print the logits after the last of some tokens
    Logits {
        /// Model file
        model: PathBuf,
        /// Token ids
        #[arg(long, value_delimiter = ',', required = true)]
        tokens: Vec<u32>,
        /// A JSON array; otherwise the ten most likely tokens
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Show the tokens of a text
    Tokenize {
        /// Model file
        model: PathBuf,
        /// Text; `-` reads standard input
        text: String,
        /// Only the ids, as a JSON array
        #[arg(long)]
        ids: bool,
        /// Read special tokens such as <|endoftext|> as what they stand for
        #[arg(long)]
        special: bool,
    },
    /// Write one tensor, expanded to f32, as a NumPy file
    Dump {
        /// Model file
        model: PathBuf,
        /// Name of the tensor, see `spm inspect`
        tensor: String,
        /// Where to, such as tensor.npy
        #[arg(short, long)]
        output: PathBuf,
    },
}

#[derive(clap::Args)]
struct EvalArgs {
    /// Model file
    model: PathBuf,
    /// Files and folders of text; .jsonl files have a document in the `text` field of each line
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    text: Vec<PathBuf>,
    /// In folders, only files of this language: python, java, cpp, javascript, typescript, go, rust, c, csharp, php, ruby,
    /// shell
    #[arg(long)]
    lang: Option<Language>,
    /// Compare with this model, usually the dense one that was pruned; it runs with exact activations
    #[arg(long, value_name = "MODEL")]
    reference: Option<PathBuf>,
    /// Tokens a window
    #[arg(short, long = "ctx-size", value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(2..))]
    ctx_size: u32,
    /// Windows at most, from the first on
    #[arg(long, value_name = "N")]
    windows: Option<usize>,
    /// Tokens at the beginning of each window that are not scored (llama-perplexity: half a window and one)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    unscored: u32,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tools::run("spm", || match &cli.command {
        Command::Inspect { model, json } => inspect_model(model, *json),
        Command::Verify { model } => verify(model),
        Command::Eval(args) => eval(args),
        Command::Bench(args) => bench::run(args, &mut std::io::stdout()),
        Command::Overlap(args) => overlap::run(args, &mut std::io::stdout()),
        Command::Synth(args) => make(args),
        Command::Logits { model, tokens, json, run } => logits(model, tokens, *json, run),
        Command::Tokenize { model, text, ids, special } => tokenize(model, text, *ids, *special),
        Command::Dump { model, tensor, output } => dump_tensor(model, tensor, output),
    })
}

fn inspect_model(path: &Path, json: bool) -> Result<(), Failure> {
    let model = AnyModel::open(path)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    match json {
        true => writeln!(out, "{:#}", inspect::to_json(&model))?,
        false => inspect::print_table(&model, &mut out)?,
    }
    Ok(out.flush()?)
}

fn verify(path: &Path) -> Result<(), Failure> {
    let model = AnyModel::open(path)?;
    match &model {
        AnyModel::Sparse(file) => file.verify()?,
        AnyModel::Gguf(file) => check_numbers(&**file, path)?,
    }
    if let Some(vocabulary) = model.checkpoint().vocabulary() {
        let named = |e: runtime::Error| tools::cli::name_file(e.into(), path);
        let tokenizer = Tokenizer::new(vocabulary).map_err(named)?;
        splitter(&tokenizer, model.checkpoint().config()).map_err(named)?;
    }
    writeln!(std::io::stdout(), "{}: ok", path.display())?;
    Ok(())
}

/// For a model that cannot write every token: how it writes the others.
fn splitter(tokenizer: &Tokenizer, config: &Config) -> Result<Option<Splitter>, runtime::Error> {
    config.shortlist.as_ref().map(|list| Splitter::new(tokenizer, list)).transpose()
}

/// GGUF has no checksums: what can be checked is that every weight is a number.
fn check_numbers(model: &dyn spm::Checkpoint, path: &Path) -> Result<(), Failure> {
    for t in model.tensors() {
        let mut row = vec![0.0; t.cols];
        for r in 0..t.rows {
            let read = model.read_rows(&t.name, r, &mut row);
            if let Some(col) = row.iter().position(|v| read.is_none() || !v.is_finite()) {
                let at = format!("{}: tensor `{}`: row {r}, column {col}", path.display(), t.name);
                return Err(Failure::BadFile(format!("{at} is {}, expected a finite number", row[col])));
            }
        }
    }
    Ok(())
}

fn eval(args: &EvalArgs) -> Result<(), Failure> {
    let context = args.ctx_size as usize;
    if args.unscored >= args.ctx_size {
        return Err(Failure::Usage(format!("--unscored {} leaves nothing of windows of {context}", args.unscored)));
    }
    let interrupted = process::interrupt_flag()?;
    let ready = Ready::load(&args.model, &args.run)?;
    let reference = args.reference.as_ref().map(|path| load_reference(path, &ready.model, &args.run)).transpose()?;
    let windows = read_windows(args, &ready)?;
    let splitter =
        splitter(&ready.tokenizer, ready.model.config()).map_err(|e| tools::cli::name_file(e.into(), &args.model))?;
    let bar = progress_bar(windows.len());
    let bytes_of = |token: u32| ready.tokenizer.token_bytes(token).len();
    let mut progress = |done: usize, so_far: &Evaluation| {
        bar.set_position(done as u64);
        bar.set_message(format!("perplexity {:.4}", so_far.perplexity_unsplit()));
        if interrupted.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let unscored = args.unscored as usize;
    let found =
        evaluate(&ready.model, reference.as_ref(), &windows, splitter.as_ref(), unscored, &bytes_of, &mut progress)?;
    bar.finish_and_clear();
    if interrupted.load(Ordering::SeqCst) {
        return Err(Failure::Interrupted);
    }
    print_evaluation(args, windows.len(), &found)
}

fn make(args: &SynthArgs) -> Result<(), Failure> {
    let bytes = synth::run(args)?;
    writeln!(std::io::stderr(), "{}: {}", args.output.display(), process::megabytes(bytes))?;
    Ok(())
}

fn load_reference(path: &Path, model: &Model, run: &RunArgs) -> Result<Arc<Model>, Failure> {
    let mut engine = run.engine();
    engine.precision = Precision::Exact;
    let reference = Model::load(AnyModel::open_with(path, run.load)?.checkpoint(), &engine)?;
    let (own, other) = (model.config().vocab_size, reference.config().vocab_size);
    if own != other {
        let message = format!("{}: {other} tokens, the model has {own}; they cannot be compared", path.display());
        return Err(Failure::Usage(message));
    }
    Ok(Arc::new(reference))
}

fn read_windows(args: &EvalArgs, ready: &Ready) -> Result<Vec<Vec<u32>>, Failure> {
    let context = args.ctx_size as usize;
    let begin: Vec<u32> = ready.tokenizer.bos().filter(|_| ready.tokenizer.adds_bos()).into_iter().collect();
    let step = context - begin.len();
    let enough = args.windows.map(|n| n.saturating_mul(step));
    let mut ids = Vec::new();
    pruner::calibration::each_document(&args.text, args.lang.into(), &mut |text| {
        ids.extend(ready.tokenizer.encode_plain(text));
        match enough {
            Some(n) if ids.len() >= n => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    })?;
    let windows = ids.chunks_exact(step).take(args.windows.unwrap_or(usize::MAX));
    let windows: Vec<Vec<u32>> = windows.map(|text| [&begin, text].concat()).collect();
    match windows.is_empty() {
        true => Err(Failure::Usage(format!(
            "{} tokens of text, a window needs {step}; ask for shorter ones with -c",
            ids.len()
        ))),
        false => Ok(windows),
    }
}

fn print_evaluation(args: &EvalArgs, windows: usize, found: &Evaluation) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut all = json!({
            "windows": windows,
            "context": args.ctx_size,
            "tokens": found.tokens,
            "unsplit_tokens": found.unsplit_tokens,
            "bytes": found.bytes,
            "perplexity": found.perplexity(),
            "perplexity_unsplit": found.perplexity_unsplit(),
            "bits_per_byte": found.bits_per_byte(),
            "top1": found.top1(),
        });
        if let Some(c) = &found.against {
            all["kl_mean"] = json!(c.mean_kl());
            all["kl_p99"] = json!(c.kl_percentile(99.0));
            all["top1_agreement"] = json!(c.agreement());
            all["unlisted_mean"] = json!(c.mean_unlisted());
        }
        writeln!(out, "{all:#}")?;
        return Ok(());
    }
    writeln!(out, "tokens           {} in {windows} windows of {}", found.tokens, args.ctx_size)?;
    writeln!(out, "perplexity       {:.4}", found.perplexity())?;
    if found.tokens != found.unsplit_tokens {
        writeln!(out, "unsplit tokens   {}", found.unsplit_tokens)?;
        writeln!(out, "  perplexity     {:.4}", found.perplexity_unsplit())?;
    }
    writeln!(out, "bits per byte    {:.4}", found.bits_per_byte())?;
    writeln!(out, "top-1            {:.4}", found.top1())?;
    if let Some(c) = &found.against {
        writeln!(out, "KL mean          {:.5} nats", c.mean_kl())?;
        writeln!(out, "KL 99th percent  {:.5} nats", c.kl_percentile(99.0))?;
        writeln!(out, "top-1 agreement  {:.4}", c.agreement())?;
        if c.unlisted > 0.0 {
            writeln!(
                out,
                "unlisted mass    {:.5}, mean probability that the reference gives to unlisted tokens",
                c.mean_unlisted()
            )?;
        }
    }
    Ok(())
}

fn progress_bar(windows: usize) -> indicatif::ProgressBar {
    if !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("{bar:30} {pos}/{len} windows, {eta} left, {msg}");
    let bar = indicatif::ProgressBar::new(windows as u64);
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

fn logits(path: &Path, tokens: &[u32], json: bool, run: &RunArgs) -> Result<(), Failure> {
    let file = AnyModel::open_with(path, run.load)?;
    let model = Arc::new(Model::load(file.checkpoint(), &run.engine())?);
    let options = SessionOptions { context: tokens.len(), ..SessionOptions::default() };
    let mut session = Session::new(&model, &options)?;
    let logits = session.feed(tokens)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if json {
        serde_json::to_writer(&mut out, logits).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(out.flush()?);
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    for &id in order.iter().take(10) {
        let token = file.checkpoint().vocabulary().and_then(|v| v.tokens.get(id));
        writeln!(out, "{id:>8}  {:>10.4}  {:?}", logits[id], token.map_or("", String::as_str))?;
    }
    Ok(out.flush()?)
}

fn tokenize(path: &Path, text: &str, ids: bool, special: bool) -> Result<(), Failure> {
    let vocabulary = open_vocabulary(path)?.ok_or(runtime::Error::NoVocabulary)?;
    let tokenizer = Tokenizer::new(&vocabulary).map_err(|e| tools::cli::name_file(e.into(), path))?;
    let text = text_argument(Some(text), None)?.unwrap_or_default();
    let tokens = tokenizer.encode(&text, if special { Special::Parse } else { Special::AsText });
    let mut out = BufWriter::new(std::io::stdout().lock());
    if ids {
        writeln!(out, "{}", json!(tokens))?;
        return Ok(out.flush()?);
    }
    for id in tokens {
        writeln!(out, "{id:>8}  {:?}", String::from_utf8_lossy(tokenizer.token_bytes(id)))?;
    }
    Ok(out.flush()?)
}

fn dump_tensor(path: &Path, tensor: &str, output: &Path) -> Result<(), Failure> {
    let model = AnyModel::open(path)?;
    let checkpoint = model.checkpoint();
    let info = checkpoint
        .tensor(tensor)
        .ok_or_else(|| Failure::Usage(format!("{}: no tensor `{tensor}`; `spm inspect` lists them", path.display())))?;
    let refused = |e: std::io::Error| Failure::Runtime(format!("{}: cannot write: {e}", output.display()));
    // Creates or fails: what exists is left alone, the model itself above all.
    let file = File::options().write(true).create_new(true).open(output).map_err(refused)?;
    let mut out = BufWriter::new(file);
    dump::write_npy(checkpoint, info, &mut out).and_then(|()| out.flush()).map_err(refused)
}
