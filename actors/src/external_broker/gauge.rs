//! What health, status and metrics tell of the link, without asking its actor.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::stats::Counter;

/// See the module.
#[derive(Debug, Default)]
pub struct LinkGauge {
    connected: AtomicBool,
    trouble: Mutex<Option<String>>,
    pub(super) unacknowledged: AtomicUsize,
    pub(super) queued: AtomicUsize,
    pub(super) held: AtomicUsize,
    pub(super) subscriptions: AtomicUsize,
    made: Counter,
    lost: Counter,
    failed: Counter,
    pub(super) requests_received: Counter,
    pub(super) messages_received: Counter,
    pub(super) messages_sent: Counter,
    pub(super) rejected: Counter,
    pub(super) dropped_queue_full: Counter,
    pub(super) dropped_too_large: Counter,
    pub(super) dropped_expired: Counter,
    pub(super) dropped_unusable: Counter,
    pub(super) dropped_failed: Counter,
}

impl LinkGauge {
    /// Whether the broker lets us in and has answered what we asked of it.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// Whether it brings everything that is bound.
    pub fn is_well(&self) -> bool {
        self.is_connected() && self.trouble().is_none()
    }

    /// Why not, as far as it was tried.
    pub fn trouble(&self) -> Option<String> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Numbers that go up and down, with their metric names.
    pub fn levels(&self) -> [(&'static str, u64); 5] {
        [
            ("clawdbot.broker.connected", u64::from(self.is_connected())),
            (
                "clawdbot.broker.requests.unacknowledged",
                self.unacknowledged.load(Relaxed) as u64,
            ),
            (
                "clawdbot.broker.messages.queued",
                self.queued.load(Relaxed) as u64,
            ),
            ("clawdbot.broker.messages.held", self.held.load(Relaxed) as u64),
            (
                "clawdbot.broker.subscriptions",
                self.subscriptions.load(Relaxed) as u64,
            ),
        ]
    }

    /// Numbers that only grow, with their metric names.
    pub fn counters(&self) -> [(&'static str, u64); 12] {
        [
            ("clawdbot.broker.connections.made", self.made.get()),
            ("clawdbot.broker.connections.lost", self.lost.get()),
            ("clawdbot.broker.connections.failed", self.failed.get()),
            ("clawdbot.broker.requests.received", self.requests_received.get()),
            ("clawdbot.broker.messages.received", self.messages_received.get()),
            ("clawdbot.broker.messages.sent", self.messages_sent.get()),
            ("clawdbot.broker.messages.rejected", self.rejected.get()),
            (
                "clawdbot.broker.messages.dropped.queue_full",
                self.dropped_queue_full.get(),
            ),
            (
                "clawdbot.broker.messages.dropped.too_large",
                self.dropped_too_large.get(),
            ),
            (
                "clawdbot.broker.messages.dropped.expired",
                self.dropped_expired.get(),
            ),
            (
                "clawdbot.broker.messages.dropped.unusable",
                self.dropped_unusable.get(),
            ),
            (
                "clawdbot.broker.messages.dropped.failed",
                self.dropped_failed.get(),
            ),
        ]
    }

    pub(super) fn up(&self) {
        self.made.add(1);
        self.connected.store(true, Relaxed);
    }

    /// What the broker does not do for us although we are connected, if anything.
    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// A connection was lost, or could not be made.
    pub(super) fn lost(&self, why: String) {
        let counter = if self.is_connected() {
            &self.lost
        } else {
            &self.failed
        };
        counter.add(1);
        self.down(why);
    }

    pub(super) fn down(&self, trouble: String) {
        self.connected.store(false, Relaxed);
        self.set_trouble(Some(trouble));
    }
}
