//! What became of all requests, from their acceptance on. Two count: the conversations those that wait for the turn of
//! their device, the schedule all that it was given. A request goes from one book to the other in one moment, so that
//! whoever reads finds it in exactly one.

use std::sync::Arc;

use crate::policy::priority::Priority;
use crate::policy::schedule::{Account, End};

use super::SchedulerGauge;

/// Both accounts.
#[derive(Debug, Default)]
pub(super) struct Books {
    turns: Account,
    schedule: Account,
}

impl Books {
    /// The schedule's account as it is now, with those whose turn has come.
    pub(super) fn note(&mut self, schedule: &Account, come: &mut Vec<AwaitsTurn>) {
        self.schedule.clone_from(schedule);
        for mut turn in come.drain(..) {
            turn.is_over = true;
            self.turns.handed_over(turn.priority);
        }
    }

    /// All of it.
    pub(super) fn sum(&self) -> Account {
        self.turns.with(&self.schedule)
    }
}

/// A request that was accepted and waits for the turn of its device, until the scheduler has it. One that is dropped
/// before counts as refused.
#[derive(Debug)]
pub struct AwaitsTurn {
    gauge: Arc<SchedulerGauge>,
    priority: Priority,
    is_over: bool,
}

impl AwaitsTurn {
    /// A request is accepted.
    pub(crate) fn new(gauge: &Arc<SchedulerGauge>, priority: Priority) -> Self {
        gauge.books().turns.waits_for_turn(priority);
        Self {
            gauge: gauge.clone(),
            priority,
            is_over: false,
        }
    }

    /// Its turn will not come.
    pub(crate) fn ends(mut self, end: End) {
        self.is_over = true;
        self.gauge.books().turns.ended_before_turn(self.priority, end);
    }
}

impl Drop for AwaitsTurn {
    fn drop(&mut self) {
        if !self.is_over {
            self.gauge
                .books()
                .turns
                .ended_before_turn(self.priority, End::Refused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_in_one_of_the_books_until_it_has_ended() {
        let gauge = Arc::<SchedulerGauge>::default();
        let class = Priority::Interactive;
        let [taken, expired, dropped, waits] = [(); 4].map(|()| AwaitsTurn::new(&gauge, class));
        expired.ends(End::Expired);
        drop(dropped);
        // As the schedule counts what it is given.
        let mut schedule = Account::default();
        schedule.accepted(class);
        gauge.books().note(&schedule, &mut vec![taken]);
        let account = gauge.books().sum();
        assert_eq!(account.check(), Ok(()));
        let counts = account.of(class);
        assert_eq!(
            (counts.accepted, counts.waiting_for_turn, counts.queued),
            (4, 1, 1)
        );
        assert_eq!((counts.expired, counts.refused), (1, 1));
        drop(waits);
        assert_eq!(gauge.books().sum().of(class).refused, 2);
    }
}
