//! How much of prompts a step takes on, learnt from how long steps take.
//!
//! A step cannot be interrupted, so its length is what everybody else waits: those in the middle of an answer for their
//! next word, a cancellation, an urgent request, the owner's question whether the engine is alive. A machine that computes
//! 300 tokens of a prompt in a second may take many at once, which uses it best; one that computes 3 may not.

use std::time::Duration;

use crate::packed::PAGE_TOKENS;

/// Counts prompt tokens, and is told how long their steps took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Prompt tokens of the last step that had any.
    last: usize,
    /// How many of them a second was enough for; none before the first.
    per_second: Option<f64>,
}

/// The length of a step that nobody waits for with half an answer.
const ALONE: Duration = Duration::from_secs(1);
/// The length of one that somebody does.
const BESIDE_ANSWERS: Duration = Duration::from_millis(250);
/// So few are taken at first and on the slowest machine. One at a time would stream all weights for each, and sequences
/// that begin alike wait for each other's whole pages.
const FEWEST: usize = PAGE_TOKENS;
/// Whole pages, and whole tiles: kernels take tokens in tiles of 2, 4, 6 or 12, and a part of one costs as much as a whole.
const EVEN: usize = 3 * PAGE_TOKENS;

impl Pace {
    /// More at once is no quicker for any of them.
    pub(super) const MOST: usize = 256;

    pub(super) fn new() -> Self {
        Self {
            last: FEWEST,
            per_second: None,
        }
    }

    /// So many prompt tokens were fed, and their step took so long. One without any says nothing about prompts.
    pub(super) fn took(&mut self, tokens: usize, duration: Duration) {
        if tokens > 0 {
            self.last = tokens;
            self.per_second = Some(tokens as f64 / duration.as_secs_f64().max(1e-6));
        }
    }

    /// The most prompt tokens of the next step, whole pages of them.
    pub(super) fn share(&self, beside_answers: bool) -> usize {
        let Some(per_second) = self.per_second else {
            return FEWEST;
        };
        let length = if beside_answers { BESIDE_ANSWERS } else { ALONE };
        // A few tokens cost almost what one costs: the rate of a small step says little about larger ones.
        let grown = self.last.saturating_mul(2).min(Self::MOST);
        let share = ((per_second * length.as_secs_f64()) as usize).clamp(FEWEST, grown.max(FEWEST));
        match share {
            Self::MOST => share,
            EVEN.. => share - share % EVEN,
            _ => share - share % PAGE_TOKENS,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A machine that streams its weights in `stream` seconds, and needs `token` seconds for each prompt token beside it.
    #[derive(Clone, Copy, Debug)]
    struct Machine {
        stream: f64,
        token: f64,
    }

    impl Machine {
        fn step(self, tokens: usize) -> Duration {
            Duration::from_secs_f64(self.stream + self.token * tokens as f64)
        }

        /// The sizes of the steps of a long prompt.
        fn steps(self, pace: &mut Pace, beside_answers: bool) -> Vec<usize> {
            (0..40)
                .map(|_| {
                    let share = pace.share(beside_answers);
                    pace.took(share, self.step(share));
                    share
                })
                .collect()
        }
    }

    #[test]
    fn a_fast_machine_takes_the_most_after_four_steps() {
        let fast = Machine {
            stream: 0.03,
            token: 0.002,
        };
        let steps = fast.steps(&mut Pace::new(), false);
        assert_eq!(steps.get(..5), Some(&[16, 32, 48, 96, 192][..]));
        assert_eq!(steps.last(), Some(&256));
    }

    #[test]
    fn somebody_half_way_through_an_answer_waits_a_quarter_of_a_second() {
        let machine = Machine {
            stream: 0.06,
            token: 0.01,
        };
        let mut pace = Pace::new();
        machine.steps(&mut pace, false);
        let took = machine.step(pace.share(true));
        assert!(took < Duration::from_millis(300), "{took:?}");
        let last = machine.steps(&mut pace, true).pop();
        assert_eq!(last, Some(16));
    }

    #[test]
    fn a_step_that_took_a_minute_for_once_does_not_count_for_long() {
        let mut pace = Pace::new();
        pace.took(256, Duration::from_secs(60));
        assert_eq!(pace.share(false), FEWEST);
        let fast = Machine {
            stream: 0.03,
            token: 0.002,
        };
        assert_eq!(fast.steps(&mut pace, false).last(), Some(&256));
    }

    proptest! {
        #[test]
        fn no_step_is_much_longer_than_meant_unless_sixteen_tokens_are(
            stream in 0.0..0.4, token in 0.0001..4.0, beside_answers: bool,
        ) {
            let machine = Machine { stream, token };
            let meant = if beside_answers { BESIDE_ANSWERS } else { ALONE };
            let bound = meant.max(machine.step(FEWEST));
            for tokens in machine.steps(&mut Pace::new(), beside_answers) {
                prop_assert!((FEWEST..=Pace::MOST).contains(&tokens));
                prop_assert!(machine.step(tokens) <= bound.mul_f64(1.01), "{} tokens", tokens);
            }
        }
    }
}
