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
    waiting: VecDeque<(Instant, T)>,
    running: Option<Running>,
    patience: Duration,
    begun: u64,
}

/// The one that began last.
#[derive(Clone, Copy, Debug)]
struct Running {
    number: u64,
    since: Instant,
}

/// One that begins.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun<T> {
    /// What was asked for.
    pub chore: T,
    /// What [`Chores::ended`] is told.
    pub number: u64,
    /// Whether the one before it has not ended after [`LONGEST_HOLD`].
    pub is_beside_another: bool,
}

impl<T> Chores<T> {
    /// None yet. One that has waited so long is kept waiting no more.
    pub fn new(patience: Duration) -> Self {
        Self {
            waiting: VecDeque::new(),
            running: None,
            patience,
            begun: 0,
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
    pub fn next(&mut self, now: Instant, is_quiet: bool) -> Option<Begun<T>> {
        let (since, _) = self.waiting.front()?;
        let has_waited = now.saturating_duration_since(*since) >= self.patience;
        if !(is_quiet || has_waited) || !self.held_for(now).is_zero() {
            return None;
        }
        let (_, chore) = self.waiting.pop_front()?;
        self.begun += 1;
        let number = self.begun;
        let before = self.running.replace(Running { number, since: now });
        Some(Begun {
            chore,
            number,
            is_beside_another: before.is_some(),
        })
    }

    /// The one of this number has ended, or its owner is gone.
    pub fn ended(&mut self, number: u64) {
        self.running.take_if(|running| running.number == number);
    }

    /// When time alone lets the next one begin.
    pub fn next_due(&self, now: Instant) -> Option<Duration> {
        let (since, _) = self.waiting.front()?;
        let patience = self
            .patience
            .saturating_sub(now.saturating_duration_since(*since));
        Some(patience.max(self.held_for(now)))
    }

    /// For how long the one that runs still holds up the next.
    fn held_for(&self, now: Instant) -> Duration {
        self.running.map_or(Duration::ZERO, |running| {
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
        self.running.is_some()
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
        let first = chores.next(now, true).unwrap();
        assert_eq!((first.chore, first.is_beside_another), (1, false));
        assert_eq!(chores.next(now, true), None);
        assert_eq!(chores.next_due(now), Some(LONGEST_HOLD));
        chores.ended(first.number);
        let second = chores.next(now, true).unwrap();
        assert_eq!((second.chore, second.is_beside_another), (2, false));
    }

    #[test]
    fn one_that_hangs_holds_up_the_next_for_an_hour_and_its_late_end_lets_no_third_begin() {
        let (mut chores, now) = (Chores::new(PATIENCE), Instant::now());
        for chore in 1..=3 {
            chores.ask(now, chore).unwrap();
        }
        let hangs = chores.next(now, true).unwrap();
        let short_of_it = now + LONGEST_HOLD.saturating_sub(Duration::from_secs(1));
        assert_eq!(chores.next(short_of_it, true), None);
        assert_eq!(chores.next_due(short_of_it), Some(Duration::from_secs(1)));
        let later = now + LONGEST_HOLD;
        let second = chores.next(later, true).unwrap();
        assert_eq!((second.chore, second.is_beside_another), (2, true));
        chores.ended(hangs.number);
        assert!(chores.is_running());
        assert_eq!(chores.next(later, true), None);
        chores.ended(second.number);
        assert_eq!(chores.next(later, true).unwrap().chore, 3);
    }

    #[test]
    fn none_is_kept_waiting_for_longer_than_its_patience() {
        let (mut chores, now) = (Chores::new(PATIENCE), Instant::now());
        chores.ask(now, 1).unwrap();
        let due = chores.next_due(now).unwrap();
        assert_eq!(due, PATIENCE);
        assert_eq!(chores.next(now + due, false).unwrap().chore, 1);
    }

    proptest! {
        #[test]
        fn at_most_one_runs_in_the_order_in_which_they_came_and_the_bound_holds(
            acts in proptest::collection::vec((0..4_u8, any::<bool>(), 0..600_u64), 1..80),
        ) {
            let (mut chores, mut now) = (Chores::new(PATIENCE), Instant::now());
            let (mut asked, mut refused, mut begun, mut running) = (0, 0, Vec::new(), None);
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
                        if let Some((number, _)) = running.take() {
                            chores.ended(number);
                        }
                    }
                    _ => {
                        if let Some(next) = chores.next(now, is_quiet) {
                            let has_hung = running.is_some_and(|(_, since)| now - since >= LONGEST_HOLD);
                            prop_assert_eq!(running.is_some(), has_hung);
                            running = Some((next.number, now));
                            begun.push(next.chore);
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
