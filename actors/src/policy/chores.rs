//! Work of the daemon's own that nobody waits for: packing weights, looking through the store. One piece at a time, at the tail
//! of the queue: it begins where nobody is there who matters more than background, or when it has waited as long as a
//! background request does at most before it comes forward. A piece that takes all too long, on a disk that hangs, holds up the
//! others no more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Pieces that may wait; whoever asks is one of a handful of actors, each with one piece at a time.
const MAX_WAITING: usize = 8;

/// For how long one piece may hold up the next. What is done on a disk that answers takes minutes.
pub const LONGEST_HOLD: Duration = Duration::from_secs(3600);

/// See the module.
#[derive(Debug)]
pub struct Chores<T> {
    waiting: VecDeque<Waiting<T>>,
    /// Begun and not ended, in that order. All but the last were waited for long enough.
    running: Vec<Running>,
    patience: Duration,
    begun: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    since: Instant,
    what: &'static str,
    chore: T,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    number: u64,
    since: Instant,
    what: &'static str,
}

/// One that begins.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun<T> {
    /// What was asked for.
    pub chore: T,
    /// What [`Chores::ended`] is told.
    pub number: u64,
    /// What has not ended after [`LONGEST_HOLD`] and is waited for no more, if that is so of the one before it.
    pub beside: Option<&'static str>,
}

impl<T> Chores<T> {
    /// None yet. One that has waited so long is kept waiting no more.
    pub fn new(patience: Duration) -> Self {
        Self {
            waiting: VecDeque::new(),
            running: Vec::new(),
            patience,
            begun: 0,
        }
    }

