//! Rotary scaling as transformers applies it, folded into one divisor a frequency and one factor.
//!
//! Newer files have `rope_parameters` with the base in it, older ones `rope_scaling` and `rope_theta`. Dynamic scaling begins
//! past the trained context, which is where ours ends. LongRoPE has divisors for short and for long texts.

use spm::{Config, Llama3, LongRope, Rope, RopeLayout, Yarn};

use crate::error::{Error, shown};
use crate::json::Json;

/// Sets the rotary embedding of `config`, and its context where scaling changes that.
pub(super) fn resolve(json: Json, config: &mut Config) -> Result<(), Error> {
    let parameters = match json.object("rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => json.object("rope_scaling")?,
    };
    resolve_with(json, parameters, 10_000.0, config)
}

/// The same from `parameters`, where `base` is the family's own.
pub(super) fn resolve_with(json: Json, parameters: Option<Json>, base: f32, config: &mut Config) -> Result<(), Error> {
    config.rope = plain(json, parameters, base, config.head_dim)?;
    parameters.map_or(Ok(()), |parameters| scale(json, parameters, config))
}

/// Rotation without scaling, with the base and the share of dimensions that `parameters` or the file have.
fn plain(json: Json, parameters: Option<Json>, base: f32, head_dim: usize) -> Result<Rope, Error> {
    let either = |key: &str| {
        let inner = parameters.map_or(Ok(None), |parameters| parameters.f32(key))?;
        Ok::<_, Error>(inner.or(json.f32(key)?))
    };
    let share = either("partial_rotary_factor")?.or(json.f32("rotary_pct")?).unwrap_or(1.0);
    let base = either("rope_theta")?.or(json.f32("rotary_emb_base")?).unwrap_or(base);
    Ok(Rope::new(base, (head_dim as f32 * share) as usize, RopeLayout::Halves))
}

fn scale(json: Json, parameters: Json, config: &mut Config) -> Result<(), Error> {
    let kind = match parameters.text("rope_type")? {
        Some(kind) => Some(kind),
        None => parameters.text("type")?,
    };
    match kind.unwrap_or("default") {
        "default" | "dynamic" => Ok(()),
        "linear" => {
            config.rope.scale_linear(factor(parameters)?);
            Ok(())
        }
        "llama3" => scale_llama3(parameters, config),
        "yarn" => scale_yarn(json, parameters, config),
        "longrope" | "su" => scale_long(json, parameters, config),
        other => {
            let known = "default, linear, dynamic, llama3, yarn, longrope";
            parameters.refuse("rope_type", format!("is `{}`; known are {known}", shown(other)))
        }
    }
}

fn factor(parameters: Json) -> Result<f32, Error> {
    let factor = parameters.f32("factor")?.ok_or_else(|| parameters.missing("factor"))?;
    match factor.is_finite() && factor >= 1.0 {
        true => Ok(factor),
        false => parameters.refuse("factor", format!("is {factor}, expected 1 or more")),
    }
}

fn trained(json: Json, parameters: Json) -> Result<Option<usize>, Error> {
    const KEY: &str = "original_max_position_embeddings";
    Ok(parameters.count(KEY)?.or(json.count(KEY)?))
}

fn scale_llama3(parameters: Json, config: &mut Config) -> Result<(), Error> {
    let number = |key: &str| parameters.f32(key)?.ok_or_else(|| parameters.missing(key));
    let trained = number("original_max_position_embeddings")?;
    let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
    if low.partial_cmp(&high) != Some(std::cmp::Ordering::Less) {
        return parameters.refuse("low_freq_factor", format!("is {low}, expected less than high_freq_factor, {high}"));
    }
    config.rope.scale_llama3(Llama3 { factor: factor(parameters)?, low, high, trained });
    Ok(())
}

fn scale_yarn(json: Json, parameters: Json, config: &mut Config) -> Result<(), Error> {
    let factor = factor(parameters)?;
    let trained = trained(json, parameters)?.unwrap_or(config.context_len);
    if parameters.bool("truncate")? == Some(false) {
        return parameters.refuse("truncate", "is false, expected none; this kind of YaRN is not supported");
    }
    let fast = parameters.f32("beta_fast")?.unwrap_or(32.0);
    let slow = parameters.f32("beta_slow")?.unwrap_or(1.0);
    config.rope.scale_yarn(Yarn { factor, trained: trained as f32, fast, slow });
    let size = |scale: f32| if factor > 1.0 { 0.1 * scale * factor.ln() + 1.0 } else { 1.0 };
    let by_scales = match (parameters.f32("mscale")?, parameters.f32("mscale_all_dim")?) {
        (Some(one), Some(all)) if one != 0.0 && all != 0.0 => size(one) / size(all),
        _ => size(1.0),
    };
    config.rope.attn_scale = parameters.f32("attention_factor")?.unwrap_or(by_scales);
    config.context_len = config.context_len.max((trained as f32 * factor) as usize);
    Ok(())
}

fn scale_long(json: Json, parameters: Json, config: &mut Config) -> Result<(), Error> {
    let factors = |key: &str| parameters.floats(key)?.ok_or_else(|| parameters.missing(key));
    let trained = trained(json, parameters)?.unwrap_or(config.context_len);
    let longer = config.context_len as f32 / trained as f32;
    let by_length = if longer > 1.0 { (1.0 + longer.ln() / (trained as f32).ln()).sqrt() } else { 1.0 };
    config.rope.attn_scale = parameters.f32("attention_factor")?.unwrap_or(by_length);
    config.rope.freq_factors = factors("short_factor")?;
    config.rope.long = Some(LongRope { trained, freq_factors: factors("long_factor")? });
    Ok(())
}
