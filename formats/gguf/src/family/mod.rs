//! Model families: how the keys of a GGUF file become a [`Config`]. One file a family, and its entry here.

mod llama;
mod qwen2;

use spm::{Config, Rope, RopeLayout};

use crate::error::Fault;
use crate::reader::{Keys, Tensor};

/// What differs between families of plain decoders.
pub(crate) struct Family {
    /// The value of `general.architecture`, and the prefix of the keys.
    pub(crate) name: &'static str,
    pub(crate) rope: RopeLayout,
    /// Query, key and value projections have biases: always, or if the file has them.
    pub(crate) qkv_bias: Bias,
}

#[derive(PartialEq)]
pub(crate) enum Bias {
    Always,
    IfPresent,
}

const FAMILIES: &[Family] = &[llama::FAMILY, qwen2::FAMILY];

/// Resolves the shape of the model.
pub(crate) fn config(keys: &Keys, tensors: &[Tensor]) -> Result<Config, Fault> {
    const KEY: &str = "general.architecture";
    let name = keys.text(KEY)?.ok_or_else(|| Fault::key(KEY, "is missing; convert the model again"))?;
    let family = FAMILIES.iter().find(|f| f.name == name).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().map(|f| f.name).collect();
        Fault::key(KEY, format!("is `{name}`; known are {}", known.join(", "))).unsupported()
    })?;
    let config = Reader { keys, tensors, family }.config()?;
    match config.validate() {
        Ok(()) => Ok(config),
        Err(spm::Error::Config { key, value, expected }) => {
            Err(Fault::new(format!("model shape, `{key}`"), format!("is {value}, expected {expected}")))
        }
        Err(other) => Err(Fault::new("model shape", other.to_string())),
    }
}

struct Reader<'a> {
    keys: &'a Keys,
    tensors: &'a [Tensor],
    family: &'a Family,
}

