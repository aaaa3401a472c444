//! The engine: many sequences on one model, joining and leaving at token boundaries.
//!
//! A sequence is first *prefilled*, its prompt fed in chunks, then *decoded*, one token a step. Each step gives every
//! sequence its turn: a long prompt costs the others one chunk a step, not its whole length. Each sequence has its own
//! cache, sampler and limits, and what runs beside it changes its pace but never its tokens: the reference computes each
//! by itself, and the kernels keep the order of every sum ([`crate::kernels`]).
//!
//! On the kernels, sequences that begin with the same tokens share the pages of their caches, also with those that have
//! ended ([`prefixes`]); the reference shares nothing. A sequence can be paused, by its owner or because the cache has
//! outgrown its budget ([`room`]); what is lost of its cache is computed again from its tokens, to the same bits.

mod context;
mod pace;
mod prefixes;
mod room;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, RequestError};
use crate::model::{Feed, KvCache, LoadOptions, Model};
use crate::output::{Grammars, Shape, ToolCall};
use crate::packed::SharedPage;
use crate::precision::{KvPrecision, Precision};
use crate::request::{Begun, Event, FinishReason, GenerateRequest, Sampling, SequenceId};
use crate::sampler::Sampler;
use crate::stop::StopFilter;
use crate::summary::ModelSummary;
use crate::template::Date;
use crate::tokenizer::TextStream;
use context::Context;
use pace::Pace;
use prefixes::PrefixIndex;

/// A loaded model and the sequences that run on it.
#[derive(Debug)]
pub struct Engine {
    model: Model,
    options: EngineOptions,
    today: Option<Date>,
    grammars: Grammars,
    /// In the order they came.
    sequences: Vec<Sequence>,
    /// What running and ended sequences have computed.
    prefixes: PrefixIndex<SharedPage>,
    /// Bytes of a page of the cache; 0 where the reference computes, which has none.
    page_bytes: usize,
    /// Whether it is all one how a prompt is cut into chunks.
    cuts_freely: bool,
    pace: Pace,
    /// Prompt tokens of the last step.
    fed_of_prompts: usize,
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
    /// The most bytes of keys and values, those kept of ended sequences among them; none for as many as running sequences
    /// need, and 256 MiB of ended ones. See [`Engine::set_cache_budget`].
    #[serde(default)]
    pub cache_bytes: Option<usize>,
    /// How keys and values are kept.
    #[serde(default)]
    pub kv: KvPrecision,
}

/// What becomes of a sequence's keys and values while it is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhilePaused {
    /// They are kept, until running sequences need the room.
    Keep,
    /// They are let go of. Full pages may still be found when it goes on, if nobody else needed their memory.
    Drop,
}

