//! `sparse-prune SRC -o OUT.spm`: a dense model becomes a sparse one for a language.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::HumanDuration;
use pruner::calibration::Part;
use pruner::{
    Budget, Earlier, Fingerprint, Group, Journal, JournalOptions, Pattern, Plan, Profile, PruneOptions, Report,
    RoundingKind, ShortlistSize, TokenCounts, ValueType, shortlist,
};
use spm::{Checkpoint, Config, Provenance, SparseModel, SpmWriter, WriterOptions, matrix};
use tools::Failure;
use tools::calibration::{CalibrationArgs, Statistics, tokenizer_of};
use tools::cli::ByteSize;
use tools::open::AnyModel;
use tools::process::{self, MemoryWatch, megabytes};
use tools::profile::ProfileArgs;
use tools::progress::{Shown, progress_bar};
use tools::report::{self, Calibration, Facts, Options, ReportFiles, Source, Totals};

/// Prune a dense model (.gguf, or a Hugging Face folder) for a programming language and write a sparse one (.spm).
///
/// Exit codes: 0 ok, 1 runtime, 2 usage, 3 bad model file, 4 not enough memory, 130 interrupted.
#[derive(Parser)]
#[command(name = "sparse-prune", version, max_term_width = 100)]
struct Cli {
    /// Model to prune: a .gguf file (the first of a split one), a Hugging Face folder (config.json and safetensors), or a .spm
    /// with sparsity 0
    source: PathBuf,
    /// Where the sparse model goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    calibration: CalibrationArgs,
    /// Which weights go: admm loses least and takes minutes; wanda, seconds; sparsegpt, ria, magnitude [default: admm; with
    /// --imatrix wanda]
    #[arg(long)]
    method: Option<String>,
    /// Share of the weights that go [default: 0.5, or what the pattern says]
    #[arg(long)]
    sparsity: Option<f64>,
    /// unstructured, or N:M to keep N of M neighbours: 2:4, 4:8, 16:32. Only 2:4 has an encoding of its own, which is
    /// faster where there is no AVX-512
    #[arg(long, default_value = "unstructured")]
    pattern: String,
    /// Compare weights within a row or over the whole matrix: row, matrix [default: row; for sparsegpt matrix]
    #[arg(long)]
    group: Option<Group>,
    /// Fit the kept weights anew by least squares, after any method's mask
    #[arg(long)]
    refit: bool,
    /// How weights become codes: nearest; compensated, which makes up for the rounding of one in others; auto, compensated
    /// for admm and sparsegpt
    #[arg(long, default_value = "auto")]
    rounding: RoundingKind,
    #[command(flatten)]
    profile: ProfileArgs,
    /// Leave tensors dense whose name contains this; may be given several times
    #[arg(long, value_name = "NAME")]
    ignore: Vec<String>,
    /// How kept weights are stored: f16, q8, q4; with --sparsity 0 also q5
    #[arg(long, default_value_t = ValueType::Q8)]
    values: ValueType,
    /// How the embedding and the output head are stored: f16, q8, q5, q4
    #[arg(long, default_value_t = ValueType::Q8)]
    head: ValueType,
    /// Tokens that the output head keeps rows for: off, all; N, the most frequent of all calibration text; auto, a third of
    /// the vocabulary: the most frequent, and, where the text has fewer, those that the model finds likeliest. Other tokens
    /// are still read, and written as several
    #[arg(long, value_name = "auto|N|off", default_value = "off")]
    vocab_shortlist: String,
    /// More text to count tokens in for --vocab-shortlist: the more of a language, the fewer of its tokens are missed
    #[arg(long, value_name = "PATH")]
    vocab_text: Vec<PathBuf>,
    /// Threads [default: one a core]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=512))]
    threads: Option<u16>,
    /// Most memory to use, such as 1.5GB, pages of the source not counted [default: what is free]. Where hidden states do not
    /// fit they are kept in a file without a name beside the output
    #[arg(long, value_name = "SIZE")]
    max_memory: Option<ByteSize>,
    /// Go on where an earlier run with the same options was interrupted or killed
    #[arg(long)]
    resume: bool,
    /// Replace an earlier sparse model at the output; without --resume, also give up what an interrupted run has done
    #[arg(long)]
    force: bool,
    /// Seconds of work, about, that a kill costs at most: how often the hidden states are saved
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    save_every: u64,
    /// Say what it would cost in bytes, memory and time, and stop
    #[arg(long)]
    dry_run: bool,
    /// Print every tensor's sparsity and error to standard output at the end
    #[arg(long)]
    report: bool,
    /// Leave out OUT.report.json and OUT.report.md, which say what was done
    #[arg(long)]
    no_report_files: bool,
}