    /// Another one, behind those that wait; `what` it is, for people.
    ///
    /// # Errors
    /// Gives it back where too many wait.
    pub fn ask(&mut self, now: Instant, what: &'static str, chore: T) -> Result<(), T> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(chore);
        }
        let since = now;
        self.waiting.push_back(Waiting { since, what, chore });
        Ok(())
    }

    /// The one that begins now, if one may. `is_quiet` says that nobody is there who matters more.
    pub fn next(&mut self, now: Instant, is_quiet: bool) -> Option<Begun<T>> {
        let first = self.waiting.front()?;
        let has_waited = now.saturating_duration_since(first.since) >= self.patience;
        if !(is_quiet || has_waited) || !self.held_for(now).is_zero() {
            return None;
        }
        let Waiting { what, chore, .. } = self.waiting.pop_front()?;
        self.begun += 1;
        let (number, since) = (self.begun, now);
        let beside = self.running.last().map(|running| running.what);
        self.running.push(Running { number, since, what });
        Some(Begun {
            chore,
            number,
            beside,
        })
    }

    /// The one of this number has ended, or its owner is gone.
    pub fn ended(&mut self, number: u64) {
        self.running.retain(|running| running.number != number);
    }

    /// When time alone may let the next one begin.
    pub fn next_due(&self, now: Instant) -> Option<Duration> {
        let first = self.waiting.front()?;
        // Once nothing holds it up, a quiet moment is enough.
        let held = Some(self.held_for(now)).filter(|held| !held.is_zero());
        let waits_for = self
            .patience
            .saturating_sub(now.saturating_duration_since(first.since));
        Some(held.unwrap_or(waits_for))
    }

    /// For how long the one that began last still holds up the next.
    fn held_for(&self, now: Instant) -> Duration {
        self.running.last().map_or(Duration::ZERO, |running| {
            LONGEST_HOLD.saturating_sub(now.saturating_duration_since(running.since))
        })
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
        !self.running.is_empty()
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
        chores.ask(now, "packing", 1).unwrap();
        chores.ask(now, "checking", 2).unwrap();
        assert_eq!(chores.next(now, false), None);
        let first = chores.next(now, true).unwrap();
        assert_eq!((first.chore, first.beside), (1, None));
        assert_eq!(chores.next(now, true), None);
        assert_eq!(chores.next_due(now), Some(LONGEST_HOLD));
        chores.ended(first.number);
        let second = chores.next(now, true).unwrap();
        assert_eq!((second.chore, second.beside), (2, None));
    }

    #[test]
    fn one_that_hangs_holds_up_the_next_for_an_hour_and_its_late_end_lets_no_third_begin() {
        let (mut chores, now) = (Chores::new(PATIENCE), Instant::now());
        for (chore, what) in [(1, "a backup"), (2, "checking"), (3, "packing")] {
            chores.ask(now, what, chore).unwrap();
        }
        let hangs = chores.next(now, true).unwrap();
        let short_of_it = now + LONGEST_HOLD.saturating_sub(Duration::from_secs(1));
        assert_eq!(chores.next(short_of_it, true), None);
        let later = short_of_it + chores.next_due(short_of_it).unwrap();
        let second = chores.next(later, true).unwrap();
        assert_eq!((second.chore, second.beside), (2, Some("a backup")));
        chores.ended(hangs.number);
        assert!(chores.is_running());
        assert_eq!(chores.next(later, true), None);
        chores.ended(second.number);
        assert_eq!(chores.next(later, true).unwrap().chore, 3);
    }

    #[test]
    fn an_hour_holds_up_whatever_has_waited_for_less_than_its_patience() {
        let (mut chores, now) = (Chores::new(PATIENCE), Instant::now());
        chores.ask(now, "a backup", 1).unwrap();
        chores.next(now, true).unwrap();
        let asked = now + LONGEST_HOLD.saturating_sub(Duration::from_secs(1));
        chores.ask(asked, "checking", 2).unwrap();
        assert_eq!(chores.next_due(asked), Some(Duration::from_secs(1)));
        assert!(chores.next(now + LONGEST_HOLD, true).is_some());
    }

    #[test]
    fn none_is_kept_waiting_for_longer_than_its_patience() {
        let (mut chores, now) = (Chores::new(PATIENCE), Instant::now());
        chores.ask(now, "packing", 1).unwrap();
        let due = chores.next_due(now).unwrap();
        assert_eq!(due, PATIENCE);
        assert_eq!(chores.next(now + due, false).unwrap().chore, 1);
    }

    proptest! {
        #[test]
        fn they_begin_in_the_order_in_which_they_came_none_within_an_hour_of_one_that_runs_and_the_bound_holds(
            acts in proptest::collection::vec((0..4_u8, any::<bool>(), 0..600_u64, any::<prop::sample::Index>()), 1..80),
        ) {
            let (mut chores, mut now) = (Chores::new(PATIENCE), Instant::now());
            let (mut asked, mut refused, mut begun) = (0, 0, Vec::new());
            let mut running: Vec<(u64, Instant)> = Vec::new();
            for (act, is_quiet, passed, which) in acts {
                now += Duration::from_secs(passed);
                match act {
                    0 | 1 => {
                        if chores.ask(now, "packing", asked).is_err() {
                            refused += 1;
                            prop_assert_eq!(chores.waiting(), MAX_WAITING);
                        } else {
                            asked += 1;
                        }
                    }
                    2 if !running.is_empty() => {
                        let (number, _) = running.remove(which.index(running.len()));
                        chores.ended(number);
                    }
                    _ => {
                        if let Some(next) = chores.next(now, is_quiet) {
                            for (_, since) in &running {
                                prop_assert!(now - *since >= LONGEST_HOLD);
                            }
                            prop_assert_eq!(next.beside.is_some(), !running.is_empty());
                            running.push((next.number, now));
                            begun.push(next.chore);
                        }
                    }
                }
                prop_assert_eq!(chores.is_running(), !running.is_empty());
                prop_assert!(chores.waiting() <= MAX_WAITING);
                prop_assert_eq!(chores.waiting() + begun.len(), asked);
            }
            prop_assert!(begun.iter().copied().eq(0..begun.len()), "{:?}, {} refused", begun, refused);
        }
    }
}
