//! The engine: many sequences on one model, joining and leaving at token boundaries.
//!
//! A sequence is first *prefilled*, its prompt fed in chunks, then *decoded*, one token a step. Each step gives every
//! sequence its turn: a long prompt costs the others one chunk a step, not its whole length. Each sequence has its own
//! cache, sampler and limits, and what runs beside it changes its pace but never its tokens: the reference computes each
//! by itself, and the kernels keep the order of every sum ([`crate::kernels`]).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, RequestError};
use crate::model::{Feed, KvCache, LoadOptions, Model};
use crate::output::{Grammars, Shape, ToolCall};
use crate::precision::Precision;
use crate::request::{Begun, Event, FinishReason, GenerateRequest, Sampling, SequenceId};
use crate::sampler::Sampler;
use crate::stop::StopFilter;
use crate::summary::ModelSummary;
use crate::template::Date;
use crate::tokenizer::TextStream;

/// A loaded model and the sequences that run on it.
#[derive(Debug)]
pub struct Engine {
    model: Model,
    options: EngineOptions,
    today: Option<Date>,
    grammars: Grammars,
    /// In the order they came.
    sequences: Vec<Sequence>,
}

/// Bounds that the engine's owner sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineOptions {
    /// The most sequences that run at once.
    pub max_sequences: usize,
    /// A smaller context than the model's own, to bound the memory of a sequence.
    pub max_context_tokens: Option<usize>,
    /// How many bits a weight has; none for what suits the model ([`Precision::automatic`]).
    pub precision: Option<Precision>,
    /// Threads that compute, the caller among them; none for as many as the machine has cores.
    pub threads: Option<usize>,
    /// Where packed weights are kept for the next time; none for nowhere.
    pub packed_directory: Option<PathBuf>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_sequences: 8,
            max_context_tokens: None,
            precision: None,
            threads: None,
            packed_directory: None,
        }
    }
}

impl Engine {
    /// Loads a model. See [`inspect`](crate::inspect) for what `path` may be.
    ///
    /// # Errors
    /// A [`ModelError`] naming the file and the remedy.
    pub fn load(path: &Path, options: EngineOptions) -> Result<Engine, ModelError> {
        Self::load_with(path, options, &mut |_, _| {})
    }

    /// The same, and tells how many parts of the weights were packed, and of how many, as long as that takes.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(
        path: &Path,
        options: EngineOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Engine, ModelError> {
        let how = LoadOptions {
            precision: options.precision,
            threads: options.threads,
            packed_directory: options.packed_directory.as_deref(),
        };
        Ok(Engine {
            model: Model::load_with(path, how, progress)?,
            options,
            today: None,
            grammars: Grammars::default(),
            sequences: Vec::new(),
        })
    }

    /// The model that it runs.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What was loaded.
    pub fn summary(&self) -> &ModelSummary {
        self.model.summary()
    }

    /// Tells chat templates the day; until then those that ask for it do without.
    pub fn set_today(&mut self, today: Date) {
        self.today = Some(today);
    }

    /// The most tokens of prompt and answer together that a sequence may have.
    pub fn context_tokens(&self) -> usize {
        let own = self.model.summary().context_length;
        self.options
            .max_context_tokens
            .map_or(own, |limit| limit.min(own))
    }

    /// Takes a request in: checks it and splits its prompt into tokens. The first [`step`](Self::step) after that
    /// begins to compute it.
    ///
    /// # Errors
    /// A [`RequestError`] that says what to change; nothing has begun then.
    pub fn begin(&mut self, id: SequenceId, request: &GenerateRequest) -> Result<Begun, RequestError> {
        request.validate()?;
        self.check_room(id)?;
        let (prompt, answer) = (&request.prompt, &request.answer);
        let prompt = self
            .model
            .encode(prompt, answer.shown_tools(), self.prompt_limit(), self.today)?;
        let (tokenizer, style) = (self.model.tokenizer(), self.model.call_style());
        let seed = request.sampling.seed.unwrap_or(FALLBACK_SEED) ^ id;
        let shape = Shape::new(answer, &mut self.grammars, tokenizer, style, &prompt, seed)?;
        self.begin_shaped(
            id,
            &prompt,
            request.max_tokens,
            &request.sampling,
            &request.stop,
            shape,
        )
    }

