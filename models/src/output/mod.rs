//! What a request wants of its answer beyond words: a form that is forced ([`grammar`]), tools that are called
//! ([`call_style`]), and log-probabilities.

mod call_reader;
mod call_style;
mod copying;
mod format;
mod grammar;
mod logprobs;
mod schema;
mod tools;
mod verdict;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use format::{NamedSchema, ResponseFormat};
pub use logprobs::{Alternative, TokenLogprob};
pub use tools::{FunctionCall, FunctionKind, Tool, ToolCall, ToolChoice};

pub(crate) use call_style::CallStyle;
pub(crate) use grammar::Grammars;

use crate::assistant::{ALTERNATIVES, intents};
use crate::error::RequestError;
use crate::sampler::Sampler;
use crate::tokenizer::{TextStream, Tokenizer};
use call_reader::CallReader;
use copying::Copying;
use grammar::{Constraint, Form, is_among};
use verdict::Verdict;

/// What a request may ask for beside words; nothing of it by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswerOptions {
    /// A form that the answer is forced into.
    pub response_format: ResponseFormat,
    /// What the model may call.
    pub tools: Vec<Tool>,
    /// Whether it may, must, or must not.
    pub tool_choice: ToolChoice,
    /// Each token's log-probability, with so many of the likeliest tokens at its place.
    pub logprobs: Option<usize>,
    /// How sure the embedded assistant must be that it can do what is said, 0 to 1; none for what was found to serve
    /// ([`MIN_CONFIDENCE`](crate::assistant::MIN_CONFIDENCE)). Other models do not ask.
    pub min_confidence: Option<f32>,
}

impl AnswerOptions {
    /// The most alternatives of a token.
    pub const TOP_LOGPROBS_LIMIT: usize = 20;

    pub(crate) fn validate(&self) -> Result<(), RequestError> {
        if let Some(most) = self.logprobs.filter(|most| *most > Self::TOP_LOGPROBS_LIMIT) {
            return Err(RequestError::InvalidSampling {
                field: "top_logprobs",
                value: most.to_string(),
                legal: "0 to 20",
            });
        }
        if let Some(wrong) = self.min_confidence.filter(|least| !(0.0..=1.0).contains(least)) {
            return Err(RequestError::InvalidSampling {
                field: "min_confidence",
                value: wrong.to_string(),
                legal: "0 to 1",
            });
        }
        self.response_format.validate()?;
        tools::check(&self.tools, &self.tool_choice)?;
        if self.response_format != ResponseFormat::Text && self.offers_tools() {
            return Err(RequestError::InvalidTools {
                problem: "a response_format leaves no room for calls; leave one of the two out, or set tool_choice to \
                          \"none\""
                    .to_owned(),
            });
        }
        Ok(())
    }

    /// The tools that the model is shown.
    pub(crate) fn shown_tools(&self) -> &[Tool] {
        if self.offers_tools() { &self.tools } else { &[] }
    }

    /// Bytes that the tools add to a prompt, at least.
    pub fn prompt_bytes(&self) -> usize {
        self.shown_tools().iter().map(Tool::bytes).sum()
    }

    /// Whether it may have any form, which is then the model's own.
    pub fn is_plain(&self) -> bool {
        self.response_format == ResponseFormat::Text && !self.offers_tools()
    }

    fn offers_tools(&self) -> bool {
        !self.tools.is_empty() && self.tool_choice != ToolChoice::None
    }

    fn form<'r>(&'r self, style: Option<CallStyle>, any_object: &'r Value) -> Option<Form<'r>> {
        match (&self.tool_choice, &self.response_format) {
            (ToolChoice::Required, _) => Some(Form::Calls {
                style: style?,
                tools: self.tools.iter().collect(),
                several: true,
            }),
            (ToolChoice::Function(name), _) => {
                let named = self.tools.iter().filter(|tool| tool.name() == name);
                Some(Form::Calls {
                    style: style?,
                    tools: named.collect(),
                    several: false,
                })
            }
            (_, ResponseFormat::Text) => None,
            (_, ResponseFormat::JsonObject) => Some(Form::Json(any_object)),
            (_, ResponseFormat::JsonSchema { json_schema }) => Some(Form::Json(&json_schema.schema)),
            (_, ResponseFormat::Regex { pattern }) => Some(Form::Regex(pattern)),
            (_, ResponseFormat::Choice { choices }) => Some(Form::Choice(choices)),
        }
    }
}

