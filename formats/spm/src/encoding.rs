//! How the values of a tensor lie in the file, one name and one number each.

/// Weights that share one scale.
pub const BLOCK: usize = 32;

/// Columns whose bits and nibbles lie together: two blocks, what the widest register holds.
pub const CHUNK: usize = 64;

/// The encodings of version 2. Numbers are for ever; a new encoding takes a new number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Encoding {
    /// Dense IEEE single.
    F32 = 0,
    /// Dense IEEE half.
    F16 = 1,
    /// Dense, f16 scale and 32 `i8` a block; weight = scale * code. Holds what ggml's Q8_0 holds.
    Q8 = 2,
    /// Dense, f16 scale and 32 nibbles a block; weight = scale * (nibble - 8). Holds what ggml's Q4_0 holds.
    Q4 = 3,
    /// Dense, f16 scale and 32 codes of 5 bits a block; weight = scale * (code - 16). Holds what ggml's Q5_0 holds.
    Q5 = 4,
    /// Any mask; the kept values as IEEE half.
    SparseF16 = 16,
    /// Any mask; the kept codes as `i8`.
    SparseQ8 = 17,
    /// Any mask; the kept codes as nibbles, numbers of one of 16 levels.
    SparseQ4 = 18,
    /// 2 kept of every 4, codes as `i8`, places instead of a mask: activations are gathered.
    Q8Keep2Of4 = 28,
    /// 2 kept of every 4, codes as nibbles, places instead of a mask: activations are gathered.
    Q4Keep2Of4 = 29,
}

/// Where the scales of blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleKind {
    /// None: values are numbers themselves.
    None,
    /// An f16 a block: exact for models that were quantized so.
    Half,
    /// An f32 a row and an i8 a block, their product being the scale: half the bytes, and no error that shows.
    Row,
}

impl Encoding {
    /// Every encoding, in order of its number.
    pub const ALL: [Encoding; 10] = [
        Self::F32,
        Self::F16,
        Self::Q8,
        Self::Q4,
        Self::Q5,
        Self::SparseF16,
        Self::SparseQ8,
        Self::SparseQ4,
        Self::Q8Keep2Of4,
        Self::Q4Keep2Of4,
    ];

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
            Self::Q5 => "q5",
            Self::SparseF16 => "sparse-f16",
            Self::SparseQ8 => "sparse-q8",
            Self::SparseQ4 => "sparse-q4",
            Self::Q8Keep2Of4 => "2:4-q8",
            Self::Q4Keep2Of4 => "2:4-q4",
        }
    }

    /// Whether only kept weights are stored.
    pub fn is_sparse(self) -> bool {
        self as u16 >= 16
    }

    /// Whether rows have lengths of their own and so a table of where they begin.
    pub fn has_row_starts(self) -> bool {
        matches!(self, Self::SparseF16 | Self::SparseQ8 | Self::SparseQ4)
    }

    /// Kept of how many neighbours, where that is the same everywhere: columns then come in whole chunks.
    pub fn fixed_pattern(self) -> Option<(usize, usize)> {
        match self {
            Self::Q8Keep2Of4 | Self::Q4Keep2Of4 => Some((2, 4)),
            _ => None,
        }
    }

    /// Whether the first plane has a bit a column: which weights are kept, or (q5) the highest bits of codes.
    pub fn has_bits(self) -> bool {
        self.is_sparse() || self == Self::Q5
    }

    /// Whether the codes are integers with a scale, so that int8 activations apply.
    pub fn is_integer(self) -> bool {
        self.scale_kind() != ScaleKind::None
    }

    /// Where the scales of blocks are.
    pub fn scale_kind(self) -> ScaleKind {
        match self {
            Self::F32 | Self::F16 | Self::SparseF16 => ScaleKind::None,
            Self::Q8 | Self::Q4 | Self::Q5 => ScaleKind::Half,
            _ => ScaleKind::Row,
        }
    }
}
