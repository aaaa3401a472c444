//! Work of the daemon's own that nobody waits for: packing weights, looking through the store. One piece at a time, at the tail
//! of the queue: it begins where nobody is there who matters more than background, or when it has waited as long as a
//! background request does at most before it comes forward.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Pieces that may wait; whoever asks is one of a handful of actors, each with one piece at a time.
const MAX_WAITING: usize = 8;

/// See the module.
#[derive(Debug)]
pub struct Chores<T> {
    waiting: VecDeque<(Instant, T)>,
    is_running: bool,
    patience: Duration,
}

impl<T> Chores<T> {
    /// None yet. One that has waited so long is kept waiting no more.
    pub fn new(patience: Duration) -> Self {
        Self {
            waiting: VecDeque::new(),
            is_running: false,
            patience,
        }
    }

    /// Another one, behind those that wait.
    ///
    /// # Errors
    /// Gives it back where too many wait.
    pub fn ask(&mut self, now: Instant, chore: T) -> Result<(), T> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(chore);
        }
        self.waiting.push_back((now, chore));
        Ok(())
    }

    /// The one that begins now, if one may. `is_quiet` says that nobody is there who matters more.
    pub fn next(&mut self, now: Instant, is_quiet: bool) -> Option<T> {
        let (since, _) = self.waiting.front()?;
        let has_waited = now.saturating_duration_since(*since) >= self.patience;
        if self.is_running || !(is_quiet || has_waited) {
            return None;
        }
        self.is_running = true;
        self.waiting.pop_front().map(|(_, chore)| chore)
    }

    /// The one that ran has ended, or its owner is gone.
    pub fn ended(&mut self) {
        self.is_running = false;
    }

    /// When time alone lets the next one begin.
    pub fn next_due(&self, now: Instant) -> Option<Duration> {
        let (since, _) = self.waiting.front().filter(|_| !self.is_running)?;
        Some(
            self.patience
                .saturating_sub(now.saturating_duration_since(*since)),
        )
    }

    /// None begins any more.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether one runs.
    pub fn is_running(&self) -> bool {
        self.is_running
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn one_begins_when_it_is_quiet_and_the_next_one_when_it_has_ended() {
        let (mut chores, now) = (Chores::new(PATIENCE), Instant::now());
        chores.ask(now, 1).unwrap();
        chores.ask(now, 2).unwrap();
        assert_eq!(chores.next(now, false), None);
        assert_eq!(chores.next(now, true), Some(1));
        assert_eq!(chores.next(now, true), None);
        assert_eq!(chores.next_due(now), None);
        chores.ended();
        assert_eq!(chores.next(now, true), Some(2));
    }

    #[test]
    fn none_is_kept_waiting_for_longer_than_its_patience() {
        let (mut chores, now) = (Chores::new(PATIENCE), Instant::now());
        chores.ask(now, 1).unwrap();
        let due = chores.next_due(now).unwrap();
        assert_eq!(due, PATIENCE);
        assert_eq!(chores.next(now + due, false), Some(1));
    }

    proptest! {
        #[test]
        fn at_most_one_runs_in_the_order_in_which_they_came_and_the_bound_holds(
            acts in proptest::collection::vec((0..4_u8, any::<bool>(), 0..40_u64), 1..80),
        ) {
            let (mut chores, mut now) = (Chores::new(PATIENCE), Instant::now());
            let (mut asked, mut refused, mut begun, mut running) = (0, 0, Vec::new(), false);
            for (act, is_quiet, passed) in acts {
                now += Duration::from_secs(passed);
                match act {
                    0 | 1 => {
                        if chores.ask(now, asked).is_err() {
                            refused += 1;
                            prop_assert_eq!(chores.waiting(), MAX_WAITING);
                        } else {
                            asked += 1;
                        }
                    }
                    2 => {
                        chores.ended();
                        running = false;
                    }
                    _ => {
                        if let Some(chore) = chores.next(now, is_quiet) {
                            prop_assert!(!running);
                            running = true;
                            begun.push(chore);
                        }
                    }
                }
                prop_assert!(chores.waiting() <= MAX_WAITING);
                prop_assert_eq!(chores.waiting() + begun.len(), asked);
            }
            prop_assert!(begun.iter().copied().eq(0..begun.len()), "{:?}, {} refused", begun, refused);
        }
    }
}
