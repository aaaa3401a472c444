//! What the engine is asked and what it answers: plain data that travels between processes by serde.

use serde::{Deserialize, Serialize};

use crate::error::RequestError;
use crate::output::{AnswerOptions, TokenLogprob, ToolCall};

/// Names one sequence for as long as it runs; chosen by the caller, unique among the running ones.
pub type SequenceId = u64;

/// One question to the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateRequest {
    /// What the model continues.
    pub prompt: Prompt,
    /// The most tokens to generate, at least 1; clamped to what the context still holds.
    pub max_tokens: usize,
    /// How each token is chosen.
    #[serde(default)]
    pub sampling: Sampling,
    /// The answer ends before the first of these texts; none of them is ever part of it. At most
    /// [`GenerateRequest::STOP_TEXTS_LIMIT`] texts of [`GenerateRequest::STOP_BYTES_LIMIT`] bytes, none empty.
    #[serde(default)]
    pub stop: Vec<String>,
    /// What form the answer is to have, which tools it may call, and whether it comes with log-probabilities.
    #[serde(default)]
    pub answer: AnswerOptions,
    /// Tokens of the answer that an earlier attempt has generated and whose text was given out: those of its
    /// [`Event::Text`]s, one behind the other. The answer goes on behind them and says nothing of them again;
    /// `max_tokens` and the tokens of [`Event::Done`] count them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<u32>,
    /// Text of the answer that was given out, where another model has said it, whose tokens mean nothing to this one. It is
    /// split into tokens anew, and the answer goes on behind it. Not beside `said`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub said_text: String,
}

impl GenerateRequest {
    /// The most stop texts a request may carry: each is compared at every token.
    pub const STOP_TEXTS_LIMIT: usize = 16;
    /// The longest stop text in bytes: so much text may be held back while it could still become one.
    pub const STOP_BYTES_LIMIT: usize = 256;

    /// Checks everything that can be checked without the model.
    ///
    /// # Errors
    /// The first field that is outside its legal range.
    pub fn validate(&self) -> Result<(), RequestError> {
        if self.max_tokens == 0 {
            return Err(RequestError::InvalidMaxTokens);
        }
        if self.prompt.is_empty() {
            return Err(RequestError::EmptyPrompt);
        }
        if self.stop.len() > Self::STOP_TEXTS_LIMIT {
            return Err(RequestError::InvalidStop {
                problem: format!("{} stop texts were given", self.stop.len()),
            });
        }
        for stop in &self.stop {
            if stop.is_empty() || stop.len() > Self::STOP_BYTES_LIMIT {
                return Err(RequestError::InvalidStop {
                    problem: format!("a stop text of {} bytes was given", stop.len()),
                });
            }
        }
        if !self.said.is_empty() && !self.said_text.is_empty() {
            return Err(RequestError::InvalidSaid {
                problem: "it is there as tokens and as text".to_owned(),
            });
        }
        self.sampling.validate()?;
        self.answer.validate()
    }
}

/// The text a sequence starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// One text. A model with a chat template is given it as a single `user` message; any other continues it as it
    /// is.
    Text(String),
    /// A conversation, oldest message first. Rendered by the model's chat template; a model without one is given the
    /// contents joined by a newline each.
    Messages(Vec<ChatMessage>),
}

impl Prompt {
    /// Whether there is nothing to answer: no text at all, or only messages that say nothing.
    pub fn is_empty(&self) -> bool {
        match self {
            Prompt::Text(text) => text.is_empty(),
            Prompt::Messages(messages) => messages
                .iter()
                .all(|message| message.content.is_empty() && message.tool_calls.is_empty()),
        }
    }

