//! One sequence: what it is made of, how it goes on by a token, and how it ends.
//!
//! What it says depends on its tokens alone. So one that an engine has lost can be taken up by another: the tokens that
//! were said are gone through once more without saying anything, and everything stands where it stood.

use super::context::Context;
use crate::error::RequestError;
use crate::model::{Feed, Model};
use crate::output::{Shape, ToolCall};
use crate::request::{Event, FinishReason, SequenceId};
use crate::sampler::Sampler;
use crate::stop::StopFilter;
use crate::tokenizer::{TextStream, Tokenizer};

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    pub(super) context: Context,
    /// Tokens that the coming step feeds; none while it is paused, waits, or sits out.
    pub(super) next: usize,
    /// By its owner.
    pub(super) paused: bool,
    /// Whether others wait while its prompt is computed.
    pub(super) is_hurried: bool,
    /// Whether it has its place in the cache's budget.
    pub(super) admitted: bool,
    pub(super) cancelled: bool,
    pub(super) prompt_tokens: usize,
    generated: usize,
    /// Those generated tokens that no event has told.
    untold: Vec<u32>,
    max_tokens: usize,
    sampler: Sampler,
    shape: Shape,
    stream: TextStream,
    stop: StopFilter,
    /// Where all of its answer was said before it came here: what is left to say of that.
    ended: Option<Ending>,
    /// Bytes of the text to come that were given out already: held back here, but not by the model that said them.
    told: usize,
}

/// How an answer ends.
#[derive(Debug)]
struct Ending {
    /// The last of its text.
    text: String,
    reason: FinishReason,
    calls: Vec<ToolCall>,
}

/// What a sequence is made of before it has done anything.
pub(super) struct Parts {
    pub(super) id: SequenceId,
    pub(super) context: Context,
    pub(super) prompt_tokens: usize,
    pub(super) max_tokens: usize,
    /// It has observed the prompt.
    pub(super) sampler: Sampler,
    pub(super) shape: Shape,
    pub(super) stream: TextStream,
    pub(super) stop: StopFilter,
}

