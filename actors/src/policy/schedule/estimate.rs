//! How long requests take, learnt from those that ended: for deadlines, and for when asking again may help.

use std::time::{Duration, Instant};

use super::Tokens;

/// What the newest observation counts for; as much as in TCP's smoothed round trip (RFC 6298).
const NEWEST: f64 = 1.0 / 8.0;

/// See the module. Before anything was learnt it says nothing.
#[derive(Clone, Debug, Default)]
pub struct Estimate {
    /// Seconds until the first token of an answer, by tokens of the prompt: some, and some for each.
    prefill: Line,
    /// Seconds a token of an answer, by how many run: a step reads the weights once for all who take part, and computes for
    /// each.
    decode: Line,
    /// The part of the tokens asked for that answers have.
    answered: Mean,
}

impl Estimate {
    /// How long a request takes from its beginning while so many run, itself among them.
    pub fn takes(&self, tokens: Tokens, running: usize) -> Option<Duration> {
        let prefill = self.prefill.at(f64::from(tokens.prompt), Guess::Proportional)?;
        let decode = self.token(running)? * self.answer(tokens);
        Some(seconds(prefill + decode))
    }

    /// How long a request still takes that was answered so far after having run for so long.
    pub(super) fn still_takes(
        &self,
        tokens: Tokens,
        answered: u32,
        ran: Duration,
        running: usize,
    ) -> Option<Duration> {
        if answered == 0 {
            return Some(self.takes(tokens, running)?.saturating_sub(ran));
        }
        // One that is longer than most may end with any token; nothing says when.
        let rest = (self.answer(tokens) - f64::from(answered)).max(1.0);
        Some(seconds(self.token(running)? * rest))
    }

    /// Tokens an answer is likely to have.
    fn answer(&self, tokens: Tokens) -> f64 {
        f64::from(tokens.answer) * self.answered.value.unwrap_or(1.0)
    }

    fn token(&self, running: usize) -> Option<f64> {
        self.decode.at(running as f64, Guess::Flat)
    }

    pub(super) fn learn_prefill(&mut self, prompt_tokens: u32, took_s: f64) {
        self.prefill.learn(f64::from(prompt_tokens), took_s, 1.0);
    }

    pub(super) fn learn_decode(&mut self, tokens: u32, took_s: f64, mean_running: f64) {
        if tokens > 0 {
            // What a few tokens took says little about one.
            let weight = (f64::from(tokens) / 16.0).min(1.0);
            self.decode
                .learn(mean_running, took_s / f64::from(tokens), weight);
        }
    }

    pub(super) fn learn_answer(&mut self, asked: u32, answered: u32) {
        if asked > 0 {
            let part = (f64::from(answered) / f64::from(asked)).min(1.0);
            self.answered.learn(part, 1.0);
        }
    }
}

/// An exponentially weighted mean.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    value: Option<f64>,
}

impl Mean {
    fn learn(&mut self, observed: f64, weight: f64) {
        if observed.is_finite() && observed >= 0.0 {
            self.value = Some(match self.value {
                Some(mean) => mean + NEWEST * weight * (observed - mean),
                None => observed,
            });
        }
    }
}

/// The line through (x, y) that fits the observations best, the newest counting most.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    x: Mean,
    y: Mean,
    xx: Mean,
    xy: Mean,
}

/// What a line is where all observations were of one x.
#[derive(Clone, Copy, Debug)]
enum Guess {
    Flat,
    Proportional,
}

impl Line {
    fn learn(&mut self, x: f64, y: f64, weight: f64) {
        let is_sane = |value: f64| value.is_finite() && value >= 0.0;
        if is_sane(x) && is_sane(y) {
            self.x.learn(x, weight);
            self.y.learn(y, weight);
            self.xx.learn(x * x, weight);
            self.xy.learn(x * y, weight);
        }
    }

    fn at(&self, x: f64, guess: Guess) -> Option<f64> {
        let (mean_x, mean_y) = (self.x.value?, self.y.value?);
        // More is never quicker, and nothing takes less than no time.
        let steepest = if mean_x > 0.0 { mean_y / mean_x } else { 0.0 };
        let variance = self.xx.value? - mean_x * mean_x;
        let slope = if variance > 1e-6 * mean_x * mean_x {
            let covariance = self.xy.value? - mean_x * mean_y;
            (covariance / variance).clamp(0.0, steepest)
        } else {
            match guess {
                Guess::Flat => 0.0,
                Guess::Proportional => steepest,
            }
        };
        Some(mean_y + slope * (x - mean_x))
    }
}

