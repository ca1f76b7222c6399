//! The options of `sparse-prune`, and what they mean to the pruner.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pruner::{Earlier, Group, JournalOptions, Pattern, Plan, PruneOptions, RoundingKind, ShortlistSize, ValueType};

use crate::calibration::CalibrationArgs;
use crate::cli::ByteSize;
use crate::failure::Failure;
use crate::process;
use crate::profile::ProfileArgs;

/// What is pruned, and how.
#[derive(Args, Clone, Debug)]
pub struct PruneArgs {
    /// Model to prune: a .gguf file (the first of a split one), a Hugging Face folder (config.json and safetensors), or a .spm
    /// with sparsity 0
    pub(super) source: PathBuf,
    /// Where the sparse model goes
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: PathBuf,
    #[command(flatten)]
    pub(super) calibration: CalibrationArgs,
    /// Which weights go: admm loses least and takes minutes; wanda, seconds; sparsegpt, ria, magnitude [default: admm; with
    /// --imatrix wanda]
    #[arg(long)]
    pub(super) method: Option<String>,
    /// Share of the weights that go [default: 0.5, or what the pattern says]
    #[arg(long)]
    pub(super) sparsity: Option<f64>,
    /// unstructured, or N:M to keep N of M neighbours: 2:4, 4:8, 16:32. Only 2:4 has an encoding of its own, which is
    /// faster where there is no AVX-512
    #[arg(long, default_value = "unstructured")]
    pub(super) pattern: String,
    /// Compare weights within a row or over the whole matrix: row, matrix [default: row; for sparsegpt matrix]
    #[arg(long)]
    pub(super) group: Option<Group>,
    /// Fit the kept weights anew by least squares, after any method's mask
    #[arg(long)]
    pub(super) refit: bool,
    /// How weights become codes: nearest; compensated, which makes up for the rounding of one in others; auto, compensated
    /// for admm and sparsegpt
    #[arg(long, default_value = "auto")]
    pub(super) rounding: RoundingKind,
    #[command(flatten)]
    pub(super) profile: ProfileArgs,
    /// Leave tensors dense whose name contains this; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(super) ignore: Vec<String>,
    /// How kept weights are stored: f16, q8, q4; with --sparsity 0 also q5
    #[arg(long, default_value_t = ValueType::Q8)]
    pub(super) values: ValueType,
    /// How the embedding and the output head are stored: f16, q8, q5, q4
    #[arg(long, default_value_t = ValueType::Q8)]
    pub(super) head: ValueType,
    /// Tokens that the output head keeps rows for: off, all; N, those that most documents of all calibration text have;
    /// auto, a third of the vocabulary: the same, and, where the text has fewer, those that the model finds likeliest. Other
    /// tokens are still read, and written as several
    #[arg(long, value_name = "auto|N|off", default_value = "off")]
    pub(super) vocab_shortlist: String,
    /// More text to count tokens in for --vocab-shortlist: the more of a language, the fewer of its tokens are missed
    #[arg(long, value_name = "PATH")]
    pub(super) vocab_text: Vec<PathBuf>,
    /// Threads [default: one a core]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(super) threads: Option<u16>,
    /// Most memory to use, such as 1.5GB, pages of the source not counted [default: what is free]. Where hidden states do not
    /// fit they are kept in a file without a name beside the output
    #[arg(long, value_name = "SIZE")]
    pub(super) max_memory: Option<ByteSize>,
    /// Go on where an earlier run with the same options was interrupted or killed
    #[arg(long)]
    pub(super) resume: bool,
    /// Replace an earlier sparse model at the output; without --resume, also give up what an interrupted run has done
    #[arg(long)]
    pub(super) force: bool,
    /// Seconds of work, about, that a kill costs at most: how often the hidden states are saved
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(super) save_every: u64,
    /// Say what it would cost in bytes, memory and time, and stop
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Print every tensor's sparsity and error to standard output at the end
    #[arg(long)]
    pub(super) report: bool,
    /// Leave out OUT.report.json and OUT.report.md, which say what was done
    #[arg(long)]
    pub(super) no_report_files: bool,
}

impl PruneArgs {
    pub(super) fn prune_options(&self) -> Result<PruneOptions, Failure> {
        self.profile.check()?;
        if !self.vocab_text.is_empty() && self.shortlist_size()?.is_none() {
            let message = "--vocab-text counts tokens for --vocab-shortlist; add that, or leave it out";
            return Err(Failure::Usage(message.into()));
        }
        let usage = Failure::from;
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

    pub(super) fn shortlist_size(&self) -> Result<Option<ShortlistSize>, Failure> {
        match self.vocab_shortlist.as_str() {
            "off" => Ok(None),
            size => size.parse().map(Some).map_err(|e: pruner::Error| Failure::Usage(e.to_string())),
        }
    }

    pub(super) fn method(&self) -> &str {
        let default = if self.calibration.imatrix.is_some() { "wanda" } else { "admm" };
        self.method.as_deref().unwrap_or(default)
    }

    pub(super) fn earlier(&self) -> Earlier {
        match (self.resume, self.force) {
            (true, _) => Earlier::Resume,
            (false, true) => Earlier::Discard,
            (false, false) => Earlier::Refuse,
        }
    }

    pub(super) fn journal_options(&self, plan: &Plan) -> JournalOptions {
        JournalOptions {
            earlier: self.earlier(),
            expected_bytes: plan.journal_bytes,
            interval: Duration::from_secs(self.save_every),
        }
    }
}
