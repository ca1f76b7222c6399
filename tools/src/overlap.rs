//! `spm overlap`: in which weights sub-models of one parent differ, against chance and against another seed.
//!
//! Two masks over a matrix of N weights that keep a share p and a share q of them differ in what one keeps and the other
//! does not. How much that is says nothing alone: random masks of these densities share p q N weights, and two calibrations
//! on the same language differ too. Numbers over several matrices, and over several pairs of models, are of the sums of their
//! counts, so large matrices weigh more. Masks are read a row at a time.

mod counts;
mod figures;
mod files;
mod html;
mod json;
mod open;
mod shared;
mod text;
mod words;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::failure::Failure;
use crate::new_file::{refuse_existing, write_new};
use crate::subjects::{Subject, SubjectArgs};

use files::FigureFiles;

pub use counts::{Counts, Family};
pub use shared::Shared;

/// What is compared, and where the result goes.
#[derive(Args, Clone, Debug)]
pub struct OverlapArgs {
    /// The models
    #[command(flatten)]
    pub subjects: SubjectArgs,
    /// Write a report for people: one file that needs nothing else
    #[arg(long, value_name = "OUT.html")]
    pub html: Option<PathBuf>,
    /// Write the report's figures into this folder: ruler.svg, heatmap.svg, languages.svg, alone.svg
    #[arg(long, value_name = "FOLDER")]
    pub svg: Option<PathBuf>,
    /// The same as PNG, their text in a font of the system
    #[arg(long, value_name = "FOLDER")]
    pub png: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// Compares the masks, writes the files that were asked for, and prints the rest to `out`.
pub fn run(args: &OverlapArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let subjects = args.subjects.subjects()?;
    let figures = FigureFiles::of(args)?;
    let mut paths = args.html.iter().cloned().chain(figures.iter().flat_map(FigureFiles::paths));
    paths.try_for_each(|path| refuse_existing(&path))?;
    let overlap = open::measure(subjects)?;
    if let Some(path) = &args.html {
        write_new(path, html::render(&overlap))?;
    }
    figures.iter().try_for_each(|files| files.write(&overlap))?;
    match args.json {
        true => writeln!(out, "{:#}", json::to_json(&overlap))?,
        false => text::write(&overlap, out)?,
    }
    Ok(())
}

/// The masks of some models, counted.
#[derive(Clone, Debug)]
pub struct Overlap {
    /// The models, those of other seeds last.
    pub models: Vec<ModelFacts>,
    /// Which of them differ by a seed alone.
    pub family: Family,
    /// Every matrix that is sparse in all models.
    pub matrices: Vec<MatrixCounts>,
    /// Matrices that were left out.
    pub left_out: Vec<LeftOut>,
    /// What makes the comparison less than it seems.
    pub warnings: Vec<String>,
}

/// A model, and what its file says of how it was made.
#[derive(Clone, Debug)]
pub struct ModelFacts {
    /// Its name and path.
    pub subject: Subject,
    /// Such as `wanda`.
    pub method: String,
    /// One line on the calibration text.
    pub calibration: String,
    /// The hash of its tokens; empty if there were none.
    pub calibration_sha256: String,
}

impl ModelFacts {
    /// Whether it was calibrated on the same tokens as `other`.
    fn has_tokens_of(&self, other: &ModelFacts) -> bool {
        !self.calibration_sha256.is_empty() && self.calibration_sha256 == other.calibration_sha256
    }
}

/// A matrix of every model.
#[derive(Clone, Debug)]
pub struct MatrixCounts {
    /// The tensor's name.
    pub tensor: String,
    /// The layer that it is in, if it is in one.
    pub layer: Option<usize>,
    /// What it is in its layer, such as `ffn_up`.
    pub projection: String,
    /// What is kept of it.
    pub counts: Counts,
}

/// A matrix whose masks are not compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The tensor's name.
    pub tensor: String,
    /// Why.
    pub reason: String,
}

/// How masks differ, over some matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Pairs of different models; `None` if there is only one.
    pub between: Option<Shared>,
    /// Pairs of models that differ by the seed alone; `None` without any.
    pub reseeded: Option<Shared>,
}

impl Overlap {
    /// Whether two models that are no reseeds were calibrated on the same tokens.
    fn has_same_calibration(&self) -> bool {
        self.family.different_pairs().any(|(a, b)| self.models[a].has_tokens_of(&self.models[b]))
    }

