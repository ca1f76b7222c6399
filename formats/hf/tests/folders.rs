//! Folders made here: where each family's tensors end up, and what is refused. Names and shapes are transformers' own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use hf::HfModel;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use spm::{Activation, Checkpoint, Encoding, LayerRope, Norm, Residual, RopeLayout};

/// Tensors to be stored: values that tell where they are.
#[derive(Default)]
struct Weights(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Weights {
    /// Value `i` of the `n`th tensor is `n + i / 1024`.
    fn add(&mut self, name: &str, shape: &[usize]) -> &mut Self {
        let n = self.0.len() as f32;
        let values = (0..shape.iter().product()).map(|i: usize| n + (i % 1024) as f32 / 1024.0).collect();
        self.0.insert(name.to_owned(), (shape.to_vec(), values));
        self
    }

    fn get(&self, name: &str) -> &[f32] {
        &self.0[name].1
    }

    fn save(&self, path: &Path, dtype: Dtype) {
        let bytes = |values: &[f32]| -> Vec<u8> {
            match dtype {
                Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                Dtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
                Dtype::I32 => values.iter().flat_map(|v| (*v as i32).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            }
        };
        let stored: Vec<(String, Vec<usize>, Vec<u8>)> =
            self.0.iter().map(|(name, (shape, values))| (name.clone(), shape.clone(), bytes(values))).collect();
        let views = stored
            .iter()
            .map(|(name, shape, bytes)| (name.clone(), TensorView::new(dtype, shape.clone(), bytes).unwrap()));
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

/// Width 8, hidden 12, 2 heads of 4, 1 kv head, 2 layers, 10 tokens.
fn config(model_type: &str, more: Value) -> Value {
    let mut all = json!({
        "model_type": model_type, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "rope_theta": 5000.0, "tie_word_embeddings": true,
    });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

fn llama() -> Weights {
    let mut w = Weights::default();
    w.add("model.embed_tokens.weight", &[10, 8]).add("model.norm.weight", &[8]);
    for i in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            w.add(&format!("model.layers.{i}.{name}"), shape);
        };
        add("input_layernorm.weight", &[8]);
        add("post_attention_layernorm.weight", &[8]);
        add("self_attn.q_proj.weight", &[8, 8]);
        add("self_attn.k_proj.weight", &[4, 8]);
        add("self_attn.v_proj.weight", &[4, 8]);
        add("self_attn.o_proj.weight", &[8, 8]);
        add("mlp.gate_proj.weight", &[12, 8]);
        add("mlp.up_proj.weight", &[12, 8]);
        add("mlp.down_proj.weight", &[8, 12]);
    }
    w
}

fn folder(config: &Value, weights: &Weights, dtype: Dtype) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    weights.save(&folder.path().join("model.safetensors"), dtype);
    folder
}

fn open(config: &Value, weights: &Weights) -> HfModel {
    hf::open(folder(config, weights, Dtype::F32).path()).unwrap()
}

fn refusal(config: &Value, weights: &Weights) -> String {
    hf::open(folder(config, weights, Dtype::F32).path()).unwrap_err().to_string()
}

#[test]
fn a_llama_is_read_in_each_type() {
    let weights = llama();
    for (dtype, encoding, exact) in [
        (Dtype::F32, Encoding::F32, Encoding::F32),
        (Dtype::F16, Encoding::F16, Encoding::F16),
        (Dtype::BF16, Encoding::F16, Encoding::F32),
    ] {
        let folder = folder(&config("llama", json!({})), &weights, dtype);
        let model = hf::open(folder.path()).unwrap();
        let c = model.config();
        assert_eq!((c.n_layers, c.dim, c.hidden_dim, c.n_heads, c.n_kv_heads, c.head_dim), (2, 8, 12, 2, 1, 4));
        assert_eq!((c.vocab_size, c.context_len, c.norm_eps, c.tied_head), (10, 64, 1e-6, true));
        assert_eq!((c.rope.base, c.rope.dims, c.rope.layout), (5000.0, 4, RopeLayout::Halves));
        let rounded = |v: &f32| match dtype {
            Dtype::BF16 => bf16::from_f32(*v).to_f32(),
            Dtype::F16 => f16::from_f32(*v).to_f32(),
            _ => *v,
        };
        let theirs: Vec<f32> = weights.get("model.layers.1.mlp.down_proj.weight").iter().map(rounded).collect();
        assert_eq!(model.read_all("blk.1.ffn_down.weight").unwrap(), theirs);
        let mut row = vec![0.0; 12];
        for (matrix, expected) in
            [(model.matrix("blk.1.ffn_down.weight"), encoding), (model.exact_matrix("blk.1.ffn_down.weight"), exact)]
        {
            let matrix = matrix.unwrap();
            assert_eq!(matrix.encoding(), expected, "{dtype:?}");
            for r in 0..8 {
                matrix.read_row(r, &mut row);
                assert_eq!(row, theirs[r * 12..(r + 1) * 12], "{dtype:?} row {r}");
            }
        }
        assert!(model.read_rows("blk.1.ffn_down.weight", 8, &mut row).is_none() && model.matrix("x").is_none());
    }
}

#[test]
fn values_that_halves_cannot_hold_stay_whole() {
    let mut weights = llama();
    weights.0.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().1[5] = 1e6;
    let folder = folder(&config("llama", json!({})), &weights, Dtype::BF16);
    let model = hf::open(folder.path()).unwrap();
    assert_eq!(model.matrix("blk.0.ffn_up.weight").unwrap().encoding(), Encoding::F32);
    assert_eq!(model.matrix("blk.1.ffn_up.weight").unwrap().encoding(), Encoding::F16);
}

#[test]
fn llama3_scaling_is_the_published_formula() {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_theta": 500000.0});
    for key in ["rope_parameters", "rope_scaling"] {
        let config = config(
            "llama",
            json!({ key: scaling, "rope_theta": 500000.0, "head_dim": 16,
            "num_attention_heads": 1, "num_key_value_heads": 1, "hidden_size": 8 }),
        );
        let mut weights = llama();
        for i in 0..2 {
            let mut add = |name: &str, shape: &[usize]| {
                weights.add(&format!("model.layers.{i}.{name}"), shape);
            };
            add("self_attn.q_proj.weight", &[16, 8]);
            add("self_attn.k_proj.weight", &[16, 8]);
            add("self_attn.v_proj.weight", &[16, 8]);
            add("self_attn.o_proj.weight", &[8, 16]);
        }
        let model = open(&config, &weights);
        for (pair, factor) in model.config().rope.freq_factors.iter().enumerate() {
            let wave = std::f64::consts::TAU * 500000f64.powf(pair as f64 / 8.0);
            let smooth = (64.0 / wave - 1.0) / (4.0 - 1.0);
            let expected = match wave {
                w if w < 64.0 / 4.0 => 1.0,
                w if w > 64.0 / 1.0 => 8.0,
                _ => 1.0 / ((1.0 - smooth) / 8.0 + smooth),
            };
            assert!((f64::from(*factor) - expected).abs() < 1e-5, "{key} pair {pair}: {factor}, {expected}");
        }
        assert_eq!(model.config().rope.freq_factors.len(), 8);
    }
}

#[test]
fn fused_tensors_are_split() {
    let mut w = Weights::default();
    w.add("model.embed_tokens.weight", &[10, 8]).add("model.norm.weight", &[8]);
    for i in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            w.add(&format!("model.layers.{i}.{name}"), shape);
        };
        add("input_layernorm.weight", &[8]);
        add("post_attention_layernorm.weight", &[8]);
        add("self_attn.qkv_proj.weight", &[16, 8]);
        add("self_attn.o_proj.weight", &[8, 8]);
        add("mlp.gate_up_proj.weight", &[24, 8]);
        add("mlp.down_proj.weight", &[8, 12]);
    }
    let scaling = json!({"type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0]});
    let more = json!({"rope_scaling": scaling, "original_max_position_embeddings": 16, "sliding_window": 5});
    let model = open(&config("phi3", more), &w);
    let c = model.config();
    assert_eq!((c.context_len, c.window_of(1), &c.rope.freq_factors[..]), (64, Some(5), &[1.0, 2.0][..]));
    assert_eq!((c.rope.freq_factors_for(16), c.rope.freq_factors_for(17)), (&[1.0, 2.0][..], &[3.0, 4.0][..]));
    let expected = (1.0 + 4f64.ln() / 16f64.ln()).sqrt();
    assert!((f64::from(c.rope.attn_scale) - expected).abs() < 1e-6);
    let qkv = w.get("model.layers.1.self_attn.qkv_proj.weight");
    let gate_up = w.get("model.layers.1.mlp.gate_up_proj.weight");
    for (name, expected) in [
        ("attn_q", &qkv[..64]),
        ("attn_k", &qkv[64..96]),
        ("attn_v", &qkv[96..]),
        ("ffn_gate", &gate_up[..96]),
        ("ffn_up", &gate_up[96..]),
    ] {
        assert_eq!(model.read_all(&format!("blk.1.{name}.weight")).unwrap(), expected, "{name}");
        let matrix = model.exact_matrix(&format!("blk.1.{name}.weight")).unwrap();
        let mut all = vec![0.0; expected.len()];
        matrix.read_rows(0, &mut all).unwrap();
        assert_eq!(all, expected, "{name}");
    }
}

#[test]
fn gpt2_is_turned_and_neox_taken_by_heads() {
    let mut w = Weights::default();
    // As in the first official files, without `transformer.` before the names.
    w.add("wte.weight", &[10, 8]).add("wpe.weight", &[32, 8]).add("ln_f.weight", &[8]).add("ln_f.bias", &[8]);
    let shapes: [(&str, &[usize]); 12] = [
        ("ln_1.weight", &[8]),
        ("ln_1.bias", &[8]),
        ("ln_2.weight", &[8]),
        ("ln_2.bias", &[8]),
        ("attn.c_attn.weight", &[8, 24]),
        ("attn.c_attn.bias", &[24]),
        ("attn.c_proj.weight", &[8, 8]),
        ("attn.c_proj.bias", &[8]),
        ("mlp.c_fc.weight", &[8, 32]),
        ("mlp.c_fc.bias", &[32]),
        ("mlp.c_proj.weight", &[32, 8]),
        ("mlp.c_proj.bias", &[8]),
    ];
    for (name, shape) in shapes {
        w.add(&format!("h.0.{name}"), shape);
    }
    w.add("h.0.attn.bias", &[1, 1, 32, 32]);
    let config = json!({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 32,
        "vocab_size": 10, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5});
    let model = open(&config, &w);
    let c = model.config();
    assert_eq!((c.norm, c.activation, c.gated, c.hidden_dim), (Norm::Layer, Activation::GeluTanh, false, 32));
    assert!(c.learned_positions && c.tied_head && c.layer_kind(0).rope == LayerRope::None);
    let (weight, bias) = (w.get("h.0.attn.c_attn.weight"), w.get("h.0.attn.c_attn.bias"));
    let value = |r: usize, c: usize| weight[c * 24 + 16 + r];
    let expected: Vec<f32> = (0..8).flat_map(|r| (0..8).map(move |c| value(r, c))).collect();
    assert_eq!(model.read_all("blk.0.attn_v.weight").unwrap(), expected);
    assert_eq!(model.read_all("blk.0.attn_k.bias").unwrap(), bias[8..16]);
    assert_eq!(model.read_all("position_embd.weight").unwrap(), w.get("wpe.weight"));

    let mut w = Weights::default();
    w.add("gpt_neox.embed_in.weight", &[10, 8]).add("embed_out.weight", &[10, 8]);
    w.add("gpt_neox.final_layer_norm.weight", &[8]).add("gpt_neox.final_layer_norm.bias", &[8]);
    let shapes: [(&str, &[usize]); 12] = [
        ("input_layernorm.weight", &[8]),
        ("input_layernorm.bias", &[8]),
        ("post_attention_layernorm.weight", &[8]),
        ("post_attention_layernorm.bias", &[8]),
        ("attention.query_key_value.weight", &[24, 8]),
        ("attention.query_key_value.bias", &[24]),
        ("attention.dense.weight", &[8, 8]),
        ("attention.dense.bias", &[8]),
        ("mlp.dense_h_to_4h.weight", &[12, 8]),
        ("mlp.dense_h_to_4h.bias", &[12]),
        ("mlp.dense_4h_to_h.weight", &[8, 12]),
        ("mlp.dense_4h_to_h.bias", &[8]),
    ];
    for (name, shape) in shapes {
        w.add(&format!("gpt_neox.layers.0.{name}"), shape);
    }
    let config = json!({"model_type": "gpt_neox", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
        "intermediate_size": 12, "vocab_size": 10, "max_position_embeddings": 64, "rotary_pct": 0.5,
        "rotary_emb_base": 20000, "hidden_act": "gelu", "tie_word_embeddings": false});
    let model = open(&config, &w);
    let c = model.config();
    assert_eq!((c.residual, c.activation, c.rope.dims, c.rope.base), (Residual::Parallel, Activation::Gelu, 2, 2e4));
    let fused = w.get("gpt_neox.layers.0.attention.query_key_value.weight");
    // Head 0: queries 0..4, keys 4..8, values 8..12; then head 1.
    let expected = [&fused[4 * 8..8 * 8], &fused[16 * 8..20 * 8]].concat();
    assert_eq!(model.read_all("blk.0.attn_k.weight").unwrap(), expected);
    let bias = w.get("gpt_neox.layers.0.attention.query_key_value.bias");
    assert_eq!(model.read_all("blk.0.attn_v.bias").unwrap(), [&bias[8..12], &bias[20..24]].concat());
}

#[test]
fn gemmas_get_their_one_back() {
    let mut w = llama();
    for i in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            w.add(&format!("model.layers.{i}.{name}"), shape);
        };
        add("pre_feedforward_layernorm.weight", &[8]);
        add("post_feedforward_layernorm.weight", &[8]);
    }
    let more = json!({"head_dim": 4, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 7});
    let model = open(&config("gemma2", more), &w);
    let c = model.config();
    assert!(c.post_norms && (c.window_of(0), c.window_of(1)) == (Some(7), None));
    assert_eq!((c.attention_scale(), c.scales.attention_cap, c.scales.logits_cap), (0.25, Some(50.0), Some(30.0)));
    assert!((f64::from(c.scales.embedding) - 8f64.sqrt()).abs() < 1e-6);
    let theirs =
        |name: &str| w.get(&format!("model.layers.1.{name}.weight")).iter().map(|v| v + 1.0).collect::<Vec<_>>();
    assert_eq!(model.read_all("blk.1.ffn_norm.weight").unwrap(), theirs("pre_feedforward_layernorm"));
    assert_eq!(model.read_all("blk.1.post_attention_norm.weight").unwrap(), theirs("post_attention_layernorm"));
    assert_eq!(model.read_all("token_embd.weight").unwrap(), w.get("model.embed_tokens.weight"));

    let mut w3 = Weights(w.0.clone());
    for i in 0..2 {
        w3.add(&format!("model.layers.{i}.self_attn.q_norm.weight"), &[4]);
        w3.add(&format!("model.layers.{i}.self_attn.k_norm.weight"), &[4]);
    }
    let ropes = json!({"full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}});
    let more = json!({"head_dim": 4, "sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": ropes, "query_pre_attn_scalar": 4});
    let model = open(&config("gemma3_text", more), &w3);
    let c = model.config();
    assert_eq!((c.rope_of(0).unwrap().base, c.rope_of(1).unwrap().base), (1e4, 1e6));
    assert_eq!((c.rope_of(0).unwrap().freq_factors.len(), &c.rope.freq_factors[..]), (0, &[8.0, 8.0][..]));
}

#[test]
fn smollm3_and_granite_differ_from_llama_by_their_keys() {
    let model = open(&config("smollm3", json!({"no_rope_layers": [1, 0]})), &llama());
    assert!(model.config().rope_of(0).is_some() && model.config().rope_of(1).is_none());
    let more = json!({"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.015625,
        "logits_scaling": 8.0});
    let scales = open(&config("granite", more), &llama()).config().scales;
    assert_eq!((scales.embedding, scales.residual, scales.logits), (12.0, 0.22, 0.125));
    assert_eq!(scales.attention, Some(0.015625));
    let more = json!({"use_sliding_window": true, "max_window_layers": 1, "sliding_window": 4, "head_dim": 4});
    let mut w = llama();
    for i in 0..2 {
        w.add(&format!("model.layers.{i}.self_attn.q_norm.weight"), &[4]);
        w.add(&format!("model.layers.{i}.self_attn.k_norm.weight"), &[4]);
    }
    let model = open(&config("qwen3", more), &w);
    assert!(model.config().qk_norm && model.config().window_of(0).is_none() && model.config().window_of(1) == Some(4));
}

#[test]
fn shards_are_named_by_the_index_alone() {
    let (weights, folder) = (llama(), tempfile::tempdir().unwrap());
    fs::write(folder.path().join("config.json"), config("llama", json!({})).to_string()).unwrap();
    let (mut first, mut second) = (Weights::default(), Weights::default());
    for (i, (name, tensor)) in weights.0.iter().enumerate() {
        let shard = if i % 2 == 0 { &mut first } else { &mut second };
        shard.0.insert(name.clone(), tensor.clone());
    }
    first.save(&folder.path().join("model-00001-of-00002.safetensors"), Dtype::F32);
    second.save(&folder.path().join("model-00002-of-00002.safetensors"), Dtype::F32);
    let write_index = |second: &str| {
        let map = json!({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": second}});
        fs::write(folder.path().join("model.safetensors.index.json"), map.to_string()).unwrap();
    };
    write_index("model-00002-of-00002.safetensors");
    let model = hf::open(folder.path()).unwrap();
    assert_eq!(model.paths().len(), 3);
    for name in ["model.norm.weight", "model.embed_tokens.weight"] {
        let ours = if name.contains("norm") { "output_norm.weight" } else { "token_embd.weight" };
        assert_eq!(model.read_all(ours).unwrap(), weights.get(name));
    }
    for (name, expected) in [
        ("../model.safetensors", "names something else than a plain .safetensors file"),
        ("/etc/passwd", "names something else than a plain .safetensors file"),
        ("sub/model.safetensors", "names something else than a plain .safetensors file"),
        ("pytorch_model.bin", "names something else than a plain .safetensors file"),
        ("model-00003-of-00003.safetensors", "is missing: model.safetensors.index.json names it"),
    ] {
        write_index(name);
        let error = hf::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    #[cfg(unix)]
    {
        let elsewhere = tempfile::tempdir().unwrap();
        second.save(&elsewhere.path().join("s"), Dtype::F32);
        let link = folder.path().join("link.safetensors");
        std::os::unix::fs::symlink(elsewhere.path().join("s"), &link).unwrap();
        write_index("link.safetensors");
        let error = hf::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is a link out of the folder"), "{error}");
    }
}

#[test]
fn what_cannot_be_run_is_said() {
    let plain = || config("llama", json!({}));
    for (config, expected) in [
        (config("mixtral", json!({})), "model type `mixtral` chooses among experts for every token"),
        (config("qwen3_next", json!({})), "`qwen3_next` mixes attention with recurrent or convolutional layers"),
        (config("mamba2", json!({})), "`mamba2` is recurrent"),
        (config("frobnicator", json!({})), "`frobnicator` is not known; known are llama, mistral, qwen2"),
        (config("llama", json!({"hidden_act": "relu"})), "key `hidden_act`: is `relu`; known are silu"),
        (config("llama", json!({"quantization_config": {}})), "key `quantization_config`: says that the weights are"),
        (config("llama", json!({"rope_scaling": {"type": "ntk"}})), "key `rope_type`: is `ntk`; known are default"),
        (config("llama", json!({"hidden_size": "8"})), "key `hidden_size`: is \"8\", expected a whole number"),
        (config("llama", json!({"num_hidden_layers": 4000})), "`n_layers` is 4000, expected 1 to 1024"),
        (config("llama", json!({"attention_bias": true})), "tensor `model.layers.0.self_attn.q_proj.bias`: is missing"),
        (config("llama", json!({"vocab_size": 11})), "has shape [10, 8], expected [11, 8] by config.json"),
        (config("llama", json!({"tie_word_embeddings": false})), "tensor `lm_head.weight`: is missing"),
        (config("mistral", json!({"sliding_window": 4, "layer_types": ["x", "y"]})), "key `layer_types`: has \"x\""),
        (config("smollm3", json!({"no_rope_layers": [1]})), "key `no_rope_layers`: entry 1 is missing"),
    ] {
        let error = refusal(&config, &llama());
        assert!(error.contains(expected), "{error}");
    }
    let mut extra = llama();
    extra.add("model.layers.0.self_attn.q_norm.weight", &[4]);
    assert!(refusal(&plain(), &extra).contains("tensor `model.layers.0.self_attn.q_norm.weight`: has no place"));

    let integers = folder(&plain(), &llama(), Dtype::I32);
    let error = hf::open(integers.path()).unwrap_err().to_string();
    assert!(error.contains("is of type I32, expected F32, F16 or BF16"), "{error}");

    let damaged = folder(&plain(), &llama(), Dtype::F32);
    let file = damaged.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    for cut in [0, 4, 100, bytes.len() - 1] {
        fs::write(&file, &bytes[..cut]).unwrap();
        let error = hf::open(damaged.path()).unwrap_err().to_string();
        assert!(error.contains("model.safetensors: ") && error.contains("download it again"), "{cut}: {error}");
    }
    fs::remove_file(&file).unwrap();
    fs::write(damaged.path().join("pytorch_model.bin"), b"x").unwrap();
    let error = hf::open(damaged.path()).unwrap_err().to_string();
    assert!(error.contains("pytorch_model.bin, a Python pickle, which can run any code"), "{error}");
    fs::write(damaged.path().join("config.json"), b"[1]").unwrap();
    assert!(hf::open(damaged.path()).unwrap_err().to_string().contains("config.json: is not a JSON object"));
    fs::write(damaged.path().join("config.json"), "[".repeat(100_000)).unwrap();
    assert!(hf::open(damaged.path()).unwrap_err().to_string().contains("config.json: is not JSON"));
}
