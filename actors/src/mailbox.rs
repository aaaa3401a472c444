//! The mailbox of an actor that owns topics, as publishers see it: how many messages it may hold,
//! what happens to one more, and what became of them all.
//!
//! The bound of actix belongs to the actor's context, is shared by everything sent to it, and lets
//! each clone of an address in beyond it. So what is published is counted here: a message holds a
//! [`Slot`] from the moment a publisher hands it over until the actor lets go of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use actix::Recipient;
use topics::packet::QoS;

use crate::switchboard::Inbound;

/// How many messages an actor may hold, and what happens to one more. Stated where a topic is
/// bound, and enforced by whoever publishes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// Messages that wait, and those the actor was given and has not let go of yet; at least 1.
    pub bound: usize,
    /// What happens when there are that many.
    pub overflow: Overflow,
    /// Whether what it was given outlives the daemon.
    pub durability: Durability,
}

/// Which messages outlive the daemon, and come again at the next start if their actor had not let go of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Those that are acknowledged: QoS 1 and 2.
    #[default]
    Acknowledged,
    /// Every one.
    Always,
    /// None: questions that are worth nothing later, and secrets.
    Never,
}

impl Durability {
    pub(crate) fn covers(self, qos: QoS) -> bool {
        match self {
            Self::Acknowledged => qos != QoS::AtMostOnce,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

impl Mailbox {
    /// A mailbox for this many messages.
    pub const fn new(bound: usize, overflow: Overflow) -> Self {
        Self {
            bound,
            overflow,
            durability: Durability::Acknowledged,
        }
    }

    /// The same with messages that outlive the daemon otherwise than by the default.
    #[must_use]
    pub const fn durable(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}

/// What a full mailbox means for a message to its topic.
///
/// There is no "drop oldest": what is in the mailbox of an actix actor can only be taken out by the actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The publisher is told (Quota exceeded) where its protocol and QoS have words for it.
    Reject,
    /// The newest message is dropped and counted.
    DropNewest,
}

impl Overflow {
    /// The policy's name, for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::DropNewest => "drop_newest",
        }
    }
}

/// The way into an actor. Called by publishers on their own threads, so that a message that cannot
/// be read costs the actor nothing.
pub trait Entrance: Send + Sync {
    /// Puts a message into the actor's mailbox, past the bound of actix: the one of [`Mailbox`] was
    /// looked at before.
    fn put(&self, inbound: Inbound) -> Result<(), Refusal>;

    /// Whether anybody is behind it.
    fn is_open(&self) -> bool;
}

impl Entrance for Recipient<Inbound> {
    fn put(&self, inbound: Inbound) -> Result<(), Refusal> {
        if !self.connected() {
            return Err(Refusal::Gone);
        }
        self.do_send(inbound);
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.connected()
    }
}

/// Why a mailbox did not take a message.
#[derive(Debug)]
pub enum Refusal {
    /// It holds as many as it may.
    Full,
    /// Its actor was idle and is being let go; the next one is made by the router.
    Retired,
    /// Its actor has stopped.
    Gone,
    /// The payload is not what the actor reads.
    Malformed(String),
}

/// A mailbox with its entrance and its count; clones share both.
#[derive(Clone)]
pub(crate) struct MailboxRef {
    entrance: Arc<dyn Entrance>,
    gauge: Arc<MailboxGauge>,
}

/// How many messages an actor holds at the moment.
#[derive(Debug)]
pub(crate) struct MailboxGauge {
    depth: AtomicUsize,
    mailbox: Mailbox,
}

/// The depth of a mailbox that takes no more messages.
const CLOSED: usize = usize::MAX;

impl MailboxRef {
    pub(crate) fn new(entrance: Arc<dyn Entrance>, mailbox: Mailbox) -> Self {
        let gauge = MailboxGauge {
            depth: AtomicUsize::new(0),
            mailbox,
        };
        Self {
            entrance,
            gauge: Arc::new(gauge),
        }
    }

    /// Puts in a message that is made with the slot it takes up.
    pub(crate) fn put(
        &self,
        counters: &OwnerCounters,
        inbound: impl FnOnce(Slot) -> Inbound,
    ) -> Result<(), Refusal> {
        let claimed = self.gauge.depth.fetch_update(Acquire, Relaxed, |depth| {
            (depth < self.gauge.mailbox.bound).then_some(depth + 1)
        });
        match claimed {
            Ok(_) => {
                // Counted before the actor can know of it.
                counters.messages_in.fetch_add(1, Relaxed);
                let put = self.entrance.put(inbound(Slot(self.gauge.clone())));
                if put.is_err() {
                    counters.messages_in.fetch_sub(1, Relaxed);
                }
                put
            }
            Err(CLOSED) => Err(Refusal::Retired),
            Err(_) if !self.entrance.is_open() => Err(Refusal::Gone),
            Err(_) => Err(Refusal::Full),
        }
    }

    /// Closes a mailbox that holds nothing; says whether it is closed now.
    pub(crate) fn close_if_empty(&self) -> bool {
        match self.gauge.depth.compare_exchange(0, CLOSED, Acquire, Relaxed) {
            Ok(_) => true,
            Err(depth) => depth == CLOSED,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.entrance.is_open()
    }

    pub(crate) fn depth(&self) -> usize {
        match self.gauge.depth.load(Relaxed) {
            CLOSED => 0,
            depth => depth,
        }
    }

    /// The same for all that lead to one mailbox, and for no others while those live.
    pub(crate) fn identity(&self) -> usize {
        Arc::as_ptr(&self.gauge).addr()
    }

    pub(crate) fn mailbox(&self) -> Mailbox {
        self.gauge.mailbox
    }
}

impl fmt::Debug for MailboxRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.gauge.fmt(f)
    }
}

/// The place that a message takes up in its mailbox; free again when this is dropped.
#[derive(Debug)]
pub struct Slot(Arc<MailboxGauge>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.depth.fetch_sub(1, Release);
    }
}

/// What became of the messages to one topic or pattern, counted by publishers.
#[derive(Debug, Default)]
pub struct OwnerCounters {
    /// Messages handed to its mailbox.
    pub messages_in: AtomicU64,
    /// Messages its full mailbox refused, told to the publisher or not.
    pub rejected: AtomicU64,
    /// Messages whose payload was not what the actor reads.
    pub malformed: AtomicU64,
    /// Messages that found their actor stopped.
    pub gone: AtomicU64,
}

impl OwnerCounters {
    /// Adds what another counted.
    pub(crate) fn add(&self, other: &Self) {
        for (sum, part) in self.all().into_iter().zip(other.all()) {
            sum.fetch_add(part.load(Relaxed), Relaxed);
        }
    }

    fn all(&self) -> [&AtomicU64; 4] {
        [&self.messages_in, &self.rejected, &self.malformed, &self.gone]
    }
}
