//! What becomes of each matrix: its pattern and how its weights are stored.

use std::collections::BTreeMap;

use spm::{CHUNK, Encoding};

use crate::error::Error;
use crate::pattern::Pattern;

/// How a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// IEEE half.
    F16,
    /// 8 bits, a scale for every 32 columns.
    Q8,
    /// 5 bits, a scale for every 32 columns; only for what is not pruned.
    Q5,
    /// 4 bits, a scale for every 32 columns.
    Q4,
}

/// What becomes of one matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Treatment {
    /// How many of its weights go, in which shape.
    pub pattern: Pattern,
    /// How those that stay are stored.
    pub values: ValueType,
}

/// Tensors that are treated otherwise than the rest of a model, by GGUF's names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation {
    /// Matrices of the decoder layers.
    pub matrices: BTreeMap<String, Treatment>,
    /// The embedding and the output head.
    pub tables: BTreeMap<String, ValueType>,
}

impl Treatment {
    /// Nothing goes.
    pub fn dense(values: ValueType) -> Self {
        Treatment { pattern: Pattern::Unstructured { sparsity: 0.0 }, values }
    }

    /// Refuses a pattern without sense, and what has no encoding.
    pub fn check(self, cols: usize) -> Result<(), Error> {
        self.pattern.checked()?;
        self.encoding(cols).map(|_| ())
    }

    /// The encoding of a matrix of `cols` columns.
    pub fn encoding(self, cols: usize) -> Result<Encoding, Error> {
        if self.pattern.is_dense() { Ok(self.values.dense()) } else { self.values.sparse(self.pattern, cols) }
    }
}

/// Such as `unstructured 0.5 q4`, `2:4 q8` or `q5`.
impl std::fmt::Display for Treatment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pattern {
            pattern if pattern.is_dense() => write!(f, "{}", self.values),
            Pattern::Unstructured { sparsity } => write!(f, "unstructured {sparsity} {}", self.values),
            pattern => write!(f, "{pattern} {}", self.values),
        }
    }
}

impl ValueType {
    /// The encoding of a matrix that is not pruned.
    pub fn dense(self) -> Encoding {
        match self {
            ValueType::F16 => Encoding::F16,
            ValueType::Q8 => Encoding::Q8,
            ValueType::Q5 => Encoding::Q5,
            ValueType::Q4 => Encoding::Q4,
        }
    }

    /// The encoding of a matrix of `cols` columns that is pruned in `pattern`: 2:4 has its own, others are masks.
    pub fn sparse(self, pattern: Pattern, cols: usize) -> Result<Encoding, Error> {
        let is_2_of_4 = pattern == Pattern::KeepNofM { n: 2, m: 4 } && cols.is_multiple_of(CHUNK);
        let (q8, q4) = match is_2_of_4 {
            true => (Encoding::Q8Keep2Of4, Encoding::Q4Keep2Of4),
            false => (Encoding::SparseQ8, Encoding::SparseQ4),
        };
        match self {
            ValueType::F16 => Ok(Encoding::SparseF16),
            ValueType::Q8 => Ok(q8),
            ValueType::Q4 => Ok(q4),
            ValueType::Q5 => Err(Error::option(
                "type of pruned values",
                "q5",
                "`f16`, `q8` or `q4`; q5 is for the embedding, the head, and layers that stay dense",
            )),
        }
    }
}

impl std::str::FromStr for ValueType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "f16" => Ok(ValueType::F16),
            "q8" => Ok(ValueType::Q8),
            "q5" => Ok(ValueType::Q5),
            "q4" => Ok(ValueType::Q4),
            _ => Err(Error::option("value type", text, "`f16`, `q8`, `q5` or `q4`")),
        }
    }
}

impl std::fmt::Display for ValueType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.dense().name())
    }
}
