//! One loaded model: its network, tokenizer and template. What the engine runs, and what tests look into.

use std::path::Path;

use burn::tensor::Device;

use crate::architecture;
use crate::architecture::network::Network;
use crate::architecture::spec::{LayerSpec, NetworkSpec};
use crate::error::{ModelError, RequestError};
use crate::format::Checkpoint;
use crate::kv_cache::KvCache;
use crate::request::Prompt;
use crate::summary::ModelSummary;
use crate::template::{Date, Template};
use crate::tokenizer::Tokenizer;

/// A model in memory.
#[derive(Debug)]
pub struct Model {
    summary: ModelSummary,
    spec: NetworkSpec,
    tokenizer: Tokenizer,
    template: Option<Template>,
    network: Network,
    device: Device,
}

impl Model {
    /// Loads a model; weights become 32-bit floats.
    ///
    /// # Errors
    /// A [`ModelError`] naming the file and the remedy.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let checkpoint = Checkpoint::open(path)?;
        let template = checkpoint.template.as_deref().map(Template::new).transpose();
        let template = template.map_err(|problem| checkpoint.error(problem))?;
        let device = crate::backend::device();
        let network = architecture::load(&checkpoint, &device)?;
        let summary = checkpoint.summary();
        let Checkpoint { spec, tokenizer, .. } = checkpoint;
        Ok(Self {
            summary,
            spec,
            tokenizer,
            template,
            network,
            device,
        })
    }

    /// What was loaded.
    pub fn summary(&self) -> &ModelSummary {
        &self.summary
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// An empty cache for at most `limit` tokens, or the model's context if that is less. A model with LongRoPE
    /// computes other numbers for a limit beyond its original context, from the first token on.
    pub fn new_cache(&self, limit: usize) -> KvCache {
        // All layers have the same, which the description was checked for.
        let width = |layer: &LayerSpec| (layer.kv_heads, layer.head_size);
        let (kv_heads, head_size) = self.spec.layers.first().map_or((0, 0), width);
        KvCache::new(
            self.spec.layers.len(),
            kv_heads,
            head_size,
            limit.min(self.spec.context_length),
            self.device.clone(),
        )
    }

    /// Feeds tokens behind those that the cache has seen, and gives the logits after the last of them, one for each
    /// token of the vocabulary. The cache must come from this model's [`new_cache`](Self::new_cache).
    ///
    /// # Errors
    /// [`RequestError::EmptyPrompt`] for no tokens, [`RequestError::UnknownToken`],
    /// [`RequestError::PromptTooLong`] where the cache's limit has no room; the cache is then unchanged.
    pub fn forward(&self, cache: &mut KvCache, tokens: &[u32]) -> Result<Vec<f32>, RequestError> {
        if tokens.is_empty() {
            return Err(RequestError::EmptyPrompt);
        }
        self.check_tokens(tokens)?;
        let needed = cache.len().saturating_add(tokens.len());
        if needed > cache.limit() {
            return Err(RequestError::PromptTooLong {
                tokens: needed,
                limit: cache.limit(),
            });
        }
        Ok(self.network.forward(&self.spec, cache, tokens))
    }

    pub(crate) fn check_tokens(&self, tokens: &[u32]) -> Result<(), RequestError> {
        let vocabulary_size = self.summary.vocabulary_size;
        match tokens.iter().find(|token| **token as usize >= vocabulary_size) {
            Some(&token) => Err(RequestError::UnknownToken {
                token,
                vocabulary_size,
            }),
            None => Ok(()),
        }
    }

    /// The tokens of a prompt: through the chat template if the model has one, else the text as it is.
    pub(crate) fn encode(
        &self,
        prompt: &Prompt,
        limit: usize,
        today: Option<Date>,
    ) -> Result<Vec<u32>, RequestError> {
        let bytes = match prompt {
            Prompt::Text(text) => text.len(),
            Prompt::Messages(messages) => messages.iter().map(|message| message.content.len()).sum(),
        };
        // Splitting a text costs time and memory in proportion to it; what cannot fit is refused before.
        let fewest = self.tokenizer.fewest_tokens(bytes);
        if fewest > limit {
            return Err(RequestError::PromptTooLong {
                tokens: fewest,
                limit,
            });
        }
        let Some(template) = &self.template else {
            return match prompt {
                Prompt::Text(text) => self.tokenizer.encode_prompt(text),
                Prompt::Messages(messages) => {
                    let contents: Vec<&str> =
                        messages.iter().map(|message| message.content.as_str()).collect();
                    self.tokenizer.encode_prompt(&contents.join("\n"))
                }
            };
        };
        let messages: Vec<crate::request::ChatMessage> = match prompt {
            Prompt::Text(text) => vec![crate::request::ChatMessage {
                role: "user".into(),
                content: text.clone(),
            }],
            Prompt::Messages(messages) => messages.clone(),
        };
        let guarded: Vec<_> = messages
            .iter()
            .map(|message| crate::request::ChatMessage {
                role: self.tokenizer.guard(&message.role),
                content: self.tokenizer.guard(&message.content),
            })
            .collect();
        let rendered = template.render(&guarded, self.tokenizer.bos_and_eos_texts(), today)?;
        self.tokenizer.encode_template(&rendered)
    }
}
