//! How a model is pruned, and what follows from it for a matrix.

use spm::{Config, Shortlist};

use crate::allocation::{Allocation, Treatment, ValueType};
use crate::error::Error;
use crate::method::{Method, Needs, by_name};
use crate::pattern::{Group, Pattern};
use crate::plan;
use crate::provenance::sha256_of_windows;
use crate::states::Residence;
use crate::tensors::{layer_matrices, tables};

/// How a model is pruned.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// Which weights go.
    pub method: &'static dyn Method,
    /// How many of them, in which shape.
    pub pattern: Pattern,
    /// Among which weights scores are compared; `None` for the method's own choice.
    pub group: Option<Group>,
    /// Whether the kept weights are fitted anew, by least squares, after any mask.
    pub refit: bool,
    /// How weights become codes.
    pub rounding: RoundingKind,
    /// Tensors whose name contains one of these stay dense, in the encoding of the values.
    pub ignore: Vec<String>,
    /// How the decoder layers' weights are stored.
    pub values: ValueType,
    /// How the embedding and the output head are stored; they are never pruned.
    pub head: ValueType,
    /// What is treated otherwise.
    pub allocation: Allocation,
    /// The tokens that the output head keeps rows for; all if `None`.
    pub shortlist: Option<Shortlist>,
    /// Threads; 0 counts as 1.
    pub threads: usize,
    /// Where hidden states are meanwhile.
    pub residence: Residence,
}

/// How weights become the codes that are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoundingKind {
    /// Compensated where the method has products of inputs anyway, else to the nearest.
    #[default]
    Auto,
    /// Each to the nearest.
    Nearest,
    /// What rounding one changes is made up for in others.
    Compensated,
}

/// Wanda at 50 %, values in f16, head in q8.
impl Default for PruneOptions {
    fn default() -> Self {
        PruneOptions {
            method: crate::method::METHODS[0],
            pattern: Pattern::Unstructured { sparsity: 0.5 },
            group: None,
            refit: false,
            rounding: RoundingKind::Auto,
            ignore: Vec::new(),
            values: ValueType::F16,
            head: ValueType::Q8,
            allocation: Allocation::default(),
            shortlist: None,
            threads: 1,
            residence: Residence::default(),
        }
    }
}

impl PruneOptions {
    /// Refuses options that make no sense for a model of this shape.
    pub fn check(&self, config: &Config) -> Result<(), Error> {
        self.everywhere().check(config.dim)?;
        let matrices: Vec<(String, usize)> = layer_matrices(config).map(|(name, (_, cols))| (name, cols)).collect();
        matrices.iter().try_for_each(|(name, cols)| self.treatment(name).check(*cols))?;
        let tables: Vec<String> = tables(config).map(|(name, ..)| name).collect();
        let other_matrix = self.allocation.matrices.keys().find(|name| !matrices.iter().any(|(n, _)| n == *name));
        let other_table = self.allocation.tables.keys().find(|name| !tables.contains(name));
        if let Some(name) = other_matrix.or(other_table) {
            return Err(Error::option("tensor to treat otherwise", name, "a matrix of this model"));
        }
        match self.ignore.iter().find(|p| !matrices.iter().any(|(name, _)| name.contains(p.as_str()))) {
            Some(pattern) => Err(Error::NothingIgnored { pattern: pattern.clone() }),
            None => Ok(()),
        }
    }

    /// What becomes of the matrices that nothing else is said of.
    fn everywhere(&self) -> Treatment {
        Treatment { pattern: self.pattern, values: self.values }
    }

    /// What becomes of matrix `tensor`.
    pub fn treatment(&self, tensor: &str) -> Treatment {
        let allocated = self.allocation.matrices.get(tensor).copied();
        match self.ignores(tensor) {
            false => allocated.unwrap_or(self.everywhere()),
            true => allocated.filter(|t| t.pattern.is_dense()).unwrap_or(Treatment::dense(self.values)),
        }
    }

    /// Whether `tensor` is to stay dense whatever becomes of others.
    pub(crate) fn ignores(&self, tensor: &str) -> bool {
        self.ignore.iter().any(|p| tensor.contains(p.as_str()))
    }

    /// How `table`, the embedding or the head, is stored.
    pub fn table_values(&self, table: &str) -> ValueType {
        self.allocation.tables.get(table).copied().unwrap_or(self.head)
    }

    /// Whether calibration windows will be looked at.
    pub fn needs_calibration(&self) -> bool {
        self.needs() != Needs::Nothing
    }

