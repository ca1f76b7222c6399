//! The mix that loses least for its bytes.
//!
//! The loss of a matrix is taken to be `c * e^2`: `e` the relative error of its outputs on held-out tokens, which is measured
//! for every treatment on a sample of its rows; `c` what the model makes of such errors, which is measured once, as the KL
//! divergence of its predictions when half of that matrix alone is pruned. Losses of matrices are taken to add up, which
//! holds for small ones. Sparse treatments are tried by SparseGPT, whose factor is shared by all of them, among the weights that the
//! method compares; what then prunes is the method that was asked for.

use std::ops::ControlFlow;

use runtime::Layer;
use spm::{Checkpoint, Config, Encoding, matrix};

use super::Budget;
use super::mix::{Choice, cheapest};
use super::probe::Probe;
use super::sensitivity::{Sensitivity, SensitivityFile};
use crate::allocation::{Allocation, Treatment, ValueType};
use crate::driver::{
    Outcome, Progress, PruneOptions, check_finite, encode_table, layer_matrices, missing, outcome, read_all, tables,
};
use crate::error::Error;
use crate::method::{Needs, by_name};
use crate::pattern::Pattern;
use crate::plan::{self, plan};
use crate::provenance::sha256_of_windows;
use crate::shortlist::shortened;
use crate::statistics::Inputs;
use crate::stream::{self, Site, Stream};

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
    let config = shortened(source, options.shortlist.as_ref())?;
    let items = items(source, &config, options, budget);
    let sensitivity = Sensitivity::open(file, &facts(options, windows))?;
    let (done, resumed) = (0, items.iter().filter(|item| item.is_known(&sensitivity)).count() as u64);
    let mut search = Search { source, config, options, items, sensitivity, progress, done, resumed };
    if search.resumed < search.items.len() as u64 {
        search.measure(windows)?;
    }
    search.solve(budget)
}

