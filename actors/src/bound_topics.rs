//! Which topics are bound, to whom, and how busy each mailbox is: what `clawdbot topics` shows.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering::Relaxed;

use actix::prelude::*;
use serde::Serialize;

use crate::mailbox::{Mailbox, OwnerCounters};
use crate::topic_router::TopicRouter;

/// Rows that one answer has where nothing else is asked for.
pub const DEFAULT_ROWS: usize = 100;

/// The most rows of one answer: some 200 KB of JSON, which a client takes as one message.
pub const MAX_ROWS: usize = 1000;

/// Where a page ends before it has all its rows, for the sake of very long names.
const MAX_NAMES_BYTES: usize = 512 * 1024;

/// Asks for a page of the bound topics, in the order of their names.
#[derive(Clone, Debug, Message)]
#[rtype(result = "BoundTopics")]
pub struct ListTopics {
    /// Rows to give; at most [`MAX_ROWS`] are.
    pub limit: usize,
    /// Begin behind this name; the `next` of the page before.
    pub after: Option<String>,
}

/// A page of bound topics.
#[derive(Debug, Serialize)]
pub struct BoundTopics {
    /// The rows, by name.
    pub topics: Vec<BoundTopic>,
    /// How many there are in all.
    pub total: usize,
    /// What to ask for the rest with, as `after`; none on the last page.
    pub next: Option<String>,
}

/// One bound topic or pattern. Where a pattern has an actor for each set of levels, these are summed.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct BoundTopic {
    /// The topic, or the pattern with its levels in braces.
    pub topic: String,
    /// What kind of actor owns it.
    pub actor: &'static str,
    /// How many of them there are now.
    pub actors: usize,
    /// Messages they hold now. An actor with several topics has one mailbox for all of them.
    pub depth: usize,
    /// Messages that each of them may hold.
    pub bound: usize,
    /// What happens to one more.
    pub overflow: &'static str,
    /// Messages handed over since the topic was bound.
    pub messages_in: u64,
    /// Messages refused because the mailbox was full.
    pub rejected: u64,
    /// Messages refused because they could not be read.
    pub malformed: u64,
    /// Messages that found their actor stopped.
    pub gone: u64,
}

impl BoundTopic {
    fn new(topic: String, actor: &'static str, mailbox: Mailbox) -> Self {
        Self {
            topic,
            actor,
            actors: 0,
            depth: 0,
            bound: mailbox.bound,
            overflow: mailbox.overflow.as_str(),
            messages_in: 0,
            rejected: 0,
            malformed: 0,
            gone: 0,
        }
    }

    fn count(mut self, counters: &OwnerCounters) -> Self {
        self.messages_in += counters.messages_in.load(Relaxed);
        self.rejected += counters.rejected.load(Relaxed);
        self.malformed += counters.malformed.load(Relaxed);
        self.gone += counters.gone.load(Relaxed);
        self
    }

    fn actor(mut self, lives: bool, depth: usize) -> Self {
        self.actors += usize::from(lives);
        self.depth += depth;
        self
    }
}

impl Ord for BoundTopic {
    fn cmp(&self, other: &Self) -> Ordering {
        self.topic.cmp(&other.topic)
    }
}

impl PartialOrd for BoundTopic {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Handler<ListTopics> for TopicRouter {
    type Result = MessageResult<ListTopics>;

    fn handle(&mut self, ask: ListTopics, _: &mut Self::Context) -> Self::Result {
        let limit = ask.limit.clamp(1, MAX_ROWS);
        let mut page = Page::new(limit, ask.after);
        for (topic, owner) in self.routes.owners.iter().filter(|(_, owner)| !owner.lazy) {
            page.offer(topic.as_str(), || {
                BoundTopic::new(topic.to_string(), owner.actor, owner.mailbox.mailbox())
                    .actor(owner.mailbox.is_open(), owner.mailbox.depth())
                    .count(&owner.counters)
            });
        }
        let owned = self.routes.patterns.iter();
        for (pattern, owner) in owned.filter_map(|route| Some((&route.pattern, route.owner.as_ref()?))) {
            let name = pattern.to_string();
            page.offer(&name, || {
                BoundTopic::new(name.clone(), owner.actor, owner.mailbox.mailbox())
                    .actor(owner.mailbox.is_open(), owner.mailbox.depth())
                    .count(&owner.counters)
            });
        }
        for (number, binding) in self.patterns.iter().enumerate() {
            for (at, (pattern, past)) in binding.patterns.iter().zip(&binding.past).enumerate() {
                let name = pattern.to_string();
                page.offer(&name, || {
                    let row = BoundTopic::new(name.clone(), binding.actor, binding.mailbox).count(past);
                    self.sum_of_each(row, number, at)
                });
            }
        }
        MessageResult(page.finish())
    }
}

impl TopicRouter {
    /// Adds the actors that a pattern has now to its row.
    fn sum_of_each(&self, row: BoundTopic, binding: usize, at: usize) -> BoundTopic {
        let live = self.lazy.iter().filter(|owner| owner.binding == binding);
        live.fold(row, |row, owner| {
            let row = row.actor(owner.mailbox.is_open(), owner.mailbox.depth());
            match owner.counters.get(at) {
                Some(counters) => row.count(counters),
                None => row,
            }
        })
    }
}

/// The first rows behind a name, and how many there are in all. Holds no more than it will give.
struct Page {
    limit: usize,
    after: Option<String>,
    total: usize,
    has_more: bool,
    first: BinaryHeap<BoundTopic>,
}

impl Page {
    fn new(limit: usize, after: Option<String>) -> Self {
        Self {
            limit,
            after,
            total: 0,
            has_more: false,
            first: BinaryHeap::new(),
        }
    }

    fn offer(&mut self, name: &str, row: impl FnOnce() -> BoundTopic) {
        self.total += 1;
        if self.after.as_deref().is_some_and(|after| name <= after) {
            return;
        }
        if self.first.len() == self.limit {
            self.has_more = true;
            if self.first.peek().is_some_and(|last| last.topic.as_str() < name) {
                return;
            }
            self.first.pop();
        }
        self.first.push(row());
    }

    fn finish(mut self) -> BoundTopics {
        let mut topics = std::mem::take(&mut self.first).into_sorted_vec();
        let mut names_bytes = 0;
        let fitting = topics.iter().take_while(|row| {
            names_bytes += row.topic.len();
            names_bytes <= MAX_NAMES_BYTES
        });
        let fitting = fitting.count().max(1);
        self.has_more |= topics.len() > fitting;
        topics.truncate(fitting);
        let next = topics
            .last()
            .filter(|_| self.has_more)
            .map(|row| row.topic.clone());
        BoundTopics {
            topics,
            total: self.total,
            next,
        }
    }
}
