//! ggml's tensor types: which number means what, and how many bytes a block takes.
//!
//! Types that ggml knows and this crate does not expand have names too, so that they are refused by name.

/// A tensor type that this crate can expand, with ggml's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum GgmlType {
    /// IEEE single.
    F32 = 0,
    /// IEEE half.
    F16 = 1,
    /// 32 weights: f16 scale, nibbles around 8.
    Q4_0 = 2,
    /// 32 weights: f16 scale and minimum, nibbles.
    Q4_1 = 3,
    /// 32 weights: f16 scale, 5-bit codes around 16.
    Q5_0 = 6,
    /// 32 weights: f16 scale and minimum, 5-bit codes.
    Q5_1 = 7,
    /// 32 weights: f16 scale, 8-bit codes.
    Q8_0 = 8,
    /// 256 weights in 16 groups: 4-bit scales and minima, 2-bit codes.
    Q2K = 10,
    /// 256 weights in 16 groups: 6-bit scales, 3-bit codes.
    Q3K = 11,
    /// 256 weights in 8 groups: 6-bit scales and minima, 4-bit codes.
    Q4K = 12,
    /// 256 weights in 8 groups: 6-bit scales and minima, 5-bit codes.
    Q5K = 13,
    /// 256 weights in 16 groups: 8-bit scales, 6-bit codes.
    Q6K = 14,
    /// 32 weights: f16 scale, 4-bit indices into a table.
    Iq4Nl = 20,
    /// The upper half of an IEEE single.
    Bf16 = 30,
}

impl GgmlType {
    /// Every type that can be expanded.
    pub const ALL: [GgmlType; 14] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
    ];

    /// The type with this number in a file.
    pub fn from_number(n: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as u32 == n)
    }

    /// ggml's name, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        name_of(self as u32).unwrap_or("?")
    }

    /// Weights of a block.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Iq4Nl => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 | Self::Iq4Nl => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes of a row of `cols` weights; `None` if that is not whole blocks.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }
}

/// ggml's name for any number it has ever given out.
pub(crate) fn name_of(n: u32) -> Option<&'static str> {
    const NAMES: [&str; 43] = [
        "F32",
        "F16",
        "Q4_0",
        "Q4_1",
        "Q4_2",
        "Q4_3",
        "Q5_0",
        "Q5_1",
        "Q8_0",
        "Q8_1",
        "Q2_K",
        "Q3_K",
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "Q8_K",
        "IQ2_XXS",
        "IQ2_XS",
        "IQ3_XXS",
        "IQ1_S",
        "IQ4_NL",
        "IQ3_S",
        "IQ2_S",
        "IQ4_XS",
        "I8",
        "I16",
        "I32",
        "I64",
        "F64",
        "IQ1_M",
        "BF16",
        "Q4_0_4_4",
        "Q4_0_4_8",
        "Q4_0_8_8",
        "TQ1_0",
        "TQ2_0",
        "IQ4_NL_4_4",
        "IQ4_NL_4_8",
        "IQ4_NL_8_8",
        "MXFP4",
        "NVFP4",
        "Q1_0",
        "Q2_0",
    ];
    NAMES.get(usize::try_from(n).ok()?).copied()
}
