//! What a report says: this is the JSON file, field by field.

use std::collections::BTreeMap;

use pruner::{Profile, PruneOptions, Report, TensorReport};
use serde::Serialize;

use crate::calibration::Statistics;

/// What [`Facts::format`] says.
pub const FORMAT: &str = "sparse-prune report 1";

/// All of it.
#[derive(Serialize)]
pub struct Facts {
    /// What this is, and which version of it; it comes first, so that it is known by its first line.
    pub format: &'static str,
    /// Program and version.
    pub tool: String,
    /// Name of the pruned model's file.
    pub output: String,
    /// What was pruned.
    pub source: Source,
    /// How.
    pub options: Options,
    /// On what statistics; none for a method that needs none.
    pub calibration: Option<Calibration>,
    /// What relative errors are of, see [`pruner::JudgedBy`].
    pub judged_by: &'static str,
    /// Of the whole model.
    pub totals: Totals,
    /// The matrices of the decoder layers.
    pub matrices: Vec<Matrix>,
    /// What may have made the model worse than need be.
    pub warnings: Vec<Warning>,
    /// Time of the pruning.
    pub seconds: f64,
    /// Most memory that the process had of its own, pages of mapped files not counted, where the system says.
    pub peak_memory_bytes: Option<u64>,
}

/// What was pruned.
#[derive(Serialize)]
pub struct Source {
    /// Name of its file.
    pub name: String,
    /// Hash of it, as in the model's provenance.
    pub sha256: String,
}

/// How it was pruned, as on the command line.
#[derive(Serialize)]
#[allow(missing_docs)]
pub struct Options {
    pub method: String,
    pub profile: String,
    pub pattern: String,
    pub sparsity: f64,
    pub group: String,
    pub refit: bool,
    pub rounding: String,
    pub ignore: Vec<String>,
    pub values: String,
    pub head: String,
    pub threads: usize,
}

/// Where the statistics are from.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Calibration {
    /// Windows of text.
    Text {
        /// One line with all of it.
        description: String,
        /// Hash of the token ids.
        sha256: String,
        /// Windows.
        windows: usize,
        /// Tokens of all windows.
        tokens: usize,
        /// Documents that they hold.
        documents: usize,
        /// Documents there were to choose from.
        available: usize,
        /// How many files, folders and lines were passed over, by reason.
        passed_over: BTreeMap<&'static str, usize>,
        /// The domains of a mix; one if there is none.
        mix: Vec<Part>,
    },
    /// An importance matrix.
    Imatrix {
        /// One line with all of it.
        description: String,
        /// Hash of the file.
        sha256: String,
        /// Tokens that every matrix saw.
        tokens: u64,
    },
}

/// One domain.
#[derive(Serialize)]
pub struct Part {
    /// Its name.
    pub domain: &'static str,
    /// Its share, of 1.
    pub share: f64,
    /// Its windows.
    pub windows: usize,
    /// Documents that they hold.
    pub documents: usize,
}

/// Of the whole model.
#[derive(Serialize)]
pub struct Totals {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of the matrices of the decoder layers.
    pub layer_bytes: u64,
    /// Bytes of the embedding.
    pub embedding_bytes: u64,
    /// Bytes of the output head; 0 where that is the embedding.
    pub head_bytes: u64,
    /// Weights of the layers that are stored.
    pub kept: u64,
    /// Weights of the dense layers.
    pub total: u64,
    /// Fraction of them that is gone.
    pub sparsity: f64,
    /// Bits a weight of the dense layers.
    pub bits_per_weight: f64,
    /// Mean of the matrices' relative errors.
    pub mean_relative_error: f64,
}

/// One matrix.
#[derive(Serialize)]
pub struct Matrix {
    /// GGUF's name.
    pub name: String,
    /// How it is stored.
    pub encoding: &'static str,
    /// Weights that are stored.
    pub kept: u64,
    /// Weights of the dense matrix.
    pub total: u64,
    /// Fraction of them that is gone.
    pub sparsity: f64,
    /// How far its outputs are from the dense matrix's.
    pub relative_error: f64,
    /// Bytes of it.
    pub bytes: u64,
    /// Bits a weight of the dense matrix.
    pub bits_per_weight: f64,
    /// Whether Wanda was taken because the method was worse.
    pub fell_back: bool,
}

