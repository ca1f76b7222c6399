//! The mix that loses least for its bytes.
//!
//! The loss of a matrix is taken to be `c * e^2`: `e` the relative error of its outputs on held-out tokens, which is measured
//! for every treatment on a sample of its rows; `c` what the model makes of such errors, which is measured once, as the KL
//! divergence of its predictions when half of that matrix alone is pruned. Losses of matrices are taken to add up, which
//! holds for small ones. Sparse treatments are tried by SparseGPT, whose factor is shared by all of them, among the weights that the
//! method compares; what then prunes is the method that was asked for.

use std::ops::ControlFlow;

use runtime::Layer;
use spm::{Checkpoint, Encoding, matrix};

use super::Budget;
use super::candidates::{Candidates, Item, measured};
use super::probe::Probe;
use super::sensitivity::{Sensitivity, SensitivityFile};
use crate::allocation::{Allocation, Treatment, ValueType};
use crate::error::Error;
use crate::method::{Needs, by_name};
use crate::options::PruneOptions;
use crate::outcome::{Outcome, encode_table, outcome};
use crate::pattern::Pattern;
use crate::plan;
use crate::progress::Progress;
use crate::provenance::{lengths_of_windows, sha256_of_windows};
use crate::site::Site;
use crate::statistics::Inputs;
use crate::stream::{self, Stream};
use crate::tensors::{check_finite, layer_matrices, missing, read_all, tables};

/// Most windows whose inputs are summed.
const SEEN: usize = 32;
/// Windows on which predictions are compared.
const JUDGED: usize = 2;
/// Rows of a matrix on which treatments are tried.
const SAMPLE: usize = 128;

pub(super) fn allocate(
    source: &dyn Checkpoint,
    options: &PruneOptions,
    budget: Budget,
    windows: &[Vec<u32>],
    file: Option<&SensitivityFile>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Allocation, Error> {
    if windows.len() <= JUDGED {
        return Err(Error::option("calibration windows", &windows.len().to_string(), "3 or more for profile `auto`"));
    }
    let candidates = Candidates::new(source, options, budget)?;
    candidates.check()?;
    let sensitivity = Sensitivity::open(file, &facts(options, windows))?;
    let (done, resumed) = (0, candidates.items().iter().filter(|item| item.is_known(&sensitivity)).count() as u64);
    let mut search = Search { source, options, candidates, sensitivity, progress, done, resumed };
    if search.resumed < search.candidates.items().len() as u64 {
        search.measure(windows)?;
    }
    search.candidates.cheapest(&search.sensitivity)
}

/// All that measures depend on besides the source.
fn facts(options: &PruneOptions, windows: &[Vec<u32>]) -> [(&'static str, String); 6] {
    [
        ("program", format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))),
        ("calibration tokens", sha256_of_windows(windows)),
        ("calibration windows", lengths_of_windows(windows)),
        ("kernels", runtime::simd::best().name().to_owned()),
        ("rounding", options.rounding.to_string()),
        ("weights compared", options.group_of_method().to_string()),
    ]
}

/// Most memory in use at a time while measuring: the dense model with what it does on some windows, and a site's products.
pub(super) fn peak_bytes(source: &dyn Checkpoint, options: &PruneOptions, nsamples: usize, seqlen: usize) -> u64 {
    let c = source.config();
    let probe = Probe::byte_len(source, JUDGED.min(nsamples));
    let seen = nsamples.saturating_sub(JUDGED).min(SEEN);
    let threads = options.threads.clamp(1, seen.max(1));
    let streaming = stream::byte_len(c, Needs::Gram, (seen, seqlen), threads, &options.residence)
        + stream::seen_bytes(c, Needs::Gram, seen, seqlen, threads);
    let matrices = || layer_matrices(c).map(|(_, (rows, cols))| (rows * cols) as u64);
    let solving = plan::solving_bytes(c, Needs::Gram, matrices(), threads) + 17 * matrices().max().unwrap_or(0);
    let table = tables(c).map(|(_, rows, cols)| 3 * matrix::byte_len(Encoding::Q8, rows, cols, 0).unwrap_or(0) as u64);
    let layer = 4 * matrices().sum::<u64>() / c.n_layers as u64;
    probe + (streaming + layer + solving).max(table.max().unwrap_or(0))
}

/// Multiply-adds of measuring, about.
pub(super) fn work(source: &dyn Checkpoint, nsamples: usize, seqlen: usize) -> u64 {
    let c = source.config();
    let all: u64 = layer_matrices(c).map(|(_, (rows, cols))| (rows * cols) as u64).sum();
    // Half the layers are run for a matrix on average.
    let runs = (layer_matrices(c).count() * JUDGED) as u64 * Probe::work(c, all / 2);
    let tokens = (nsamples.saturating_sub(JUDGED).min(SEEN) * seqlen) as u64;
    let products: u64 =
        Site::ALL.iter().map(|site| site.width(c) as u64).map(|d| d * d / 8 * tokens + d * d * d / 3).sum();
    let tried = |(rows, cols): (usize, usize)| {
        let sample = rows.min(SAMPLE) * 20;
        (rows + 6 * sample) as u64 * (cols * cols) as u64
    };
    runs + all * tokens + products * c.n_layers as u64 + layer_matrices(c).map(|(_, shape)| tried(shape)).sum::<u64>()
}

struct Search<'a> {
    source: &'a dyn Checkpoint,
    options: &'a PruneOptions,
    candidates: Candidates<'a>,
    sensitivity: Sensitivity<'a>,
    progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    /// Items measured now.
    done: u64,
    /// Items that were measured before.
    resumed: u64,
}

