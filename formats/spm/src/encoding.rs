//! How the values of a tensor lie in the file, one name and one number each.

/// Weights that share one scale.
pub const BLOCK: usize = 32;

/// The encodings of version 1. Numbers are for ever; a new encoding takes a new number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Encoding {
    /// Dense IEEE single.
    F32 = 0,
    /// Dense IEEE half.
    F16 = 1,
    /// Dense, 32 weights a block: f16 scale and 32 `i8`; weight = scale * code.
    Q8 = 2,
    /// Dense, 32 weights a block: f16 scale and 32 nibbles; weight = scale * (nibble - 8).
    Q4 = 3,
    /// Bitmask and the kept values as IEEE half.
    SparseF16 = 16,
    /// Bitmask, f16 scale per 32 columns, the kept codes as `i8`.
    SparseQ8 = 17,
    /// Bitmask, f16 scale per 32 columns, the kept codes as nibbles, numbers of one of 16 levels.
    SparseQ4 = 18,
}

impl Encoding {
    /// Every encoding, in order of its number.
    pub const ALL: [Encoding; 7] =
        [Self::F32, Self::F16, Self::Q8, Self::Q4, Self::SparseF16, Self::SparseQ8, Self::SparseQ4];

    /// The encoding with this number in a file.
    pub fn from_number(n: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|e| *e as u16 == n)
    }

    /// The name shown to people, such as `sparse-q8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
            Self::SparseF16 => "sparse-f16",
            Self::SparseQ8 => "sparse-q8",
            Self::SparseQ4 => "sparse-q4",
        }
    }

    /// Whether rows carry a mask and have lengths of their own.
    pub fn is_sparse(self) -> bool {
        self as u16 >= 16
    }

    /// Whether the codes are integers with a scale, so that int8 activations apply.
    pub fn is_integer(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::SparseF16)
    }
}