impl Sequence {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            id,
            context,
            prompt_tokens,
            max_tokens,
            sampler,
            shape,
            stream,
            stop,
        } = parts;
        Self {
            id,
            context,
            next: 0,
            paused: false,
            is_hurried: false,
            admitted: false,
            cancelled: false,
            prompt_tokens,
            generated: 0,
            untold: Vec::new(),
            max_tokens,
            sampler,
            shape,
            stream,
            stop,
            ended: None,
            told: 0,
        }
    }

    /// Goes through tokens that an earlier attempt has generated and told, as if it had generated them itself. Its text
    /// of them is dropped, being told; of an answer that ends with the last of them, the end was told as well. Where these
    /// are tokens of what was told as text, all of that was told, also what is held back here.
    ///
    /// # Errors
    /// [`RequestError::InvalidSaid`] where no answer to this request has these tokens.
    pub(super) fn repeat(
        &mut self,
        tokenizer: &Tokenizer,
        said: &[u32],
        as_text: bool,
    ) -> Result<(), RequestError> {
        let invalid = |problem: String| RequestError::InvalidSaid { problem };
        // More may have been said than is allowed here, by an engine with a larger context.
        let max_tokens = std::mem::replace(&mut self.max_tokens, usize::MAX);
        let mut stream = self.stream.clone();
        let (mut said_bytes, mut passed_bytes) = (0, 0);
        for (number, &token) in said.iter().enumerate() {
            if self.ended.is_some() {
                return Err(invalid(format!(
                    "it has {} tokens, but ends after {number} of them",
                    said.len()
                )));
            }
            let allowed = self.shape.repeat(tokenizer, token);
            allowed.map_err(|problem| invalid(format!("token {token} at {number}: {problem}")))?;
            self.sampler.repeat(token);
            self.context.push(token);
            let (text, ending) = self.advance(tokenizer, token);
            said_bytes += stream.push(tokenizer, token).len();
            passed_bytes += text.len();
            self.ended = ending.map(|ending| Ending {
                text: String::new(),
                ..ending
            });
        }
        self.max_tokens = max_tokens;
        if self.ended.is_none() && self.generated >= max_tokens {
            let mut ending = self.end(String::new(), FinishReason::Length);
            if self.generated == max_tokens && !as_text {
                // It ended there before, too.
                ending.text.clear();
            }
            self.ended = Some(ending);
        }
        self.untold.clear();
        if as_text {
            self.told = said_bytes - passed_bytes.min(said_bytes);
        }
        Ok(())
    }

    /// Whether there is nothing left to compute.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Says its end, if nothing is left to compute or it was cancelled. Whether it goes on.
    pub(super) fn goes_on(&mut self, events: &mut Vec<Event>) -> bool {
        let ending = match self.ended.take() {
            Some(ending) => ending,
            None if self.cancelled => {
                self.shape.abandon();
                self.end(String::new(), FinishReason::Cancelled)
            }
            None => return true,
        };
        self.conclude(ending, events);
        false
    }

    /// What it wants of the next step.
    pub(super) fn feed(&mut self) -> Feed<'_> {
        self.context.feed(self.next)
    }

    /// Goes on with what a step gave. Whether the sequence goes on.
    pub(super) fn take(
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
        let tokenizer = model.tokenizer();
        let chosen = self.shape.choose(tokenizer, &mut self.sampler, &logits);
        let token = match chosen {
            Ok(token) => token,
            Err(message) => return self.fail(message, events),
        };
        self.sampler.observe(token);
        let (text, ending) = self.advance(tokenizer, token);
        match ending {
            Some(ending) => {
                self.conclude(ending, events);
                false
            }
            None => {
                self.say(text, events);
                self.context.push(token);
                true
            }
        }
    }

    /// Goes on by a token that was chosen: the text that may be said now, or how the answer ends with it.
    ///
    /// What is said at the end is one text with that of the last token, so that the tokens which were told always say
    /// how much of the text was.
    fn advance(&mut self, tokenizer: &Tokenizer, token: u32) -> (String, Option<Ending>) {
        self.generated += 1;
        self.untold.push(token);
        if tokenizer.is_end(token) {
            return (String::new(), Some(self.end(String::new(), FinishReason::Stop)));
        }
        let piece = self.shape.text(tokenizer, &mut self.stream, token);
        let passed = self.stop.push(&piece);
        let ending = if passed.stopped {
            let (_, calls) = self.shape.finish("");
            Ending {
                text: passed.text,
                reason: FinishReason::Stop,
                calls,
            }
        } else if self.shape.is_complete() {
            self.end(passed.text, FinishReason::Stop)
        } else if self.generated >= self.max_tokens {
            self.end(passed.text, FinishReason::Length)
        } else {
            return (passed.text, None);
        };
        (String::new(), Some(ending))
    }

    /// Lets go of what was held back, behind this text; a stop text may still complete in the last half character.
    fn end(&mut self, mut text: String, reason: FinishReason) -> Ending {
        let (rest, calls) = self.shape.finish(&self.stream.finish());
        let passed = self.stop.push(&rest);
        text.push_str(&passed.text);
        if !passed.stopped {
            text.push_str(&self.stop.finish());
        }
        Ending { text, reason, calls }
    }

    fn conclude(&mut self, ending: Ending, events: &mut Vec<Event>) {
        let Ending {
            text,
            mut reason,
            calls,
        } = ending;
        self.say(text, events);
        if !calls.is_empty() {
            events.push(Event::ToolCalls { id: self.id, calls });
            if reason == FinishReason::Stop {
                reason = FinishReason::ToolCalls;
            }
        }
        events.push(Event::Done {
            id: self.id,
            finish_reason: reason,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.context.taken_over().min(self.prompt_tokens),
            completion_tokens: self.generated,
        });
    }

    fn say(&mut self, mut text: String, events: &mut Vec<Event>) {
        if self.told > 0 {
            let told = (self.told..text.len()).find(|&at| text.is_char_boundary(at));
            self.told = self.told.saturating_sub(text.len());
            text.drain(..told.unwrap_or(text.len()));
        }
        if !text.is_empty() {
            let tokens = std::mem::take(&mut self.untold);
            let logprobs = self.shape.take_logprobs();
            events.push(Event::Text {
                id: self.id,
                text,
                tokens,
                logprobs,
            });
        }
    }

    /// Says that it cannot go on. It does not.
    pub(super) fn fail(&mut self, message: String, events: &mut Vec<Event>) -> bool {
        events.push(Event::Failed { id: self.id, message });
        false
    }
}
