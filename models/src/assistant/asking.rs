//! How the embedded model is asked, and a whole test set put to it.

use std::collections::HashMap;

use super::actions::Answer;
use super::intents;
use super::score::{Labelled, Scores};
use crate::engine::Engine;
use crate::error::RequestError;
use crate::output::{AnswerOptions, NamedSchema, ResponseFormat};
use crate::request::{Event, GenerateRequest, Prompt, Sampling, SequenceId};

/// The most tokens of an answer: six actions with long texts in their slots.
pub const MAX_TOKENS: usize = 256;

/// A sentence as the embedded model is to be asked: the likeliest tokens, in the form of [`intents::schema`].
pub fn request(sentence: &str) -> GenerateRequest {
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

/// Puts every sentence of a set to a model, as many at once as the engine takes, and tells each answer that was understood, or
/// none, in the order in which they are complete.
///
/// # Errors
/// A sentence that the engine does not take.
pub fn examine(
    engine: &mut Engine,
    set: &[Labelled],
    at_once: usize,
    told: &mut dyn FnMut(&Labelled, Option<&Answer>),
) -> Result<Scores, RequestError> {
    let mut scores = Scores::default();
    let mut waiting = (0..).zip(set);
    let mut texts: HashMap<SequenceId, (&Labelled, String)> = HashMap::new();
    loop {
        while texts.len() < at_once.max(1) {
            let Some((id, labelled)) = waiting.next() else {
                break;
            };
            engine.begin(id, &request(&labelled.text))?;
            texts.insert(id, (labelled, String::new()));
        }
        if texts.is_empty() {
            return Ok(scores);
        }
        for event in engine.step() {
            match event {
                Event::Text { id, text, .. } => {
                    if let Some((_, so_far)) = texts.get_mut(&id) {
                        so_far.push_str(&text);
                    }
                }
                Event::Done { id, .. } | Event::Failed { id, .. } => {
                    if let Some((labelled, text)) = texts.remove(&id) {
                        let answer: Option<Answer> = serde_json::from_str(&text).ok();
                        scores.count(labelled, answer.as_ref().map(|answer| answer.actions.as_slice()));
                        told(labelled, answer.as_ref());
                    }
                }
                Event::ToolCalls { .. } => {}
            }
        }
    }
}
