//! `sparse-prune`: from its options to a sparse file with a report beside it.

mod args;
mod facts;
mod head;
mod said;
mod source;

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use pruner::method::Needs;
use pruner::{Earlier, Fingerprint, Journal, Plan, PruneOptions, TokenCounts, shortlist};
use spm::{SparseModel, SpmWriter, WriterOptions};

use crate::calibration::{Statistics, tokenizer_of};
use crate::cli::name_file;
use crate::failure::Failure;
use crate::fingerprint;
use crate::new_file::refuse_existing;
use crate::notes::Notes;
use crate::open::AnyModel;
use crate::own_text::Author;
use crate::process::{self, MemoryWatch};
use crate::progress::Shown;
use crate::report::ReportFiles;
use facts::Cost;
use head::print_shortlist;
use said::{print_plan, print_result, say_how_to_go_on, say_what_is_resumed};
use source::refuse_pruned;

pub use args::PruneArgs;

/// Prunes as the command line says.
pub fn run(args: &PruneArgs) -> Result<(), Failure> {
    let (interrupted, memory_watch) = (process::interrupt_flag()?, MemoryWatch::start());
    let file = AnyModel::open(&args.source)?;
    let source = file.checkpoint();
    refuse_pruned(source, &args.source)?;
    if args.output.as_os_str() == "-" {
        return Err(Failure::Usage("-o -: a model is not written to standard output; give a file, or ./-".into()));
    }
    if !args.dry_run && args.was_finished()? {
        writeln!(Notes, "{}: was finished already", args.output.display())?;
        return Ok(());
    }
    let mut options = args.prune_options()?;
    let args = &PruneArgs { calibration: args.calibration.within(source.config().context_len), ..args.clone() };
    let args = &*args.with_own_text(&file, &options, &interrupted)?;
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
    args: &PruneArgs,
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
    let allocated = profile.allocate(source, &options, windows, Some(&sensitivity), &mut |p| measuring.show(p));
    options.allocation = allocated.map_err(|e| name_file(e.into(), &args.source))?;
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
    let mut report = match done {
        Ok(report) => report,
        Err(error) => return Err(given_up(error, journal, &args.source)?),
    };
    report.warnings.extend(statistics.warnings());
    let provenance = args.provenance(source_sha256, &options, &report, &statistics, counts.as_ref());
    let config = shortlist::shortened(source, options.shortlist.as_ref())?;
    let sealed = writer.seal(&config, source.vocabulary(), &provenance)?;
    let cost = Cost { bytes: sealed.file_len(), time: started.elapsed(), memory: memory_watch.peak() };
    let facts = args.facts(&provenance, &options, &statistics, &report, cost);
    if let Some(files) = &report_files {
        files.write(&facts).inspect_err(|_| say_how_to_go_on(&journal))?;
    }
    journal.finish(&sealed.identity())?;
    sealed.publish()?;
    args.profile.forget(&sensitivity)?;
    let said = print_shortlist(&config, &options, counts.as_ref())
        .and_then(|()| print_result(args, &report, &statistics, &facts, report_files.as_ref()));
    // Last of all: until it is gone a run that was killed is known to be finished.
    journal.remove()?;
    said
}

/// Why pruning ended before its end, once it is said what can be gone on with.
fn given_up(error: pruner::Error, journal: Journal, source: &Path) -> Result<Failure, pruner::Error> {
    match error {
        // The same file gives the same numbers again.
        pruner::Error::NotFinite { .. } | pruner::Error::Statistics { .. } => journal.remove()?,
        _ => say_how_to_go_on(&journal),
    }
    Ok(name_file(error.into(), source))
}

impl PruneArgs {
    /// The same with files in place of the text that the model is to write itself, now that it has written it.
    fn with_own_text(
        &self,
        file: &AnyModel,
        options: &PruneOptions,
        interrupted: &AtomicBool,
    ) -> Result<Cow<'_, Self>, Failure> {
        let is_needed = options.needs() > Needs::Nothing
            || self.profile.profile().needs_calibration()
            || self.shortlist_size()?.is_some();
        if self.dry_run || !is_needed || !self.calibration.asks_for_own_text() {
            return Ok(Cow::Borrowed(self));
        }
        let source = file.checkpoint();
        // Before hours of writing.
        pruner::check_windows(source.config(), self.calibration.size())?;
        if !self.force {
            // Known only later otherwise, when the text is written.
            refuse_existing(&self.output)?;
        }
        let tokenizer = tokenizer_of(source, &self.source)?;
        let identity = fingerprint::of_files(&file.files(&self.source))?;
        let mut author = Author::new(source, &tokenizer, &identity, options.threads, interrupted);
        let folder = spm::folder_of(&self.output);
        let calibration = self.calibration.with_own_text(&mut author, &tokenizer, folder);
        let calibration = calibration.map_err(|failure| name_file(failure, &self.source))?;
        Ok(Cow::Owned(PruneArgs { calibration, ..self.clone() }))
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
}