/// How one sequence's answer is shaped, from logits to text. It belongs to the sequence and goes where that goes.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    constraint: Option<Constraint>,
    calls: Option<Calls>,
    /// How many alternatives of each token are told.
    alternatives: Option<usize>,
    /// Of tokens whose text was not said yet.
    logprobs: Vec<TokenLogprob>,
    /// Where the answer is one of actions.
    verdict: Option<Verdict>,
    /// The same: from what.
    copying: Option<Copying>,
}

#[derive(Debug)]
struct Calls {
    reader: CallReader,
    /// Special tokens that are part of how calls are written.
    markers: Vec<(u32, &'static str)>,
    /// Makes the ids of calls, which must differ.
    seed: u64,
}

impl Shape {
    /// What a request wants, for an answer that follows these tokens. `style` is how the model writes calls.
    ///
    /// # Errors
    /// [`RequestError::InvalidResponseFormat`], [`RequestError::InvalidTools`] or [`RequestError::ToolsUnsupported`].
    pub(crate) fn new(
        options: &AnswerOptions,
        grammars: &mut Grammars,
        tokenizer: &Tokenizer,
        style: Option<CallStyle>,
        prompt: &[u32],
        seed: u64,
    ) -> Result<Self, RequestError> {
        if options.offers_tools() && style.is_none() {
            return Err(RequestError::ToolsUnsupported {
                problem: "its chat template shows no way to write a call that is known here; choose a model made for \
                          tools, or describe what you want in the prompt and force the answer by response_format"
                    .to_owned(),
            });
        }
        let any_object = &*ANY_OBJECT;
        let constraint = match options.form(style, any_object) {
            None => None,
            Some(form) => {
                let space = tokenizer.strips_space_after(prompt) && tokenizer.has_leading_spaces();
                let made = grammars.constraint(tokenizer, &form, space);
                Some(made.map_err(|problem| match form {
                    Form::Calls { .. } => RequestError::InvalidTools { problem },
                    _ => RequestError::InvalidResponseFormat { problem },
                })?)
            }
        };
        let calls = style.filter(|_| options.offers_tools()).map(|style| Calls {
            reader: CallReader::new(
                style,
                options.tools.iter().map(|tool| tool.name().to_owned()).collect(),
            ),
            markers: style
                .markers()
                .into_iter()
                .filter_map(|marker| Some((tokenizer.special_id(marker)?, marker)))
                .collect(),
            seed,
        });
        Ok(Self {
            constraint,
            calls,
            alternatives: options.logprobs,
            logprobs: Vec::new(),
            verdict: None,
            copying: None,
        })
    }

    /// That of the embedded assistant, where a request wants no other.
    ///
    /// # Errors
    /// [`RequestError::InvalidResponseFormat`], where the model's tokens cannot write it.
    pub(crate) fn of_actions(
        options: &AnswerOptions,
        grammars: &mut Grammars,
        tokenizer: &Tokenizer,
        prompt: &[u32],
    ) -> Result<Self, RequestError> {
        let constraint = grammars
            .constraint(tokenizer, &Form::Json(&ACTIONS), false)
            .map_err(|problem| RequestError::InvalidResponseFormat { problem })?;
        let mut sentence = tokenizer.stream(&[]);
        let mut text: String = prompt
            .iter()
            .map(|&token| sentence.push(tokenizer, token))
            .collect();
        text.push_str(&sentence.finish());
        Ok(Self {
            constraint: Some(constraint),
            calls: None,
            alternatives: options.logprobs,
            logprobs: Vec::new(),
            verdict: Some(Verdict::new(&text, prompt.len(), options.min_confidence)),
            copying: Some(Copying::of(&text)),
        })
    }