/// All that measures depend on besides the source.
fn facts(options: &PruneOptions, windows: &[Vec<u32>]) -> [(&'static str, String); 5] {
    [
        ("program", format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))),
        ("calibration tokens", sha256_of_windows(windows)),
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

/// The tables and then the matrices, with what may become of each.
fn items(source: &dyn Checkpoint, config: &Config, options: &PruneOptions, budget: Budget) -> Vec<Item> {
    let dense = match budget {
        Budget::OfUniform => vec![Treatment::dense(options.values)],
        _ => dense_treatments().to_vec(),
    };
    let of_table = match budget {
        Budget::OfUniform => vec![Treatment::dense(options.head)],
        _ => dense.clone(),
    };
    let of_tables = tables(config).map(|(name, rows, cols)| (name, (rows, cols), of_table.clone()));
    let of_matrices = layer_matrices(source.config()).map(|(name, shape)| {
        let sparse = if options.ignores(&name) { Vec::new() } else { sparse_treatments(shape.1, options, budget) };
        (name, shape, [&dense[..], &sparse].concat())
    });
    of_tables.chain(of_matrices).map(|(name, shape, treatments)| Item { name, shape, treatments }).collect()
}

/// How what is not pruned may be stored.
fn dense_treatments() -> [Treatment; 3] {
    [ValueType::Q8, ValueType::Q5, ValueType::Q4].map(Treatment::dense)
}

/// How a matrix may be pruned: where all there is to share out is the sparsity, with the values that were asked for.
fn sparse_treatments(cols: usize, options: &PruneOptions, budget: Budget) -> Vec<Treatment> {
    let unstructured = |sparsity, values| Treatment { pattern: Pattern::Unstructured { sparsity }, values };
    if budget == Budget::OfUniform {
        let sparsities = [0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8];
        return sparsities.map(|sparsity| unstructured(sparsity, options.values)).to_vec();
    }
    let sparse = [0.3, 0.4, 0.5, 0.6, 0.7].map(|sparsity| unstructured(sparsity, ValueType::Q4));
    let fixed = Treatment { pattern: Pattern::KeepNofM { n: 2, m: 4 }, values: ValueType::Q4 };
    let has_fixed = fixed.encoding(cols).is_ok_and(|e| e == Encoding::Q4Keep2Of4);
    sparse.into_iter().chain(has_fixed.then_some(fixed)).collect()
}

/// What is measured of a matrix of `cols` columns: all that a size or a sparsity to share out may choose of, so that one file of
/// measures serves both. Trying one more is cheap beside the rest.
fn measured(cols: usize, options: &PruneOptions) -> Vec<Treatment> {
    let of_sparsity = sparse_treatments(cols, options, Budget::OfUniform);
    let of_size = sparse_treatments(cols, options, Budget::File(0));
    let mut all = dense_treatments().to_vec();
    for treatment in [&[Treatment::dense(options.values)], &of_sparsity[..], &of_size].concat() {
        if !all.contains(&treatment) {
            all.push(treatment);
        }
    }
    all
}

/// A matrix or table of the new model, and what may become of it.
struct Item {
    name: String,
    shape: (usize, usize),
    treatments: Vec<Treatment>,
}

impl Item {
    fn is_known(&self, sensitivity: &Sensitivity) -> bool {
        self.losses(sensitivity).is_some()
    }

    /// Of each treatment, if they are known; where there is no choice they do not matter.
    fn losses(&self, sensitivity: &Sensitivity) -> Option<Vec<f64>> {
        match &self.treatments[..] {
            [_] => Some(vec![0.0]),
            treatments => sensitivity.losses(&self.name, treatments),
        }
    }
}

struct Search<'a> {
    source: &'a dyn Checkpoint,
    /// Of the new model.
    config: Config,
    options: &'a PruneOptions,
    items: Vec<Item>,
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
                    stream.pass(&layer, None, site, &mut |_| Ok(()))?;
                    continue;
                }
                let inputs = stream.observe(&layer, None, site, Needs::Gram, &mut |_| Ok(()))?;
                let pool = stream.pool();
                for item in unknown {
                    let treatments = measured(self.items[item].shape.1, self.options);
                    let losses = self.losses_of_matrix(&self.items[item], &treatments, &inputs, &pool, &mut probe)?;
                    self.note(item, &treatments, &losses, index)?;
                }
            }
            stream.leave(&layer, &mut |_| Ok(()))?;
            self.sensitivity.save()?;
        }
        Ok(())
    }

    fn measure_tables(&mut self, probe: &mut Probe) -> Result<(), Error> {
        for item in self.unknown_of(|name| !name.starts_with("blk.")) {
            let Item { name, treatments, .. } = &self.items[item];
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
        let all = self.items.iter().enumerate();
        all.filter(|(_, item)| are(&item.name) && !item.is_known(&self.sensitivity)).map(|(i, _)| i).collect()
    }

    fn note(&mut self, item: usize, treatments: &[Treatment], losses: &[f64], layer: usize) -> Result<(), Error> {
        self.sensitivity.add(&self.items[item].name, treatments, losses);
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
        let config = self.source.config();
        let (layers, total) = (config.n_layers, self.items.len() as u64);
        let (done, resumed) = (self.done + self.resumed, self.resumed);
        Progress { layer, layers, step: "sensitivity", done, total, resumed }.tell(self.progress)
    }

    fn solve(&self, budget: Budget) -> Result<Allocation, Error> {
        let group = self.options.group_of_method();
        let choices_of = |item: &Item| -> Result<Vec<Choice>, Error> {
            let shape = counted(item, &self.config, budget);
            let losses = item.losses(&self.sensitivity).ok_or_else(|| missing(&item.name))?;
            let all = item.treatments.iter().zip(losses);
            all.map(|(t, loss)| {
                let (bytes, starts) = plan::bytes_of(t.encoding(shape.1)?, t.pattern, group, shape);
                Ok(Choice { bytes: bytes + starts, loss })
            })
            .collect()
        };
        let choices = self.items.iter().map(choices_of).collect::<Result<Vec<_>, Error>>()?;
        let (limit, fixed) = self.limit(budget, &choices)?;
        let room = limit.saturating_sub(fixed);
        let chosen = cheapest(&choices, room).map_err(|least| Error::TooSmall { limit, least: least + fixed })?;
        let mut allocation = Allocation::default();
        for (item, choice) in self.items.iter().zip(chosen) {
            let treatment = item.treatments[choice];
            if item.name.starts_with("blk.") {
                allocation.matrices.insert(item.name.clone(), treatment);
            } else {
                allocation.tables.insert(item.name.clone(), treatment.values);
            }
        }
        Ok(allocation)
    }

    /// The bytes there are, and those of them that no choice changes.
    fn limit(&self, budget: Budget, choices: &[Vec<Choice>]) -> Result<(u64, u64), Error> {
        Ok(match budget {
            Budget::File(bytes) => (bytes, self.fixed_bytes(choices)?),
            Budget::Token(bytes) => (bytes, 0),
            Budget::OfUniform => (self.uniform_bytes()?, 0),
        })
    }

    /// Of a file, what is no item's, and some room: sections are padded, and a row of sparse q4 takes a little more or less
    /// than foreseen.
    fn fixed_bytes(&self, choices: &[Vec<Choice>]) -> Result<u64, Error> {
        let first = Allocation {
            matrices: self.of_prefix(true).map(|item| (item.name.clone(), item.treatments[0])).collect(),
            tables: self.of_prefix(false).map(|item| (item.name.clone(), item.treatments[0].values)).collect(),
        };
        let options = PruneOptions { allocation: first, ..self.options.clone() };
        let counted: u64 = choices.iter().map(|c| c[0].bytes).sum();
        let of_file = plan(self.source, &options, 1, 1)?.file_bytes;
        Ok((of_file - counted) + (1 << 17) + of_file / 1000)
    }

    /// Of the items as they are when all are treated the same.
    fn uniform_bytes(&self) -> Result<u64, Error> {
        let bytes = |item: &Item| {
            let treatment = match item.name.starts_with("blk.") {
                true => self.options.treatment(&item.name),
                false => Treatment::dense(self.options.head),
            };
            let (encoding, group) = (treatment.encoding(item.shape.1)?, self.options.group_of_method());
            let (bytes, starts) = plan::bytes_of(encoding, treatment.pattern, group, item.shape);
            Ok(bytes + starts)
        };
        self.items.iter().map(bytes).sum()
    }

    fn of_prefix(&self, in_layer: bool) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(move |item| item.name.starts_with("blk.") == in_layer)
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

/// The shape of what counts of an item: all of it in a file; for a token, of the embedding what is the head too.
fn counted(item: &Item, config: &Config, budget: Budget) -> (usize, usize) {
    let rows = match (budget, &item.name[..]) {
        (Budget::Token(_), "token_embd.weight") if config.tied_head => config.head_rows(),
        (Budget::Token(_), "token_embd.weight") => 0,
        _ => item.shape.0,
    };
    (rows, item.shape.1)
}

/// Rows at equal distances.
fn sample(dense: &[f32], (rows, cols): (usize, usize)) -> Vec<f32> {
    let n = rows.min(SAMPLE);
    (0..n).flat_map(|i| &dense[i * rows / n * cols..][..cols]).copied().collect()
}
