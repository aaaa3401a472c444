//! Gemma 2 and 3: scaled embeddings, norms before and after, GELU, and windows in most layers. Gemma 2 soft-caps
//! scores and logits; Gemma 3 norms queries and keys instead and turns its windowed layers by another base.
//!
//! Norm weights mean `1 + w` in safetensors; GGUF files have the 1 added already.
//!
//! Sources: Gemma Team 2024 and 2025; transformers' `modeling_gemma2.py`, `modeling_gemma3.py` and their
//! configurations; llama.cpp's `Gemma2Model` and `Gemma3Model` in `convert_hf_to_gguf.py` (`data_torch + 1` for names
//! that end in `norm.weight`) and `llama-model.cpp`.

use serde_json::{Value, json};

use super::gguf_metadata::GgufMetadata;
use super::json_metadata::JsonMetadata;
use super::rope::{RopeScaling, RopeSpec};
use super::spec::{Activation, NetworkSpec, RopePairs};
use crate::error::Problem;

pub(super) fn gemma2_from_gguf(metadata: &GgufMetadata<'_>) -> Result<NetworkSpec, Problem> {
    let mut network = metadata.network(RopePairs::Halves)?;
    let windowed = metadata.windowed(network.layers.len(), 2)?;
    set_windows(&mut network, metadata.window()?.or(Some(4096)), &windowed);
    let attention_softcap = metadata.number("attn_logit_softcapping")?.or(Some(50.0));
    network.final_softcap = metadata.number("final_logit_softcapping")?.or(Some(30.0));
    let scale = gguf_attention_scale(&network, 46);
    as_gemma(&mut network, scale, attention_softcap);
    Ok(network)
}

pub(super) fn gemma3_from_gguf(metadata: &GgufMetadata<'_>) -> Result<NetworkSpec, Problem> {
    // The usual default is far from any Gemma 3's base, and other programs' files have it under other keys.
    if metadata.number("rope.freq_base")?.is_none() {
        return Err(Problem::Configuration("gemma3.rope.freq_base is missing".into()));
    }
    let mut network = metadata.network(RopePairs::Halves)?;
    let windowed = metadata.windowed(network.layers.len(), 6)?;
    set_windows(&mut network, metadata.window()?, &windowed);
    network.final_softcap = metadata.number("final_logit_softcapping")?;
    let local_theta = metadata.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let scale = gguf_attention_scale(&network, 62);
    as_gemma(&mut network, scale, None);
    as_gemma3(&mut network, local_theta);
    Ok(network)
}

pub(super) fn gemma2_from_json(metadata: &JsonMetadata<'_>) -> Result<NetworkSpec, Problem> {
    let defaults = json!({
        "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    });
    let config = with_defaults(defaults, metadata.json());
    let metadata = &metadata.with(&config);
    let mut network = network_from_json(metadata, 2)?;
    network.norm.weight_offset = 1.0;
    Ok(network)
}

pub(super) fn gemma3_from_json(metadata: &JsonMetadata<'_>) -> Result<NetworkSpec, Problem> {
    // The models that also see keep the text's configuration apart, and only what differs from these.
    let text = match &metadata.json()["text_config"] {
        Value::Null => metadata.json(),
        text => text,
    };
    let defaults = json!({
        "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "query_pre_attn_scalar": 256, "sliding_window": 4096, "max_position_embeddings": 131_072,
        "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0,
    });
    let config = with_defaults(defaults, text);
    let metadata = &metadata.with(&config);
    let period = match metadata.size("sliding_window_pattern")? {
        Some(period) => Some(period),
        None => metadata.size("_sliding_window_pattern")?,
    };
    let mut network = network_from_json(metadata, period.unwrap_or(6))?;
    let newer = config["rope_parameters"]["sliding_attention"]["rope_theta"].as_f64();
    let local_theta = match newer {
        Some(theta) => theta,
        None => metadata.number("rope_local_base_freq")?.unwrap_or(10_000.0),
    };
    as_gemma3(&mut network, local_theta);
    network.norm.weight_offset = 1.0;
    Ok(network)
}

fn network_from_json(metadata: &JsonMetadata<'_>, period: usize) -> Result<NetworkSpec, Problem> {
    let mut network = metadata.network(true)?;
    let layers = network.layers.len();
    let windowed = match metadata.windowed(layers)? {
        Some(listed) => listed,
        None => (1..=layers).map(|layer| !layer.is_multiple_of(period)).collect(),
    };
    set_windows(&mut network, metadata.size("sliding_window")?, &windowed);
    let scalar = metadata.number("query_pre_attn_scalar")?.unwrap_or(256.0);
    network.final_softcap = metadata.number("final_logit_softcapping")?;
    let attention_softcap = metadata.number("attn_logit_softcapping")?;
    let activation = network.activation;
    as_gemma(&mut network, scalar.powf(-0.5), attention_softcap);
    // A file that names another activation means it.
    if !metadata.json()["hidden_activation"].is_null() {
        network.activation = activation;
    }
    Ok(network)
}

/// What Gemma 2 and 3 have in common.
fn as_gemma(network: &mut NetworkSpec, attention_scale: f64, attention_softcap: Option<f64>) {
    network.embedding_scale = (network.hidden_size as f64).sqrt();
    network.activation = Activation::GeluTanh;
    for layer in &mut network.layers {
        layer.post_norms = true;
        layer.attention_scale = attention_scale;
        layer.attention_softcap = attention_softcap;
    }
}

/// Scaling of positions is only for the layers that see everything.
fn as_gemma3(network: &mut NetworkSpec, local_theta: f64) {
    let local = RopeSpec {
        theta: local_theta,
        rotated: network.layers.first().map_or(0, |layer| layer.head_size),
        scaling: RopeScaling::None,
    };
    network.ropes.push(local);
    for layer in &mut network.layers {
        layer.query_key_norms = true;
        if layer.window.is_some() {
            layer.rope = Some(1);
        }
    }
}

fn set_windows(network: &mut NetworkSpec, window: Option<usize>, windowed: &[bool]) {
    for (layer, windowed) in network.layers.iter_mut().zip(windowed) {
        layer.window = window.filter(|_| *windowed);
    }
}

/// GGUF has no key for `query_pre_attn_scalar`. It is the head size, but for the largest model of each generation,
/// which llama.cpp knows by its number of layers.
fn gguf_attention_scale(network: &NetworkSpec, layers_of_the_largest: usize) -> f64 {
    let Some(layer) = network.layers.first() else {
        return 1.0;
    };
    let scalar = if network.layers.len() == layers_of_the_largest {
        network.hidden_size / layer.heads
    } else {
        layer.head_size
    };
    (scalar as f64).powf(-0.5)
}

/// The configuration with what it leaves out.
fn with_defaults(mut defaults: Value, config: &Value) -> Value {
    if let (Some(merged), Some(own)) = (defaults.as_object_mut(), config.as_object()) {
        merged.extend(own.clone());
    }
    defaults
}
