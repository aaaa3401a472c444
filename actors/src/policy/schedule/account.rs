//! The conservation law: what was accepted has ended in one of the named ways, runs, or waits.
//!
//! Per priority, accepted = completed + failed + refused + expired + cancelled + dead-lettered + running + queued + waiting
//! for the turn of their device. The left side and each term on the right are counted where they happen, so that a request that gets lost, or ends twice,
//! shows as a sum that does not add up.

use super::PerPriority;
use crate::policy::priority::Priority;

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Its whole answer was given.
    Completed,
    /// It began, or would have, and something went wrong.
    Failed,
    /// There was no room for it, or no hope to make its deadline, and it was told so when it came; or it waited when the
    /// daemon stopped.
    Refused,
    /// Its deadline passed while it waited, or came too near.
    Expired,
    /// Somebody did not want it any more, or nobody could receive it.
    Cancelled,
    /// It was set aside because it kills workers.
    DeadLettered,
}

impl End {
    /// In the law's order.
    pub const ALL: [Self; 6] = [
        Self::Completed,
        Self::Failed,
        Self::Refused,
        Self::Expired,
        Self::Cancelled,
        Self::DeadLettered,
    ];

    /// As in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::DeadLettered => "dead_lettered",
        }
    }
}

/// Where a request is that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Queued,
    /// Paused or not.
    Running,
}

/// The terms for one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that came, those among them that were refused at once.
    pub accepted: u64,
    /// See [`End::Completed`].
    pub completed: u64,
    /// See [`End::Failed`].
    pub failed: u64,
    /// See [`End::Refused`].
    pub refused: u64,
    /// See [`End::Expired`].
    pub expired: u64,
    /// See [`End::Cancelled`].
    pub cancelled: u64,
    /// See [`End::DeadLettered`].
    pub dead_lettered: u64,
    /// They have begun, and are paused or not.
    pub running: u64,
    /// They wait, for the first time or to be begun anew.
    pub queued: u64,
    /// They wait behind others of their device, and no schedule knows of them yet.
    pub waiting_for_turn: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        for end in End::ALL {
            let mut other = *other;
            *self.ended(end) += *other.ended(end);
        }
        self.running += other.running;
        self.queued += other.queued;
        self.waiting_for_turn += other.waiting_for_turn;
    }

    fn ended(&mut self, end: End) -> &mut u64 {
        match end {
            End::Completed => &mut self.completed,
            End::Failed => &mut self.failed,
            End::Refused => &mut self.refused,
            End::Expired => &mut self.expired,
            End::Cancelled => &mut self.cancelled,
            End::DeadLettered => &mut self.dead_lettered,
        }
    }

    fn at(&mut self, at: At) -> &mut u64 {
        match at {
            At::Queued => &mut self.queued,
            At::Running => &mut self.running,
        }
    }

    /// The right side, term by term.
    fn terms(&self) -> [(&'static str, u64); 9] {
        [
            ("completed", self.completed),
            ("failed", self.failed),
            ("refused", self.refused),
            ("expired", self.expired),
            ("cancelled", self.cancelled),
            ("dead_lettered", self.dead_lettered),
            ("running", self.running),
            ("queued", self.queued),
            ("waiting_for_turn", self.waiting_for_turn),
        ]
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    counts: PerPriority<Counts>,
}

impl Account {
    /// The terms of one priority.
    pub fn of(&self, priority: Priority) -> Counts {
        self.counts[priority]
    }

    /// Every term of every priority, for metrics.
    pub fn counts(&self) -> impl Iterator<Item = (Priority, &'static str, u64)> {
        self.counts.iter().flat_map(|(priority, counts)| {
            std::iter::once(("accepted", counts.accepted))
                .chain(counts.terms())
                .map(move |(name, count)| (priority, name, count))
        })
    }

    /// Whether the law holds; if not, where.
    pub fn check(&self) -> Result<(), String> {
        for (priority, counts) in self.counts.iter() {
            let sum: u64 = counts.terms().iter().map(|(_, count)| count).sum();
            if sum != counts.accepted {
                let priority = priority.as_str();
                return Err(format!(
                    "{priority}: {} accepted, {sum} accounted for: {counts:?}",
                    counts.accepted
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn accepted(&mut self, priority: Priority) {
        self.counts[priority].accepted += 1;
        self.counts[priority].queued += 1;
    }

    /// A request is accepted, and waits behind others of its device.
    pub(crate) fn waits_for_turn(&mut self, priority: Priority) {
        self.counts[priority].accepted += 1;
        self.counts[priority].waiting_for_turn += 1;
    }

    /// One that waited so is in another account from now on.
    pub(crate) fn handed_over(&mut self, priority: Priority) {
        let counts = &mut self.counts[priority];
        counts.accepted = counts.accepted.saturating_sub(1);
        counts.waiting_for_turn = counts.waiting_for_turn.saturating_sub(1);
    }

    /// One that waited so has ended.
    pub(crate) fn ended_before_turn(&mut self, priority: Priority, end: End) {
        let counts = &mut self.counts[priority];
        counts.waiting_for_turn = counts.waiting_for_turn.saturating_sub(1);
        *counts.ended(end) += 1;
    }

    /// Both together.
    pub(crate) fn with(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        for (priority, counts) in other.counts.iter() {
            sum.counts[priority].add(counts);
        }
        sum
    }

    /// What is not there cannot move: the sum then shows it.
    pub(super) fn moved(&mut self, priority: Priority, from: At, to: At) {
        let counts = &mut self.counts[priority];
        *counts.at(from) = counts.at(from).saturating_sub(1);
        *counts.at(to) += 1;
    }

    pub(super) fn ended(&mut self, priority: Priority, from: At, end: End) {
        let counts = &mut self.counts[priority];
        *counts.at(from) = counts.at(from).saturating_sub(1);
        *counts.ended(end) += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_ends_twice_shows() {
        let mut account = Account::default();
        account.accepted(Priority::Urgent);
        account.moved(Priority::Urgent, At::Queued, At::Running);
        account.ended(Priority::Urgent, At::Running, End::Completed);
        assert_eq!(account.check(), Ok(()));
        account.ended(Priority::Urgent, At::Running, End::Failed);
        let wrong = account.check().unwrap_err();
        assert!(
            wrong.starts_with("urgent: 1 accepted, 2 accounted for"),
            "{wrong}"
        );
    }

    #[test]
    fn a_request_that_begins_without_having_waited_shows() {
        let mut account = Account::default();
        account.moved(Priority::Background, At::Queued, At::Running);
        assert!(account.check().is_err());
    }

    #[test]
    fn metrics_have_every_term_of_every_priority() {
        let mut account = Account::default();
        account.accepted(Priority::Background);
        account.ended(Priority::Background, At::Queued, End::Expired);
        let counts: Vec<_> = account.counts().collect();
        assert_eq!(counts.len(), 30);
        let named = |name| {
            let found = counts
                .iter()
                .find(|(priority, n, _)| (*priority, *n) == (Priority::Background, name));
            found.map(|(_, _, count)| *count)
        };
        assert_eq!(named("accepted"), Some(1));
        for end in End::ALL {
            assert_eq!(
                named(end.as_str()),
                Some(u64::from(end == End::Expired)),
                "{end:?}"
            );
        }
        assert_eq!((named("running"), named("queued")), (Some(0), Some(0)));
    }
}
