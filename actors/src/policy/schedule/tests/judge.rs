//! Whether each decision is one that may be taken, and what must hold after each, by the world's own books.

use std::collections::BTreeMap;

use super::super::*;
use super::world::{Is, Known, World};

impl World {
    pub(super) fn may_start(&self, entry: &Entry<u64>) {
        let known = &self.requests[&entry.id];
        assert_eq!((known.is, entry.payload), (Is::Waiting, entry.id * 31));
        assert!(!self.is_held(known));
        assert!(known.deadline.is_none_or(|deadline| deadline > self.now));
        for (id, other) in &self.requests {
            let is_before = match other.is {
                Is::Waiting => other.device == known.device && *id < entry.id,
                Is::Paused | Is::Lost => !other.is_cancelled,
                Is::Running | Is::Ended(_) => false,
            };
            assert!(!is_before || other.priority != known.priority, "{id} goes before");
        }
    }

    pub(super) fn may_restart(&self, id: u64) {
        let known = &self.requests[&id];
        assert_eq!(known.is, Is::Lost);
        assert!(!self.is_held(known));
        let is_before = |other: &Known| {
            other.is == Is::Lost && other.priority == known.priority && other.began_as < known.began_as
        };
        assert_eq!(self.count(is_before), 0, "in their order");
    }

    pub(super) fn may_pause(&self, id: u64) {
        let known = &self.requests[&id];
        assert_eq!(known.is, Is::Running);
        assert_ne!(known.priority, Priority::Urgent);
        if self.is_held(known) {
            return;
        }
        let order = |known: &Known| (known.is_cancelled, known.priority, known.began_as);
        let pausable = self.running().map(|(_, known)| known);
        let least = pausable
            .filter(|known| known.priority != Priority::Urgent)
            .map(order)
            .max_by_key(|(is_cancelled, priority, began_as)| {
                // What ends anyway goes by age alone.
                let priority = if *is_cancelled {
                    Priority::Urgent
                } else {
                    *priority
                };
                (*is_cancelled, priority, *began_as)
            });
        assert_eq!(Some(order(known)), least);
    }

    pub(super) fn may_expire(&self, entry: &Entry<u64>, late: Late) {
        let known = &self.requests[&entry.id];
        assert_eq!(known.is, Is::Waiting);
        let left = known.deadline.unwrap().saturating_duration_since(self.now);
        match late {
            Late::Passed => assert!(left.is_zero()),
            Late::CannotBeMet { takes } => assert!(takes >= left && !left.is_zero()),
        }
    }

    /// What holds after every decision.
    pub(super) fn check(&self) {
        assert_eq!(self.schedule.check(), Ok(()));
        let running = self.running().count();
        assert_eq!(self.schedule.running(), running);
        assert_eq!(self.schedule.paused(), self.count(|known| known.is == Is::Paused));
        let queued = |known: &Known| matches!(known.is, Is::Waiting | Is::Lost);
        assert_eq!(self.schedule.queued(), self.count(queued));
        let is_urgent = |known: &Known| known.priority == Priority::Urgent;
        let urgent = self.running().filter(|(_, known)| is_urgent(known)).count();
        assert!(running <= self.slots || urgent == running);

        let stands = |known: &Known| match known.is {
            Is::Waiting | Is::Lost => true,
            Is::Paused => !known.is_cancelled,
            Is::Running | Is::Ended(_) => false,
        };
        if self.count(|known| stands(known) && is_urgent(known)) > 0 {
            assert!(urgent >= self.slots, "an urgent one waits");
        }
        if running < self.slots {
            assert_eq!(
                self.count(|known| stands(known) && !self.is_held(known)),
                0,
                "a place is free"
            );
        }
        let is_running = |known: &Known| known.is == Is::Running && !known.is_cancelled;
        assert_eq!(self.count(|known| is_running(known) && self.is_held(known)), 0);

        let waiting = |known: &Known| known.is == Is::Waiting;
        assert!(self.count(waiting) <= self.config.max_queued);
        let mut lines: BTreeMap<(Priority, &str), usize> = BTreeMap::new();
        for known in self.requests.values().filter(|known| waiting(known)) {
            *lines.entry((known.priority, &known.device)).or_default() += 1;
        }
        assert!(
            lines
                .values()
                .all(|count| *count <= self.config.max_queued_of_device)
        );
        for priority in Priority::ALL {
            let of_class = |known: &Known| known.priority == priority;
            let count =
                |wanted: &dyn Fn(Is) -> bool| self.count(|known| of_class(known) && wanted(known.is)) as u64;
            let counts = self.schedule.account().of(priority);
            assert!(count(&|is| is == Is::Waiting) <= self.config.max_queued_of_class[priority] as u64);
            let past = &self.past[priority];
            let ended = |end: End| {
                let past = past.get(end.as_str()).copied().unwrap_or_default();
                past + count(&|is| is == Is::Ended(end))
            };
            let expected = Counts {
                accepted: past.values().sum::<u64>() + count(&|_| true),
                completed: ended(End::Completed),
                failed: ended(End::Failed),
                refused: ended(End::Refused),
                expired: ended(End::Expired),
                cancelled: ended(End::Cancelled),
                dead_lettered: ended(End::DeadLettered),
                running: count(&|is| matches!(is, Is::Running | Is::Paused)),
                queued: count(&|is| matches!(is, Is::Waiting | Is::Lost)),
                waiting_for_turn: 0,
            };
            assert_eq!(counts, expected);
        }
    }
}