    /// The next token.
    ///
    /// # Errors
    /// In words, why there is none.
    pub(crate) fn choose(
        &mut self,
        tokenizer: &Tokenizer,
        sampler: &mut Sampler,
        logits: &[f32],
    ) -> Result<u32, String> {
        let held;
        let mut logits = logits;
        let token = match &mut self.constraint {
            None => sampler.sample(logits),
            Some(constraint) => {
                let allowed = constraint.allowed()?;
                let is_allowed = |token| is_among(allowed, token);
                let copying = self.copying.as_ref();
                held = copying.and_then(|copying| copying.held_to_sentence(tokenizer, logits, is_allowed));
                logits = held.as_deref().unwrap_or(logits);
                sampler.sample_among(logits, is_allowed)
            }
        };
        let token = token.ok_or("the model computed no usable number; its file may be damaged")?;
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(tokenizer, token)?;
        }
        if let Some(verdict) = self.verdict.as_mut().filter(|verdict| verdict.weighs()) {
            verdict.weigh(logprobs::logprob(tokenizer, logits, token, ALTERNATIVES));
        }
        if let Some(most) = self.alternatives.filter(|_| !tokenizer.is_end(token)) {
            self.logprobs
                .push(logprobs::logprob(tokenizer, logits, token, most));
        }
        Ok(token)
    }

    /// Goes on behind a token that was chosen before, elsewhere.
    ///
    /// # Errors
    /// In words, where the form does not allow it.
    pub(crate) fn repeat(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<(), String> {
        match &mut self.constraint {
            Some(constraint) => constraint.repeat(tokenizer, token),
            None => Ok(()),
        }
    }

    /// Whether the form is complete and nothing can follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(Constraint::is_complete)
    }

    /// The text that this token completes, without what is, or may become, a call.
    pub(crate) fn text(&mut self, tokenizer: &Tokenizer, stream: &mut TextStream, token: u32) -> String {
        if let Some(verdict) = &mut self.verdict {
            let text = stream.push(tokenizer, token);
            if let Some(copying) = &mut self.copying {
                copying.push(&text);
            }
            verdict.push(&text);
            return String::new();
        }
        let Some(calls) = &mut self.calls else {
            return stream.push(tokenizer, token);
        };
        let marker = calls.markers.iter().find(|(id, _)| *id == token);
        match marker {
            Some((_, marker)) => calls.reader.push(marker),
            None => calls.reader.push(&stream.push(tokenizer, token)),
        }
    }

    /// The rest of the text, given the rest of the stream, and the calls.
    pub(crate) fn finish(&mut self, rest: &str) -> (String, Vec<ToolCall>) {
        if let Some(verdict) = &mut self.verdict {
            let (text, stands) = verdict.spoken(rest);
            if !stands {
                // They are of what is not said.
                self.logprobs.clear();
            }
            return (text, Vec::new());
        }
        let Some(calls) = &mut self.calls else {
            return (rest.to_owned(), Vec::new());
        };
        let mut text = calls.reader.push(rest);
        let (held, found) = calls.reader.finish();
        text.push_str(&held);
        let seed = calls.seed;
        let found = (0u64..).zip(found).map(|(number, function)| ToolCall {
            id: call_id(seed, number),
            kind: FunctionKind::Function,
            function,
        });
        (text, found.collect())
    }

    /// Says nothing of what is held back: nobody waits for it any more.
    pub(crate) fn abandon(&mut self) {
        if let Some(verdict) = &mut self.verdict {
            verdict.abandon();
        }
    }

    /// Log-probabilities of the tokens since this was asked last.
    pub(crate) fn take_logprobs(&mut self) -> Vec<TokenLogprob> {
        std::mem::take(&mut self.logprobs)
    }
}

static ACTIONS: std::sync::LazyLock<Value> = std::sync::LazyLock::new(intents::schema);
static ANY_OBJECT: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| json!({"type": "object"}));

/// Nine letters and digits that look like nothing and are hardly ever the same.
fn call_id(seed: u64, number: u64) -> String {
    // The finaliser of SplitMix64: it mixes every bit into every other.
    let mut mixed = seed.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let digit = |place: u32| {
        let digit = mixed / 36u64.pow(place) % 36;
        char::from_digit(digit as u32, 36).unwrap_or('0')
    };
    (0..9).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_calls_are_nine_letters_and_digits_and_differ() {
        let ids: std::collections::BTreeSet<String> = (0..100)
            .flat_map(|seed| (0..4).map(move |number| call_id(seed << 8, number)))
            .collect();
        assert_eq!(ids.len(), 400);
        assert!(
            ids.iter()
                .all(|id| id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric()))
        );
    }
}
