//! Which tokens the output head keeps rows for.

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use pruner::calibration::Part;
use pruner::{PruneOptions, ShortlistSize, TokenCounts};
use spm::{Checkpoint, Config, matrix};

use super::PruneArgs;
use crate::calibration::{document_tokens, tokenizer_of};
use crate::failure::Failure;
use crate::notes::Notes;
use crate::process::{self, megabytes};
use crate::progress::progress_bar;

impl PruneArgs {
    /// Chooses the tokens that the head keeps, by how often they come up; returns what was counted for it.
    pub(super) fn shorten(
        &self,
        source: &dyn Checkpoint,
        options: &mut PruneOptions,
    ) -> Result<Option<TokenCounts>, Failure> {
        let Some(size) = self.shortlist_size()? else { return Ok(None) };
        if self.calibration.calib.is_empty() {
            let message = "--vocab-shortlist needs calibration text: give --calib FILE or FOLDER";
            return Err(Failure::Usage(message.into()));
        }
        let vocabulary = source.vocabulary().ok_or(runtime::Error::NoVocabulary)?;
        let tokenizer = tokenizer_of(source, &self.source)?;
        let mut from = self.calibration.options(&tokenizer)?;
        from.parts.push(Part::whole(self.calibration.lang.into(), self.vocab_text.clone()));
        let tokenize = document_tokens(source, &tokenizer);
        let counts = TokenCounts::collect(&from, source.config().vocab_size, &tokenize)?;
        options.shortlist = Some(counts.shortlist(vocabulary, size)?);
        Ok(Some(counts))
    }

    /// Chooses them anew where the model is to say which it expects, on `windows`, or where there are none on those that
    /// pruning would take. It changes no size, so it can wait until the output is known to be writable.
    pub(super) fn rank(
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
                let windows = pruner::Calibration::collect(&from, &document_tokens(source, &tokenizer))?.windows;
                rank_tokens(source, &windows, options.threads, counts, interrupted)?;
            }
            windows => rank_tokens(source, windows, options.threads, counts, interrupted)?,
        }
        options.shortlist = Some(counts.shortlist(vocabulary, ShortlistSize::Auto)?);
        Ok(())
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

/// What a shortlist saves, and what it takes: rows and bytes that a token reads of the head.
pub(super) fn print_shortlist(
    config: &Config,
    options: &PruneOptions,
    counts: Option<&TokenCounts>,
) -> Result<(), Failure> {
    let (Some(counts), Some(list)) = (counts, &config.shortlist) else { return Ok(()) };
    let head = if config.tied_head { "token_embd.weight" } else { "output.weight" };
    let encoding = options.table_values(head).dense();
    let bytes = |rows| matrix::byte_len(encoding, rows, config.dim, 0).unwrap_or(0) as u64;
    writeln!(
        Notes,
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
