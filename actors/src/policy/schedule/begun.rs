//! What has begun and not ended: it runs, is paused, or lost its worker and waits to be begun anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::At;
use super::estimate::{Estimate, Stopwatch};
use super::{Ageing, Entry, Tokens};
use crate::policy::priority::Priority;

/// What has lost its worker goes before what is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Running,
    Lost,
    Paused,
}

/// One request.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) id: u64,
    pub(super) priority: Priority,
    pub(super) device: Arc<str>,
    pub(super) tokens: Tokens,
    /// The class that it counted as when it began, whose clock it was charged to.
    pub(super) charged_to: Priority,
    pub(super) state: State,
    /// Somebody asked for its end, which comes within a token.
    pub(super) is_cancelled: bool,
    since: Instant,
    answered: u32,
    /// How many when the first were told; no less than one.
    answered_at_first: u32,
    prefill: Stopwatch,
    decode: Stopwatch,
    /// It lost a worker: what it takes from then on is no measure of anything.
    was_lost: bool,
}

impl Begun {
    pub(super) fn at(&self) -> At {
        match self.state {
            State::Running | State::Paused => At::Running,
            State::Lost => At::Queued,
        }
    }

    /// It goes on when there is a place.
    pub(super) fn stands(&self) -> bool {
        self.state != State::Running && !self.is_cancelled
    }

    pub(super) fn counts_as(&self, ageing: Ageing, now: Instant) -> Priority {
        ageing.counts_as(self.priority, now.saturating_duration_since(self.since))
    }

    pub(super) fn still_takes(&self, estimate: &Estimate, running: usize, now: Instant) -> Option<Duration> {
        let ran = match self.state {
            State::Running => now.saturating_duration_since(self.since),
            State::Paused | State::Lost => Duration::ZERO,
        };
        estimate.still_takes(self.tokens, self.answered, ran, running)
    }

    fn watch(&mut self) -> &mut Stopwatch {
        if self.answered == 0 {
            &mut self.prefill
        } else {
            &mut self.decode
        }
    }

    /// What it used, as far as is known.
    pub(super) fn used(&self) -> Tokens {
        Tokens {
            prompt: self.tokens.prompt,
            answer: self.answered,
        }
    }

    /// It has ended, its whole answer given.
    pub(super) fn teach(&self, estimate: &mut Estimate, used: Tokens) {
        estimate.learn_answer(self.tokens.answer, used.answer);
        if self.was_lost || self.answered == 0 {
            return;
        }
        estimate.learn_prefill(used.prompt, self.prefill.seconds());
        let tokens = used.answer.saturating_sub(self.answered_at_first);
        estimate.learn_decode(tokens, self.decode.seconds(), self.decode.mean_running());
    }
}

/// All of them, in the order in which they first began.
#[derive(Debug, Default)]
pub(super) struct AllBegun {
    all: Vec<Begun>,
    /// The time that all together have run, in seconds, and until when that is counted.
    run: f64,
    counted_until: Option<Instant>,
}

impl AllBegun {
    /// Before anything changes.
    pub(super) fn count(&mut self, now: Instant) {
        let until = *self.counted_until.get_or_insert(now);
        self.run += now.saturating_duration_since(until).as_secs_f64() * self.running() as f64;
        self.counted_until = Some(until.max(now));
    }

    pub(super) fn running(&self) -> usize {
        self.iter().filter(|begun| begun.state == State::Running).count()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Begun> {
        self.all.iter()
    }

    pub(super) fn get(&self, number: usize) -> Option<&Begun> {
        self.all.get(number)
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut Begun> {
        self.all.get_mut(number)
    }

    pub(super) fn position(&self, wanted: impl Fn(&Begun) -> bool) -> Option<usize> {
        self.all.iter().position(wanted)
    }

    pub(super) fn find(&self, id: u64) -> Option<usize> {
        self.position(|begun| begun.id == id)
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Begun> {
        self.find(id).map(|number| self.all.remove(number))
    }

    pub(super) fn begin<T>(&mut self, entry: &Entry<T>, charged_to: Priority, now: Instant) {
        let mut prefill = Stopwatch::default();
        prefill.start(now, self.run);
        self.all.push(Begun {
            id: entry.id,
            priority: entry.priority,
            device: Arc::clone(&entry.device),
            tokens: entry.tokens,
            charged_to,
            state: State::Running,
            is_cancelled: false,
            since: now,
            answered: 0,
            answered_at_first: 0,
            prefill,
            decode: Stopwatch::default(),
            was_lost: false,
        });
    }

    /// Pauses one, or has it run; the id of whom.
    pub(super) fn set(&mut self, number: usize, state: State, now: Instant) -> Option<u64> {
        let run = self.run;
        let begun = self.all.get_mut(number)?;
        begun.state = state;
        begun.since = now;
        match state {
            State::Running => begun.watch().start(now, run),
            State::Paused | State::Lost => begun.watch().stop(now, run),
        }
        begun.was_lost |= state == State::Lost;
        Some(begun.id)
    }

    /// So many tokens of its answer have come.
    pub(super) fn told(&mut self, id: u64, answered: u32, now: Instant) {
        let run = self.run;
        let Some(begun) = self.find(id).and_then(|number| self.all.get_mut(number)) else {
            return;
        };
        if begun.answered == 0 && answered > 0 {
            begun.prefill.stop(now, run);
            begun.answered_at_first = answered;
            // The last words of one that is being paused come when it counts as paused.
            if begun.state == State::Running {
                begun.decode.start(now, run);
            }
        }
        begun.answered = begun.answered.max(answered);
    }

    /// Stops the watches of one that has ended.
    pub(super) fn stop(&self, begun: &mut Begun, now: Instant) {
        begun.watch().stop(now, self.run);
    }

    /// Who gives its place up: what ends anyway, then the less important, then the youngest. Never an urgent one.
    pub(super) fn least_important(&self) -> Option<usize> {
        let last = |wanted: &dyn Fn(&Begun) -> bool| {
            self.all.iter().rposition(|begun| {
                begun.state == State::Running && begun.priority != Priority::Urgent && wanted(begun)
            })
        };
        last(&|begun| begun.is_cancelled)
            .or_else(|| last(&|begun| begun.priority == Priority::Background))
            .or_else(|| last(&|_| true))
    }
}
