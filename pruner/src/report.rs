//! What was done to each tensor, and what may have made the result worse than need be.

use std::fmt;

use spm::{Config, Encoding};

use crate::method::Needs;
use crate::site::Site;
use crate::stream::HELD_OUT;

/// Tokens for each input feature below which the products of features are mostly noise.
const TOKENS_A_FEATURE: u64 = 8;

/// Relative error above which a matrix no longer does what it did.
const LARGE_ERROR: f64 = 0.5;

/// The outcome of a pruning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The matrices of the decoder layers, in the order they were written.
    pub tensors: Vec<TensorReport>,
    /// Bytes of all tensors, embedding, head and norms included.
    pub bytes: u64,
    /// Bytes of the embedding.
    pub embedding_bytes: u64,
    /// Bytes of the output head; 0 where that is the embedding.
    pub head_bytes: u64,
    /// Calibration tokens that were run; 0 when the method needs none.
    pub tokens: u64,
    /// What relative errors are of.
    pub judged_by: JudgedBy,
    /// What may have made the model worse than need be.
    pub warnings: Vec<Warning>,
}

/// What a relative error weighs the change of a weight by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JudgedBy {
    /// Nothing: all inputs count the same.
    #[default]
    Weights,
    /// The norms of inputs, taken as uncorrelated.
    Norms,
    /// Outputs on the calibration tokens, there being too few to hold some out.
    Calibration,
    /// Outputs on tokens that were held out of the calibration.
    HeldOut,
}

impl JudgedBy {
    pub(crate) fn of(needs: Needs, windows: usize) -> Self {
        match needs {
            Needs::Nothing => JudgedBy::Weights,
            Needs::ColumnNorms => JudgedBy::Norms,
            Needs::Gram | Needs::DenseOutputs if windows < HELD_OUT => JudgedBy::Calibration,
            Needs::Gram | Needs::DenseOutputs => JudgedBy::HeldOut,
        }
    }

    /// A word for programs, such as `held_out`.
    pub fn name(self) -> &'static str {
        match self {
            JudgedBy::Weights => "weights",
            JudgedBy::Norms => "norms",
            JudgedBy::Calibration => "calibration",
            JudgedBy::HeldOut => "held_out",
        }
    }
}

/// One matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorReport {
    /// GGUF's name.
    pub name: String,
    /// How it is stored.
    pub encoding: Encoding,
    /// Weights that are stored.
    pub kept: u64,
    /// Weights the dense matrix has.
    pub total: u64,
    /// Bytes of the tensor.
    pub bytes: u64,
    /// `||(W - W') X|| / ||W X||` on the tokens held out, or where none were on those of the calibration; `W'` is what is
    /// stored, rounding included. Where only the norms of inputs are known, inputs are taken as uncorrelated:
    /// `sqrt(sum (W - W')_ij^2 ||X_j||^2 / sum W_ij^2 ||X_j||^2)`. Without statistics all norms count as 1.
    pub relative_error: f64,
    /// Whether the method's own answer was worse than Wanda's on the tokens held out, so that Wanda's was taken.
    pub fell_back: bool,
}

impl Report {
    /// Weights that are stored in the decoder layers.
    pub fn kept(&self) -> u64 {
        self.tensors.iter().map(|t| t.kept).sum()
    }

    /// Weights the dense decoder layers have.
    pub fn total(&self) -> u64 {
        self.tensors.iter().map(|t| t.total).sum()
    }

    /// Fraction of the decoder layers' weights that is gone.
    pub fn sparsity(&self) -> f64 {
        gone(self.kept(), self.total())
    }

    /// Bytes of the matrices of the decoder layers.
    pub fn layer_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes).sum()
    }

    /// Adds the warnings that the matrices give.
    pub(crate) fn warn_of_matrices(&mut self, updates_weights: bool) {
        let large = || self.tensors.iter().filter(|t| t.relative_error > LARGE_ERROR);
        let worst = large().max_by(|a, b| a.relative_error.total_cmp(&b.relative_error));
        let fell_back: Vec<String> = self.tensors.iter().filter(|t| t.fell_back).map(|t| t.name.clone()).collect();
        let large = worst.map(|t| Warning::LargeError {
            matrices: large().count(),
            worst: t.name.clone(),
            relative_error: t.relative_error,
            updates_weights,
        });
        self.warnings.extend(large);
        if !fell_back.is_empty() {
            self.warnings.push(Warning::FellBack { tensors: fell_back });
        }
    }
}

impl TensorReport {
    /// Bits a weight of the dense matrix.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.total.max(1) as f64
    }

    /// Fraction of the weights that is gone.
    pub fn sparsity(&self) -> f64 {
        gone(self.kept, self.total)
    }
}

