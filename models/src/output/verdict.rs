//! The answers of the embedded assistant: held back until they are whole, and given only where the model is sure of them.

use super::logprobs::TokenLogprob;
use crate::assistant::actions::{Action, Answer};
use crate::assistant::intents::UNSUPPORTED;
use crate::assistant::{
    ALTERNATIVES_OF, LONGEST_SENTENCE, LONGEST_SENTENCE_TOKENS, MIN_CONFIDENCE, confidence, refusal,
};

/// An answer of actions, on its way.
#[derive(Debug)]
pub(super) struct Verdict {
    /// What the model has written so far.
    text: String,
    /// In Chinese; else in English.
    in_chinese: bool,
    /// More than a command ever has.
    is_too_long: bool,
    is_abandoned: bool,
    min_confidence: f32,
    /// Of the first of the answer's tokens.
    likely: Vec<TokenLogprob>,
}

impl Verdict {
    /// On a sentence of so many tokens with everything around it, which the template has made of it.
    pub(super) fn new(prompt: &str, tokens: usize, min_confidence: Option<f32>) -> Self {
        Self {
            text: String::new(),
            in_chinese: prompt.chars().any(is_han),
            is_too_long: tokens > LONGEST_SENTENCE_TOKENS || prompt.chars().count() >= LONGEST_SENTENCE,
            is_abandoned: false,
            min_confidence: min_confidence.unwrap_or(MIN_CONFIDENCE),
            likely: Vec::new(),
        }
    }

    /// Whether it matters what the next token might have been.
    pub(super) fn weighs(&self) -> bool {
        self.likely.len() < ALTERNATIVES_OF
    }

    /// A token was chosen, in the place of these.
    pub(super) fn weigh(&mut self, token: TokenLogprob) {
        self.likely.push(token);
    }

    /// More of the answer. Nothing of it is said yet.
    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// There will be no answer.
    pub(super) fn abandon(&mut self) {
        self.is_abandoned = true;
    }

    /// The whole of it, and that it stands; or what is answered instead: where it was cut off, the model was not sure, a part is out of
    /// reach (nothing is done by halves), or nobody speaks like that.
    pub(super) fn spoken(&mut self, rest: &str) -> (String, bool) {
        if self.is_abandoned {
            return (String::new(), false);
        }
        let mut text = std::mem::take(&mut self.text);
        text.push_str(rest);
        let answer: Option<Answer> = serde_json::from_str(&text).ok();
        let is_right = |answer: &Answer| {
            let actions = &answer.actions;
            let is_whole = actions.len() == 1 || actions.iter().all(|action| action.intent != UNSUPPORTED);
            is_whole && actions.iter().all(|action| action.problem().is_none())
        };
        let stands = !self.is_too_long
            && answer.is_some_and(|answer| is_right(&answer))
            && confidence(&self.likely) >= self.min_confidence;
        if stands {
            return (text, true);
        }
        let instead = Answer {
            actions: vec![Action::unsupported()],
            say: refusal(self.in_chinese).to_owned(),
        };
        (serde_json::to_string(&instead).unwrap_or_default(), false)
    }
}

fn is_han(c: char) -> bool {
    matches!(u32::from(c), 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x2_0000..=0x3_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Alternative;

    const GOOD: &str =
        r#"{"actions":[{"intent":"HassTurnOn","slots":{"area":"kitchen","domain":"light"}}],"say":"On."}"#;

    /// One that might have been the refusal, with this chance.
    fn token(text: &str, chance: f32) -> TokenLogprob {
        let refusal = Alternative {
            token: "unsupported\",\"slots\":{".to_owned(),
            logprob: chance.ln(),
            bytes: Vec::new(),
        };
        TokenLogprob {
            token: text.to_owned(),
            logprob: -0.1,
            bytes: Vec::new(),
            top_logprobs: vec![refusal],
        }
    }

    /// What is said of this answer, of which the model was so sure.
    fn said(prompt: &str, tokens: usize, answer: &str, confidence: f32) -> (String, bool) {
        let mut verdict = Verdict::new(prompt, tokens, None);
        let (first, last) = answer.split_at(answer.len() / 2);
        verdict.push(first);
        assert!(verdict.weighs());
        for (text, doubt) in [
            ("{", 0.0),
            ("HassTurnOn", 1.0 - confidence),
            ("light", 0.0),
            ("On", 0.9),
        ] {
            verdict.weigh(token(text, doubt));
        }
        assert!(!verdict.weighs());
        verdict.spoken(last)
    }

    #[test]
    fn an_answer_stands_where_the_model_is_sure_that_it_can_be_done() {
        assert_eq!(said("lights on", 6, GOOD, 0.99), (GOOD.to_owned(), true));
        let (text, stands) = said("lights on", 6, GOOD, MIN_CONFIDENCE / 2.0);
        assert!(
            !stands && text.contains("unsupported") && text.contains("beyond me"),
            "{text}"
        );
        let (text, _) = said("开灯", 6, GOOD, MIN_CONFIDENCE / 2.0);
        assert!(text.contains("做不了"), "{text}");
    }

    #[test]
    fn what_is_too_long_cut_off_wrong_or_partly_out_of_reach_does_not_stand() {
        assert!(said("lights on", LONGEST_SENTENCE_TOKENS, GOOD, 1.0).1);
        assert!(!said("lights on", LONGEST_SENTENCE_TOKENS + 1, GOOD, 1.0).1);
        assert!(!said(&"x".repeat(LONGEST_SENTENCE), 6, GOOD, 1.0).1);
        assert!(!said("lights on", 6, &GOOD[..GOOD.len() - 2], 1.0).1);
        for wrong in [
            r#"{"actions":[{"intent":"HassTurnOn","slots":{"volume_level":3}}],"say":"On."}"#,
            r#"{"actions":[{"intent":"HassTurnOn","slots":{}},{"intent":"unsupported","slots":{}}],"say":"On."}"#,
        ] {
            let (text, stands) = said("lights on", 6, wrong, 1.0);
            assert!(!stands && serde_json::from_str::<Answer>(&text).is_ok(), "{text}");
        }
        let mut abandoned = Verdict::new("lights on", 6, None);
        abandoned.push(GOOD);
        abandoned.abandon();
        assert_eq!(abandoned.spoken(""), (String::new(), false));
    }
}
