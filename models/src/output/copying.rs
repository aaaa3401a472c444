//! Spans are parts of what was said: what of an answer's slots is to be copied from the sentence, and which tokens go on with it.
//!
//! A small model that has decided to copy a name may lose its way in one that it has never seen. Tokens that do not go on with a part
//! of the sentence are therefore made less likely inside a span, by so much that the model must be sure of them: it is where it
//! mends a slip ("bedrom", meant as bedroom).

use crate::assistant::intents::{Kind, kind};
use crate::tokenizer::Tokenizer;

/// By so much, in logits, a token is less likely that does not go on with the sentence.
const RELUCTANCE: f32 = 6.0;
/// What begins a slot's text, behind its name.
const BEGINS: &str = "\":\"";

/// The sentence, and how far the answer has come.
#[derive(Debug)]
pub(super) struct Copying {
    sentence: String,
    /// Of the answer, so far.
    answer: String,
}

impl Copying {
    /// From a sentence as the template has left it.
    pub(super) fn of(sentence: &str) -> Self {
        Self {
            sentence: sentence.to_owned(),
            answer: String::new(),
        }
    }

    /// More of the answer was written.
    pub(super) fn push(&mut self, text: &str) {
        self.answer.push_str(text);
    }

    /// What is written of a span so far, where the answer stands in one.
    fn span(&self) -> Option<&str> {
        let (before, written) = self.answer.rsplit_once(BEGINS)?;
        let slot = before.rsplit('"').next()?;
        let is_open = !written.contains('"');
        (is_open && kind(slot) == Some(Kind::Span)).then_some(written)
    }

    /// Inside a span, the logits with those lowered that do not go on with the sentence.
    pub(super) fn held_to_sentence(
        &self,
        tokenizer: &Tokenizer,
        logits: &[f32],
        is_allowed: impl Fn(u32) -> bool,
    ) -> Option<Vec<f32>> {
        let written = self.span()?;
        // What follows each place where this stands.
        let rests: Vec<&[u8]> = self
            .sentence
            .match_indices(written)
            .filter(|(at, _)| !written.is_empty() || begins_a_word(&self.sentence, *at))
            .filter_map(|(at, _)| self.sentence.as_bytes().get(at + written.len()..))
            .collect();
        if rests.is_empty() {
            // It has gone its own way, and knows why.
            return None;
        }
        let mut logits = logits.to_vec();
        for (token, logit) in (0u32..)
            .zip(logits.iter_mut())
            .filter(|(token, _)| is_allowed(*token))
        {
            let piece = tokenizer.piece(token);
            let goes_on = match piece.iter().position(|byte| *byte == b'"') {
                Some(end) => rests.iter().any(|rest| {
                    rest.starts_with(piece.get(..end).unwrap_or_default())
                        && ends_a_word(rest.get(end..).unwrap_or_default())
                }),
                None => rests.iter().any(|rest| rest.starts_with(piece)),
            };
            if !goes_on {
                *logit -= RELUCTANCE;
            }
        }
        Some(logits)
    }
}

/// Whether a word may begin there; in Chinese one may anywhere.
fn begins_a_word(text: &str, at: usize) -> bool {
    let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() && (c as u32) < 0x2E80);
    let (before, behind) = text.split_at(at);
    !(is_letter(before.chars().next_back()) && is_letter(behind.chars().next()))
}

/// Whether nothing of the last word is left.
fn ends_a_word(rest: &[u8]) -> bool {
    !rest.first().is_some_and(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_span(sentence: &str, answer: &str) -> Option<String> {
        let mut copying = Copying::of(sentence);
        copying.push(answer);
        copying.span().map(str::to_owned)
    }

    #[test]
    fn spans_are_told_from_words_of_lists_from_intents_and_from_what_is_said() {
        const BEGIN: &str = r#"{"actions":[{"intent":"HassTurnOn","slots":{"#;
        let span = |rest: &str| in_span("the reading lamp", &format!("{BEGIN}{rest}"));
        assert_eq!(span(r#""name":""#).as_deref(), Some(""));
        assert_eq!(span(r#""name":"reading l"#).as_deref(), Some("reading l"));
        assert_eq!(span(r#""area":"study","name":"re"#).as_deref(), Some("re"));
        for other in [
            "",
            r#""name":"reading lamp""#,
            r#""domain":"li"#,
            r#""name":"lamp"}}],"say":"I tur"#,
            r#""minutes":1"#,
        ] {
            assert_eq!(span(other), None, "{other}");
        }
        assert_eq!(in_span("lamp", r#"{"actions":[{"intent":"Hass"#), None);
    }

    #[test]
    fn words_begin_and_end_where_blanks_are_and_chinese_ones_anywhere() {
        assert!(begins_a_word("the lamp", 4) && begins_a_word("lamp", 0) && !begins_a_word("the lamp", 5));
        assert!(begins_a_word("打开灯", 3));
        assert!(
            ends_a_word(b"") && ends_a_word(b" on") && ends_a_word("灯".as_bytes()) && !ends_a_word(b"s on")
        );
    }
}
