//! Llama 1 to 3, SmolLM, and what shares their layers (TinyLlama, StarCoder-like Llamas, DeepSeek-Coder 1).
//!
//! GGUF converters permute the query and key rows of these models so that rotary pairs are neighbours.

use spm::RopeLayout;

use super::{Bias, Family};

pub(super) const FAMILY: Family = Family { name: "llama", rope: RopeLayout::Interleaved, qkv_bias: Bias::IfPresent };
