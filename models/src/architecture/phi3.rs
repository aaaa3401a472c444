//! Phi-3, 3.5 and 4-mini: Llama with fused matrices, a window, and LongRoPE where the context is long.
//!
//! Sources: Abdin et al. 2024; transformers' `modeling_phi3.py`; llama.cpp's `Phi3MiniModel`. llama.cpp itself ignores
//! the window of these files (pull request 13676); here it counts as in transformers.

use super::gguf_metadata::GgufMetadata;
use super::json_metadata::JsonMetadata;
use super::spec::{NetworkSpec, RopePairs};
use crate::error::Problem;

pub(super) fn from_gguf(metadata: &GgufMetadata<'_>) -> Result<NetworkSpec, Problem> {
    let mut network = metadata.network(RopePairs::Halves)?;
    let window = metadata.window()?;
    for layer in &mut network.layers {
        layer.window = window;
        layer.fused_gate_up = true;
    }
    Ok(network)
}

pub(super) fn from_json(metadata: &JsonMetadata<'_>) -> Result<NetworkSpec, Problem> {
    let mut network = metadata.network(false)?;
    let window = metadata.size("sliding_window")?;
    for layer in &mut network.layers {
        layer.window = window;
        layer.fused_qkv = true;
        layer.fused_gate_up = true;
        layer.qkv_bias = false;
        layer.output_bias = false;
    }
    network.norm.epsilon = metadata.number("rms_norm_eps")?.unwrap_or(1e-5);
    Ok(network)
}
