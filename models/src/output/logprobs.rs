//! How likely the model found what was said, and what else it might have said.

use serde::{Deserialize, Serialize};

use crate::tokenizer::Tokenizer;

/// A token of the answer with its natural logarithm of probability: the model's own, before any penalty, temperature,
/// filter or forced form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Its text; half a character is shown as U+FFFD.
    pub token: String,
    /// At most 0.
    pub logprob: f32,
    /// Its text byte for byte; empty for special tokens.
    pub bytes: Vec<u8>,
    /// The likeliest tokens at this place, the likeliest first; as many as were asked for.
    pub top_logprobs: Vec<Alternative>,
}

/// A token that might have been chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// As in [`TokenLogprob`].
    pub token: String,
    /// As in [`TokenLogprob`].
    pub logprob: f32,
    /// As in [`TokenLogprob`].
    pub bytes: Vec<u8>,
}

/// Of a token that was chosen although the model gave it no probability at all; as OpenAI writes it.
const NEVER: f32 = -9999.0;

/// The log-probability of `chosen` and of the `most` likeliest. Among equals the lowest id comes first.
pub(super) fn logprob(tokenizer: &Tokenizer, logits: &[f32], chosen: u32, most: usize) -> TokenLogprob {
    let usable = || {
        (0u32..)
            .zip(logits.iter().copied())
            .filter(|(_, logit)| logit.is_finite())
    };
    let largest = usable().map(|(_, logit)| logit).fold(f32::NEG_INFINITY, f32::max);
    // In double precision: a vocabulary has a hundred thousand terms.
    let sum: f64 = usable().map(|(_, logit)| f64::from(logit - largest).exp()).sum();
    let of = |logit: f32| (f64::from(logit - largest) - sum.ln()) as f32;
    let chosen_logit = logits.get(chosen as usize).copied().unwrap_or(f32::NEG_INFINITY);
    let mut top: Vec<(u32, f32)> = Vec::new();
    if most > 0 {
        top = usable().collect();
        let by_value = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if most < top.len() {
            top.select_nth_unstable_by(most - 1, by_value);
            top.truncate(most);
        }
        top.sort_unstable_by(by_value);
    }
    let alternatives = top.into_iter().map(|(token, logit)| Alternative {
        token: tokenizer.text_of(token),
        logprob: of(logit),
        bytes: tokenizer.piece(token).to_vec(),
    });
    TokenLogprob {
        token: tokenizer.text_of(chosen),
        logprob: if chosen_logit.is_finite() {
            of(chosen_logit)
        } else {
            NEVER
        },
        bytes: tokenizer.piece(chosen).to_vec(),
        top_logprobs: alternatives.collect(),
    }
}
