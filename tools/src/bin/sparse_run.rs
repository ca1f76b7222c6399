//! `sparse-run MODEL PROMPT`: a model continues a text.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use pruner::calibration::Turn;
use runtime::{
    Event, Finish, GenerateOptions, Generated, KvType, SamplerOptions, Session, SessionOptions, Special, generate,
};
use tools::cli::{ByteSize, Ready, RunArgs, name_file, text_argument};
use tools::infill::InfillArgs;
use tools::memory::{Memory, fit_context};
use tools::notes::Notes;
use tools::{Failure, process};

/// Continue a text with a sparse model (.spm) or a dense one (.gguf, or a Hugging Face folder).
///
/// Standard output carries the text and nothing else; messages go to standard error.
/// Exit codes: 0 ok, 1 runtime, 2 usage, 3 bad model file, 4 not enough memory, 130 interrupted.
#[derive(Parser)]
#[command(name = "sparse-run", version, max_term_width = 100, allow_negative_numbers = true)]
struct Cli {
    /// Model: .spm, .gguf, or a Hugging Face folder
    model: PathBuf,
    /// Text to continue; `-` reads standard input
    prompt: Option<String>,
    /// Read the text to continue from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Tokens to generate at most
    #[arg(short = 'n', long = "predict", value_name = "N", default_value_t = 256)]
    predict: usize,
    /// Context in tokens [default: what prompt and -n need, at most the model's own]
    #[arg(short, long = "ctx-size", value_name = "N")]
    ctx_size: Option<usize>,
    /// Memory to stay within, the weights' file counted: the context is what fits [default: what is free]
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<ByteSize>,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten, next_help_heading = "Filling in the middle")]
    around: InfillArgs,
    #[command(flatten, next_help_heading = "Sampling")]
    sampling: Sampling,
    /// Stop before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Treat the prompt as a message and answer it, using the model's chat template
    #[arg(long)]
    chat: bool,
    /// What the model is told before the message
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Print only what the model adds
    #[arg(long)]
    no_display_prompt: bool,
    /// Read special tokens such as <|endoftext|> in the prompt as what they stand for
    #[arg(long)]
    special: bool,
    /// How keys and values are kept: q8 takes half the memory of f16
    #[arg(long, value_enum, value_name = "TYPE", default_value_t, alias = "cache-type")]
    kv: Kv,
    /// Print times and memory to standard error at the end
    #[arg(long)]
    stats: bool,
}

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Kv {
    #[default]
    F16,
    F32,
    Q8,
}

#[derive(clap::Args)]
struct Sampling {
    /// Randomness; 0 always takes the most likely token
    #[arg(long, visible_alias = "temperature", default_value_t = 0.8, value_parser = number(0.0, 100.0))]
    temp: f32,
    /// Choose among the K most likely tokens; 0 is off
    #[arg(long, value_name = "K", default_value_t = 40)]
    top_k: usize,
    /// Choose among the most likely tokens that together have this probability; 1 is off
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = number(0.0, 1.0))]
    top_p: f32,
    /// Leave out tokens less likely than this share of the most likely one; 0 is off
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = number(0.0, 1.0))]
    min_p: f32,
    /// Make tokens that were used lately less likely; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = number(0.01, 100.0))]
    repeat_penalty: f32,
    /// How many tokens back the penalty looks
    #[arg(long, value_name = "N", default_value_t = 64)]
    repeat_last_n: usize,
    /// Same seed, same text [default: a different one each time]
    #[arg(short, long)]
    seed: Option<u64>,
}

fn number(min: f32, max: f32) -> impl Fn(&str) -> Result<f32, String> + Clone {
    move |text| match text.parse::<f32>() {
        Ok(x) if x >= min && x <= max => Ok(x),
        _ => Err(format!("expected a number from {min} to {max}")),
    }
}

fn main() -> ExitCode {
    if let Some(written) = tools::docs::written::<Cli>() {
        return written;
    }
    let cli = Cli::parse();
    tools::run("sparse-run", || main_with(&cli))
}

