//! What `sparse-prune` says before, meanwhile and at the end.

use std::io::Write;

use indicatif::HumanDuration;
use pruner::{Budget, Journal, Plan, Profile, PruneOptions, Report};
use spm::Checkpoint;

use super::PruneArgs;
use crate::calibration::Statistics;
use crate::failure::Failure;
use crate::notes::Notes;
use crate::process::megabytes;
use crate::report::{Facts, ReportFiles};

pub(super) fn print_plan(
    source: &dyn Checkpoint,
    options: &PruneOptions,
    args: &PruneArgs,
    plan: &Plan,
) -> Result<(), Failure> {
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

pub(super) fn say_what_is_resumed(journal: &Journal) -> Result<(), Failure> {
    match journal.found() {
        0 => writeln!(Notes, "there is nothing to resume: pruning from the beginning")?,
        n => writeln!(Notes, "resuming after {n} matrices")?,
    }
    Ok(())
}

pub(super) fn say_how_to_go_on(journal: &Journal) {
    if journal.holds_work() {
        let _ = writeln!(Notes, "what is done is kept: the same command with --resume goes on from there");
    }
}

pub(super) fn print_result(
    args: &PruneArgs,
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
    let mut err = Notes;
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