    /// Labels of the models that differ by more than a seed.
    pub fn labels(&self) -> Vec<&str> {
        self.models[..self.family.different].iter().map(|m| m.subject.label.as_str()).collect()
    }

    /// Layers that have matrices, ascending.
    pub fn layers(&self) -> Vec<usize> {
        let mut layers: Vec<usize> = self.matrices.iter().filter_map(|m| m.layer).collect();
        layers.sort_unstable();
        layers.dedup();
        layers
    }

    /// What matrices are in their layers, in the file's order; then those outside of layers.
    pub fn projections(&self) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        let (inside, outside): (Vec<_>, Vec<_>) = self.matrices.iter().partition(|m| m.layer.is_some());
        for matrix in inside.into_iter().chain(outside) {
            if !found.contains(&matrix.projection.as_str()) {
                found.push(&matrix.projection);
            }
        }
        found
    }

    /// Two models' masks over the matrices that are `wanted`.
    pub fn shared(&self, first: usize, second: usize, wanted: &dyn Fn(&MatrixCounts) -> bool) -> Shared {
        self.matrices.iter().filter(|m| wanted(m)).map(|m| m.counts.shared(first, second)).sum()
    }

    /// How masks differ over the matrices that are `wanted`.
    pub fn reading(&self, wanted: &dyn Fn(&MatrixCounts) -> bool) -> Reading {
        let shared = |(a, b): (usize, usize)| self.shared(a, b, wanted);
        Reading {
            between: sum(self.family.different_pairs().map(shared)),
            reseeded: sum(self.family.reseeded_pairs().map(shared)),
        }
    }

    /// How the masks of one matrix differ.
    pub fn reading_of(&self, matrix: &MatrixCounts) -> Reading {
        let shared = |(a, b): (usize, usize)| matrix.counts.shared(a, b);
        Reading {
            between: sum(self.family.different_pairs().map(shared)),
            reseeded: sum(self.family.reseeded_pairs().map(shared)),
        }
    }

    /// How two calibrations on the text of model `of` differ.
    pub fn reseeded(&self, of: usize) -> Option<Shared> {
        let own = self.family.reseeded_pairs().filter(|&(a, _)| self.family.root(a) == of);
        sum(own.map(|(a, b)| self.shared(a, b, &|_| true)))
    }

    /// What model `of` keeps and no other does, over the matrices that are `wanted`.
    pub fn alone(&self, of: usize, wanted: &dyn Fn(&MatrixCounts) -> bool) -> Alone {
        let counts = || self.matrices.iter().filter(|m| wanted(m)).map(|m| &m.counts);
        let seeds: Vec<usize> = (0..self.family.reseed_of.len()).filter(|&i| self.family.reseed_of[i] == of).collect();
        Alone {
            weights: counts().map(|c| c.weights).sum(),
            alone: counts().map(|c| c.alone[of]).sum(),
            chance: counts().map(|c| c.alone_by_chance(of)).sum(),
            again: counts().flat_map(|c| seeds.iter().map(|&i| c.alone_again[i])).sum(),
            seeds: seeds.len() as u64,
        }
    }
}

/// `None` of no pairs.
fn sum(pairs: impl Iterator<Item = Shared>) -> Option<Shared> {
    pairs.reduce(|mut sum, shared| {
        sum += shared;
        sum
    })
}

/// What a model keeps that no other different one does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alone {
    /// Weights there are.
    pub weights: u64,
    /// Weights that it alone keeps.
    pub alone: u64,
    /// As many would be if masks were random.
    pub chance: f64,
    /// Of these, what its other seeds keep too, summed over them.
    pub again: u64,
    /// Other seeds.
    pub seeds: u64,
}

impl Alone {
    /// Share of all weights that the model alone keeps.
    pub fn share(&self) -> f64 {
        self.alone as f64 / self.weights.max(1) as f64
    }

    /// The same of random masks.
    pub fn chance_share(&self) -> f64 {
        self.chance / self.weights.max(1) as f64
    }

    /// Of what the model alone keeps, the share that it keeps with another seed too.
    pub fn again_share(&self) -> Option<f64> {
        let all = self.alone * self.seeds;
        (all > 0).then(|| self.again as f64 / all as f64)
    }
}
