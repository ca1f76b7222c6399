//! What every opened model must respect, so that no size computed from its shape can overflow.

use crate::config::{Config, LayerRope, limits};
use crate::error::Error;
use crate::rope::Rope;

impl Config {
    /// Refuses shapes that no decoder has, naming the field, its value and the bound.
    pub fn validate(&self) -> Result<(), Error> {
        within("n_layers", self.n_layers, limits::LAYERS)?;
        within("dim", self.dim, limits::WIDTH)?;
        within("hidden_dim", self.hidden_dim, limits::WIDTH)?;
        within("n_heads", self.n_heads, limits::HEADS)?;
        within("n_kv_heads", self.n_kv_heads, self.n_heads)?;
        within("head_dim", self.head_dim, limits::WIDTH / self.n_heads)?;
        within("vocab_size", self.vocab_size, limits::VOCAB)?;
        within("context_len", self.context_len, limits::CONTEXT)?;
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return refuse(
                "n_kv_heads",
                self.n_kv_heads.to_string(),
                &format!("a divisor of n_heads, {}", self.n_heads),
            );
        }
        check_rope(&self.rope, self.head_dim)?;
        self.local_rope.as_ref().map_or(Ok(()), |rope| check_rope(rope, self.head_dim))?;
        self.check_layers()?;
        self.check_scales()?;
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return refuse("norm_eps", self.norm_eps.to_string(), "a finite number, zero or more");
        }
        self.shortlist.as_ref().map_or(Ok(()), |list| list.check_ids(self.vocab_size))
    }

    fn check_layers(&self) -> Result<(), Error> {
        let (n, layers) = (self.layers.len(), self.n_layers);
        if n != 0 && n != layers {
            return refuse("layers", format!("{n} entries"), &format!("one for each of the {layers} layers, or none"));
        }
        if let Some(window) = self.window {
            within("window", window, limits::CONTEXT)?;
        }
        if self.window.is_none() && self.layers.iter().any(|kind| kind.windowed) {
            return refuse("window", "none".into(), "a number of positions, as there are windowed layers");
        }
        if self.local_rope.is_none() && self.layers.iter().any(|kind| kind.rope == LayerRope::Local) {
            return refuse("local_rope", "none".into(), "one, as there are layers that name it");
        }
        Ok(())
    }

    fn check_scales(&self) -> Result<(), Error> {
        let s = &self.scales;
        let factors = [
            ("scales.embedding", Some(s.embedding)),
            ("scales.residual", Some(s.residual)),
            ("scales.attention", s.attention),
            ("scales.logits", Some(s.logits)),
            ("scales.attention_cap", s.attention_cap),
            ("scales.logits_cap", s.logits_cap),
        ];
        match factors.into_iter().find_map(|(key, v)| Some((key, v.filter(|v| !is_positive(*v))?))) {
            Some((key, value)) => refuse(key, value.to_string(), "a finite number above zero"),
            None => Ok(()),
        }
    }
}

fn check_rope(rope: &Rope, head_dim: usize) -> Result<(), Error> {
    within("rope.dims", rope.dims, head_dim)?;
    if !rope.dims.is_multiple_of(2) {
        return refuse("rope.dims", rope.dims.to_string(), "an even number");
    }
    if !rope.freq_factors.is_empty() {
        check_factors("rope.freq_factors", &rope.freq_factors, rope.dims)?;
    }
    if let Some(long) = &rope.long {
        within("rope.long.trained", long.trained, limits::CONTEXT)?;
        check_factors("rope.long.freq_factors", &long.freq_factors, rope.dims)?;
    }
    if !is_positive(rope.base) {
        return refuse("rope.base", rope.base.to_string(), "a finite number above zero");
    }
    if !is_positive(rope.attn_scale) {
        return refuse("rope.attn_scale", rope.attn_scale.to_string(), "a finite number above zero");
    }
    Ok(())
}

fn check_factors(key: &'static str, factors: &[f32], dims: usize) -> Result<(), Error> {
    if factors.len() != dims / 2 {
        return refuse(key, format!("{} entries", factors.len()), &format!("rope.dims / 2 = {} entries", dims / 2));
    }
    if !factors.iter().all(|&f| is_positive(f)) {
        return refuse(key, "a factor that is not".into(), "finite and above zero");
    }
    Ok(())
}

fn within(key: &'static str, value: usize, max: usize) -> Result<(), Error> {
    if value == 0 || value > max {
        return refuse(key, value.to_string(), &format!("1 to {max}"));
    }
    Ok(())
}

fn is_positive(v: f32) -> bool {
    v.is_finite() && v > 0.0
}

fn refuse(key: &'static str, value: String, expected: &str) -> Result<(), Error> {
    Err(Error::Config { key, value, expected: expected.to_owned() })
}
