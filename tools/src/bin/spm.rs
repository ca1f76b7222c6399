//! `spm`: look at model files, check them, measure them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use runtime::{Model, Session, SessionOptions, Special, Tokenizer};
use serde_json::json;
use tools::bench::{self, BenchArgs};
use tools::choice::{self, ChoiceArgs};
use tools::cli::{RunArgs, text_argument};
use tools::compare::{self, CompareArgs};
use tools::eval::{self, EvalArgs};
use tools::exact::{self, ExactArgs};
use tools::new_file::refuse_existing;
use tools::notes::Notes;
use tools::open::{AnyModel, open_vocabulary};
use tools::overlap::{self, OverlapArgs};
use tools::pass::{self, PassArgs, sandbox};
use tools::synth::{self, SynthArgs};
use tools::{Failure, dump, inspect, process};

/// Look at models (.spm, .gguf, Hugging Face folders), check them, measure them.
///
/// Exit codes: 0 ok, 1 runtime, 2 usage, 3 bad model file, 4 not enough memory, 130 interrupted.
#[derive(Parser)]
#[command(name = "spm", version, max_term_width = 100)]
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
    /// Measure how well models predict text, and how far they are from another
    ///
    /// Several models on several texts make tables of calibration by evaluation, in markdown or --json: `spm eval python.spm
    /// java.spm --reseed python=python2.spm --text python=FILE java=FILE --reference dense.gguf`. A model whose label is a
    /// text's name is taken to be calibrated for it. In brackets: 95 % intervals, of 1000 times as many documents drawn
    /// with replacement. ln ratio: ln of the perplexity by the reference's. accuracy: of tokens of the whole vocabulary, and
    /// of those that are identifiers, keywords and so on, in texts whose language is known.
    Eval(EvalArgs),
    /// Show two models side by side: size, speed, quality on text, and how they continue prompts
    ///
    /// Speed is measured in turns and compared by medians. Quality is that of the models as they run; KL and agreement are
    /// of B to A, of models of one vocabulary that A can write all of. Prompts are continued by the most likely tokens.
    Compare(CompareArgs),
    /// Measure how many programming problems a model solves, by running what it writes
    ///
    /// Reads HumanEval, MBPP and HumanEval-X as published, and follows their protocols. Programs run without network,
    /// with limits, and see nothing of this machine but compilers and libraries. pass@k: the unbiased estimate
    /// 1 - C(n-c,k)/C(n,k), mean over the items; the interval is Wilson's over items. Programs that this machine has no
    /// compiler or interpreter for count as not run, never as failures.
    Pass(Box<PassArgs>),
    /// Measure how often a model finds the right one of some answers most likely
    Choice(ChoiceArgs),
    /// Measure how often a model comes to the right number
    Exact(ExactArgs),
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
    /// A stage of the sandbox that `pass` runs programs in
    #[command(hide = true, name = sandbox::SUBCOMMAND)]
    Sandboxed {
        stage: String,
        settings: String,
        #[arg(last = true, allow_hyphen_values = true)]
        program: Vec<String>,
    },
}

fn main() -> ExitCode {
    if let Some(written) = tools::docs::written::<Cli>() {
        return written;
    }
    // So that -1 is told to be no number of tokens, and not to be no argument.
    let command = Cli::command().mut_subcommands(|c| c.allow_negative_numbers(true));
    let cli = match Cli::from_arg_matches(&command.get_matches()) {
        Ok(cli) => cli,
        Err(e) => e.exit(),
    };
    tools::run("spm", || match &cli.command {
        Command::Inspect { model, json } => inspect_model(model, *json),
        Command::Verify { model } => verify(model),
        Command::Eval(args) => eval::run(args, &mut std::io::stdout()),
        Command::Compare(args) => compare::run(args, &mut std::io::stdout()),
        Command::Pass(args) => pass::run(args, &mut std::io::stdout(), &mut Notes),
        Command::Choice(args) => choice::run(args, &mut std::io::stdout()),
        Command::Exact(args) => exact::run(args, &mut std::io::stdout(), &mut Notes),
        Command::Bench(args) => bench::run(args, &mut std::io::stdout()),
        Command::Overlap(args) => overlap::run(args, &mut std::io::stdout()),
        Command::Synth(args) => make(args),
        Command::Logits { model, tokens, json, run } => logits(model, tokens, *json, run),
        Command::Tokenize { model, text, ids, special } => tokenize(model, text, *ids, *special),
        Command::Dump { model, tensor, output } => dump_tensor(model, tensor, output),
        Command::Sandboxed { stage, settings, program } => sandbox::stage(stage, settings, program),
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
        AnyModel::Folder(file) => check_numbers(&**file, path)?,
    }
    if let Some(vocabulary) = model.checkpoint().vocabulary() {
        let named = |e: runtime::Error| tools::cli::name_file(e.into(), path);
        let tokenizer = Tokenizer::new(vocabulary).map_err(named)?;
        tools::cli::splitter(&tokenizer, model.checkpoint().config()).map_err(named)?;
    }
    writeln!(std::io::stdout(), "{}: ok", path.display())?;
    Ok(())
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

fn make(args: &SynthArgs) -> Result<(), Failure> {
    let bytes = synth::run(args)?;
    writeln!(Notes, "{}: {}", args.output.display(), process::megabytes(bytes))?;
    Ok(())
}

fn logits(path: &Path, tokens: &[u32], json: bool, run: &RunArgs) -> Result<(), Failure> {
    let file = AnyModel::open_with(path, run.load)?;
    let model = Arc::new(Model::load(file.checkpoint(), &run.engine())?);
    let options = SessionOptions { context: tokens.len(), ..SessionOptions::default() };
    let mut session = Session::new(&model, &options)?;
    let logits = session.feed(tokens).map_err(|e| tools::cli::name_file(e.into(), path))?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if json {
        serde_json::to_writer(&mut out, logits).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(out.flush()?);
    }
    let tokenizer = file.checkpoint().vocabulary().and_then(|v| Tokenizer::new(v).ok());
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    for &id in order.iter().take(10) {
        let token = tokenizer.as_ref().map_or(&[][..], |tokenizer| tokenizer.token_bytes(id as u32));
        writeln!(out, "{id:>8}  {:>10.4}  {:?}", logits[id], String::from_utf8_lossy(token))?;
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
    refuse_existing(output)?;
    let refused = |e: std::io::Error| Failure::Runtime(format!("{}: cannot write: {e}", output.display()));
    // Creates or fails: what exists is left alone, the model itself above all.
    let file = File::options().write(true).create_new(true).open(output).map_err(refused)?;
    let mut out = BufWriter::new(file);
    dump::write_npy(checkpoint, info, &mut out).and_then(|()| out.flush()).map_err(refused)
}
