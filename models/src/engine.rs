//! The engine: many sequences, stepped together. (Being written: signatures stand, `load` refuses.)

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Problem, RequestError};
use crate::request::{Begun, Event, GenerateRequest, SequenceId};

/// What a model is, known without reading its weights.
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
}

/// Checks a model without reading its weights.
///
/// # Errors
/// What [`Engine::load`] would fail with.
pub fn inspect(path: &Path) -> Result<ModelSummary, ModelError> {
    Err(ModelError::new(
        path,
        Problem::NotAModel("not written yet".into()),
    ))
}

/// Bounds that the engine's owner sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineOptions {
    /// The most sequences that run at once.
    pub max_sequences: usize,
    /// A smaller context than the model's own, to bound the memory of a sequence.
    pub max_context_tokens: Option<usize>,
}

/// A loaded model and the sequences that run on it.
pub struct Engine {
    summary: ModelSummary,
}

impl Engine {
    /// Loads a model.
    ///
    /// # Errors
    /// A [`ModelError`] naming the file.
    pub fn load(path: &Path, _options: EngineOptions) -> Result<Engine, ModelError> {
        Ok(Engine {
            summary: inspect(path)?,
        })
    }

    /// What was loaded.
    pub fn summary(&self) -> &ModelSummary {
        &self.summary
    }

    /// Takes a request in.
    ///
    /// # Errors
    /// A [`RequestError`].
    pub fn begin(&mut self, _id: SequenceId, _request: &GenerateRequest) -> Result<Begun, RequestError> {
        Err(RequestError::EmptyPrompt)
    }

    /// One step for every running sequence.
    pub fn step(&mut self) -> Vec<Event> {
        Vec::new()
    }

    /// Ends a sequence.
    pub fn cancel(&mut self, _id: SequenceId) -> bool {
        false
    }

    /// Sequences that run.
    pub fn running(&self) -> usize {
        0
    }
}
