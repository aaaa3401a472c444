//! Who takes part in a step, and how far: what the cache may take is shared out anew before each.
//!
//! Sequences are served in the order they came. One takes part only if there is room for all tokens that it has so far,
//! so that it does not stop half way; where they outgrow the room, the youngest gives its up and waits. It has its tokens
//! still, and full pages that nobody else needed meanwhile; with those it goes on when there is room again, before any that
//! came after it.

use super::{Engine, Pace, Sequence};
use crate::packed::PAGE_TOKENS;
use crate::request::Event;

/// Tokens of a prompt that the reference is fed in one step, whose sums depend on where it is cut.
const REFERENCE_TOKENS: usize = 64;
/// What sequences that have ended may leave where nothing else bounds the cache.
const KEPT_BYTES: usize = 256 << 20;

impl Engine {
    /// The most tokens that are fed in one step of all prompts together. See [`Engine::took`].
    pub const PREFILL_TOKENS: usize = Pace::MOST;

    /// Bounds keys and values, kept prefixes among them, by so many bytes; none bounds only what is kept of sequences that
    /// have ended. What is beyond it is given back at once: what nobody uses first, then the caches of paused
    /// sequences, then those of running ones, the youngest first, which wait until there is room again.
    pub fn set_cache_budget(&mut self, bytes: Option<usize>) {
        self.options.cache_bytes = bytes;
        self.keep_within_budget();
        self.evict(0);
    }

    /// Lets go of so many bytes of what ended sequences left, the least recently used first; of all, if there is less.
    pub fn free_kept(&mut self, bytes: usize) {
        let goal = self.kept_bytes().saturating_sub(bytes);
        while self.kept_bytes() > goal && self.prefixes.evict() {}
    }

    /// Decides what the next step feeds; sequences for which there can be no room fail.
    pub(super) fn plan(&mut self, events: &mut Vec<Event>) {
        self.keep_within_budget();
        self.admit(events);
        self.share_out();
        let coming = |sequence: &Sequence| {
            let context = &sequence.context;
            context.bytes_after(sequence.next).saturating_sub(context.bytes())
        };
        let coming = self.sequences.iter().map(coming).sum();
        self.evict(coming);
    }

    /// Has the youngest give up their caches until the rest fits.
    fn keep_within_budget(&mut self) {
        while self.bytes_spoken_for() > self.budget() {
            let last = |wanted: &dyn Fn(&Sequence) -> bool| self.sequences.iter().rposition(wanted);
            let idle = last(&|sequence| !sequence.admitted && sequence.context.bytes() > 0);
            let Some(number) = idle.or_else(|| last(&|sequence| sequence.admitted)) else {
                break;
            };
            self.give_up(number);
        }
    }

    fn give_up(&mut self, number: usize) {
        if let Some(sequence) = self.sequences.get_mut(number) {
            sequence.admitted = false;
            sequence.context.release(&mut self.prefixes);
        }
    }

    /// Lets in those that wait, as far as there is room.
    fn admit(&mut self, events: &mut Vec<Event>) {
        let budget = self.budget();
        self.sequences.retain_mut(|sequence| {
            let needed = sequence.context.bytes_in_the_end();
            if sequence.paused || needed <= budget {
                return true;
            }
            let message = format!(
                "the keys and values of its {} tokens take {} KiB, and the cache may take {} KiB now; ask for less, or allow \
                 the cache more memory",
                sequence.context.len(),
                needed.div_ceil(1024),
                budget / 1024
            );
            sequence.context.release(&mut self.prefixes);
            sequence.fail(message, events)
        });
        let waits = |sequence: &Sequence| !sequence.paused && !sequence.admitted;
        while let Some(number) = self.sequences.iter().position(waits) {
            if !self.let_in(number) {
                break;
            }
        }
    }