/// What may have made the model worse than need be.
#[derive(Serialize)]
pub struct Warning {
    /// A word for programs.
    pub kind: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl Options {
    /// As they were used.
    pub fn of(options: &PruneOptions, profile: Profile) -> Self {
        Options {
            method: options.method.name().to_owned(),
            profile: profile.to_string(),
            pattern: options.pattern.to_string(),
            sparsity: options.pattern.sparsity(),
            group: options.group_of_method().to_string(),
            refit: options.refit,
            rounding: options.rounding.to_string(),
            ignore: options.ignore.clone(),
            values: options.values.to_string(),
            head: options.head.to_string(),
            threads: options.threads,
        }
    }
}

impl Calibration {
    /// Of these statistics.
    pub fn of(statistics: &Statistics) -> Option<Self> {
        let (description, sha256) = statistics.provenance()?;
        match statistics {
            Statistics::None => None,
            Statistics::Imatrix(norms) => Some(Calibration::Imatrix { description, sha256, tokens: norms.tokens }),
            Statistics::Text(text) => Some(Calibration::Text {
                description,
                sha256,
                windows: text.windows.len(),
                tokens: text.tokens(),
                documents: text.documents(),
                available: text.available(),
                passed_over: text.skipped.counts().into_iter().map(|(n, why)| (why, n)).collect(),
                mix: text.parts.iter().map(Part::of).collect(),
            }),
        }
    }
}

impl Part {
    fn of(part: &pruner::calibration::PartTaken) -> Self {
        let (domain, share) = (part.domain.name(), part.share);
        Part { domain, share, windows: part.windows, documents: part.documents }
    }
}

impl Totals {
    /// Of a model whose file has `file_bytes`.
    pub fn of(report: &Report, file_bytes: u64) -> Self {
        let errors = report.tensors.iter().map(|t| t.relative_error);
        Totals {
            file_bytes,
            layer_bytes: report.layer_bytes(),
            embedding_bytes: report.embedding_bytes,
            head_bytes: report.head_bytes,
            kept: report.kept(),
            total: report.total(),
            sparsity: report.sparsity(),
            bits_per_weight: report.layer_bytes() as f64 * 8.0 / report.total().max(1) as f64,
            mean_relative_error: errors.sum::<f64>() / report.tensors.len().max(1) as f64,
        }
    }
}

impl From<&TensorReport> for Matrix {
    fn from(t: &TensorReport) -> Self {
        Matrix {
            name: t.name.clone(),
            encoding: t.encoding.name(),
            kept: t.kept,
            total: t.total,
            sparsity: t.sparsity(),
            relative_error: t.relative_error,
            bytes: t.bytes,
            bits_per_weight: t.bits_per_weight(),
            fell_back: t.fell_back,
        }
    }
}

impl From<&pruner::Warning> for Warning {
    fn from(warning: &pruner::Warning) -> Self {
        Warning { kind: warning.kind(), message: warning.to_string() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use spm::Encoding;

    use super::*;

    /// Twelve matrices of two layers, the later the worse.
    pub(in super::super) fn facts() -> Facts {
        let shorts = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down"];
        let names = (0..2).flat_map(|layer| shorts.map(|short| format!("blk.{layer}.{short}.weight")));
        let tensors = names.enumerate().map(|(i, name)| TensorReport {
            name,
            encoding: Encoding::SparseQ8,
            kept: 50,
            total: 100,
            bytes: 75,
            relative_error: i as f64 / 100.0,
            fell_back: false,
        });
        let warnings = vec![pruner::Warning::OneDocument { tokens: 5 }];
        let report = Report { tensors: tensors.collect(), warnings, ..Report::default() };
        Facts {
            format: FORMAT,
            tool: "sparse-prune 1.2.3".into(),
            output: "m.spm".into(),
            source: Source { name: "m|`x`\n.gguf".into(), sha256: "00".into() },
            options: Options::of(&PruneOptions::default(), Profile::Uniform),
            calibration: Calibration::of(&Statistics::None),
            judged_by: report.judged_by.name(),
            totals: Totals::of(&report, 2000),
            matrices: report.tensors.iter().map(Matrix::from).collect(),
            warnings: report.warnings.iter().map(Warning::from).collect(),
            seconds: 1.5,
            peak_memory_bytes: None,
        }
    }

    #[test]
    fn totals_are_sums_and_means() {
        let totals = facts().totals;
        assert_eq!((totals.layer_bytes, totals.kept, totals.total), (900, 600, 1200));
        assert_eq!((totals.sparsity, totals.bits_per_weight), (0.5, 6.0));
        assert!((totals.mean_relative_error - 0.055).abs() < 1e-12);
    }
}