/// Beyond what a `Duration` holds there is no difference.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// Measures how long one request ran, pauses left out, and beside how many on average.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stopwatch {
    /// When it was set going, and how much had run until then.
    since: Option<(Instant, f64)>,
    seconds: f64,
    run: f64,
}

impl Stopwatch {
    /// `run` is the time that all requests together have run, in seconds.
    pub(super) fn start(&mut self, now: Instant, run: f64) {
        self.since = Some((now, run));
    }

    pub(super) fn stop(&mut self, now: Instant, run: f64) {
        if let Some((since, run_then)) = self.since.take() {
            self.seconds += now.saturating_duration_since(since).as_secs_f64();
            self.run += run - run_then;
        }
    }

    pub(super) fn seconds(&self) -> f64 {
        self.seconds
    }

    pub(super) fn mean_running(&self) -> f64 {
        if self.seconds > 0.0 {
            self.run / self.seconds
        } else {
            1.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOKENS: Tokens = Tokens {
        prompt: 100,
        answer: 200,
    };

    fn near(left: Duration, right: f64) -> bool {
        (left.as_secs_f64() - right).abs() < 1e-3 * right
    }

    #[test]
    fn before_anything_was_learnt_it_says_nothing() {
        let mut estimate = Estimate::default();
        assert_eq!(estimate.takes(TOKENS, 1), None);
        estimate.learn_prefill(10, 1.0);
        assert_eq!(estimate.takes(TOKENS, 1), None);
        estimate.learn_decode(10, 1.0, 1.0);
        // Ten times the prompt, ten times as long, until there is more to go by.
        assert!(near(estimate.takes(TOKENS, 1).unwrap(), 10.0 + 20.0));
    }

    #[test]
    fn it_knows_the_fixed_part_of_a_prompt_and_of_a_step_from_that_of_each_token_and_sequence() {
        let mut estimate = Estimate::default();
        for number in 0..64 {
            let running = 1 + number % 8;
            estimate.learn_prefill(10 * running, 0.5 + 0.02 * f64::from(10 * running));
            let running = f64::from(running);
            estimate.learn_decode(10, 10.0 * (0.05 + 0.01 * running), running);
        }
        assert!(near(estimate.takes(TOKENS, 1).unwrap(), 2.5 + 200.0 * 0.06));
        assert!(near(estimate.takes(TOKENS, 16).unwrap(), 2.5 + 200.0 * 0.21));
    }

    #[test]
    fn answers_that_end_early_count_as_short() {
        let mut estimate = Estimate::default();
        estimate.learn_prefill(1, 0.0);
        estimate.learn_decode(1, 0.1, 1.0);
        estimate.learn_answer(4000, 400);
        assert!(near(estimate.takes(TOKENS, 1).unwrap(), 2.0));
        let still = |answered| estimate.still_takes(TOKENS, answered, Duration::ZERO, 1).unwrap();
        assert!(near(still(15), 0.5) && near(still(150), 0.1));
    }

    #[test]
    fn pauses_do_not_count_as_work() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut watch = Stopwatch::default();
        watch.start(at(0), 5.0);
        watch.stop(at(2), 9.0);
        watch.start(at(60), 100.0);
        watch.stop(at(62), 102.0);
        assert!((watch.seconds() - 4.0).abs() < 1e-9);
        assert!((watch.mean_running() - 1.5).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn whatever_it_is_told_it_never_panics_and_more_beside_it_is_never_quicker(
            told in prop::collection::vec((any::<u32>(), any::<f64>(), any::<f64>()), 0..20),
            sane in prop::collection::vec((1u32..1000, 0.0f64..100.0, 1.0f64..64.0), 1..20),
            prompt: u32, answer: u32, answered: u32,
        ) {
            let mut wild = Estimate::default();
            for (tokens, seconds, running) in told {
                wild.learn_prefill(tokens, seconds);
                wild.learn_decode(tokens, seconds, running);
                wild.learn_answer(tokens, seconds as u32);
                let _ = wild.takes(Tokens { prompt, answer }, 3);
                let _ = wild.still_takes(Tokens { prompt, answer }, answered, Duration::MAX, usize::MAX);
            }
            let mut estimate = Estimate::default();
            for (tokens, seconds, running) in sane {
                estimate.learn_prefill(tokens, seconds);
                estimate.learn_decode(tokens, seconds, running);
            }
            for running in 1..64 {
                let (fewer, more) = (
                    estimate.takes(Tokens { prompt, answer }, running),
                    estimate.takes(Tokens { prompt, answer }, running + 1),
                );
                prop_assert!(fewer.is_some() && fewer <= more);
            }
        }
    }
}
