//! How the embedded model is asked, and a whole test set put to it.

use std::collections::HashMap;

use super::actions::Answer;
use super::intents;
use super::score::{Labelled, Scores};
use super::{ALTERNATIVES, confidence};
use crate::engine::Engine;
use crate::error::RequestError;
use crate::output::{AnswerOptions, NamedSchema, ResponseFormat, TokenLogprob};
use crate::request::{Event, GenerateRequest, Prompt, Sampling, SequenceId};

/// The most tokens of an answer: six actions with long texts in their slots.
pub const MAX_TOKENS: usize = 256;

/// A sentence as anybody asks it: the engine knows what a model of this kind answers.
pub fn request(sentence: &str) -> GenerateRequest {
    GenerateRequest {
        answer: AnswerOptions::default(),
        ..forced_request(sentence)
    }
}

/// The same, answered however unsure the model is, with how likely it holds each token.
pub fn frank_request(sentence: &str) -> GenerateRequest {
    let answer = AnswerOptions {
        logprobs: Some(ALTERNATIVES),
        min_confidence: Some(0.0),
        ..AnswerOptions::default()
    };
    GenerateRequest {
        answer,
        ..forced_request(sentence)
    }
}

/// The same of any model: the likeliest tokens, in the form of [`intents::schema`].
pub fn forced_request(sentence: &str) -> GenerateRequest {
    GenerateRequest {
        prompt: Prompt::Text(sentence.to_owned()),
        max_tokens: MAX_TOKENS,
        sampling: Sampling::greedy(),
        stop: Vec::new(),
        answer: AnswerOptions {
            response_format: ResponseFormat::JsonSchema {
                json_schema: NamedSchema {
                    name: "actions".to_owned(),
                    description: None,
                    schema: intents::schema(),
                    strict: None,
                },
            },
            ..AnswerOptions::default()
        },
        said: Vec::new(),
        said_text: String::new(),
    }
}

/// How the sentences of a set are put to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// As [`request`] does.
    AsAnybody,
    /// As [`frank_request`] does: what it holds for unlikely is answered, too.
    Frankly,
    /// As [`forced_request`] does: of a model that is no assistant.
    Forced,
}

/// An answer to a sentence of a set.
#[derive(Clone, Debug, PartialEq)]
pub struct Examined {
    /// None where it could not be read.
    pub answer: Option<Answer>,
    /// See [`confidence`]; 1 where it was asked as anybody asks.
    pub confidence: f32,
}

/// Puts every sentence of a set to a model, as many at once as the engine takes, and tells each answer, in the order in which
/// they are complete.
///
/// # Errors
/// A sentence that the engine does not take.
pub fn examine(
    engine: &mut Engine,
    set: &[Labelled],
    at_once: usize,
    how: How,
    told: &mut dyn FnMut(&Labelled, &Examined),
) -> Result<Scores, RequestError> {
    let mut scores = Scores::default();
    let mut waiting = (0..).zip(set);
    let mut texts: HashMap<SequenceId, (&Labelled, String, Vec<TokenLogprob>)> = HashMap::new();
    loop {
        while texts.len() < at_once.max(1) {
            let Some((id, labelled)) = waiting.next() else {
                break;
            };
            let request = match how {
                How::AsAnybody => request(&labelled.text),
                How::Frankly => frank_request(&labelled.text),
                How::Forced => forced_request(&labelled.text),
            };
            engine.begin(id, &request)?;
            texts.insert(id, (labelled, String::new(), Vec::new()));
        }
        if texts.is_empty() {
            return Ok(scores);
        }
        for event in engine.step() {
            match event {
                Event::Text {
                    id, text, logprobs, ..
                } => {
                    if let Some((_, so_far, likely)) = texts.get_mut(&id) {
                        so_far.push_str(&text);
                        likely.extend(logprobs);
                    }
                }
                Event::Done { id, .. } | Event::Failed { id, .. } => {
                    if let Some((labelled, text, likely)) = texts.remove(&id) {
                        let answer: Option<Answer> = serde_json::from_str(&text).ok();
                        scores.count(labelled, answer.as_ref().map(|answer| answer.actions.as_slice()));
                        let confidence = confidence(&likely);
                        told(labelled, &Examined { answer, confidence });
                    }
                }
                Event::ToolCalls { .. } => {}
            }
        }
    }
}
