//! What may become of each matrix and table of a model, in bytes, and the mix that a budget allows.

use spm::{Checkpoint, Config, Encoding};

use super::Budget;
use super::mix::{self, Choice};
use super::sensitivity::Sensitivity;
use crate::allocation::{Allocation, Treatment, ValueType};
use crate::error::Error;
use crate::options::PruneOptions;
use crate::pattern::Pattern;
use crate::plan::{self, plan};
use crate::shortlist::shortened;
use crate::tensors::{layer_matrices, missing, tables};

/// The tables and then the matrices of a model, to be chosen for within a budget.
pub(super) struct Candidates<'a> {
    source: &'a dyn Checkpoint,
    /// Of the new model.
    config: Config,
    options: &'a PruneOptions,
    budget: Budget,
    items: Vec<Item>,
}

/// A matrix or table of the new model, and what may become of it.
pub(super) struct Item {
    pub(super) name: String,
    pub(super) shape: (usize, usize),
    pub(super) treatments: Vec<Treatment>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(source: &'a dyn Checkpoint, options: &'a PruneOptions, budget: Budget) -> Result<Self, Error> {
        let config = shortened(source, options.shortlist.as_ref())?;
        let items = items(source, &config, options, budget);
        Ok(Candidates { source, config, options, budget, items })
    }

    /// All of them: an item is known by its place.
    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    /// Refuses a budget that no mix can keep, before anything is measured.
    pub(super) fn check(&self) -> Result<(), Error> {
        let bytes = self.bytes()?;
        let (limit, fixed) = self.limit(&bytes)?;
        let least = fixed + bytes.iter().filter_map(|of_item| of_item.iter().min()).sum::<u64>();
        if least > limit { Err(Error::TooSmall { limit, least }) } else { Ok(()) }
    }

    /// The mix that loses least by these measures, which must have every item.
    pub(super) fn cheapest(&self, sensitivity: &Sensitivity) -> Result<Allocation, Error> {
        let bytes = self.bytes()?;
        let (limit, fixed) = self.limit(&bytes)?;
        let choices_of = |(item, bytes): (&Item, &Vec<u64>)| -> Result<Vec<Choice>, Error> {
            let losses = item.losses(sensitivity).ok_or_else(|| missing(&item.name))?;
            Ok(bytes.iter().zip(losses).map(|(&bytes, loss)| Choice { bytes, loss }).collect())
        };
        let choices = self.items.iter().zip(&bytes).map(choices_of).collect::<Result<Vec<_>, Error>>()?;
        let chosen = mix::cheapest(&choices, limit.saturating_sub(fixed));
        let chosen = chosen.map_err(|least| Error::TooSmall { limit, least: least + fixed })?;
        let mut allocation = Allocation::default();
        for (item, choice) in self.items.iter().zip(chosen) {
            let treatment = item.treatments[choice];
            if item.is_in_layer() {
                allocation.matrices.insert(item.name.clone(), treatment);
            } else {
                allocation.tables.insert(item.name.clone(), treatment.values);
            }
        }
        Ok(allocation)
    }

    /// Of each item, those of each treatment that count.
    fn bytes(&self) -> Result<Vec<Vec<u64>>, Error> {
        let of_item = |item: &Item| {
            let shape = counted(item, &self.config, self.budget);
            item.treatments.iter().map(|treatment| self.bytes_of(*treatment, shape)).collect()
        };
        self.items.iter().map(of_item).collect()
    }

    fn bytes_of(&self, treatment: Treatment, shape: (usize, usize)) -> Result<u64, Error> {
        let (encoding, group) = (treatment.encoding(shape.1)?, self.options.group_of_method());
        let (bytes, starts) = plan::bytes_of(encoding, treatment.pattern, group, shape);
        Ok(bytes + starts)
    }

    /// The bytes there are, and those of them that no choice changes.
    fn limit(&self, bytes: &[Vec<u64>]) -> Result<(u64, u64), Error> {
        Ok(match self.budget {
            Budget::File(limit) => (limit, self.fixed_bytes(bytes)?),
            Budget::Token(limit) => (limit, 0),
            Budget::OfUniform => (self.uniform_bytes()?, 0),
        })
    }

    /// Of a file, what is no item's, and some room: sections are padded, and a row of sparse q4 takes a little more or less
    /// than foreseen.
    fn fixed_bytes(&self, bytes: &[Vec<u64>]) -> Result<u64, Error> {
        let (matrices, tables): (Vec<&Item>, Vec<&Item>) = self.items.iter().partition(|item| item.is_in_layer());
        let first = Allocation {
            matrices: matrices.into_iter().map(|item| (item.name.clone(), item.treatments[0])).collect(),
            tables: tables.into_iter().map(|item| (item.name.clone(), item.treatments[0].values)).collect(),
        };
        let options = PruneOptions { allocation: first, ..self.options.clone() };
        let counted: u64 = bytes.iter().map(|of_item| of_item[0]).sum();
        let of_file = plan(self.source, &options, 1, 1)?.file_bytes;
        Ok((of_file - counted) + (1 << 17) + of_file / 1000)
    }

    /// Of the items as they are when all are treated the same.
    fn uniform_bytes(&self) -> Result<u64, Error> {
        let bytes = |item: &Item| {
            let treatment = match item.is_in_layer() {
                true => self.options.treatment(&item.name),
                false => Treatment::dense(self.options.head),
            };
            self.bytes_of(treatment, item.shape)
        };
        self.items.iter().map(bytes).sum()
    }
}

impl Item {
    pub(super) fn is_known(&self, sensitivity: &Sensitivity) -> bool {
        self.losses(sensitivity).is_some()
    }

    /// Of each treatment, if they are known; where there is no choice they do not matter.
    fn losses(&self, sensitivity: &Sensitivity) -> Option<Vec<f64>> {
        match &self.treatments[..] {
            [_] => Some(vec![0.0]),
            treatments => sensitivity.losses(&self.name, treatments),
        }
    }

    fn is_in_layer(&self) -> bool {
        self.name.starts_with("blk.")
    }
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

/// The shape of what counts of an item: all of it in a file; for a token, of the embedding what is the head too.
fn counted(item: &Item, config: &Config, budget: Budget) -> (usize, usize) {
    let rows = match (budget, &item.name[..]) {
        (Budget::Token(_), "token_embd.weight") if config.tied_head => config.head_rows(),
        (Budget::Token(_), "token_embd.weight") => 0,
        _ => item.shape.0,
    };
    (rows, item.shape.1)
}

/// What is measured of a matrix of `cols` columns: all that a size or a sparsity to share out may choose of, so that one file of
/// measures serves both. Trying one more is cheap beside the rest.
pub(super) fn measured(cols: usize, options: &PruneOptions) -> Vec<Treatment> {
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