    /// Bytes of all that it says.
    pub fn bytes(&self) -> usize {
        match self {
            Prompt::Text(text) => text.len(),
            Prompt::Messages(messages) => messages.iter().map(ChatMessage::bytes).sum(),
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant` or `tool`; the model's template decides what it accepts.
    pub role: String,
    /// The text of the turn; empty, absent or null where there are only calls.
    #[serde(default, deserialize_with = "text_or_null")]
    pub content: String,
    /// Who speaks, where there are several of one role; of a tool's answer, the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What an assistant called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool's answer answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl ChatMessage {
    /// A turn that only says something.
    pub fn new(role: &str, content: &str) -> Self {
        Self {
            role: role.to_owned(),
            content: content.to_owned(),
            ..Self::default()
        }
    }

    fn bytes(&self) -> usize {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let calls = self.tool_calls.iter().map(ToolCall::bytes).sum::<usize>();
        self.role.len() + self.content.len() + optional(&self.name) + optional(&self.tool_call_id) + calls
    }
}

fn text_or_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// How the next token is chosen from the logits. Applied in this order: repetition penalty, temperature, top-k, top-p,
/// min-p, then a draw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// 0 takes the most likely token always; 1 is the model's own distribution; up to 10. Default 0.8.
    pub temperature: f32,
    /// Only the `top_k` most likely tokens; 0 is off. Default 40.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability, in (0, 1]; 1 is off. Default 0.95.
    pub top_p: f32,
    /// Only tokens at least this fraction as likely as the most likely one, in [0, 1]; 0 is off. Default 0.05.
    pub min_p: f32,
    /// Logits of recent tokens are divided (positive) or multiplied (negative) by this, in (0, 10]; 1 is off, and
    /// the default.
    pub repetition_penalty: f32,
    /// How many of the last tokens, the prompt's among them, count as recent. Default 64.
    pub repetition_window: usize,
    /// The same seed and request give the same answer. Without one a fixed seed is mixed with the sequence's id:
    /// this crate has no source of chance of its own.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    // The values llama.cpp settled on for conversation; greedy decoding makes small models repeat themselves.
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: None,
        }
    }
}

impl Sampling {
    /// The largest temperature and repetition penalty: beyond it every distribution is noise.
    const LIMIT: f32 = 10.0;

    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`RequestError::InvalidSampling`] for the first field outside of it; NaN is outside of every range.
    pub fn validate(&self) -> Result<(), RequestError> {
        let check = |field, value: f32, ok: bool, legal| {
            if ok {
                Ok(())
            } else {
                Err(RequestError::InvalidSampling {
                    field,
                    value: value.to_string(),
                    legal,
                })
            }
        };
        let Self {
            temperature,
            top_p,
            min_p,
            repetition_penalty,
            ..
        } = *self;
        check(
            "temperature",
            temperature,
            (0.0..=Self::LIMIT).contains(&temperature),
            "0 to 10",
        )?;
        check("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0, up to 1")?;
        check("min_p", min_p, (0.0..=1.0).contains(&min_p), "0 to 1")?;
        check(
            "repetition_penalty",
            repetition_penalty,
            repetition_penalty > 0.0 && repetition_penalty <= Self::LIMIT,
            "above 0, up to 10",
        )
    }
}

/// What [`Engine::begin`](crate::Engine::begin) found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Tokens of the prompt, the template's and the beginning-of-text token among them.
    pub prompt_tokens: usize,
    /// The most tokens that will be generated, after clamping to what the context and the cache's budget hold.
    pub max_tokens: usize,
}

/// What one step brought for one sequence. After `Done` or `Failed` its id is free again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// More of the answer, never empty, always whole characters.
    Text {
        /// The sequence.
        id: SequenceId,
        /// What to append.
        text: String,
        /// Tokens generated since the sequence's last `Text`, those that gave no text yet included. Those of all `Text`s
        /// are what is [said](GenerateRequest::said) of the answer.
        tokens: Vec<u32>,
        /// Of each of these tokens but for one that ends the answer, where the request asked for it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<TokenLogprob>,
    },
    /// The answer calls tools; `Done` follows at once.
    ToolCalls {
        /// The sequence.
        id: SequenceId,
        /// In the order of the answer, never empty.
        calls: Vec<ToolCall>,
    },
    /// The answer is complete.
    Done {
        /// The sequence.
        id: SequenceId,
        /// Why it ended.
        finish_reason: FinishReason,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// How many of those were not computed, because an earlier sequence that began alike had left their keys and
        /// values.
        #[serde(default)]
        cached_tokens: usize,
        /// Tokens generated, the end token included.
        completion_tokens: usize,
    },
    /// The sequence could not go on.
    Failed {
        /// The sequence.
        id: SequenceId,
        /// What happened and what to try.
        message: String,
    },
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model's end token, a stop text, or the end of the form that was asked for.
    Stop,
    /// As `Stop`, and the answer calls tools.
    ToolCalls,
    /// `max_tokens`, or the end of the context.
    Length,
    /// [`Engine::cancel`](crate::Engine::cancel).
    Cancelled,
}
