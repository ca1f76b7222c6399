//! Rotary scaling as llama.cpp applies it, folded into one divisor a frequency and one factor.
//!
//! Linear divides every frequency alike; Llama 3 brings its divisors as a tensor; YaRN blends from one to the
//! other by frequency. LongRoPE has divisors for short and for long texts, each a tensor.

use spm::{Config, LongRope, Rope, RopeLayout, Yarn};

use super::Source;
use crate::error::Error;

/// The tensor of Llama 3's divisors.
pub(super) const FACTORS: &str = "rope_freqs.weight";
/// Those of LongRoPE.
pub(super) const LONG: &str = "rope_factors_long.weight";
pub(super) const SHORT: &str = "rope_factors_short.weight";

pub(super) fn resolve(source: &Source, config: &Config, layout: RopeLayout) -> Result<Rope, Error> {
    let dims = source.count("rope.dimension_count")?.unwrap_or(config.head_dim);
    let base = source.f32("rope.freq_base")?.unwrap_or(10_000.0);
    let mut rope = Rope::new(base, dims, layout);
    if let Some(factors) = source.values(SHORT, spm::limits::WIDTH)? {
        rope.freq_factors = factors;
        rope.attn_scale = source.f32("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let trained = source.count("rope.scaling.original_context_length")?.unwrap_or(config.context_len);
        rope.long = source.values(LONG, spm::limits::WIDTH)?.map(|freq_factors| LongRope { trained, freq_factors });
        return Ok(rope);
    }
    rope.freq_factors = source.values(FACTORS, spm::limits::WIDTH)?.unwrap_or_default();
    scale(source, config, &mut rope)?;
    Ok(rope)
}

fn scale(source: &Source, config: &Config, rope: &mut Rope) -> Result<(), Error> {
    let key = source.key("rope.scaling.type");
    match source.keys.text(&key)?.unwrap_or("linear") {
        "none" => {}
        "linear" => rope.scale_linear(factor(source)?),
        "llama3" if !rope.freq_factors.is_empty() => {}
        "llama3" => {
            let problem = format!("is llama3 but tensor `{FACTORS}` is missing; convert the model again");
            return source.keys.refuse(&key, problem);
        }
        "yarn" => return scale_yarn(source, config, rope),
        other => {
            let problem = format!("is `{}`; known are none, linear, llama3, yarn", crate::error::shown(other));
            return source.keys.refuse(&key, problem);
        }
    }
    rope.attn_scale = source.f32("rope.scaling.attn_factor")?.unwrap_or(1.0);
    Ok(())
}

/// By how much positions are stretched; 1 when the file does not say.
fn factor(source: &Source) -> Result<f32, Error> {
    let factor = match source.f32("rope.scaling.factor")? {
        Some(f) => f,
        None => source.f32("rope.scale_linear")?.unwrap_or(0.0),
    };
    Ok(if factor == 0.0 { 1.0 } else { factor })
}

fn scale_yarn(source: &Source, config: &Config, rope: &mut Rope) -> Result<(), Error> {
    for (name, neutral) in [("yarn_ext_factor", 1.0), ("yarn_log_multiplier", 0.0)] {
        let name = format!("rope.scaling.{name}");
        if let Some(v) = source.f32(&name)?.filter(|v| *v != neutral) {
            let problem = format!("is {v}, expected {neutral}; this kind of YaRN is not supported");
            return source.keys.refuse(&source.key(&name), problem);
        }
    }
    let factor = factor(source)?;
    let trained = source.count("rope.scaling.original_context_length")?.unwrap_or(config.context_len) as f32;
    let fast = source.f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0);
    let slow = source.f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0);
    rope.scale_yarn(Yarn { factor, trained, fast, slow });
    let own = source.f32("rope.scaling.attn_factor")?.unwrap_or(1.0);
    rope.attn_scale = own * if factor > 1.0 { 1.0 + 0.1 * factor.ln() } else { 1.0 };
    Ok(())
}
