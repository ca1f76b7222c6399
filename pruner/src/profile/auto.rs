//! The mix that loses least for its bytes.
//!
//! The loss of a matrix is taken to be `c * e^2`: `e` the relative error of its outputs on held-out tokens, which is measured
//! for every treatment on a sample of its rows; `c` what the model makes of such errors, which is measured once, as the KL
//! divergence of its predictions when half of that matrix alone is pruned. Losses of matrices are taken to add up, which
//! holds for small ones. Sparse treatments are tried by SparseGPT, whose factor is shared by all of them; what then prunes
//! is the method that was asked for.

use std::ops::ControlFlow;

use runtime::Layer;
use spm::{Checkpoint, Config, Encoding};

use super::Budget;
use super::mix::{Choice, cheapest};
use super::probe::Probe;
use crate::allocation::{Allocation, Treatment, ValueType};
use crate::driver::{
    Outcome, Progress, PruneOptions, check_finite, encode_table, layer_matrices, outcome, read_all, tables,
};
use crate::error::Error;
use crate::method::{Needs, by_name};
use crate::pattern::{Group, Pattern};
use crate::plan::{self, plan};
use crate::shortlist::shortened;
use crate::statistics::Inputs;
use crate::stream::{Site, Stream};

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
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Allocation, Error> {
    if windows.len() <= JUDGED {
        return Err(Error::option("calibration windows", &windows.len().to_string(), "3 or more for profile `auto`"));
    }
    let config = shortened(source, options.shortlist.as_ref())?;
    let mut search = Search { source, config, options, items: Vec::new(), progress, done: 0 };
    search.measure(windows)?;
    search.solve(budget)
}

/// How what is not pruned may be stored.
fn dense_treatments() -> [Treatment; 3] {
    [ValueType::Q8, ValueType::Q5, ValueType::Q4].map(Treatment::dense)
}

/// Treatments that a matrix may get.
fn treatments(cols: usize) -> Vec<Treatment> {
    let unstructured = |sparsity, values| Treatment { pattern: Pattern::Unstructured { sparsity }, values };
    let sparse = [0.3, 0.4, 0.5, 0.6, 0.7].map(|sparsity| unstructured(sparsity, ValueType::Q4));
    let fixed = Treatment { pattern: Pattern::KeepNofM { n: 2, m: 4 }, values: ValueType::Q4 };
    let has_fixed = fixed.encoding(cols).is_ok_and(|e| e == Encoding::Q4Keep2Of4);
    dense_treatments().into_iter().chain(sparse).chain(has_fixed.then_some(fixed)).collect()
}

/// A matrix or table, and what may become of it.
struct Item {
    name: String,
    shape: (usize, usize),
    treatments: Vec<Treatment>,
    /// Expected KL divergence, nats.
    losses: Vec<f64>,
}

struct Search<'a> {
    source: &'a dyn Checkpoint,
    /// Of the new model.
    config: Config,
    options: &'a PruneOptions,
    items: Vec<Item>,
    progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    done: u64,
}

