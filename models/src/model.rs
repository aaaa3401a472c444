//! One loaded model: its network, tokenizer and template. What the engine runs, and what tests look into.

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use crate::architecture;
use crate::architecture::network::Network;
use crate::architecture::spec::{LayerSpec, NetworkSpec};
use crate::error::{ModelError, Problem, RequestError};
use crate::format::Checkpoint;
use crate::kv_cache::TensorCache;
use crate::output::{CallStyle, Tool};
use crate::packed::file::Home;
use crate::packed::{ChangeProgress, PAGE_TOKENS, PackedNetwork, PagedCache, Run};
use crate::precision::{KvPrecision, Precision};
use crate::request::{ChatMessage, Prompt};
use crate::summary::ModelSummary;
use crate::template::{Date, Given, Template};
use crate::tokenizer::Tokenizer;

/// A model in memory.
#[derive(Debug)]
pub struct Model {
    /// The file that holds its weights, or lists those that do.
    path: PathBuf,
    summary: ModelSummary,
    spec: NetworkSpec,
    tokenizer: Tokenizer,
    template: Option<Template>,
    network: Computation,
}

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions<'o> {
    /// How many bits a weight has; none for what suits the model ([`Precision::automatic`]).
    pub precision: Option<Precision>,
    /// Threads that compute, the caller among them; none for as many as the machine has cores.
    pub threads: Option<usize>,
    /// Where packed weights are kept for the next time; none for nowhere.
    pub packed_directory: Option<&'o Path>,
}

/// What computes it.
#[derive(Debug)]
enum Computation {
    /// Burn's modules, in f32.
    Reference(Box<Network>, Device),
    /// The kernels.
    Packed(Box<PackedNetwork>),
}

/// Keys and values of the tokens that a sequence has already seen. It grows up to its limit, and a model's forward pass
/// fills it.
#[derive(Debug)]
pub struct KvCache(Kept);

#[derive(Debug)]
enum Kept {
    Tensors(TensorCache),
    Pages(PagedCache),
}

impl KvCache {
    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        match &self.0 {
            Kept::Tensors(cache) => cache.len(),
            Kept::Pages(cache) => cache.len(),
        }
    }

    /// Whether nothing was fed yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most tokens it will hold.
    pub fn limit(&self) -> usize {
        match &self.0 {
            Kept::Tensors(cache) => cache.limit(),
            Kept::Pages(cache) => cache.limit(),
        }
    }

    /// Bytes that it takes now.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Kept::Tensors(cache) => cache.bytes(),
            Kept::Pages(cache) => cache.bytes(),
        }
    }

    /// Bytes that it takes when it has so many tokens.
    pub fn bytes_for(&self, tokens: usize) -> usize {
        match &self.0 {
            Kept::Tensors(cache) => cache.bytes_for(tokens),
            Kept::Pages(cache) => tokens.div_ceil(PAGE_TOKENS).saturating_mul(cache.page_bytes()),
        }
    }

    /// Forgets all tokens, and gives their memory back.
    pub fn clear(&mut self) {
        match &mut self.0 {
            Kept::Tensors(cache) => cache.clear(),
            Kept::Pages(cache) => cache.clear(),
        }
    }

    /// Its pages, where the kernels compute the model.
    pub(crate) fn pages(&self) -> Option<&PagedCache> {
        match &self.0 {
            Kept::Tensors(_) => None,
            Kept::Pages(cache) => Some(cache),
        }
    }

    /// Its pages, where the kernels compute the model.
    pub(crate) fn pages_mut(&mut self) -> Option<&mut PagedCache> {
        match &mut self.0 {
            Kept::Tensors(_) => None,
            Kept::Pages(cache) => Some(cache),
        }
    }
}

/// What a sequence wants of a step.
#[derive(Debug)]
pub struct Feed<'f> {
    /// What it has seen, from this model's [`new_cache`](Model::new_cache).
    pub cache: &'f mut KvCache,
    /// What it is fed behind that.
    pub tokens: &'f [u32],
    /// Whether the logits after the last of them are wanted.
    pub wants_logits: bool,
}