fn main() -> ExitCode {
    if let Some(written) = tools::docs::written::<Cli>() {
        return written;
    }
    let args = Cli::parse();
    tools::run("sparse-prune", || main_with(&args))
}

fn main_with(args: &Cli) -> Result<(), Failure> {
    let (interrupted, memory_watch) = (process::interrupt_flag()?, MemoryWatch::start());
    let file = AnyModel::open(&args.source)?;
    let source = file.checkpoint();
    if !args.dry_run && args.was_finished()? {
        writeln!(std::io::stderr(), "{}: was finished already", args.output.display())?;
        return Ok(());
    }
    let mut options = args.prune_options()?;
    let (nsamples, seqlen) = args.calibration.size();
    let counts = args.shorten(source, &mut options)?;
    let memory = args.max_memory.map(|size| size.0).or_else(process::available_memory).unwrap_or(u64::MAX);
    let (profile, folder) = (args.profile.profile(), spm::folder_of(&args.output));
    let plan = pruner::plan_within(source, &mut options, profile, (nsamples, seqlen), memory, folder)?;
    if args.dry_run {
        print_plan(source, &options, args, &plan)?;
        let config = shortlist::shortened(source, options.shortlist.as_ref())?;
        return print_shortlist(&config, &options, counts.as_ref());
    }
    prune(args, &file, options, counts, &plan, &memory_watch, &interrupted)
}

/// Prunes to a file, by way of a journal that is kept until the file has its name.
fn prune(
    args: &Cli,
    file: &AnyModel,
    mut options: PruneOptions,
    mut counts: Option<TokenCounts>,
    plan: &Plan,
    memory_watch: &MemoryWatch,
    interrupted: &AtomicBool,
) -> Result<(), Failure> {
    let (source, profile) = (file.checkpoint(), args.profile.profile());
    let journal_path = Journal::path_for(&args.output);
    let sources = file.files(&args.source);
    let writer_options =
        WriterOptions { expected_bytes: plan.file_bytes, replace: args.force, sources: sources.clone() };
    let report_files = match args.no_report_files {
        true => None,
        // Those of a run that was killed just before its file got its name are to be written again.
        false => Some(ReportFiles::beside(&args.output, args.force || args.resume && journal_path.exists())?),
    };
    let mut writer = SpmWriter::create(&args.output, &writer_options)?;
    let statistics = args.calibration.statistics(&options, profile, source, &args.source)?;
    let source_sha256 = pruner::provenance::sha256_of_files(&sources)?;
    let windows = if let Statistics::Text(text) = &statistics { &text.windows[..] } else { &[] };
    if let Some(counts) = &mut counts {
        args.rank(source, windows, counts, &mut options, interrupted)?;
    }
    let started = Instant::now();
    let sensitivity = args.profile.sensitivity_file(&args.output, &source_sha256);
    let mut measuring = Shown::new("measuring", interrupted);
    options.allocation = profile.allocate(source, &options, windows, Some(&sensitivity), &mut |p| measuring.show(p))?;
    measuring.finish();
    let known = statistics.known();
    let fingerprint = Fingerprint::new(source, &source_sha256, &options, known);
    let mut journal = Journal::open(&journal_path, fingerprint, &args.journal_options(plan))?;
    if args.resume {
        say_what_is_resumed(&journal)?;
    }
    let mut pruning = Shown::new("pruning", interrupted);
    let progress = &mut |p| pruning.show(p);
    let done = pruner::prune_resumable(source, &options, known, &mut writer, &mut journal, progress);
    pruning.finish();
    let mut report = done.inspect_err(|_| say_how_to_go_on(&journal))?;
    report.warnings.extend(statistics.warnings());
    let provenance = args.provenance(source_sha256, &options, &report, &statistics, counts.as_ref());
    let config = shortlist::shortened(source, options.shortlist.as_ref())?;
    let sealed = writer.seal(&config, source.vocabulary(), &provenance)?;
    let cost = Cost { bytes: sealed.file_len(), time: started.elapsed(), memory: memory_watch.peak() };
    let facts = args.facts(&provenance, &options, &statistics, &report, cost);
    if let Some(files) = &report_files {
        files.write(&facts)?;
    }
    journal.finish(&sealed.identity())?;
    sealed.publish()?;
    journal.remove()?;
    args.profile.forget(&sensitivity)?;
    print_shortlist(&config, &options, counts.as_ref())?;
    print_result(args, &report, &statistics, &facts, report_files.as_ref())
}