    /// Lets a sequence in if there is room, or if there is when paused ones give up their caches.
    fn let_in(&mut self, number: usize) -> bool {
        let others = self.sequences.iter().filter(|sequence| sequence.admitted);
        // So that those who are in can grow a little before somebody has to go again.
        let growth = others.count() * self.page_bytes;
        let Some(sequence) = self.sequences.get_mut(number) else {
            return false;
        };
        sequence.context.take_over(&mut self.prefixes);
        sequence.admitted = true;
        while self.bytes_spoken_for().saturating_add(growth) > self.budget() {
            let idle = |sequence: &Sequence| !sequence.admitted && sequence.context.bytes() > 0;
            match self.sequences.iter().rposition(idle) {
                Some(idle) => self.give_up(idle),
                None => {
                    self.give_up(number);
                    return false;
                }
            }
        }
        true
    }

    /// Says of each sequence how many tokens it is fed.
    ///
    /// One that is about to compute what another computes in this very step sits out: when that is done it takes it over,
    /// and both are there sooner than if each did it. While the prompt of one that is in a hurry is computed, all others do.
    fn share_out(&mut self) {
        let hurries = |sequence: &Sequence| sequence.is_hurried && sequence.context.rest() > 1;
        let is_in = |sequence: &Sequence| sequence.admitted && !sequence.paused;
        let is_hurried = self
            .sequences
            .iter()
            .any(|sequence| is_in(sequence) && hurries(sequence));
        let runs = |sequence: &&Sequence| is_in(sequence) && (!is_hurried || hurries(sequence));
        let running = || self.sequences.iter().filter(runs);
        let decoding = running().filter(|sequence| sequence.context.rest() == 1).count();
        let prefilling = running().count() - decoding;
        let share = self.pace.share(decoding > 0);
        // Where a step has fewer pages than prompts wait, those that came first are served first.
        let served = prefilling.clamp(1, share / PAGE_TOKENS);
        let each = share / served / PAGE_TOKENS * PAGE_TOKENS;
        let mut left = share;
        for number in 0..self.sequences.len() {
            let (earlier, rest) = self.sequences.split_at_mut(number);
            let Some(sequence) = rest.first_mut() else {
                break;
            };
            sequence.next = 0;
            if !runs(&&*sequence) {
                continue;
            }
            sequence.context.take_over(&mut self.prefixes);
            let is_ahead = |other: &Sequence| other.next > 0 && other.context.is_ahead_of(&sequence.context);
            if earlier.iter().any(is_ahead) {
                continue;
            }
            let (fed, rest) = (sequence.context.fed(), sequence.context.rest());
            sequence.next = if rest == 1 {
                1
            } else if self.cuts_freely {
                let next = rest.min(each).min(left);
                // Whole pages are given out, so that nobody but at the end of a prompt stops in the middle of one.
                left = left.saturating_sub(next.next_multiple_of(PAGE_TOKENS));
                next
            } else if fed < sequence.prompt_tokens {
                // The reference is cut again as it was cut before, because its sums depend on that.
                REFERENCE_TOKENS.min(sequence.prompt_tokens - fed)
            } else {
                1
            };
        }
    }

    /// Lets go of what nobody holds until so many bytes more fit.
    fn evict(&mut self, coming: usize) {
        loop {
            let (kept, all) = (self.kept_bytes(), self.cache_bytes().saturating_add(coming));
            let is_too_much = match self.options.cache_bytes {
                Some(budget) => all > budget,
                None => kept > KEPT_BYTES,
            };
            if !is_too_much || !self.prefixes.evict() {
                return;
            }
        }
    }

    fn budget(&self) -> usize {
        self.options.cache_bytes.unwrap_or(usize::MAX)
    }

    /// Bytes that somebody holds, and those that who is in will need for the tokens that it has.
    fn bytes_spoken_for(&self) -> usize {
        let coming = self
            .sequences
            .iter()
            .filter(|sequence| sequence.admitted)
            .map(|sequence| {
                let context = &sequence.context;
                context.bytes_in_the_end().saturating_sub(context.bytes())
            });
        (self.cache_bytes() - self.kept_bytes()).saturating_add(coming.sum())
    }

    /// Bytes that nobody holds.
    pub(super) fn kept_bytes(&self) -> usize {
        self.prefixes.unheld() * self.page_bytes
    }
}