    /// Like [`begin`](Self::begin), from token ids: nothing is added to them, so that an otherwise empty prompt can
    /// be just the beginning-of-text token.
    ///
    /// # Errors
    /// As [`begin`](Self::begin), and [`RequestError::UnknownToken`].
    pub fn begin_tokens(
        &mut self,
        id: SequenceId,
        prompt: &[u32],
        max_tokens: usize,
        sampling: &Sampling,
        stop: &[String],
    ) -> Result<Begun, RequestError> {
        self.begin_shaped(id, prompt, max_tokens, sampling, stop, Shape::default())
    }

    fn begin_shaped(
        &mut self,
        id: SequenceId,
        prompt: &[u32],
        max_tokens: usize,
        sampling: &Sampling,
        stop: &[String],
        shape: Shape,
    ) -> Result<Begun, RequestError> {
        self.check_room(id)?;
        sampling.validate()?;
        self.model.check_tokens(prompt)?;
        if prompt.is_empty() {
            return Err(RequestError::EmptyPrompt);
        }
        if max_tokens == 0 {
            return Err(RequestError::InvalidMaxTokens);
        }
        let limit = self.prompt_limit();
        if prompt.len() > limit {
            return Err(RequestError::PromptTooLong {
                tokens: prompt.len(),
                limit,
            });
        }
        let max_tokens = max_tokens.min(self.context_tokens() - prompt.len());
        let mut sampler = Sampler::new(sampling, FALLBACK_SEED ^ id);
        prompt.iter().for_each(|&token| sampler.observe(token));
        self.sequences.push(Sequence {
            id,
            cache: self.model.new_cache(prompt.len() + max_tokens),
            to_feed: prompt.to_vec(),
            fed: 0,
            prompt_tokens: prompt.len(),
            generated: 0,
            reported: 0,
            cancelled: false,
            max_tokens,
            sampler,
            shape,
            stream: self.model.tokenizer().stream(prompt),
            stop: StopFilter::new(stop),
        });
        Ok(Begun {
            prompt_tokens: prompt.len(),
            max_tokens,
        })
    }

    /// Computes one step for all running sequences together, of each a chunk of its prompt or one token of its answer,
    /// and says what came of it. Empty at once when nothing runs.
    pub fn step(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.sequences.retain_mut(|sequence| {
            !sequence.cancelled || sequence.finish(FinishReason::Cancelled, &mut events)
        });
        let model = &self.model;
        let mut feeds: Vec<Feed<'_>> = self.sequences.iter_mut().map(Sequence::feed).collect();
        let mut outcomes = model.step(&mut feeds).into_iter();
        self.sequences.retain_mut(|sequence| {
            let outcome = outcomes.next().unwrap_or(Ok(None));
            sequence.take(model, outcome, &mut events)
        });
        events
    }

    /// Ends a sequence; the next step reports it as [`FinishReason::Cancelled`], and until then it counts as running.
    /// False if no such sequence runs, or it was cancelled already.
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        let running = self
            .sequences
            .iter_mut()
            .find(|sequence| sequence.id == id && !sequence.cancelled);
        running.map(|sequence| sequence.cancelled = true).is_some()
    }

    /// Sequences that have not reported their end. While there are none, [`step`](Self::step) does nothing.
    pub fn running(&self) -> usize {
        self.sequences.len()
    }

    /// Bytes of all sequences' caches.
    pub fn cache_bytes(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.cache.bytes()).sum()
    }

    /// An answer needs room for at least one token.
    fn prompt_limit(&self) -> usize {
        self.context_tokens().saturating_sub(1)
    }

    fn check_room(&self, id: SequenceId) -> Result<(), RequestError> {
        if self.sequences.iter().any(|sequence| sequence.id == id) {
            return Err(RequestError::DuplicateSequence { id });
        }
        let limit = self.options.max_sequences;
        if self.sequences.len() >= limit {
            return Err(RequestError::TooManySequences { limit });
        }
        Ok(())
    }
}