/// What a pruning took.
struct Cost {
    /// Of the file.
    bytes: u64,
    time: Duration,
    /// Most of it at a time, in bytes, where the system says.
    memory: Option<u64>,
}

impl Cli {
    fn prune_options(&self) -> Result<PruneOptions, Failure> {
        let usage = |e: pruner::Error| Failure::Usage(e.to_string());
        let options = PruneOptions {
            pattern: Pattern::parse(&self.pattern, self.sparsity).map_err(usage)?,
            group: self.group,
            refit: self.refit,
            rounding: self.rounding,
            ignore: self.ignore.clone(),
            values: self.values,
            head: self.head,
            threads: self.threads.map_or_else(process::default_threads, usize::from),
            ..PruneOptions::default()
        };
        options.with_method(self.method()).map_err(usage)
    }

    /// Chooses the tokens that the head keeps, by how often they come up; returns what was counted for it.
    fn shorten(&self, source: &dyn Checkpoint, options: &mut PruneOptions) -> Result<Option<TokenCounts>, Failure> {
        let Some(size) = self.shortlist_size()? else { return Ok(None) };
        if self.calibration.calib.is_empty() {
            let message = "--vocab-shortlist needs calibration text: give --calib FILE or FOLDER";
            return Err(Failure::Usage(message.into()));
        }
        let vocabulary = source.vocabulary().ok_or(runtime::Error::NoVocabulary)?;
        let tokenizer = tokenizer_of(source, &self.source)?;
        let mut from = self.calibration.options(&tokenizer)?;
        from.parts.push(Part::whole(self.calibration.lang.into(), self.vocab_text.clone()));
        let tokenize = |text: &str| tokenizer.encode_plain(text);
        let counts = TokenCounts::collect(&from, source.config().vocab_size, &tokenize)?;
        options.shortlist = Some(counts.shortlist(vocabulary, size)?);
        Ok(Some(counts))
    }

    /// Chooses them anew where the model is to say which it expects, on `windows`, or where there are none on those that
    /// pruning would take. It changes no size, so it can wait until the output is known to be writable.
    fn rank(
        &self,
        source: &dyn Checkpoint,
        windows: &[Vec<u32>],
        counts: &mut TokenCounts,
        options: &mut PruneOptions,
        interrupted: &AtomicBool,
    ) -> Result<(), Failure> {
        if self.shortlist_size()? != Some(ShortlistSize::Auto) {
            return Ok(());
        }
        let vocabulary = source.vocabulary().ok_or(runtime::Error::NoVocabulary)?;
        match windows {
            [] => {
                let tokenizer = tokenizer_of(source, &self.source)?;
                let from = self.calibration.options(&tokenizer)?;
                let windows = pruner::Calibration::collect(&from, &|text| tokenizer.encode_plain(text))?.windows;
                rank_tokens(source, &windows, options.threads, counts, interrupted)?;
            }
            windows => rank_tokens(source, windows, options.threads, counts, interrupted)?,
        }
        options.shortlist = Some(counts.shortlist(vocabulary, ShortlistSize::Auto)?);
        Ok(())
    }

    fn shortlist_size(&self) -> Result<Option<ShortlistSize>, Failure> {
        match self.vocab_shortlist.as_str() {
            "off" => Ok(None),
            size => size.parse().map(Some).map_err(|e: pruner::Error| Failure::Usage(e.to_string())),
        }
    }

