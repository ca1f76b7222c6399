//! Where to prune: which matrices lose more, which less, which stay dense.

mod auto;
mod candidates;
mod depth;
mod mix;
mod owl;
mod probe;
mod sensitivity;

use std::ops::ControlFlow;

use spm::{Checkpoint, Config};

use self::candidates::Candidates;
use crate::allocation::{Allocation, Treatment};
use crate::error::Error;
use crate::options::PruneOptions;
use crate::pattern::Pattern;
use crate::progress::Progress;
use crate::tensors::layer_matrices;

pub use self::sensitivity::SensitivityFile;

/// A rule for what becomes of each matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Profile {
    /// The same everywhere.
    Uniform,
    /// Layers with more outliers lose less (Yin et al.: Outlier Weighed Layerwise Sparsity, 2024).
    Owl,
    /// Later layers lose more: sparsities are an arithmetic progression.
    Depth,
    /// The mix of encodings that loses least for its bytes, by measured sensitivities.
    Auto(Budget),
}

/// Bytes that a mix may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// As many as the same everywhere would: values stay as asked for, and sparsities are shared out.
    OfUniform,
    /// Of the file.
    File(u64),
    /// Of the weights that are read for one token.
    Token(u64),
}

impl Profile {
    /// What becomes of each matrix of `source`. `windows` are calibration tokens, on which the dense model is run;
    /// [`Profile::Uniform`] and [`Profile::Depth`] do not look at them. [`Profile::Auto`] keeps what it measures in `file`,
    /// and takes from it what an earlier run has measured.
    pub fn allocate(
        self,
        source: &dyn Checkpoint,
        options: &PruneOptions,
        windows: &[Vec<u32>],
        file: Option<&SensitivityFile>,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Allocation, Error> {
        options.check(source.config())?;
        match self {
            Profile::Uniform => Ok(options.allocation.clone()),
            Profile::Owl => owl::allocate(source, options, windows, progress),
            Profile::Depth => depth::allocate(source.config(), options),
            Profile::Auto(budget) => auto::allocate(source, options, budget, windows, file, progress),
        }
    }

    /// Refuses a budget that no mix can keep; else that is only found out when all is measured.
    pub(crate) fn check(self, source: &dyn Checkpoint, options: &PruneOptions) -> Result<(), Error> {
        match self {
            Profile::Auto(budget) => Candidates::new(source, options, budget)?.check(),
            _ => Ok(()),
        }
    }

    /// Most memory in use at a time meanwhile, with `nsamples` windows of `seqlen` tokens.
    pub(crate) fn peak_bytes(
        self,
        source: &dyn Checkpoint,
        options: &PruneOptions,
        nsamples: usize,
        seqlen: usize,
    ) -> u64 {
        match self {
            Profile::Uniform | Profile::Depth => 0,
            Profile::Owl => owl::peak_bytes(source.config(), options, nsamples, seqlen),
            Profile::Auto(_) => auto::peak_bytes(source, options, nsamples, seqlen),
        }
    }

    /// Work of it, in multiply-adds, about.
    pub(crate) fn work(self, source: &dyn Checkpoint, nsamples: usize, seqlen: usize) -> u64 {
        match self {
            Profile::Uniform | Profile::Depth => 0,
            Profile::Owl => {
                source.tensors().iter().map(|t| t.rows as u64 * t.cols as u64).sum::<u64>() * (nsamples * seqlen) as u64
            }
            Profile::Auto(_) => auto::work(source, nsamples, seqlen),
        }
    }

    /// Whether it runs the dense model on calibration windows.
    pub fn needs_calibration(self) -> bool {
        matches!(self, Profile::Owl | Profile::Auto(_))
    }
}

/// What people call it.
impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Profile::Uniform => "uniform",
            Profile::Owl => "owl",
            Profile::Depth => "depth",
            Profile::Auto(_) => "auto",
        })
    }
}

/// All matrices of layer `l` pruned by `of_layer[l]`.
fn by_layer(config: &Config, options: &PruneOptions, of_layer: &[f64]) -> Allocation {
    let mut allocation = options.allocation.clone();
    for (layer, sparsity) in of_layer.iter().enumerate() {
        let prefix = format!("blk.{layer}.");
        let pattern = Pattern::Unstructured { sparsity: *sparsity };
        for (name, _) in layer_matrices(config).filter(|(name, _)| name.starts_with(&prefix)) {
            allocation.matrices.insert(name, Treatment { pattern, values: options.values });
        }
    }
    allocation
}

/// The sparsity that is to be shared out; an error if the pattern has none to share.
fn shared(options: &PruneOptions, profile: &'static str) -> Result<f64, Error> {
    match options.pattern {
        Pattern::Unstructured { sparsity } => Ok(sparsity),
        fixed => {
            Err(Error::option("profile", profile, format!("`uniform` or `auto`: {fixed} has one sparsity for all")))
        }
    }
}

/// The most that a layer may lose, however much others keep.
const MOST: f64 = 0.98;
