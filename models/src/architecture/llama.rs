//! Llama 2 and 3, and what has its form: SmolLM2, TinyLlama, Mistral.
//!
//! Sources: Touvron et al. 2023 (Llama 2), Ainslie et al. 2023 (grouped queries), Jiang et al. 2023 (Mistral's
//! window); layouts from llama.cpp's `convert_hf_to_gguf.py` (`LlamaModel.permute`).

use super::gguf_metadata::GgufMetadata;
use super::json_metadata::JsonMetadata;
use super::spec::{NetworkSpec, RopePairs};
use crate::error::Problem;

pub(super) fn from_gguf(metadata: &GgufMetadata<'_>) -> Result<NetworkSpec, Problem> {
    let mut network = metadata.network(RopePairs::Neighbours)?;
    let window = metadata.window()?;
    network.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(network)
}

pub(super) fn from_json(metadata: &JsonMetadata<'_>) -> Result<NetworkSpec, Problem> {
    metadata.network(false)
}

pub(super) fn mistral_from_json(metadata: &JsonMetadata<'_>) -> Result<NetworkSpec, Problem> {
    let mut network = metadata.network(false)?;
    let window = metadata.size_or_default("sliding_window", 4096)?;
    network.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(network)
}