/// Tokens of a prompt that are fed in one step: enough to use matrix products, few enough not to hold up others.
const PREFILL_CHUNK_TOKENS: usize = 64;
/// Stands in for a seed where the request gives none; any constant would do.
const FALLBACK_SEED: u64 = 0x5eed_5eed_5eed_5eed;

#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    cache: KvCache,
    /// The prompt, later the token chosen last.
    to_feed: Vec<u32>,
    /// How many of those the cache has seen.
    fed: usize,
    prompt_tokens: usize,
    generated: usize,
    /// How many of the generated tokens an event has counted.
    reported: usize,
    max_tokens: usize,
    cancelled: bool,
    sampler: Sampler,
    shape: Shape,
    stream: TextStream,
    stop: StopFilter,
}

impl Sequence {
    /// What it wants of the next step.
    fn feed(&mut self) -> Feed<'_> {
        let end = self.to_feed.len().min(self.fed + PREFILL_CHUNK_TOKENS);
        Feed {
            cache: &mut self.cache,
            tokens: &self.to_feed[self.fed..end],
            wants_logits: end == self.to_feed.len(),
        }
    }

    /// Goes on with what a step gave. Whether the sequence goes on.
    fn take(
        &mut self,
        model: &Model,
        outcome: Result<Option<Vec<f32>>, RequestError>,
        events: &mut Vec<Event>,
    ) -> bool {
        let logits = match outcome {
            Ok(logits) => logits,
            Err(error) => return self.fail(error.to_string(), events),
        };
        self.fed = self.to_feed.len().min(self.fed + PREFILL_CHUNK_TOKENS);
        let Some(logits) = logits else {
            return true;
        };
        let chosen = self.shape.choose(model.tokenizer(), &mut self.sampler, &logits);
        let token = match chosen {
            Ok(token) => token,
            Err(message) => return self.fail(message, events),
        };
        self.sampler.observe(token);
        self.generated += 1;
        if model.tokenizer().is_end(token) {
            return self.finish(FinishReason::Stop, events);
        }
        let piece = self.shape.text(model.tokenizer(), &mut self.stream, token);
        let passed = self.stop.push(&piece);
        self.say(passed.text, events);
        if passed.stopped {
            let (_, calls) = self.shape.finish("");
            return self.conclude(FinishReason::Stop, calls, events);
        }
        if self.shape.is_complete() {
            return self.finish(FinishReason::Stop, events);
        }
        if self.generated >= self.max_tokens {
            return self.finish(FinishReason::Length, events);
        }
        self.to_feed.clear();
        self.to_feed.push(token);
        self.fed = 0;
        true
    }

    /// Gives out what was held back, then ends; a stop text may still complete in the last half character.
    fn finish(&mut self, reason: FinishReason, events: &mut Vec<Event>) -> bool {
        let (rest, calls) = self.shape.finish(&self.stream.finish());
        let passed = self.stop.push(&rest);
        let mut text = passed.text;
        if !passed.stopped {
            text.push_str(&self.stop.finish());
        }
        self.say(text, events);
        self.conclude(reason, calls, events)
    }

    fn conclude(&self, reason: FinishReason, calls: Vec<ToolCall>, events: &mut Vec<Event>) -> bool {
        if calls.is_empty() {
            return self.done(reason, events);
        }
        events.push(Event::ToolCalls { id: self.id, calls });
        let whole = reason == FinishReason::Stop;
        self.done(if whole { FinishReason::ToolCalls } else { reason }, events)
    }

    fn say(&mut self, text: String, events: &mut Vec<Event>) {
        if !text.is_empty() {
            let tokens = self.generated - self.reported;
            self.reported = self.generated;
            let logprobs = self.shape.take_logprobs();
            events.push(Event::Text {
                id: self.id,
                text,
                tokens,
                logprobs,
            });
        }
    }

    fn done(&self, finish_reason: FinishReason, events: &mut Vec<Event>) -> bool {
        events.push(Event::Done {
            id: self.id,
            finish_reason,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.generated,
        });
        false
    }

    fn fail(&mut self, message: String, events: &mut Vec<Event>) -> bool {
        events.push(Event::Failed { id: self.id, message });
        false
    }
}
