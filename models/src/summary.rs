//! What is known of a model without reading its weights.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::architecture;
use crate::error::{ModelError, Problem};
use crate::footprint::Footprint;
use crate::precision::Precision;

/// What a model is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSummary {
    /// The file's own name for the model, else the file's or directory's.
    pub name: String,
    /// The model family, `llama` for example.
    pub architecture: String,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of the weights in the file.
    pub weights_bytes: u64,
    /// The most tokens of prompt and answer together.
    pub context_length: usize,
    /// Number of tokens the model knows.
    pub vocabulary_size: usize,
    /// Whether the model brings a chat template.
    pub has_chat_template: bool,
    /// The file format and the type of most weights: `gguf f32`, `safetensors bf16`.
    pub format: String,
    /// Whether it answers with actions ([`crate::assistant`]).
    #[serde(default)]
    pub assistant: bool,
    /// How many bits a weight has while it runs; before it is loaded, what it would have if nobody says otherwise.
    pub precision: Precision,
}

/// Checks a model without reading its weights: header, configuration, tokenizer, template, and that every tensor is
/// there with the right shape, in a type that can be run, inside the file.
///
/// `path` is a `.gguf` file or any part of a split one, a directory with `config.json`, `tokenizer.json` and
/// `model.safetensors` (or `model.safetensors.index.json` and the files that it lists), or one of these `.safetensors`
/// files itself.
///
/// # Errors
/// What [`Engine::load`](crate::Engine::load) would fail with, always naming the file.
pub fn inspect(path: &Path) -> Result<ModelSummary, ModelError> {
    Footprint::of(path).map(|footprint| footprint.summary)
}

/// Whether models of this architecture can be run at all, by its name in GGUF files or its `model_type`.
///
/// # Errors
/// [`Problem::UnknownArchitecture`], which names those that can.
pub fn check_architecture(name: &str) -> Result<(), Problem> {
    architecture::family(name).map(drop)
}
