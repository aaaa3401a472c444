//! One item of a streamed answer, as JSON on the wire.

use models::assistant::actions::Action;
use models::{FinishReason, Precision, TokenLogprob, ToolCall};
use serde::Serialize;

/// See the module. `seq` counts from 0 without a gap; exactly one item of a request, its last, has
/// `done`.
#[derive(Debug, Serialize)]
pub(super) struct Item<'a> {
    pub(super) id: &'a str,
    pub(super) seq: u64,
    pub(super) delta: &'a str,
    /// Of the delta's tokens, where the request asked for it.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) logprobs: &'a [TokenLogprob],
    /// What says this, where another model has taken over; the last item has it in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<&'a str>,
    /// How many bits a weight has in the model that says this; none where no model had begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) precision: Option<Precision>,
    /// How often an answer was begun: 1, and more where an inference process was lost, behind which the answer goes on, or
    /// a daemon, after which it begins anew from `seq` 0.
    pub(super) attempt: u32,
    #[serde(flatten)]
    pub(super) end: Option<End<'a>>,
}

#[derive(Debug, Serialize)]
pub(super) struct End<'a> {
    pub(super) done: bool,
    pub(super) finish_reason: &'static str,
    /// What the embedded assistant has understood, and whoever listens to the device's intents was told.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) actions: &'a [Action],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) tool_calls: &'a [ToolCall],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<ItemError<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timings: Option<Timings>,
}

impl Default for End<'_> {
    fn default() -> Self {
        Self {
            done: true,
            finish_reason: "",
            actions: &[],
            tool_calls: &[],
            error: None,
            model: None,
            usage: None,
            timings: None,
        }
    }
}

impl<'a> End<'a> {
    pub(super) fn failed(error: ItemError<'a>) -> Self {
        Self {
            finish_reason: "error",
            error: Some(error),
            ..Self::default()
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct ItemError<'a> {
    pub(super) code: &'a str,
    pub(super) message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retry_after_ms: Option<u64>,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// In the prompt, the template's among them.
    pub prompt_tokens: usize,
    /// Generated.
    pub completion_tokens: usize,
    /// More about the prompt's.
    #[serde(skip_serializing_if = "PromptTokensDetails::is_empty")]
    pub prompt_tokens_details: PromptTokensDetails,
}

/// OpenAI's word for what is known of a prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PromptTokensDetails {
    /// Those that were not computed, because an earlier request had begun alike.
    pub cached_tokens: usize,
}

impl PromptTokensDetails {
    fn is_empty(&self) -> bool {
        self.cached_tokens == 0
    }
}

/// Where a request's time went, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Timings {
    /// From its acceptance to its beginning.
    pub queue_s: f64,
    /// From its acceptance to its first text; absent if none came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_to_first_token_s: Option<f64>,
    /// From its acceptance to its end.
    pub duration_s: f64,
}

pub(super) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
    }
}