    fn method(&self) -> &str {
        let default = if self.calibration.imatrix.is_some() { "wanda" } else { "admm" };
        self.method.as_deref().unwrap_or(default)
    }

    fn earlier(&self) -> Earlier {
        match (self.resume, self.force) {
            (true, _) => Earlier::Resume,
            (false, true) => Earlier::Discard,
            (false, false) => Earlier::Refuse,
        }
    }

    fn journal_options(&self, plan: &Plan) -> JournalOptions {
        JournalOptions {
            earlier: self.earlier(),
            expected_bytes: plan.journal_bytes,
            interval: Duration::from_secs(self.save_every),
        }
    }

    /// Whether the run to be resumed had given its file its name, and only the journal was left to be removed. An error if
    /// there is a run to be resumed and that is not asked for.
    fn was_finished(&self) -> Result<bool, Failure> {
        let journal = Journal::path_for(&self.output);
        match self.earlier() {
            _ if !journal.exists() => Ok(false),
            Earlier::Refuse => Err(pruner::Error::Unfinished { path: journal }.into()),
            Earlier::Discard => Ok(false),
            Earlier::Resume => match SparseModel::open(&self.output) {
                Ok(model) => Ok(Journal::remove_if_finished(&journal, &model.identity())?),
                Err(_) => Ok(false),
            },
        }
    }

    fn provenance(
        &self,
        source_sha256: String,
        options: &PruneOptions,
        report: &Report,
        statistics: &Statistics,
        counts: Option<&TokenCounts>,
    ) -> Provenance {
        let mut p = Provenance::default();
        p.source = self.source.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        p.source_sha256 = source_sha256;
        p.method = self.method().to_owned();
        (p.sparsity, p.pattern) = match self.profile.profile() {
            Profile::Uniform => (options.pattern.sparsity() as f32, self.pattern.clone()),
            profile => (report.sparsity() as f32, format!("profile {profile}")),
        };
        (p.calibration, p.calibration_sha256) = statistics.provenance().unwrap_or_default();
        if let (Some(counts), Some(list)) = (counts, &options.shortlist) {
            let (documents, total) = (counts.documents, counts.total());
            let asked = &self.vocab_shortlist;
            p.shortlist = format!("{asked}: {} tokens, by {total} tokens of {documents} documents", list.len());
        }
        p.tool = format!("sparse-prune {}", env!("CARGO_PKG_VERSION"));
        p
    }

    fn facts(
        &self,
        provenance: &Provenance,
        options: &PruneOptions,
        statistics: &Statistics,
        report: &Report,
        cost: Cost,
    ) -> Facts {
        Facts {
            format: report::FORMAT,
            tool: provenance.tool.clone(),
            output: self.output.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            source: Source { name: provenance.source.clone(), sha256: provenance.source_sha256.clone() },
            options: Options::of(options, self.profile.profile()),
            calibration: Calibration::of(statistics),
            judged_by: report.judged_by.name(),
            totals: Totals::of(report, cost.bytes),
            matrices: report.tensors.iter().map(Into::into).collect(),
            warnings: report.warnings.iter().map(Into::into).collect(),
            seconds: cost.time.as_secs_f64(),
            peak_memory_bytes: cost.memory,
        }
    }
}

