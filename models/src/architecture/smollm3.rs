//! SmolLM3: Llama whose every fourth layer knows no positions.
//!
//! Sources: transformers' `modeling_smollm3.py`; llama.cpp, where the step of 4 is no key but part of the architecture
//! and files are permuted as Llama's are.

use super::gguf_metadata::GgufMetadata;
use super::json_metadata::JsonMetadata;
use super::spec::{NetworkSpec, RopePairs};
use crate::error::Problem;

/// Layers from one without positions to the next.
const INTERVAL: usize = 4;

pub(super) fn from_gguf(metadata: &GgufMetadata<'_>) -> Result<NetworkSpec, Problem> {
    let mut network = metadata.network(RopePairs::Neighbours)?;
    for layer in network.layers.iter_mut().skip(INTERVAL - 1).step_by(INTERVAL) {
        layer.rope = None;
    }
    Ok(network)
}

pub(super) fn from_json(metadata: &JsonMetadata<'_>) -> Result<NetworkSpec, Problem> {
    let mut network = metadata.network(true)?;
    let layers = network.layers.len();
    let positioned: Vec<bool> = match metadata.json()["no_rope_layers"].as_array() {
        // In spite of the key's name, 1 is a layer with positions.
        Some(listed) if listed.len() == layers => listed.iter().map(|positioned| positioned != 0).collect(),
        Some(listed) => {
            return Err(Problem::Configuration(format!(
                "no_rope_layers has {} entries for {layers} layers",
                listed.len()
            )));
        }
        None => {
            let interval = metadata.size("no_rope_layer_interval")?.unwrap_or(INTERVAL);
            // An interval of 0 has no multiples but 0: every layer has positions.
            (1..=layers)
                .map(|layer| !layer.is_multiple_of(interval))
                .collect()
        }
    };
    let listed = metadata.windowed(layers)?;
    let window = metadata.size("sliding_window")?;
    let window = window.filter(|_| metadata.flag("use_sliding_window", false));
    for (index, layer) in network.layers.iter_mut().enumerate() {
        let positioned = positioned[index];
        let windowed = listed.as_ref().map_or(!positioned, |listed| listed[index]);
        layer.rope = layer.rope.filter(|_| positioned);
        layer.window = window.filter(|_| windowed);
    }
    Ok(network)
}
