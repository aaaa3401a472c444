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

mod change;
mod context;
mod pace;
mod prefixes;
mod room;
mod sequence;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, RequestError};
use crate::model::{Feed, KvCache, LoadOptions, Model};
use crate::output::{Grammars, Shape};
use crate::packed::SharedPage;
use crate::precision::{KvPrecision, Precision};
use crate::request::{Begun, Event, GenerateRequest, Sampling, SequenceId};
use crate::sampler::Sampler;
use crate::stop::StopFilter;
use crate::summary::ModelSummary;
use crate::template::Date;
use context::Context;
use pace::Pace;
use prefixes::PrefixIndex;
use sequence::{Parts, Sequence};

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
    /// Counts parts of the weights that were exchanged: what was computed under other weights is not shared.
    generation: u64,
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
            generation: 0,
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
    /// One of which something was [said](GenerateRequest::said) already goes on behind that as it would have gone on, to
    /// the bit where the kernels compute and the precision is the same. Where it had been given no seed, that takes the
    /// same id.
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
        let gives_actions = self.model.summary().assistant && answer.is_plain();
        let shape = if gives_actions {
            Shape::of_actions(answer, &mut self.grammars, tokenizer, &prompt)?
        } else {
            Shape::new(answer, &mut self.grammars, tokenizer, style, &prompt, seed)?
        };
        let greedy = Sampling::greedy();
        let anew;
        let said = if request.said_text.is_empty() {
            &request.said
        } else {
            anew = tokenizer.encode_behind(&prompt, &request.said_text)?;
            &anew
        };
        let asked = Asked {
            prompt: &prompt,
            said,
            said_as_text: !request.said_text.is_empty(),
            max_tokens: request.max_tokens,
            sampling: if gives_actions { &greedy } else { &request.sampling },
            // It would end in the middle of the form.
            stop: if gives_actions { &[] } else { &request.stop },
        };
        self.begin_shaped(id, asked, shape)
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
        let asked = Asked {
            prompt,
            said: &[],
            said_as_text: false,
            max_tokens,
            sampling,
            stop,
        };
        self.begin_shaped(id, asked, Shape::default())
    }

    fn begin_shaped(
        &mut self,
        id: SequenceId,
        asked: Asked<'_>,
        shape: Shape,
    ) -> Result<Begun, RequestError> {
        let Asked {
            prompt,
            said,
            said_as_text,
            max_tokens,
            sampling,
            stop,
        } = asked;
        self.check_room(id)?;
        sampling.validate()?;
        self.model.check_tokens(prompt)?;
        self.model.check_tokens(said)?;
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
        let room = self.answer_limit(&cache, prompt.len(), said.len());
        let max_tokens = max_tokens.min(room.clone().unwrap_or(usize::MAX));
        let mut sampler = Sampler::new(sampling, FALLBACK_SEED ^ id);
        prompt.iter().for_each(|&token| sampler.observe(token));
        let mut sequence = Sequence::new(Parts {
            id,
            context: Context::new(prompt, cache, self.generation),
            prompt_tokens: prompt.len(),
            max_tokens,
            sampler,
            shape,
            stream: self.model.tokenizer().stream(prompt),
            stop: StopFilter::new(stop),
        });
        sequence.repeat(self.model.tokenizer(), said, said_as_text)?;
        if !sequence.has_ended() {
            room?;
        }
        self.sequences.push(sequence);
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
            let goes_on = sequence.goes_on(&mut events);
            if !goes_on {
                sequence.context.release(prefixes);
            }
            goes_on
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

    /// Has all others wait while the prompt of this one is computed: somebody needs its first word at once. What they say
    /// does not depend on it. False if no such sequence runs.
    pub fn hurry(&mut self, id: SequenceId) -> bool {
        let sequence = self.sequences.iter_mut().find(|sequence| sequence.id == id);
        sequence.map(|sequence| sequence.is_hurried = true).is_some()
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

    /// Ends a sequence; the next step reports it as [`FinishReason::Cancelled`](crate::FinishReason::Cancelled), and until
    /// then it counts as running.
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
        let moves = |sequence: &Sequence| sequence.cancelled || sequence.has_ended() || !sequence.paused;
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

    /// The most tokens that the cache's budget leaves for an answer, whatever else runs, so much of which was said.
    fn answer_limit(
        &self,
        cache: &KvCache,
        prompt_tokens: usize,
        said: usize,
    ) -> Result<usize, RequestError> {
        let Some(budget_bytes) = self.options.cache_bytes else {
            return Ok(usize::MAX);
        };
        // The last token of an answer is never fed, and takes nothing.
        let tokens = (prompt_tokens + said).saturating_sub(1).max(prompt_tokens);
        let needed_bytes = cache.bytes_for(tokens);
        if needed_bytes > budget_bytes {
            return Err(RequestError::CacheTooSmall {
                tokens,
                needed_bytes,
                budget_bytes,
            });
        }
        let (mut fits, mut too_many) = (tokens, cache.limit().max(tokens).saturating_add(1));
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

/// What a sequence is asked for.
struct Asked<'a> {
    prompt: &'a [u32],
    /// What an earlier attempt has said of the answer.
    said: &'a [u32],
    /// Whether these are not the tokens of that attempt, but of its text.
    said_as_text: bool,
    max_tokens: usize,
    sampling: &'a Sampling,
    stop: &'a [String],
}

/// Stands in for a seed where the request gives none; any constant would do.
const FALLBACK_SEED: u64 = 0x5eed_5eed_5eed_5eed;