impl Search<'_> {
    fn measure(&mut self, windows: &[Vec<u32>]) -> Result<(), Error> {
        let (seen, judged) = windows.split_at(windows.len() - JUDGED);
        let threads = self.options.threads;
        let mut probe = Probe::new(self.source, judged, threads)?;
        self.measure_tables(&mut probe)?;
        let mut stream = Stream::new(self.source, &seen[..seen.len().min(SEEN)], Needs::Gram, threads)?;
        for index in 0..self.source.config().n_layers {
            let layer = Layer::load(self.source, stream.engine(), index)?;
            for site in Site::ALL {
                let inputs = stream.observe(&layer, None, site, Needs::Gram, &mut |_| Ok(()))?;
                let pool = stream.pool();
                for short in site.matrices() {
                    let item = self.measure_matrix(&format!("blk.{index}.{short}"), &inputs, &pool, &mut probe)?;
                    self.items.push(item);
                    self.tick(index)?;
                }
            }
            stream.leave(&layer, &mut |_| Ok(()))?;
        }
        Ok(())
    }

    fn measure_tables(&mut self, probe: &mut Probe) -> Result<(), Error> {
        for ((name, rows, cols), (_, new_rows, _)) in tables(self.source.config()).zip(tables(&self.config)) {
            let treatments: Vec<Treatment> = dense_treatments().into();
            let all: Vec<usize> = (0..rows).collect();
            let mut losses = Vec::new();
            for treatment in &treatments {
                let encoding = treatment.values.dense();
                let stored = encode_table(self.source, &name, &all, cols, encoding, &mut |_| Ok(()))?;
                losses.push(probe.divergence(&name, stored)?);
            }
            self.items.push(Item { name, shape: (new_rows, cols), treatments, losses });
            self.tick(0)?;
        }
        Ok(())
    }

    fn measure_matrix(
        &self,
        name: &str,
        inputs: &Inputs,
        pool: &rayon::ThreadPool,
        probe: &mut Probe,
    ) -> Result<Item, Error> {
        let info = self.source.tensor(name).ok_or_else(|| runtime::Error::MissingTensor { name: name.to_owned() })?;
        let shape = (info.rows, info.cols);
        let dense = read_all(self.source, name)?;
        check_finite(name, &dense, shape.1)?;
        let options = self.options;
        let half = Treatment { pattern: Pattern::Unstructured { sparsity: 0.5 }, values: ValueType::F16 };
        let Outcome { stored, relative_error: error, .. } =
            pool.install(|| tried(options, half, name, shape, &dense, inputs))?;
        let divergence = probe.divergence(name, stored)?;
        // What an error of all there is would cost if losses grew with its square all the way.
        let whole = if error > 0.0 { divergence / (error * error) } else { 0.0 };
        let sample = sample(&dense, shape);
        let treatments = if options.ignores(name) { dense_treatments().into() } else { treatments(shape.1) };
        let mut losses = Vec::with_capacity(treatments.len());
        for treatment in &treatments {
            let sampled = (sample.len() / shape.1, shape.1);
            let Outcome { relative_error: error, .. } =
                pool.install(|| tried(options, *treatment, name, sampled, &sample, inputs))?;
            losses.push(whole * error * error);
        }
        Ok(Item { name: name.to_owned(), shape, treatments, losses })
    }

    fn tick(&mut self, layer: usize) -> Result<(), Error> {
        self.done += 1;
        let config = self.source.config();
        let (layers, total) = (config.n_layers, (layer_matrices(config).count() + tables(config).count()) as u64);
        Progress { layer, layers, step: "sensitivity", done: self.done, total, resumed: 0 }.tell(self.progress)
    }

    fn solve(&self, budget: Budget) -> Result<Allocation, Error> {
        let group = self.options.group_of_method();
        let choices_of = |item: &Item| -> Result<Vec<Choice>, Error> {
            let shape = counted(item, &self.config, budget);
            let all = item.treatments.iter().zip(&item.losses);
            all.map(|(t, loss)| {
                let (bytes, starts) = plan::bytes_of(t.encoding(shape.1)?, t.pattern, group, shape);
                Ok(Choice { bytes: bytes + starts, loss: *loss })
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
        let first = Allocation {
            matrices: self.of_prefix(true).map(|item| (item.name.clone(), item.treatments[0])).collect(),
            tables: self.of_prefix(false).map(|item| (item.name.clone(), item.treatments[0].values)).collect(),
        };
        let options = PruneOptions { allocation: first, ..self.options.clone() };
        let counted: u64 = choices.iter().map(|c| c[0].bytes).sum();
        // Sections are padded; a row of sparse q4 takes a little more or less than foreseen.
        let fixed = |of_file: u64| (of_file - counted) + (1 << 17) + of_file / 1000;
        let of_file = plan(self.source, &options, 1, 1)?.file_bytes;
        Ok(match budget {
            Budget::File(bytes) => (bytes, fixed(of_file)),
            Budget::Token(bytes) => (bytes, 0),
            Budget::OfUniform => (plan(self.source, self.options, 1, 1)?.file_bytes, fixed(of_file)),
        })
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
        group: Some(Group::Matrix),
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
