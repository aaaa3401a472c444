//! Hugging Face's layout: `config.json`, `model.safetensors`, `tokenizer.json` in one directory.

use std::collections::BTreeMap;
use std::path::Path;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::{Checkpoint, Element, ModelConfig, RopePairs, Stored, map, read_json, rope_unsupported, stem};
use crate::error::{ModelError, Problem};
use crate::tokenizer::Tokenizer;

pub(super) fn open_directory(directory: &Path) -> Result<Checkpoint, ModelError> {
    let weights = directory.join("model.safetensors");
    if weights.exists() {
        return open(&weights, map(&weights)?);
    }
    if directory.join("model.safetensors.index.json").exists() {
        return Err(ModelError::new(
            directory,
            Problem::Unsupported {
                what: "the weights are in several files (model.safetensors.index.json)".into(),
                remedy: "only a single model.safetensors can be read so far: convert the model to GGUF",
            },
        ));
    }
    Err(ModelError::new(
        directory,
        Problem::NotAModel("the directory has no model.safetensors".into()),
    ))
}

pub(super) fn open(weights: &Path, file: Mmap) -> Result<Checkpoint, ModelError> {
    let config_path = weights.with_file_name("config.json");
    let Some(json) = read_json(&config_path)? else {
        return Err(ModelError::new(
            &config_path,
            Problem::Configuration("the file is missing".into()),
        ));
    };
    let config = config(&json).map_err(|problem| ModelError::new(&config_path, problem))?;
    let tied = json["tie_word_embeddings"].as_bool().unwrap_or(false);
    let tensors = tensors(&file, tied).map_err(|problem| ModelError::new(weights, problem))?;
    let tokenizer = Tokenizer::from_json(&weights.with_file_name("tokenizer.json"))?;
    let template = template(weights)?;
    let directory = weights
        .canonicalize()
        .ok()
        .and_then(|path| path.parent().map(stem));
    Ok(Checkpoint {
        name: directory.unwrap_or_else(|| stem(weights)),
        config,
        tokenizer,
        template,
        path: weights.to_owned(),
        format: "safetensors",
        file,
        tensors,
    })
}

fn config(json: &Value) -> Result<ModelConfig, Problem> {
    let Some(architecture) = json["model_type"].as_str() else {
        return Err(Problem::Configuration("model_type is missing".into()));
    };
    crate::architecture::check_known(architecture)?;
    let optional = |key: &str| json[key].as_u64().and_then(|value| usize::try_from(value).ok());
    let size = |key: &str| {
        optional(key).ok_or_else(|| Problem::Configuration(format!("{key} is {}, not a size", json[key])))
    };
    for key in ["attention_bias", "mlp_bias"] {
        if json[key].as_bool() == Some(true) {
            return Err(unsupported(format!("{key} cannot be run so far")));
        }
    }
    let activation = json["hidden_act"].as_str().unwrap_or("silu");
    if activation != "silu" {
        return Err(unsupported(format!(
            "the activation {activation:?} is not Llama's"
        )));
    }
    // Newer files (transformers 5) keep the base in `rope_parameters`, beside a type.
    let rope = [&json["rope_scaling"], &json["rope_parameters"]];
    let kind = rope
        .iter()
        .find_map(|rope| rope["rope_type"].as_str().or_else(|| rope["type"].as_str()));
    if let Some(kind) = kind.filter(|kind| *kind != "default") {
        return Err(rope_unsupported(kind));
    }
    let heads = size("num_attention_heads")?;
    let hidden_size = size("hidden_size")?;
    ModelConfig {
        architecture: architecture.to_owned(),
        context_length: size("max_position_embeddings")?,
        hidden_size,
        layers: size("num_hidden_layers")?,
        heads,
        kv_heads: optional("num_key_value_heads").unwrap_or(heads),
        head_size: optional("head_dim").unwrap_or_else(|| hidden_size.checked_div(heads).unwrap_or(0)),
        feed_forward_size: size("intermediate_size")?,
        norm_epsilon: json["rms_norm_eps"].as_f64().unwrap_or(1e-6),
        rope_theta: json["rope_theta"]
            .as_f64()
            .or(rope[1]["rope_theta"].as_f64())
            .unwrap_or(10_000.0),
        rope_pairs: RopePairs::Halves,
    }
    .check()
}

fn tensors(file: &Mmap, tied: bool) -> Result<BTreeMap<String, Stored>, Problem> {
    let parsed = SafeTensors::deserialize(file).map_err(|error| Problem::Malformed(error.to_string()))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in parsed.iter() {
        // Some files keep a copy of the embedding as output matrix although the configuration ties them.
        if tied && name == "lm_head.weight" {
            continue;
        }
        let element = match view.dtype() {
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            other => Element::Other(format!("{other:?}")),
        };
        // The view borrows from the mapping, so its distance from the beginning is its place in the file.
        let start = view.data().as_ptr().addr() - file.as_ptr().addr();
        let data = start..start + view.data().len();
        tensors.insert(
            canonical(name),
            Stored {
                shape: view.shape().to_vec(),
                element,
                data,
            },
        );
    }
    Ok(tensors)
}

/// Hugging Face's name for a Llama tensor in GGUF's words; other names stay as they are.
fn canonical(name: &str) -> String {
    let fixed = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(fixed) = fixed {
        return fixed.to_owned();
    }
    let block = name
        .strip_prefix("model.layers.")
        .and_then(|rest| rest.split_once('.'));
    let part = block.and_then(|(layer, part)| {
        let part = match part {
            "input_layernorm.weight" => "attn_norm.weight",
            "self_attn.q_proj.weight" => "attn_q.weight",
            "self_attn.k_proj.weight" => "attn_k.weight",
            "self_attn.v_proj.weight" => "attn_v.weight",
            "self_attn.o_proj.weight" => "attn_output.weight",
            "post_attention_layernorm.weight" => "ffn_norm.weight",
            "mlp.gate_proj.weight" => "ffn_gate.weight",
            "mlp.up_proj.weight" => "ffn_up.weight",
            "mlp.down_proj.weight" => "ffn_down.weight",
            _ => return None,
        };
        Some(format!("blk.{layer}.{part}"))
    });
    part.unwrap_or_else(|| name.to_owned())
}

/// A template of its own (`chat_template.jinja`), else the one in `tokenizer_config.json`: a text, or a list of named
/// ones of which `default` counts.
fn template(weights: &Path) -> Result<Option<String>, ModelError> {
    let path = weights.with_file_name("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(template) => return Ok(Some(template)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(ModelError::new(&path, error.into())),
    }
    let config = read_json(&weights.with_file_name("tokenizer_config.json"))?.unwrap_or_default();
    let template = &config["chat_template"];
    let named = || {
        template
            .as_array()?
            .iter()
            .find(|entry| entry["name"] == "default")?["template"]
            .as_str()
    };
    Ok(template.as_str().or_else(named).map(str::to_owned))
}

fn unsupported(what: String) -> Problem {
    Problem::Unsupported {
        what,
        remedy: "choose a model without it",
    }
}