/// What may have made a model worse than need be.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// Too few calibration tokens for the products of a site's features, in every layer.
    FewTokens {
        /// The site.
        site: Site,
        /// Tokens that were run.
        tokens: u64,
        /// Input features.
        features: usize,
        /// Windows of the length there was that would be enough.
        windows: u64,
    },
    /// Matrices that lose more than half of their outputs.
    LargeError {
        /// How many.
        matrices: usize,
        /// Of the worst: its name.
        worst: String,
        /// And its relative error.
        relative_error: f64,
        /// Whether the method made up for what it lost by changing the weights that are left.
        updates_weights: bool,
    },
    /// Matrices where the method's own answer was worse than Wanda's on the tokens held out, so Wanda's was taken.
    FellBack {
        /// GGUF's names.
        tensors: Vec<String>,
    },
    /// All calibration text is one document.
    OneDocument {
        /// Tokens of it.
        tokens: usize,
    },
}

impl Warning {
    /// The sites that have too few tokens in `windows` for the products of their features.
    pub(crate) fn of_few_tokens(config: &Config, windows: &[Vec<u32>]) -> Vec<Self> {
        let tokens = windows.iter().map(|w| w.len() as u64).sum();
        let longest = windows.iter().map(|w| w.len() as u64).max().unwrap_or(1).max(1);
        let few = Site::ALL.into_iter().filter_map(|site| {
            let features = site.width(config);
            let wanted = TOKENS_A_FEATURE * features as u64;
            let windows = wanted.div_ceil(longest);
            (tokens < wanted).then_some(Warning::FewTokens { site, tokens, features, windows })
        });
        few.collect()
    }

    /// A word for programs, such as `few_tokens`.
    pub fn kind(&self) -> &'static str {
        match self {
            Warning::FewTokens { .. } => "few_tokens",
            Warning::LargeError { .. } => "large_error",
            Warning::FellBack { .. } => "fell_back",
            Warning::OneDocument { .. } => "one_document",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::FewTokens { site, tokens, features, windows } => write!(
                f,
                "{tokens} calibration tokens for the {features} features of {}, where {} would be enough: use \
                 --nsamples {windows}",
                site.name(),
                TOKENS_A_FEATURE * *features as u64
            ),
            Warning::LargeError { matrices, worst, relative_error, updates_weights } => write!(
                f,
                "{matrices} matrices have a relative error above {LARGE_ERROR}, the worst {worst} with \
                 {relative_error:.2}: use a lower --sparsity, {}or leave them dense with --ignore",
                if *updates_weights { "" } else { "a method that updates weights (--method admm), " }
            ),
            Warning::FellBack { tensors } => write!(
                f,
                "{} matrices were pruned by Wanda, which was better on the tokens held out, {} among them: more \
                 calibration text may help (--nsamples)",
                tensors.len(),
                tensors.first().map_or("", String::as_str)
            ),
            Warning::OneDocument { tokens } => write!(
                f,
                "all {tokens} calibration tokens are of one document: give --calib more files, or a folder of them"
            ),
        }
    }
}

fn gone(kept: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { 1.0 - kept as f64 / total as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_tokens_are_told_site_by_site() {
        // 64 features before attention and the feed-forward, 160 inside it.
        let config = Config::new(2, 64, 160, 4, 2);
        let warned = |windows: usize, len: usize| {
            let warnings = Warning::of_few_tokens(&config, &vec![vec![0; len]; windows]);
            warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let hidden =
            "1279 calibration tokens for the 160 features of ffn_hidden, where 1280 would be enough: use --nsamples 2";
        assert_eq!(warned(1, 1279), [hidden]);
        assert!(warned(1, 1280).is_empty());
        assert_eq!(warned(51, 10).len(), 4);
        assert!(warned(51, 10)[0].contains("the 64 features of attn_in, where 512 would be enough: use --nsamples 52"));
    }

    #[test]
    fn matrices_are_told_together() {
        let tensor = |name: &str, relative_error, fell_back| TensorReport {
            name: name.to_owned(),
            encoding: Encoding::F16,
            kept: 1,
            total: 2,
            bytes: 3,
            relative_error,
            fell_back,
        };
        let tensors = vec![tensor("a", 0.5, false), tensor("b", 0.6, true), tensor("c", 0.7, false)];
        let mut report = Report { tensors, ..Report::default() };
        report.warn_of_matrices(true);
        let expected = [
            Warning::LargeError { matrices: 2, worst: "c".into(), relative_error: 0.7, updates_weights: true },
            Warning::FellBack { tensors: vec!["b".into()] },
        ];
        assert_eq!(report.warnings, expected);
        assert_eq!((report.layer_bytes(), report.tensors[0].bits_per_weight()), (9, 12.0));
    }
}
