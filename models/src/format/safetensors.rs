//! Hugging Face's layout: `config.json`, `tokenizer.json` and `model.safetensors` in one directory, the last perhaps in
//! several files with an index.

use std::collections::BTreeMap;
use std::path::Path;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::{Checkpoint, Element, Stored, map, read_json, stem};
use crate::architecture;
use crate::architecture::spec::{EMBEDDING, NetworkSpec, OUTPUT, OUTPUT_NORM};
use crate::error::{ModelError, Problem};
use crate::tokenizer::Tokenizer;

pub(super) fn open_directory(directory: &Path) -> Result<Checkpoint, ModelError> {
    let weights = directory.join(WEIGHTS);
    if weights.exists() {
        return open_files(&weights, vec![(map(&weights)?, None)]);
    }
    let index = directory.join(INDEX);
    if let Some(json) = read_json(&index)? {
        return open_index(&index, &json);
    }
    Err(ModelError::new(
        directory,
        Problem::NotAModel(format!("the directory has no {WEIGHTS}")),
    ))
}

/// One file, or the whole that it is a part of.
pub(super) fn open(weights: &Path, file: Mmap) -> Result<Checkpoint, ModelError> {
    let index = weights.with_file_name(INDEX);
    let name = weights.file_name().and_then(|name| name.to_str());
    if let Some(json) = read_json(&index)? {
        let listed = json["weight_map"].as_object();
        let part = |mut files: serde_json::map::Values<'_>| files.any(|file| file.as_str() == name);
        if name != Some(WEIGHTS) && listed.is_some_and(|map| part(map.values())) {
            return open_index(&index, &json);
        }
    }
    open_files(weights, vec![(file, None)])
}

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The files that a model of this format is known by.
pub(super) const PRINCIPAL: [&str; 2] = [WEIGHTS, INDEX];

/// Weights in several files: the index says which tensor is in which.
fn open_index(index: &Path, json: &Value) -> Result<Checkpoint, ModelError> {
    let malformed = |what: String| ModelError::new(index, Problem::Malformed(what));
    let Some(map_of_names) = json["weight_map"].as_object() else {
        return Err(malformed("it has no weight_map".into()));
    };
    let mut names_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, file) in map_of_names {
        // The index comes from elsewhere and must not point out of the model's directory.
        let file = file.as_str().filter(|file| {
            let plain = Path::new(file).file_name() == Some(std::ffi::OsStr::new(file));
            plain && file.ends_with(".safetensors")
        });
        let Some(file) = file else {
            return Err(malformed(format!(
                "the tensor {name:?} is not said to be in a .safetensors file beside it"
            )));
        };
        names_of.entry(file).or_default().push(name);
    }
    let files = names_of.into_iter().map(|(file, names)| {
        let mapped = map(&index.with_file_name(file))?;
        Ok((mapped, Some(names)))
    });
    open_files(index, files.collect::<Result<_, ModelError>>()?)
}

/// A model from its weights, which are in these files: of each, all tensors or those with these names.
fn open_files(weights: &Path, files: Vec<(Mmap, Option<Vec<&str>>)>) -> Result<Checkpoint, ModelError> {
    let config_path = weights.with_file_name("config.json");
    let Some(json) = read_json(&config_path)? else {
        return Err(ModelError::new(
            &config_path,
            Problem::Configuration("the file is missing".into()),
        ));
    };
    let mut spec =
        architecture::from_json(&json).map_err(|problem| ModelError::new(&config_path, problem))?;
    let mut tensors = BTreeMap::new();
    for (number, (file, names)) in files.iter().enumerate() {
        add_tensors(&mut tensors, number, file, names.as_deref(), &spec)
            .map_err(|problem| ModelError::new(weights, problem))?;
    }
    if spec.vocabulary_size == 0 {
        let rows = tensors
            .get(EMBEDDING)
            .and_then(|stored| stored.shape.first().copied());
        spec.vocabulary_size = rows.unwrap_or(0);
    }
    let tokenizer = Tokenizer::from_json(&weights.with_file_name("tokenizer.json"))?;
    let template = template(weights)?;
    let directory = weights
        .canonicalize()
        .ok()
        .and_then(|path| Some(path.parent()?.file_name()?.to_string_lossy().into_owned()));
    Ok(Checkpoint {
        name: directory.unwrap_or_else(|| stem(weights)),
        spec,
        tokenizer,
        template,
        assistant: false,
        path: weights.to_owned(),
        format: "safetensors",
        files: files.into_iter().map(|(file, _)| file).collect(),
        tensors,
    })
}

fn add_tensors(
    tensors: &mut BTreeMap<String, Stored>,
    number: usize,
    file: &Mmap,
    names: Option<&[&str]>,
    spec: &NetworkSpec,
) -> Result<(), Problem> {
    let parsed = SafeTensors::deserialize(file).map_err(|error| Problem::Malformed(error.to_string()))?;
    let names = match names {
        Some(names) => names.to_vec(),
        None => parsed.names(),
    };
    for name in names {
        let view = parsed.tensor(name);
        let view = view.map_err(|_| {
            Problem::Malformed(format!(
                "the tensor {name:?} is not in the file that should have it"
            ))
        })?;
        // Some files keep a copy of the embedding as output matrix although the configuration ties them.
        let Some(canonical) = canonical(name, spec).filter(|name| !(spec.tied_output && name == OUTPUT))
        else {
            continue;
        };
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
            canonical,
            Stored {
                shape: view.shape().to_vec(),
                element,
                file: number,
                data,
            },
        );
    }
    Ok(())
}

/// Hugging Face's name in GGUF's words; other names stay as they are. What a model sees pictures with has none.
fn canonical(name: &str, spec: &NetworkSpec) -> Option<String> {
    // Models that also see have their text part under a name of its own, in one of two places.
    let name = name.strip_prefix("language_model.").unwrap_or(name);
    let name = name.strip_prefix("model.").unwrap_or(name);
    let name = name.strip_prefix("language_model.").unwrap_or(name);
    if name.starts_with("vision_tower.") || name.starts_with("multi_modal_projector.") {
        return None;
    }
    let fixed = match name {
        "embed_tokens.weight" => Some(EMBEDDING),
        "norm.weight" => Some(OUTPUT_NORM),
        "lm_head.weight" => Some(OUTPUT),
        _ => None,
    };
    if let Some(fixed) = fixed {
        return Some(fixed.to_owned());
    }
    let part = || {
        let (layer, part) = name.strip_prefix("layers.")?.split_once('.')?;
        let (module, kind) = part.rsplit_once('.')?;
        // With norms after them too, the name of Llama's norm before the feed-forward means another.
        let post_norms = spec.layers.first().is_some_and(|layer| layer.post_norms);
        let module = match module {
            "input_layernorm" => "attn_norm",
            "post_attention_layernorm" if post_norms => "post_attention_norm",
            "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
            "post_feedforward_layernorm" => "post_ffw_norm",
            "self_attn.q_proj" => "attn_q",
            "self_attn.k_proj" => "attn_k",
            "self_attn.v_proj" => "attn_v",
            "self_attn.qkv_proj" => "attn_qkv",
            "self_attn.o_proj" => "attn_output",
            "self_attn.q_norm" => "attn_q_norm",
            "self_attn.k_norm" => "attn_k_norm",
            "mlp.gate_proj" => "ffn_gate",
            "mlp.up_proj" | "mlp.gate_up_proj" => "ffn_up",
            "mlp.down_proj" => "ffn_down",
            _ => return None,
        };
        Some(format!("blk.{layer}.{module}.{kind}"))
    };
    Some(part().unwrap_or_else(|| name.to_owned()))
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
