//! What a device and the assistant said to each other, as far as it is remembered: bounded in tokens and in age.

use std::collections::VecDeque;

use models::ChatMessage;
use serde::{Deserialize, Serialize};

/// One question and its answer. It tells what a person said: there is no Debug.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Turn {
    /// What was asked.
    pub(super) user: String,
    /// What was answered, as far as it was.
    pub(super) assistant: String,
    /// Tokens that both take up in a prompt.
    pub(super) tokens: usize,
    /// When it ended, in seconds since 1970.
    pub(super) at_s: u64,
}

/// The turns, oldest first.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct History {
    turns: VecDeque<Turn>,
}

impl History {
    /// Tokens of all turns.
    pub(super) fn tokens(&self) -> usize {
        self.turns.iter().map(|turn| turn.tokens).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// All that was said, and what is asked now.
    pub(super) fn and_now(&self, text: &str) -> Vec<ChatMessage> {
        let message = ChatMessage::new;
        let turns = self.turns.iter();
        turns
            .flat_map(|turn| [message("user", &turn.user), message("assistant", &turn.assistant)])
            .chain([message("user", text)])
            .collect()
    }

    /// Adds a turn, and lets the oldest go that then do not fit any more. A turn too large for all of it is not
    /// remembered, nor what was before: it would have been answered without.
    pub(super) fn add(&mut self, turn: Turn, most_tokens: usize) {
        self.turns.push_back(turn);
        while self.tokens() > most_tokens {
            self.turns.pop_front();
        }
    }

    /// Lets go of turns that ended before; says whether there were any.
    pub(super) fn forget_before(&mut self, at_s: u64) -> bool {
        let before = self.turns.len();
        self.turns.retain(|turn| turn.at_s >= at_s);
        self.turns.len() != before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn turn(name: &str, tokens: usize, at_s: u64) -> Turn {
        Turn {
            user: format!("{name}?"),
            assistant: format!("{name}!"),
            tokens,
            at_s,
        }
    }

    fn contents(history: &History) -> Vec<String> {
        let messages = history.and_now("now");
        messages.into_iter().map(|message| message.content).collect()
    }

    #[test]
    fn the_oldest_turns_go_first_when_the_tokens_are_used_up() {
        let mut history = History::default();
        for (at_s, name) in (0..).zip(["a", "b", "c"]) {
            history.add(turn(name, 40, at_s), 100);
        }
        assert_eq!(contents(&history), ["b?", "b!", "c?", "c!", "now"]);
        history.add(turn("huge", 101, 9), 100);
        assert_eq!(contents(&history), ["now"]);
    }

    #[test]
    fn what_is_too_old_is_forgotten() {
        let mut history = History::default();
        history.add(turn("a", 1, 10), 100);
        history.add(turn("b", 1, 20), 100);
        assert!(!history.forget_before(10));
        assert!(history.forget_before(11));
        assert_eq!(contents(&history), ["b?", "b!", "now"]);
    }

    proptest! {
        #[test]
        fn it_never_holds_more_tokens_than_it_may(
            turns in prop::collection::vec(0usize..200, 0..40),
            most in 0usize..300,
        ) {
            let mut history = History::default();
            for tokens in turns {
                history.add(turn("x", tokens, 0), most);
                prop_assert!(history.tokens() <= most);
            }
            // Roles take turns, and the last is the user's: templates insist.
            let messages = history.and_now("now");
            for (at, message) in messages.iter().enumerate() {
                prop_assert_eq!(&message.role, if at % 2 == 0 { "user" } else { "assistant" });
            }
        }
    }
}
