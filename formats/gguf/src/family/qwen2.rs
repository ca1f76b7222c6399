//! Qwen 1.5 to 2.5, Qwen2.5-Coder among them: biases on queries, keys and values; rotary pairs half a head apart.

use spm::RopeLayout;

use super::{Bias, Family};

pub(super) const FAMILY: Family = Family { name: "qwen2", rope: RopeLayout::Halves, qkv_bias: Bias::Always };
