//! What has not begun: for each class and device a line, first come first served.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fair::FairClock;
use super::{Ageing, Entry, PerPriority};
use crate::policy::priority::Priority;

/// See the module.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    classes: PerPriority<BTreeMap<Arc<str>, Line<T>>>,
    next_number: u64,
}

#[derive(Debug)]
struct Line<T> {
    entries: VecDeque<Waits<T>>,
    /// When one of this line last began.
    served_at: Option<Instant>,
}

#[derive(Debug)]
struct Waits<T> {
    entry: Entry<T>,
    /// In the order of arrival.
    number: u64,
    since: Instant,
}

impl<T> Line<T> {
    /// How long the line as such has waited. What one device has a hundred of grows old one by one, each from when the one
    /// before it began: ageing is no way round the others' turns.
    fn waited(&self, first: &Waits<T>, now: Instant) -> Duration {
        let since = self.served_at.map_or(first.since, |at| at.max(first.since));
        now.saturating_duration_since(since)
    }
}

/// The order inside a class: what has waited very long, the longest first, and then whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Old { since: Instant, number: u64 },
    Turn { start: u64, number: u64 },
}

/// Who begins next.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Its own class.
    pub(super) class: Priority,
    pub(super) device: Arc<str>,
    pub(super) is_in_turn: bool,
}

impl<T> Waiting<T> {
    pub(super) fn new() -> Self {
        Self {
            classes: PerPriority {
                urgent: BTreeMap::new(),
                interactive: BTreeMap::new(),
                background: BTreeMap::new(),
            },
            next_number: 0,
        }
    }

    pub(super) fn push(&mut self, entry: Entry<T>, now: Instant) {
        let number = self.next_number;
        self.next_number += 1;
        let line = self.classes[entry.priority]
            .entry(Arc::clone(&entry.device))
            .or_insert_with(|| Line {
                entries: VecDeque::new(),
                served_at: None,
            });
        line.entries.push_back(Waits {
            entry,
            number,
            since: now,
        });
    }

    /// Who begins next of those that count as of a class: its own, and lower ones that have waited long.
    pub(super) fn head(
        &self,
        counting_as: Priority,
        of: &[Priority],
        ageing: Ageing,
        clock: &FairClock,
        now: Instant,
    ) -> Option<Head> {
        let lines = of.iter().flat_map(|class| {
            self.classes[*class]
                .iter()
                .map(move |(device, line)| (*class, device, line))
        });
        let heads = lines.filter_map(|(class, device, line)| {
            let first = line.entries.front()?;
            let waited = line.waited(first, now);
            if ageing.counts_as(class, waited) != counting_as {
                return None;
            }
            let number = first.number;
            let rank = if waited >= ageing.oldest_first_after {
                let since = now.checked_sub(waited).unwrap_or(now);
                Rank::Old { since, number }
            } else {
                let start = clock.start(device);
                Rank::Turn { start, number }
            };
            Some((rank, class, device))
        });
        let (rank, class, device) = heads.min_by_key(|(rank, ..)| *rank)?;
        Some(Head {
            class,
            device: Arc::clone(device),
            is_in_turn: matches!(rank, Rank::Turn { .. }),
        })
    }

    /// Takes the first of a line, which begins.
    pub(super) fn take(&mut self, class: Priority, device: &str, now: Instant) -> Option<Entry<T>> {
        let line = self.classes[class].get_mut(device)?;
        let first = line.entries.pop_front()?;
        line.served_at = Some(now);
        if line.entries.is_empty() {
            self.classes[class].remove(device);
        }
        Some(first.entry)
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Entry<T>> {
        self.remove_if(|entry| entry.id == id).pop()
    }

    /// Takes those out that `unwanted` names, from the most to the least important.
    pub(super) fn remove_if(&mut self, mut unwanted: impl FnMut(&Entry<T>) -> bool) -> Vec<Entry<T>> {
        let mut removed = Vec::new();
        for class in Priority::ALL {
            self.classes[class].retain(|_, line| {
                if line.entries.iter().any(|waits| unwanted(&waits.entry)) {
                    let (gone, kept) = line.entries.drain(..).partition(|waits| unwanted(&waits.entry));
                    line.entries = kept;
                    let gone: VecDeque<Waits<T>> = gone;
                    removed.extend(gone);
                }
                !line.entries.is_empty()
            });
        }
        removed.sort_by_key(|waits| (waits.entry.priority, waits.number));
        removed.into_iter().map(|waits| waits.entry).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        Priority::ALL.into_iter().flat_map(|class| self.of(class))
    }

    pub(super) fn of(&self, class: Priority) -> impl Iterator<Item = &Entry<T>> {
        let lines = self.classes[class].values();
        lines.flat_map(|line| line.entries.iter().map(|waits| &waits.entry))
    }

    /// Those of one class and device, the first one first.
    pub(super) fn line(&self, class: Priority, device: &str) -> impl Iterator<Item = &Entry<T>> {
        let line = self.classes[class].get(device);
        line.into_iter()
            .flat_map(|line| line.entries.iter().map(|waits| &waits.entry))
    }

    /// Those of one class with their start tags, as these would be if nothing else came, and in which order they came.
    pub(super) fn tagged<'a>(
        &'a self,
        class: Priority,
        clock: &'a FairClock,
    ) -> impl Iterator<Item = (u64, u64, &'a Entry<T>)> {
        self.classes[class].iter().flat_map(|(device, line)| {
            line.entries.iter().scan(clock.start(device), |finish, waits| {
                let start = *finish;
                *finish = start.saturating_add(waits.entry.tokens.cost());
                Some((start, waits.number, &waits.entry))
            })
        })
    }

    pub(super) fn len(&self) -> usize {
        self.iter().count()
    }
}
