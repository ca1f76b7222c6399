//! Hugging Face folders made for a tokenizer's sake.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// A model with this tokenizer, of one layer and width 4.
pub(crate) fn folder(path: &Path, tokenizer: &Value, config: &Value) {
    let added = tokenizer["added_tokens"].as_array().unwrap().len();
    let n = tokenizer["model"]["vocab"].as_object().unwrap().len() + added.max(4);
    let hf = json!({"model_type": "llama", "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 1, "vocab_size": n, "max_position_embeddings": 8, "tie_word_embeddings": true});
    fs::write(path.join("config.json"), hf.to_string()).unwrap();
    fs::write(path.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(path.join("tokenizer_config.json"), config.to_string()).unwrap();
    let layer = "model.layers.0";
    let square = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    let norms = ["input_layernorm", "post_attention_layernorm"];
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![n, 4]), ("model.norm.weight".into(), vec![4])];
    shapes.extend(square.iter().map(|name| (format!("{layer}.{name}.weight"), vec![4, 4])));
    shapes.extend(norms.iter().map(|name| (format!("{layer}.{name}.weight"), vec![4])));
    write_zeros(&path.join("model.safetensors"), &shapes);
}

/// A safetensors file: the length of a JSON header, the header, the values.
fn write_zeros(path: &Path, shapes: &[(String, Vec<usize>)]) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end, 0);
    fs::write(path, bytes).unwrap();
}