impl Search<'_> {
    /// Measures what is not known yet.
    fn measure(&mut self, windows: &[Vec<u32>]) -> Result<(), Error> {
        let (seen, judged) = windows.split_at(windows.len() - JUDGED);
        let threads = self.options.threads;
        let mut probe = Probe::new(self.source, judged, threads)?;
        self.measure_tables(&mut probe)?;
        let seen = &seen[..seen.len().min(SEEN)];
        let mut stream = Stream::new(self.source, seen, Needs::Gram, threads, &self.options.residence)?;
        for index in 0..self.source.config().n_layers {
            let layer = Layer::load(self.source, stream.engine(), index)?;
            for site in Site::ALL {
                let unknown = self.unknown_of(|name| {
                    site.matrices(self.source.config()).iter().any(|short| name == format!("blk.{index}.{short}"))
                });
                if unknown.is_empty() {
                    stream.pass(&layer, None, site, &mut |_| self.tell(index))?;
                    continue;
                }
                let inputs = stream.observe(&layer, None, site, Needs::Gram, &mut |_| self.tell(index))?;
                let pool = stream.pool();
                for item in unknown {
                    let treatments = measured(self.candidates.items()[item].shape.1, self.options);
                    let losses =
                        self.losses_of_matrix(&self.candidates.items()[item], &treatments, &inputs, &pool, &mut probe)?;
                    self.note(item, &treatments, &losses, index)?;
                }
            }
            stream.leave(&layer, &mut |_| self.tell(index))?;
            self.sensitivity.save()?;
        }
        Ok(())
    }

    fn measure_tables(&mut self, probe: &mut Probe) -> Result<(), Error> {
        for item in self.unknown_of(|name| !name.starts_with("blk.")) {
            let Item { name, treatments, .. } = &self.candidates.items()[item];
            // All rows that the source has: the losses do not depend on a shortlist.
            let info = self.source.tensor(name).ok_or_else(|| missing(name))?;
            let (all, cols): (Vec<usize>, usize) = ((0..info.rows).collect(), info.cols);
            let mut losses = Vec::new();
            for treatment in treatments {
                let encoding = treatment.values.dense();
                let stored = encode_table(self.source, name, &all, cols, encoding, &mut |_| Ok(()))?;
                losses.push(probe.divergence(name, stored)?);
            }
            let treatments = treatments.clone();
            self.note(item, &treatments, &losses, 0)?;
            self.sensitivity.save()?;
        }
        Ok(())
    }

    /// Items whose names `are` meant and that are not measured yet.
    fn unknown_of(&self, are: impl Fn(&str) -> bool) -> Vec<usize> {
        let all = self.candidates.items().iter().enumerate();
        all.filter(|(_, item)| are(&item.name) && !item.is_known(&self.sensitivity)).map(|(i, _)| i).collect()
    }

    fn note(&mut self, item: usize, treatments: &[Treatment], losses: &[f64], layer: usize) -> Result<(), Error> {
        self.sensitivity.add(&self.candidates.items()[item].name, treatments, losses);
        self.tick(layer)
    }

    fn losses_of_matrix(
        &self,
        item: &Item,
        treatments: &[Treatment],
        inputs: &Inputs,
        pool: &rayon::ThreadPool,
        probe: &mut Probe,
    ) -> Result<Vec<f64>, Error> {
        let Item { name, shape, .. } = item;
        let (name, shape, options) = (&name[..], *shape, self.options);
        let dense = read_all(self.source, name)?;
        check_finite(name, &dense, shape.1)?;
        let half = Treatment { pattern: Pattern::Unstructured { sparsity: 0.5 }, values: ValueType::F16 };
        let Outcome { stored, relative_error: error, .. } =
            pool.install(|| tried(options, half, name, shape, &dense, inputs))?;
        let divergence = probe.divergence(name, stored)?;
        // What an error of all there is would cost if losses grew with its square all the way.
        let whole = if error > 0.0 { divergence / (error * error) } else { 0.0 };
        let sample = sample(&dense, shape);
        let sampled = (sample.len() / shape.1, shape.1);
        let loss = |treatment: &Treatment| {
            let found = pool.install(|| tried(options, *treatment, name, sampled, &sample, inputs))?;
            Ok(whole * found.relative_error * found.relative_error)
        };
        treatments.iter().map(loss).collect()
    }

    fn tick(&mut self, layer: usize) -> Result<(), Error> {
        self.done += 1;
        self.tell(layer)
    }

    /// Says how far it is, and hears whether to go on.
    fn tell(&mut self, layer: usize) -> Result<(), Error> {
        let config = self.source.config();
        let (layers, total) = (config.n_layers, self.candidates.items().len() as u64);
        let (done, resumed) = (self.done + self.resumed, self.resumed);
        Progress { layer, layers, step: "sensitivity", done, total, resumed }.tell(self.progress)
    }
}

/// What `treatment` makes of some rows, and their relative error.
fn tried(
    options: &PruneOptions,
    treatment: Treatment,
    name: &str,
    shape: (usize, usize),
    rows: &[f32],
    inputs: &Inputs,
) -> Result<Outcome, Error> {
    let options = PruneOptions {
        method: by_name("sparsegpt")?,
        group: Some(options.group_of_method()),
        rounding: options.rounding,
        pattern: treatment.pattern,
        values: treatment.values,
        threads: options.threads,
        ..PruneOptions::default()
    };
    outcome(&options, name, shape, rows, Some(inputs))
}

/// Rows at equal distances.
fn sample(dense: &[f32], (rows, cols): (usize, usize)) -> Vec<f32> {
    let n = rows.min(SAMPLE);
    (0..n).flat_map(|i| &dense[i * rows / n * cols..][..cols]).copied().collect()
}
