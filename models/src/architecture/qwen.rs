//! Qwen 2 and 2.5: Llama with biases on queries, keys and values. Qwen 3: with norms on queries and keys instead.
//!
//! Sources: transformers' `modeling_qwen2.py` and `modeling_qwen3.py`; in GGUF files nothing is permuted.

use super::gguf_metadata::GgufMetadata;
use super::json_metadata::JsonMetadata;
use super::spec::{NetworkSpec, RopePairs};
use crate::error::Problem;

pub(super) fn qwen2_from_gguf(metadata: &GgufMetadata<'_>) -> Result<NetworkSpec, Problem> {
    let mut network = metadata.network(RopePairs::Halves)?;
    network.layers.iter_mut().for_each(|layer| layer.qkv_bias = true);
    Ok(network)
}

pub(super) fn qwen2_from_json(metadata: &JsonMetadata<'_>) -> Result<NetworkSpec, Problem> {
    let mut network = metadata.network(false)?;
    for layer in &mut network.layers {
        layer.qkv_bias = true;
        layer.output_bias = false;
    }
    set_windows(metadata, &mut network)?;
    Ok(network)
}

pub(super) fn qwen3_from_gguf(metadata: &GgufMetadata<'_>) -> Result<NetworkSpec, Problem> {
    let mut network = metadata.network(RopePairs::Halves)?;
    with_norms(&mut network);
    Ok(network)
}

pub(super) fn qwen3_from_json(metadata: &JsonMetadata<'_>) -> Result<NetworkSpec, Problem> {
    let mut network = metadata.network(false)?;
    with_norms(&mut network);
    set_windows(metadata, &mut network)?;
    Ok(network)
}

fn with_norms(network: &mut NetworkSpec) {
    let layers = network.layers.iter_mut();
    layers.for_each(|layer| layer.query_key_norms = true);
}

/// The window is off in every published model, and has a size all the same; where it is on, the first layers are
/// without.
fn set_windows(metadata: &JsonMetadata<'_>, network: &mut NetworkSpec) -> Result<(), Problem> {
    if !metadata.flag("use_sliding_window", false) {
        return Ok(());
    }
    let window = metadata.size_or_default("sliding_window", 4096)?;
    let first = metadata.size("max_window_layers")?.unwrap_or(28);
    let listed = metadata.windowed(network.layers.len())?;
    for (index, layer) in network.layers.iter_mut().enumerate() {
        let windowed = listed.as_ref().map_or(index >= first, |listed| listed[index]);
        layer.window = window.filter(|_| windowed);
    }
    Ok(())
}