impl Model {
    /// Loads a model; weights become 32-bit floats.
    ///
    /// # Errors
    /// A [`ModelError`] naming the file and the remedy.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        Self::load_at(path, Some(Precision::F32), None)
    }

    /// Loads a model at a precision, or at the one that suits it ([`Precision::automatic`]), for so many threads, or
    /// as many as the machine has cores.
    ///
    /// # Errors
    /// A [`ModelError`] naming the file and the remedy.
    pub fn load_at(
        path: &Path,
        precision: Option<Precision>,
        threads: Option<usize>,
    ) -> Result<Self, ModelError> {
        let options = LoadOptions {
            precision,
            threads,
            packed_directory: None,
        };
        Self::load_with(path, options, &mut |_, _| {})
    }

    /// Loads a model as `options` say, and tells how many parts of its weights were packed, and of how many, as long as
    /// that takes.
    ///
    /// # Errors
    /// A [`ModelError`] naming the file and the remedy.
    pub fn load_with(
        path: &Path,
        options: LoadOptions<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, ModelError> {
        let LoadOptions {
            precision,
            threads,
            packed_directory,
        } = options;
        let checkpoint = Checkpoint::open(path)?;
        let template = checkpoint.template.as_deref().map(Template::new).transpose();
        let template = template.map_err(|problem| checkpoint.error(problem))?;
        architecture::check(&checkpoint)?;
        let mut summary = checkpoint.summary();
        let precision = precision.unwrap_or(summary.precision);
        summary.precision = precision;
        let network = match precision.packing() {
            None => {
                let device = crate::backend::device();
                Computation::Reference(Box::new(architecture::load(&checkpoint, &device)?), device)
            }
            Some(packing) => {
                let threads = threads.unwrap_or_else(|| {
                    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
                });
                let home = packed_directory.map(|directory| Home::of(&checkpoint, directory));
                let network = PackedNetwork::load(&checkpoint, packing, threads, home, progress)?;
                Computation::Packed(Box::new(network))
            }
        };
        let path = checkpoint.path().to_owned();
        let Checkpoint { spec, tokenizer, .. } = checkpoint;
        Ok(Self {
            path,
            summary,
            spec,
            tokenizer,
            template,
            network,
        })
    }

    /// What was loaded.
    pub fn summary(&self) -> &ModelSummary {
        &self.summary
    }

    /// Bytes of the weights in memory, where the kernels compute it.
    pub fn packed_bytes(&self) -> Option<usize> {
        match &self.network {
            Computation::Reference(..) => None,
            Computation::Packed(network) => Some(network.bytes()),
        }
    }

    /// Its weights as far as they are mapped from packed files, a part for each matrix: whoever asks the system how much of
    /// them is in memory asks for these addresses. Nothing is read.
    pub fn mapped_weights(&self) -> Vec<&[u8]> {
        match &self.network {
            Computation::Reference(..) => Vec::new(),
            Computation::Packed(network) => network.mapped_weights(),
        }
    }

    /// Begins to bring its weights to another precision, from whose packed file they are then exchanged part by part
    /// ([`advance_change`](Self::advance_change)). Until the last one is, it counts as of the precision that it had. A
    /// change that is under way is given up: what was exchanged stays, unless it is exchanged again.
    ///
    /// # Errors
    /// [`Problem::NotPacked`] where there is no such file, or one of other weights; nothing has changed then.
    pub fn begin_change(&mut self, to: Precision) -> Result<ChangeProgress, ModelError> {
        let begun = match &mut self.network {
            Computation::Packed(network) => network.begin_change(to),
            Computation::Reference(..) => Err(Problem::NotPacked {
                precision: to,
                why: "the model runs at f32, on its own files".to_owned(),
            }),
        };
        begun.map_err(|problem| ModelError::new(&self.path, problem))
    }

    /// Exchanges one more part and gives the memory of the old one back; none where no change is under way.
    ///
    /// # Errors
    /// A [`ModelError`] where the file turns out to be damaged. The change is over then, and the model computes with the
    /// parts that it has: [`begin_change`](Self::begin_change) brings it to the end or back.
    pub fn advance_change(&mut self) -> Option<Result<ChangeProgress, ModelError>> {
        let Computation::Packed(network) = &mut self.network else {
            return None;
        };
        let progress = network.advance_change()?;
        if let Ok(ChangeProgress { to, done, of }) = progress
            && done == of
        {
            self.summary.precision = to;
        }
        Some(progress)
    }

    /// How far its weights are on their way to another precision, if they are.
    pub fn change(&self) -> Option<ChangeProgress> {
        match &self.network {
            Computation::Reference(..) => None,
            Computation::Packed(network) => network.change(),
        }
    }

    /// Whether its weights were packed just now, and not found in a file.
    pub fn was_packed(&self) -> bool {
        match &self.network {
            Computation::Reference(..) => false,
            Computation::Packed(network) => network.was_packed(),
        }
    }

    /// Why packed weights could not be kept for the next time, where that was asked for.
    pub fn not_kept(&self) -> Option<&str> {
        match &self.network {
            Computation::Reference(..) => None,
            Computation::Packed(network) => network.not_kept(),
        }
    }

    /// What computes it: a backend of Burn's, or the instructions that the kernels use.
    pub fn computed_by(&self) -> &'static str {
        match &self.network {
            Computation::Reference(..) => crate::backend::NAME,
            Computation::Packed(network) => network.instructions(),
        }
    }

    /// How many bits a weight has.
    pub fn precision(&self) -> Precision {
        self.summary.precision
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// An empty cache for at most `limit` tokens, or the model's context if that is less. A model with LongRoPE
    /// computes other numbers for a limit beyond its original context, from the first token on.
    pub fn new_cache(&self, limit: usize) -> KvCache {
        self.new_cache_at(limit, KvPrecision::default())
    }

    /// The same, for keys and values of so many bits; the reference has its own.
    pub fn new_cache_at(&self, limit: usize, precision: KvPrecision) -> KvCache {
        let limit = limit.min(self.spec.context_length);
        let device = match &self.network {
            Computation::Packed(network) => {
                return KvCache(Kept::Pages(network.new_cache(limit, precision)));
            }
            Computation::Reference(_, device) => device.clone(),
        };
        // All layers have the same, which the description was checked for.
        let width = |layer: &LayerSpec| (layer.kv_heads, layer.head_size);
        let (kv_heads, head_size) = self.spec.layers.first().map_or((0, 0), width);
        KvCache(Kept::Tensors(TensorCache::new(
            self.spec.layers.len(),
            kv_heads,
            head_size,
            limit,
            device,
        )))
    }

    /// Feeds tokens behind those that the cache has seen, and gives the logits after the last of them, one for each
    /// token of the vocabulary. The cache must come from this model's [`new_cache`](Self::new_cache).
    ///
    /// # Errors
    /// [`RequestError::EmptyPrompt`] for no tokens, [`RequestError::UnknownToken`],
    /// [`RequestError::PromptTooLong`] where the cache's limit has no room; the cache is then unchanged.
    pub fn forward(&self, cache: &mut KvCache, tokens: &[u32]) -> Result<Vec<f32>, RequestError> {
        let feed = Feed {
            cache,
            tokens,
            wants_logits: true,
        };
        let outcome = self
            .step(&mut [feed])
            .pop()
            .unwrap_or(Err(RequestError::EmptyPrompt))?;
        outcome.ok_or(RequestError::EmptyPrompt)
    }

    /// Feeds several sequences at once, each as [`forward`](Self::forward) does, and gives the logits that were asked
    /// for, in the order of the sequences.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward), for each sequence by itself.
    pub fn step(&self, feeds: &mut [Feed<'_>]) -> Vec<Result<Option<Vec<f32>>, RequestError>> {
        let checked: Vec<Result<(), RequestError>> = feeds.iter().map(|feed| self.check_feed(feed)).collect();
        let mut runs = Vec::new();
        let mut references = Vec::new();
        for (feed, checked) in feeds.iter_mut().zip(&checked) {
            if checked.is_err() {
                continue;
            }
            match (&mut feed.cache.0, &self.network) {
                (Kept::Pages(cache), Computation::Packed(_)) => runs.push(Run {
                    cache,
                    tokens: feed.tokens,
                    wants_logits: feed.wants_logits,
                }),
                (Kept::Tensors(cache), Computation::Reference(network, _)) => {
                    let logits = network.forward(&self.spec, cache, feed.tokens);
                    references.push(feed.wants_logits.then_some(logits));
                }
                // A cache of another model computes nothing.
                _ => references.push(None),
            }
        }
        let computed = match &self.network {
            Computation::Packed(network) if !runs.is_empty() => network.forward(&mut runs),
            _ => references,
        };
        let mut computed = computed.into_iter();
        checked
            .into_iter()
            .map(|checked| checked.map(|()| computed.next().flatten()))
            .collect()
    }

    fn check_feed(&self, feed: &Feed<'_>) -> Result<(), RequestError> {
        if feed.tokens.is_empty() {
            return Err(RequestError::EmptyPrompt);
        }
        self.check_tokens(feed.tokens)?;
        let needed = feed.cache.len().saturating_add(feed.tokens.len());
        if needed > feed.cache.limit() {
            return Err(RequestError::PromptTooLong {
                tokens: needed,
                limit: feed.cache.limit(),
            });
        }
        Ok(())
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

    /// How it writes tool calls, if it can.
    pub(crate) fn call_style(&self) -> Option<CallStyle> {
        self.template.as_ref().and_then(Template::call_style)
    }

    /// The tokens of a prompt: through the chat template if the model has one, else the text as it is.
    pub(crate) fn encode(
        &self,
        prompt: &Prompt,
        tools: &[Tool],
        limit: usize,
        today: Option<Date>,
    ) -> Result<Vec<u32>, RequestError> {
        // Splitting a text costs time and memory in proportion to it; what cannot fit is refused before.
        let fewest = self.tokenizer.fewest_tokens(prompt.bytes());
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
        let alone;
        let messages = match prompt {
            Prompt::Text(text) => {
                alone = [ChatMessage::new("user", text)];
                &alone[..]
            }
            Prompt::Messages(messages) => messages,
        };
        let given = Given {
            messages,
            tools,
            bos_and_eos: self.tokenizer.bos_and_eos_texts(),
            today,
        };
        let rendered = template.render(given, &|text| self.tokenizer.guard(text))?;
        self.tokenizer.encode_template(&rendered)
    }
}
