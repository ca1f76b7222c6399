//! What is noted of a pruning: in the sparse file, and in the report beside it.

use std::time::Duration;

use pruner::{Profile, PruneOptions, Report, TokenCounts};
use spm::Provenance;

use super::PruneArgs;
use crate::calibration::Statistics;
use crate::cli;
use crate::report::{self, Calibration, Facts, Options, Source, Totals};

/// What a pruning took.
pub(super) struct Cost {
    /// Of the file.
    pub(super) bytes: u64,
    pub(super) time: Duration,
    /// Most of it at a time, in bytes, where the system says.
    pub(super) memory: Option<u64>,
}

impl PruneArgs {
    pub(super) fn provenance(
        &self,
        source_sha256: String,
        options: &PruneOptions,
        report: &Report,
        statistics: &Statistics,
        counts: Option<&TokenCounts>,
    ) -> Provenance {
        let mut p = Provenance::default();
        p.source = cli::file_name(&self.source);
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

    pub(super) fn facts(
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