/// How an engine is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStats {
    /// Sequences that have not reported their end, those below among them.
    pub running: usize,
    /// Those that wait for room in the cache, or for their first step.
    pub waiting: usize,
    /// Those that [`Engine::pause`] has stopped.
    pub paused: usize,
    /// Bytes of keys and values that sequences hold; what they share counts once.
    pub running_bytes: usize,
    /// Bytes of keys and values that were left by others, for those who begin alike.
    pub kept_bytes: usize,
    /// The most bytes of both together.
    pub cache_budget_bytes: Option<usize>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_sequences: 8,
            max_context_tokens: None,
            precision: None,
            threads: None,
            packed_directory: None,
            cache_bytes: None,
            kv: KvPrecision::default(),
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
        let model = Model::load_with(path, how, progress)?;
        let cache = model.new_cache_at(1, options.kv);
        let pages = cache.pages();
        Ok(Engine {
            options,
            today: None,
            grammars: Grammars::default(),
            sequences: Vec::new(),
            prefixes: PrefixIndex::default(),
            page_bytes: pages.map_or(0, |pages| pages.page_bytes()),
            cuts_freely: pages.is_some(),
            pace: Pace::new(),
            fed_of_prompts: 0,
            model,
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
        let cache = self
            .model
            .new_cache_at(prompt.len() + max_tokens, self.options.kv);
        let max_tokens = max_tokens.min(self.answer_limit(&cache, prompt.len())?);
        let mut sampler = Sampler::new(sampling, FALLBACK_SEED ^ id);
        prompt.iter().for_each(|&token| sampler.observe(token));
        self.sequences.push(Sequence {
            id,
            context: Context::new(prompt, cache),
            next: 0,
            paused: false,
            admitted: false,
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
    /// and says what came of it. Empty at once when nothing runs, or all is paused.
    pub fn step(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let prefixes = &mut self.prefixes;
        self.sequences.retain_mut(|sequence| {
            if !sequence.cancelled {
                return true;
            }
            sequence.context.release(prefixes);
            sequence.finish(FinishReason::Cancelled, &mut events)
        });
        self.plan(&mut events);
        let prefilling = self
            .sequences
            .iter()
            .filter(|sequence| sequence.context.rest() > 1);
        self.fed_of_prompts = prefilling.map(|sequence| sequence.next).sum();
        let (model, prefixes) = (&self.model, &mut self.prefixes);
        let takes_part = |sequence: &&mut Sequence| sequence.next > 0;
        let feeding = self.sequences.iter_mut().filter(takes_part);
        let mut feeds: Vec<Feed<'_>> = feeding.map(Sequence::feed).collect();
        let mut outcomes = model.step(&mut feeds).into_iter();
        self.sequences.retain_mut(|sequence| {
            if sequence.next == 0 {
                return true;
            }
            let outcome = outcomes.next().unwrap_or(Ok(None));
            sequence.context.share(prefixes);
            let goes_on = sequence.take(model, outcome, &mut events);
            if !goes_on {
                sequence.context.release(prefixes);
            }
            goes_on
        });
        events
    }

    /// Tells how long the last [`step`](Self::step) took. From that the engine learns how much of prompts it can take on
    /// in one, so that nobody waits too long for its end: from 16 tokens at first up to
    /// [`PREFILL_TOKENS`](Self::PREFILL_TOKENS), in about a second, or a quarter of one beside answers under way. What
    /// comes out does not depend on it. Without being told it stays with 16.
    pub fn took(&mut self, duration: Duration) {
        self.pace.took(self.fed_of_prompts, duration);
    }

    /// Stops a sequence between two tokens: it takes no step until [`resume`](Self::resume), and goes on then with the
    /// tokens that it would have had. False if no such sequence runs.
    pub fn pause(&mut self, id: SequenceId, cache: WhilePaused) -> bool {
        let prefixes = &mut self.prefixes;
        let sequence = self.sequences.iter_mut().find(|sequence| sequence.id == id);
        let Some(sequence) = sequence.filter(|sequence| !sequence.cancelled) else {
            return false;
        };
        (sequence.paused, sequence.admitted) = (true, false);
        if cache == WhilePaused::Drop {
            sequence.context.release(prefixes);
        }
        true
    }

    /// Has a paused sequence go on, as soon as there is room for it. False if no such sequence is paused.
    pub fn resume(&mut self, id: SequenceId) -> bool {
        let sequence = self.sequences.iter_mut().find(|sequence| sequence.id == id);
        let paused = sequence.filter(|sequence| sequence.paused && !sequence.cancelled);
        paused.map(|sequence| sequence.paused = false).is_some()
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

    /// Sequences that have not reported their end, paused ones among them.
    pub fn running(&self) -> usize {
        self.sequences.len()
    }

    /// Whether a [`step`](Self::step) would do anything: not while nothing runs or all that does is paused.
    pub fn has_work(&self) -> bool {
        let moves = |sequence: &Sequence| sequence.cancelled || !sequence.paused;
        self.sequences.iter().any(moves)
    }

    /// Bytes of all keys and values: those of sequences, each once, and what is kept of ended ones.
    pub fn cache_bytes(&self) -> usize {
        let own = self.sequences.iter().map(|sequence| sequence.context.own_bytes());
        self.prefixes.len() * self.page_bytes + own.sum::<usize>()
    }

    /// How it is doing.
    pub fn stats(&self) -> EngineStats {
        let count = |what: fn(&Sequence) -> bool| self.sequences.iter().filter(|each| what(each)).count();
        EngineStats {
            running: self.running(),
            waiting: count(|sequence| !sequence.admitted && !sequence.paused),
            paused: count(|sequence| sequence.paused),
            running_bytes: self.cache_bytes() - self.kept_bytes(),
            kept_bytes: self.kept_bytes(),
            cache_budget_bytes: self.options.cache_bytes,
        }
    }

    /// The most tokens that the cache's budget leaves for an answer, whatever else runs.
    fn answer_limit(&self, cache: &KvCache, prompt_tokens: usize) -> Result<usize, RequestError> {
        let Some(budget_bytes) = self.options.cache_bytes else {
            return Ok(usize::MAX);
        };
        let needed_bytes = cache.bytes_for(prompt_tokens);
        if needed_bytes > budget_bytes {
            return Err(RequestError::CacheTooSmall {
                tokens: prompt_tokens,
                needed_bytes,
                budget_bytes,
            });
        }
        // The last token is never fed, and takes nothing.
        let (mut fits, mut too_many) = (prompt_tokens, cache.limit().saturating_add(1));
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            if cache.bytes_for(middle) <= budget_bytes {
                fits = middle;
            } else {
                too_many = middle;
            }
        }
        Ok(fits - prompt_tokens + 1)
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

/// Stands in for a seed where the request gives none; any constant would do.
const FALLBACK_SEED: u64 = 0x5eed_5eed_5eed_5eed;

#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    context: Context,
    /// Tokens that the coming step feeds; none while it is paused, waits, or sits out.
    next: usize,
    /// By its owner.
    paused: bool,
    /// Whether it has its place in the cache's budget.
    admitted: bool,
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
        self.context.feed(self.next)
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
        self.context.push(token);
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
            cached_tokens: self.context.taken_over(),
            completion_tokens: self.generated,
        });
        false
    }

    fn fail(&mut self, message: String, events: &mut Vec<Event>) -> bool {
        events.push(Event::Failed { id: self.id, message });
        false
    }
}
