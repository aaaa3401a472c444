//! A model that is large enough for its precision to matter, and says nothing sensible: all weights are 0.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::data::shared;

const HIDDEN: usize = 512;
const FEED_FORWARD: usize = 1376;
const LAYERS: usize = 4;
const VOCABULARY: usize = 512;

/// Writes such a model of 13 million parameters in bf16, for which 8 bits are what suits it, with the small model's
/// tokenizer. False where that is missing, as was said then.
pub(crate) fn write_wide_model(directory: &Path) -> bool {
    let Some(small) = shared("models/stories260K/hf") else {
        return false;
    };
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(small.join(file), directory.join(file)).expect("a copy of the tokenizer");
    }
    let config = fs::read(small.join("config.json")).expect("the small model's configuration");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    config["hidden_size"] = json!(HIDDEN);
    config["intermediate_size"] = json!(FEED_FORWARD);
    config["num_hidden_layers"] = json!(LAYERS);
    config["torch_dtype"] = json!("bfloat16");
    fs::write(directory.join("config.json"), config.to_string()).expect("a configuration");
    write_zeros(&directory.join("model.safetensors")).expect("a file of zeros");
    true
}

fn write_zeros(path: &Path) -> std::io::Result<()> {
    let (mut tensors, mut end) = (Map::new(), 0);
    let mut add = |name: String, shape: &[usize]| {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let tensor = json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        tensors.insert(name, tensor);
    };
    add("model.embed_tokens.weight".to_owned(), &[VOCABULARY, HIDDEN]);
    add("model.norm.weight".to_owned(), &[HIDDEN]);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        // Half as many heads of keys and values as of queries.
        for (part, rows) in [
            ("q_proj", HIDDEN),
            ("k_proj", HIDDEN / 2),
            ("v_proj", HIDDEN / 2),
            ("o_proj", HIDDEN),
        ] {
            add(name(&format!("self_attn.{part}")), &[rows, HIDDEN]);
        }
        add(name("mlp.gate_proj"), &[FEED_FORWARD, HIDDEN]);
        add(name("mlp.up_proj"), &[FEED_FORWARD, HIDDEN]);
        add(name("mlp.down_proj"), &[HIDDEN, FEED_FORWARD]);
        add(name("input_layernorm"), &[HIDDEN]);
        add(name("post_attention_layernorm"), &[HIDDEN]);
    }
    let header = Value::Object(tensors).to_string();
    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.set_len((8 + header.len() + end) as u64)
}
