//! The embedded assistant: what people say to their home and their machine, turned into actions. What can be meant
//! ([`intents`]), how it is written ([`actions`]), and how well a model does ([`score`]). How it is trained is in
//! `models/training`, which users never compile.
//!
//! A model whose file has [`METADATA_KEY`] is one: the engine gives its answers the form of [`intents::schema`] where a request asks for
//! no other, and takes the likeliest tokens, whatever the request says about chance. An answer is said when it is whole; where the
//! model was not sure of its actions ([`MIN_CONFIDENCE`]) it says that it cannot do that.

pub mod actions;
pub mod asking;
pub mod intents;
pub mod score;

use crate::output::TokenLogprob;
use intents::UNSUPPORTED;

/// In the metadata of a GGUF file; its value is 1.
pub const METADATA_KEY: &str = "clawdbot.assistant.version";

/// Nothing is done where the model is less sure than this that it can be done ([`confidence`]). Chosen on
/// `tests/assistant/*-dev.jsonl`, for the model in `models/embedded` (its card has the table).
pub const MIN_CONFIDENCE: f32 = 0.7;

/// The same, where another model answers what it is not sure of: a command that is left to that costs little, and a question that is
/// taken for a command costs more.
pub const MIN_CONFIDENCE_BESIDE: f32 = 0.9;

/// The most keys and values that are of use: the longest sentence with its answer takes 11 MiB, a usual one a twentieth, and those of
/// ended ones have nothing in common that is worth keeping.
pub const CACHE_BYTES: usize = 16 << 20;

/// A longer sentence, with the two tokens around it, is no command: the model has learnt from none as long.
pub const LONGEST_SENTENCE_TOKENS: usize = 96;

/// And what has more characters, of which a template leaves no more.
pub const LONGEST_SENTENCE: usize = 400;

/// How sure a model was, before it named the first intent, that the sentence is not out of reach: 0 to 1. `answer` are the answer's
/// tokens, the first of which come with their likeliest alternatives. (That tells better what is out of reach than how likely all
/// tokens are together: doubt about a slot is no doubt about the sentence.)
pub fn confidence(answer: &[TokenLogprob]) -> f32 {
    let refusals = answer
        .iter()
        .take(ALTERNATIVES_OF)
        .flat_map(|token| &token.top_logprobs)
        .filter(|other| other.token.starts_with(UNSUPPORTED));
    1.0 - refusals.map(|other| other.logprob.exp()).sum::<f32>().min(1.0)
}

/// So many tokens of an answer are looked at for what they might have been: they name the first intent.
pub(crate) const ALTERNATIVES_OF: usize = 2;
/// Among so many of the likeliest.
pub(crate) const ALTERNATIVES: usize = 20;

/// What is said to what is out of reach.
pub fn refusal(in_chinese: bool) -> &'static str {
    match in_chinese {
        true => "这个我做不了；运行 clawdbot model pull 可以安装更大的模型。",
        false => "That is beyond me; clawdbot model pull brings a model that knows more.",
    }
}