    /// Statistics that will be gathered.
    pub fn needs(&self) -> Needs {
        let others = self.allocation.matrices.values().map(|t| self.needs_of(*t));
        others.fold(self.needs_of(self.everywhere()), Needs::max)
    }

    /// Statistics that a matrix needs.
    fn needs_of(&self, treatment: Treatment) -> Needs {
        match treatment.pattern.is_dense() {
            true if self.compensates(treatment) => Needs::Gram.max(self.method.needs()),
            true => Needs::Nothing,
            false if self.compensates(treatment) || self.refit => Needs::Gram.max(self.method.needs()),
            false => self.method.needs(),
        }
    }

    /// Whether rounding is compensated.
    pub(crate) fn compensates(&self, treatment: Treatment) -> bool {
        match self.rounding {
            RoundingKind::Auto => self.method.needs() >= Needs::Gram && treatment.values != ValueType::F16,
            RoundingKind::Nearest => false,
            RoundingKind::Compensated => treatment.values != ValueType::F16,
        }
    }

    /// Work of a weight of matrix `tensor` of `shape`, rows and columns: scoring, selecting, encoding, reading back, and what the method
    /// and compensated rounding add, which is one sweep and four rounds of descent.
    pub(crate) fn cost(&self, tensor: &str, shape: (usize, usize)) -> u64 {
        let cols = shape.1;
        let treatment = self.treatment(tensor);
        let method = if treatment.pattern.is_dense() { 0 } else { self.method.cost(shape) };
        let rounding = if self.compensates(treatment) { 5 * cols as u64 } else { 0 };
        let refit = if self.refit && !treatment.pattern.is_dense() { 30 * cols as u64 } else { 0 };
        plan::PRUNE_COST + method + rounding + refit
    }

    /// All that the result depends on, for people to compare.
    pub(crate) fn facts(&self) -> Vec<(String, String)> {
        let PruneOptions {
            method,
            pattern,
            group,
            refit,
            rounding,
            ignore,
            values,
            head,
            allocation,
            shortlist,
            threads: _,
            residence: _,
        } = self;
        let everywhere = [
            ("method", method.name().to_owned()),
            ("pattern", pattern.to_string()),
            ("sparsity", pattern.sparsity().to_string()),
            ("group", group.map_or("the method's own".to_owned(), |g| g.to_string())),
            ("refit", refit.to_string()),
            ("rounding", rounding.to_string()),
            ("ignored tensors", ignore.join(", ")),
            ("values", values.to_string()),
            ("head", head.to_string()),
            ("shortlist", shortlist.as_ref().map_or("none".to_owned(), said_shortlist)),
        ];
        let everywhere = everywhere.into_iter().map(|(key, value)| (key.to_owned(), value));
        let matrices = allocation.matrices.iter().map(|(name, treatment)| (name.clone(), treatment.to_string()));
        let tables = allocation.tables.iter().map(|(name, values)| (name.clone(), values.to_string()));
        everywhere.chain(matrices).chain(tables).collect()
    }

    /// Among which weights the method compares.
    pub fn group_of_method(&self) -> Group {
        self.group.unwrap_or(self.method.group())
    }

    /// The matrices for which norms of inputs are needed, with their shapes.
    pub fn matrices_with_norms(&self, config: &Config) -> impl Iterator<Item = (String, (usize, usize))> {
        layer_matrices(config).filter(|(name, _)| self.needs_of(self.treatment(name)) == Needs::ColumnNorms)
    }

    /// Takes the method by its name.
    pub fn with_method(mut self, name: &str) -> Result<Self, Error> {
        self.method = by_name(name)?;
        Ok(self)
    }
}

impl std::str::FromStr for RoundingKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(RoundingKind::Auto),
            "nearest" => Ok(RoundingKind::Nearest),
            "compensated" => Ok(RoundingKind::Compensated),
            _ => Err(Error::option("rounding", text, "`auto`, `nearest` or `compensated`")),
        }
    }
}

impl std::fmt::Display for RoundingKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            RoundingKind::Auto => "auto",
            RoundingKind::Nearest => "nearest",
            RoundingKind::Compensated => "compensated",
        })
    }
}

/// How many tokens, and their hash.
fn said_shortlist(list: &Shortlist) -> String {
    format!("{} tokens {}", list.len(), sha256_of_windows(&[list.ids().to_vec()]))
}