impl Reader<'_> {
    fn config(&self) -> Result<Config, Fault> {
        self.refuse_experts()?;
        let n_heads = self.same_in_all_layers("attention.head_count")?;
        let n_heads = n_heads.ok_or_else(|| self.missing("attention.head_count"))?;
        let dim = self.needed("embedding_length")?;
        let mut c = Config::new(
            self.needed("block_count")?,
            dim,
            self.same_in_all_layers("feed_forward_length")?.ok_or_else(|| self.missing("feed_forward_length"))?,
            n_heads,
            self.same_in_all_layers("attention.head_count_kv")?.unwrap_or(n_heads),
        );
        c.head_dim = self.head_dim(dim, n_heads)?;
        c.vocab_size = self.tensor("token_embd.weight").map_or(0, |t| t.rows);
        c.context_len = self.needed("context_length")?;
        let eps = "attention.layer_norm_rms_epsilon";
        c.norm_eps = self.float(eps)?.ok_or_else(|| self.missing(eps))?;
        c.tied_head = self.tensor("output.weight").is_none();
        c.qkv_bias = self.family.qkv_bias == Bias::Always || self.tensor("blk.0.attn_q.bias").is_some();
        c.rope = self.rope(c.head_dim)?;
        Ok(c)
    }

    fn head_dim(&self, dim: usize, n_heads: usize) -> Result<usize, Fault> {
        let key = self.integer("attention.key_length")?;
        let value = self.integer("attention.value_length")?;
        let head_dim = key.unwrap_or(dim.checked_div(n_heads).unwrap_or(0));
        match value {
            Some(v) if v != head_dim => {
                let problem = format!("is {v} and keys have {head_dim}; only equal ones are supported");
                Err(Fault::key(&self.key("attention.value_length"), problem).unsupported())
            }
            _ => Ok(head_dim),
        }
    }

    fn rope(&self, head_dim: usize) -> Result<Rope, Fault> {
        let dims = self.integer("rope.dimension_count")?.unwrap_or(head_dim);
        let mut rope = Rope {
            base: self.float("rope.freq_base")?.unwrap_or(10_000.0),
            dims,
            layout: self.family.rope,
            freq_factors: Vec::new(),
            attn_scale: 1.0,
        };
        let factor = match self.float("rope.scaling.factor")? {
            None => self.float("rope.scale_linear")?,
            factor => factor,
        };
        let factor = factor.filter(|f| *f != 0.0).unwrap_or(1.0);
        let default = if factor == 1.0 { "none" } else { "linear" };
        match self.text("rope.scaling.type")?.unwrap_or(default) {
            "none" => {}
            "linear" if factor == 1.0 => {}
            "linear" => rope.freq_factors = vec![factor; dims / 2],
            "yarn" => self.yarn(&mut rope, factor)?,
            other => {
                let key = self.key("rope.scaling.type");
                let problem = format!("is `{other}`; known are none, linear, yarn, and factors in rope_freqs.weight");
                return Err(Fault::key(&key, problem).unsupported());
            }
        }
        // Llama 3: the converter has put the factors into a tensor.
        if let Some(factors) = self.tensor("rope_freqs.weight") {
            let mut values = vec![0.0; factors.cols];
            factors.kind.expand(&factors.data[..factors.kind.row_bytes(factors.cols).unwrap_or(0)], &mut values);
            rope.freq_factors = values;
        }
        Ok(rope)
    }

    /// Peng et al. 2023 (arXiv 2309.00071), section 3.2, with the constants that ggml uses: fast pairs keep their
    /// frequency, slow ones are slowed down by `factor`, those between by a mixture.
    fn yarn(&self, rope: &mut Rope, factor: f32) -> Result<(), Fault> {
        let key = "rope.scaling.original_context_length";
        let trained = self.integer(key)?.ok_or_else(|| self.missing(key))? as f32;
        let dims = rope.dims as f32;
        let pair_turning =
            |turns: f32| dims * (trained / (turns * 2.0 * std::f32::consts::PI)).ln() / (2.0 * rope.base.ln());
        let fast = self.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0);
        let slow = self.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0);
        let low = pair_turning(fast).floor().max(0.0);
        let high = pair_turning(slow).ceil().min(dims - 1.0);
        let factor_of = |i: usize| {
            let kept = 1.0 - ((i as f32 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            1.0 / ((1.0 - kept) / factor + kept)
        };
        rope.freq_factors = (0..rope.dims / 2).map(factor_of).collect();
        rope.attn_scale = self.float("rope.scaling.attn_factor")?.unwrap_or(1.0) * (1.0 + 0.1 * factor.ln());
        Ok(())
    }

    fn refuse_experts(&self) -> Result<(), Fault> {
        match self.integer("expert_count")? {
            None | Some(0) => Ok(()),
            Some(n) => {
                let problem = format!("is {n}; models with experts are not supported");
                Err(Fault::key(&self.key("expert_count"), problem).unsupported())
            }
        }
    }

    /// A number that some files give once and others for every layer.
    fn same_in_all_layers(&self, name: &str) -> Result<Option<usize>, Fault> {
        let key = self.key(name);
        if !self.keys.is_array(&key) {
            return self.keys.integer(&key);
        }
        let all = self.keys.integers(&key)?.unwrap_or_default();
        match all.first() {
            Some(&first) if all.iter().all(|n| *n == first) => usize::try_from(first)
                .map(Some)
                .map_err(|_| Fault::key(&key, format!("is {first}, expected a number from 0 on"))),
            _ => Err(Fault::key(&key, "differs from layer to layer, which is not supported").unsupported()),
        }
    }

    fn needed(&self, name: &str) -> Result<usize, Fault> {
        self.integer(name)?.ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> Fault {
        Fault::key(&self.key(name), "is missing; convert the model again")
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.family.name)
    }

    fn integer(&self, name: &str) -> Result<Option<usize>, Fault> {
        self.keys.integer(&self.key(name))
    }

    fn float(&self, name: &str) -> Result<Option<f32>, Fault> {
        self.keys.float(&self.key(name))
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Fault> {
        self.keys.text(&self.key(name))
    }

    fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.name == name)
    }
}
