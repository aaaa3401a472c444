//! When a request would begin and end, by what has been learnt: whether its deadline can be met, and when asking again
//! may help.
//!
//! What is foreseen is what waits and runs now, in the order of classes and turns. What may still come, what grows old and
//! what will be cancelled is not.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::begun::State;
use super::estimate::Estimate;
use super::{Bound, Entry, Late, Schedule, Why};
use crate::policy::priority::Priority;

/// Asking again sooner changes nothing.
const SHORTEST_RETRY: Duration = Duration::from_millis(100);

/// Whether what waits has no hope left, though it began at once beside so many as run.
pub(super) fn is_late<T>(estimate: &Estimate, load: usize, entry: &Entry<T>, now: Instant) -> Option<Late> {
    let left = entry.deadline?.saturating_duration_since(now);
    if left.is_zero() {
        return Some(Late::Passed);
    }
    let takes = estimate.takes(entry.tokens, load)?;
    (takes >= left).then_some(Late::CannotBeMet { takes })
}

impl<T> Schedule<T> {
    /// How many would run if one more did.
    pub(super) fn load(&self) -> usize {
        (self.begun.running() + 1).min(self.slots).max(1)
    }

    /// In how long the next request that waits expires: the only thing that time alone brings about.
    pub fn next_expiry(&self, now: Instant) -> Option<Duration> {
        let load = self.load();
        let left = self.waiting.iter().filter_map(|entry| {
            let left = entry.deadline?.saturating_duration_since(now);
            let takes = self.estimate.takes(entry.tokens, load).unwrap_or_default();
            Some(left.saturating_sub(takes))
        });
        left.min()
    }

    /// Why a request is not taken, and when asking again may help.
    pub(super) fn objection(&self, entry: &Entry<T>, now: Instant) -> Option<(Why, Option<Duration>)> {
        if self.is_draining {
            return Some((Why::Draining, None));
        }
        if self.begun.find(entry.id).is_some() || self.waiting.iter().any(|other| other.id == entry.id) {
            return Some((Why::NameTaken, None));
        }
        self.no_room(entry, now).or_else(|| self.too_late(entry, now))
    }

    /// There is room again when the first of those that fill it begins.
    fn no_room(&self, entry: &Entry<T>, now: Instant) -> Option<(Why, Option<Duration>)> {
        let (class, device) = (entry.priority, &*entry.device);
        let config = &self.config;
        let bounds = [
            (
                Bound::Device,
                config.max_queued_of_device,
                self.waiting.line(class, device).count(),
            ),
            (
                Bound::Class,
                config.max_queued_of_class[class],
                self.waiting.of(class).count(),
            ),
            (Bound::All, config.max_queued, self.waiting.len()),
        ];
        let (bound, most, _) = bounds.into_iter().find(|(_, most, waiting)| waiting >= most)?;
        let first = match bound {
            Bound::Device => {
                let tagged = self.waiting.tagged(class, &self.clocks[class]);
                let own = tagged.filter(|(_, _, entry)| &*entry.device == device);
                let first = own.map(|(tag, number, _)| (tag, number)).min();
                self.begins_in(class, first.unwrap_or((0, 0)), now)
            }
            Bound::Class => self.begins_in(class, (0, 0), now),
            Bound::All => {
                let first = self.waiting.iter().next().map(|entry| entry.priority);
                self.begins_in(first.unwrap_or(class), (0, 0), now)
            }
        };
        let retry_after = first
            .unwrap_or(self.config.retry_before_learnt)
            .max(SHORTEST_RETRY);
        Some((Why::Full { bound, most }, Some(retry_after)))
    }

    fn too_late(&self, entry: &Entry<T>, now: Instant) -> Option<(Why, Option<Duration>)> {
        // One that is over already expires at the next decision, as if it had waited.
        let left = entry.deadline?.saturating_duration_since(now);
        let takes = self.estimate.takes(entry.tokens, self.load())?;
        let class = entry.priority;
        let before: u64 = self
            .waiting
            .line(class, &entry.device)
            .map(|entry| entry.tokens.cost())
            .sum();
        let start = self.clocks[class].start(&entry.device).saturating_add(before);
        let begins_in = self.begins_in(class, (start, u64::MAX), now).unwrap_or_default();
        let ends_in = begins_in.saturating_add(takes);
        if left.is_zero() || ends_in < left {
            return None;
        }
        // With less before it, it may be in time; one that takes too long by itself never is.
        let retry_after = (takes < left).then(|| (ends_in - left).max(SHORTEST_RETRY));
        Some((Why::TooLate { ends_in, left }, retry_after))
    }

    /// In how long a request of a class begins whose start tag and number are these.
    fn begins_in(&self, class: Priority, this: (u64, u64), now: Instant) -> Option<Duration> {
        let is_held = self.is_background_paused && class == Priority::Background;
        if self.slots == 0 || is_held {
            return None;
        }
        // An urgent one waits for urgent ones alone: the others give their places up.
        let is_in_the_way = |priority: Priority| class != Priority::Urgent || priority == Priority::Urgent;
        let mut places = BinaryHeap::new();
        for begun in self.begun.iter() {
            if begun.state == State::Running && is_in_the_way(begun.priority) {
                places.push(Reverse(begun.still_takes(&self.estimate, self.slots, now)?));
            }
        }
        let standing = self
            .begun
            .iter()
            .filter(|begun| begun.stands() && begun.priority <= class)
            .map(|begun| {
                let takes = begun.still_takes(&self.estimate, self.slots, now);
                ((begun.priority, 0, 0), takes)
            });
        let classes = Priority::ALL.into_iter().filter(|other| *other <= class);
        let waiting = classes.flat_map(|other| self.waiting.tagged(other, &self.clocks[other]));
        let waiting = waiting
            .filter(|(tag, number, entry)| entry.priority < class || (*tag, *number) < this)
            .map(|(tag, number, entry)| {
                let takes = self.estimate.takes(entry.tokens, self.slots);
                ((entry.priority, tag.saturating_add(1), number), takes)
            });
        let mut before: Vec<_> = standing.chain(waiting).collect();
        before.sort_by_key(|(order, _)| *order);
        // As many free places as could be taken.
        let places_known = self.slots.min(places.len() + before.len() + 1);
        while places.len() < places_known {
            places.push(Reverse(Duration::ZERO));
        }
        while places.len() > self.slots {
            places.pop();
        }
        for (_, takes) in before {
            let Reverse(free) = places.pop()?;
            places.push(Reverse(free.saturating_add(takes?)));
        }
        places.pop().map(|Reverse(free)| free)
    }
}