fn main_with(cli: &Cli) -> Result<(), Failure> {
    let interrupted = process::interrupt_flag()?;
    let text = PromptText::read(cli)?;
    let started = Instant::now();
    let limit = cli.memory_limit.map(|limit| limit.0);
    let ready = Ready::load_within(&cli.model, &cli.run, limit)?;
    let load_time = started.elapsed();
    let tokens = prompt_tokens(cli, &ready, &text)?;
    let options =
        SessionOptions { context: context(cli, &ready, tokens.len().max(1))?, kv: kv_type(cli), ..Default::default() };
    let mut session = Session::new(&ready.model, &options)?;
    let sampler = cli.sampling.options();
    let generate_options =
        GenerateOptions { max_tokens: cli.predict, sampler: sampler.clone(), stop: cli.stop.clone() };

    let mut out = Output::new(&interrupted);
    let is_shown = !cli.no_display_prompt && !cli.chat;
    if is_shown {
        out.show(&text.before)?;
    }
    let generated = generate(&mut session, &ready.tokenizer, &tokens, &generate_options, &mut |e| out.event(e));
    let generated = generated.map_err(|e| name_file(e.into(), &cli.model))?;
    if is_shown && generated.finish != Finish::Cancelled {
        out.show(text.after.as_deref().unwrap_or_default())?;
    }
    out.end()?;
    if cli.stats {
        print_stats(&ready, &generated, load_time, &session, kv_type(cli), sampler.seed)?;
    }
    match generated.finish {
        Finish::Cancelled if interrupted.load(Ordering::SeqCst) => Err(Failure::Interrupted),
        _ => Ok(()),
    }
}

/// What the model is given to continue, or to fill in.
struct PromptText {
    before: String,
    /// What follows the place to fill in, if one is to be.
    after: Option<String>,
}

impl PromptText {
    fn read(cli: &Cli) -> Result<Self, Failure> {
        if cli.around.is_hole() {
            let (before, after) = cli.around.hole()?;
            return Ok(PromptText { before, after: Some(after) });
        }
        let piped = cli.prompt.is_none() && cli.file.is_none() && !std::io::stdin().is_terminal();
        let prompt = if piped { Some("-") } else { cli.prompt.as_deref() };
        let before = text_argument(prompt, cli.file.as_ref())?
            .ok_or_else(|| Failure::Usage("no prompt: give a text, `-` for standard input, or -f FILE".into()))?;
        Ok(PromptText { before, after: None })
    }
}

fn prompt_tokens(cli: &Cli, ready: &Ready, text: &PromptText) -> Result<Vec<u32>, Failure> {
    if cli.around.is_hole() || cli.around.has_others() {
        return cli.around.encode(&ready.tokenizer, &text.before, text.after.as_deref(), cli.file.as_deref());
    }
    if !cli.chat {
        let special = if cli.special { Special::Parse } else { Special::AsText };
        return Ok(ready.tokenizer.encode(&text.before, special));
    }
    let system = cli.system.as_deref().map(|text| Turn::new("system", text));
    let turns: Vec<Turn> = system.into_iter().chain([Turn::new("user", &text.before)]).collect();
    ready.document_tokens().prompt(&turns, "")
}

fn context(cli: &Cli, ready: &Ready, prompt_tokens: usize) -> Result<usize, Failure> {
    let own = ready.model.config().context_len;
    let context = match cli.ctx_size {
        Some(0) => own,
        Some(n) => n,
        None => prompt_tokens.saturating_add(cli.predict).min(own),
    };
    match cli.ctx_size {
        None | Some(0) if prompt_tokens > own => {
            return Err(Failure::Runtime(format!(
                "the prompt has {prompt_tokens} tokens, the model reads {own}; give a shorter one"
            )));
        }
        _ if prompt_tokens > context => {
            return Err(runtime::Error::ContextFull { needed: prompt_tokens, context }.into());
        }
        _ if context > own => {
            writeln!(Notes, "sparse-run: -c {context}: the model reads {own} tokens, and goes astray beyond them")?;
        }
        _ => {}
    }
    let memory = Memory {
        limit: cli.memory_limit.map(|limit| limit.0),
        available: process::available_memory(),
        taken: process::own_memory().unwrap_or(0),
        mapped: ready.mapped,
    };
    let room = memory.room();
    // What was asked for by number is not cut.
    let least = if cli.ctx_size.is_some() { context } else { prompt_tokens };
    let options = SessionOptions { kv: kv_type(cli), ..Default::default() };
    let threads = ready.model.engine().threads();
    let (context, sentence) = fit_context(ready.model.config(), &options, threads, room, (context, least))?;
    let streams = room.streams.then(|| {
        let file = process::megabytes(ready.mapped);
        format!("the weights' {file} do not stay in memory and are read from the file for every token, which is slow")
    });
    for sentence in sentence.into_iter().chain(streams) {
        writeln!(Notes, "sparse-run: {sentence}")?;
    }
    Ok(context)
}