/// Has the dense model say which tokens it expects on `windows`.
fn rank_tokens(
    source: &dyn Checkpoint,
    windows: &[Vec<u32>],
    threads: usize,
    counts: &mut TokenCounts,
    interrupted: &AtomicBool,
) -> Result<(), Failure> {
    let bytes = source.tensors().iter().filter_map(|t| source.matrix_bytes(&t.name)).sum();
    process::check_memory("the model that ranks tokens", bytes, "give a number with --vocab-shortlist")?;
    let bar = progress_bar();
    bar.set_length(windows.len() as u64);
    bar.set_message("ranking tokens");
    counts.expect(source, windows, threads, &mut |done| {
        bar.set_position(done as u64);
        if interrupted.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    bar.finish_and_clear();
    Ok(())
}

fn say_what_is_resumed(journal: &Journal) -> Result<(), Failure> {
    let mut err = std::io::stderr().lock();
    match journal.found() {
        0 => writeln!(err, "there is nothing to resume: pruning from the beginning")?,
        n => writeln!(err, "resuming after {n} matrices")?,
    }
    Ok(())
}

fn say_how_to_go_on(journal: &Journal) {
    if journal.holds_work() {
        // If standard error is closed there is nobody left to tell.
        let _ = writeln!(std::io::stderr(), "what is done is kept: the same command with --resume goes on from there");
    }
}

fn print_plan(source: &dyn Checkpoint, options: &PruneOptions, args: &Cli, plan: &Plan) -> Result<(), Failure> {
    let time = pruner::estimate_time(source, options, plan)?;
    let mut out = std::io::stdout().lock();
    let size = match args.profile.profile() {
        Profile::Auto(Budget::File(_)) => format!("{} at most", megabytes(plan.file_bytes)),
        Profile::Auto(Budget::Token(_)) => "depends on what is measured".to_owned(),
        _ => megabytes(plan.file_bytes),
    };
    writeln!(out, "file     {}: {size}", args.output.display())?;
    writeln!(out, "journal  {} more while pruning", megabytes(plan.journal_bytes))?;
    if plan.spilled_bytes > 0 {
        writeln!(out, "states   {} more, as they do not fit in memory", megabytes(plan.spilled_bytes))?;
    }
    writeln!(out, "memory   {} at most", megabytes(plan.peak_bytes))?;
    writeln!(out, "time     about {}", HumanDuration(time))?;
    Ok(())
}

/// What a shortlist saves, and what it takes: rows and bytes that a token reads of the head.
fn print_shortlist(config: &Config, options: &PruneOptions, counts: Option<&TokenCounts>) -> Result<(), Failure> {
    let (Some(counts), Some(list)) = (counts, &config.shortlist) else { return Ok(()) };
    let head = if config.tied_head { "token_embd.weight" } else { "output.weight" };
    let encoding = options.table_values(head).dense();
    let bytes = |rows| matrix::byte_len(encoding, rows, config.dim, 0).unwrap_or(0) as u64;
    writeln!(
        std::io::stderr(),
        "head: {} of {} rows, {} of {}; {:.2} % of the calibration text's {} tokens are split",
        list.len(),
        config.vocab_size,
        megabytes(bytes(list.len())),
        megabytes(bytes(config.vocab_size)),
        100.0 * counts.unlisted_share(list),
        counts.total(),
    )?;
    Ok(())
}

fn print_result(
    args: &Cli,
    report: &Report,
    statistics: &Statistics,
    facts: &Facts,
    files: Option<&ReportFiles>,
) -> Result<(), Failure> {
    if args.report {
        let mut out = std::io::stdout().lock();
        writeln!(out, "tensor\tencoding\tkept\ttotal\tsparsity\trelative_error")?;
        for t in &report.tensors {
            let (name, encoding) = (&t.name, t.encoding.name());
            writeln!(out, "{name}\t{encoding}\t{}\t{}\t{:.4}\t{:.5}", t.kept, t.total, t.sparsity(), t.relative_error)?;
        }
    }
    let mut err = std::io::stderr().lock();
    let peak = facts.peak_memory_bytes.map_or(String::new(), |p| format!(", peak memory {}", megabytes(p)));
    let (size, kept, total) = (megabytes(facts.totals.file_bytes), report.kept(), report.total());
    let (output, seconds) = (args.output.display(), facts.seconds);
    writeln!(err, "{output}: {size}, {kept} of {total} weights kept, {seconds:.1} s{peak}")?;
    if let Statistics::Text(c) = statistics {
        let (tokens, documents, available) = (c.tokens(), c.documents(), c.available());
        writeln!(err, "calibrated on {tokens} tokens from {documents} of {available} documents{}", c.skipped)?;
    }
    for warning in &report.warnings {
        writeln!(err, "sparse-prune: warning: {warning}")?;
    }
    if let Some(files) = files {
        writeln!(err, "report: {}", files.markdown().display())?;
    }
    Ok(())
}