fn kv_type(cli: &Cli) -> KvType {
    match cli.kv {
        Kv::F16 => KvType::F16,
        Kv::F32 => KvType::F32,
        Kv::Q8 => KvType::Q8,
    }
}

impl Sampling {
    fn options(&self) -> SamplerOptions {
        SamplerOptions {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n,
            seed: self.seed.unwrap_or_else(random_seed),
        }
    }
}

/// Different every time; nothing secret depends on it.
fn random_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ now.as_secs() << 20 ^ u64::from(std::process::id())
}

/// Standard output, piece by piece, until nobody wants more.
struct Output<'a> {
    out: std::io::StdoutLock<'static>,
    interrupted: &'a AtomicBool,
    error: Option<std::io::Error>,
    ends_with_newline: bool,
}

impl<'a> Output<'a> {
    fn new(interrupted: &'a AtomicBool) -> Self {
        Output { out: std::io::stdout().lock(), interrupted, error: None, ends_with_newline: false }
    }

    fn show(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        if !text.is_empty() {
            self.ends_with_newline = text.ends_with('\n');
        }
        Ok(())
    }

    fn event(&mut self, event: Event) -> ControlFlow<()> {
        if let Event::Text(text) = event {
            let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
            if !text.is_empty() {
                self.ends_with_newline = text.ends_with('\n');
            }
            if let Err(error) = written {
                self.error = Some(error);
                return ControlFlow::Break(());
            }
        }
        match self.interrupted.load(Ordering::SeqCst) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Leaves a terminal at the beginning of a line; a file or a pipe gets the text as it is.
    fn end(mut self) -> Result<(), Failure> {
        if let Some(error) = self.error {
            return Err(error.into());
        }
        if !self.ends_with_newline && self.out.is_terminal() {
            self.out.write_all(b"\n")?;
        }
        Ok(self.out.flush()?)
    }
}

fn print_stats(
    ready: &Ready,
    done: &Generated,
    load: Duration,
    session: &Session,
    kv: KvType,
    seed: u64,
) -> Result<(), Failure> {
    let mut err = Notes;
    let rate = |n: usize, time: Duration| if n == 0 { 0.0 } else { n as f64 / time.as_secs_f64() };
    let engine = ready.model.engine();
    let bytes = ready.model.bytes_per_token();
    let decode = rate(done.decoded_tokens, done.decode_time);
    writeln!(err)?;
    writeln!(err, "load      {:>9.1} ms", load.as_secs_f64() * 1e3)?;
    writeln!(
        err,
        "prefill   {:>9.1} ms  {:>6} tokens  {:>8.2} tokens/s",
        done.prompt_time.as_secs_f64() * 1e3,
        done.prompt_tokens,
        rate(done.prompt_tokens, done.prompt_time)
    )?;
    writeln!(
        err,
        "decode    {:>9.1} ms  {:>6} tokens  {decode:>8.2} tokens/s",
        done.decode_time.as_secs_f64() * 1e3,
        done.decoded_tokens
    )?;
    writeln!(err, "weights   {:>9.1} MB a token, {:.2} GB/s", bytes as f64 / 1e6, bytes as f64 * decode / 1e9)?;
    let context = session.context();
    let bytes = Session::cache_bytes(&ready.model, context, kv);
    writeln!(err, "context   {context:>9} tokens, {:.1} MB of keys and values as {kv:?}", bytes as f64 / 1e6)?;
    if let Some(peak) = process::peak_memory() {
        writeln!(err, "peak RSS  {:>9.1} MB", peak as f64 / 1e6)?;
    }
    writeln!(err, "kernel    {:>9}, {} threads", engine.kernels().name(), engine.threads())?;
    writeln!(err, "seed      {seed:>9}")?;
    Ok(())
}
