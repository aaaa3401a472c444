//! A session's bounded inbox for messages routed to it.
//!
//! Publishers on any arbiter push; the session drains in batches. One push costs a lock of a few
//! nanoseconds and at most one wake-up a batch, where a mailbox message a delivery would cost an
//! allocation and, across arbiters, a wake-up each.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use topics::session::Delivery;

/// What happens to a delivery that finds the outbox full: the newest is dropped and counted. The
/// publisher is not held up by one slow reader.
#[derive(Debug, PartialEq, Eq)]
pub struct DropNewest;

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    max_messages: usize,
    max_bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Delivery>,
    bytes: usize,
    waker: Option<Waker>,
    closed: bool,
}

impl Inner {
    fn take(&mut self, limit: usize, batch: &mut Vec<Delivery>) {
        for _ in 0..self.queue.len().min(limit) {
            let Some(delivery) = self.queue.pop_front() else {
                break;
            };
            self.bytes -= delivery.message.queued_bytes();
            batch.push(delivery);
        }
    }
}

impl Outbox {
    /// An empty outbox with its bounds.
    pub fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self {
            max_messages,
            max_bytes,
            inner: Mutex::default(),
        }
    }

    /// Adds a delivery and wakes the session if it sleeps. A closed outbox takes nothing and says
    /// nothing: its session has ended, and so have its subscriptions.
    pub fn push(&self, delivery: Delivery) -> Result<(), DropNewest> {
        let bytes = delivery.message.queued_bytes();
        let waker = {
            let mut inner = self.lock();
            if inner.closed {
                return Ok(());
            }
            if inner.queue.len() >= self.max_messages || inner.bytes + bytes > self.max_bytes {
                return Err(DropNewest);
            }
            inner.bytes += bytes;
            inner.queue.push_back(delivery);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Moves up to `limit` deliveries into `batch`, or registers to be woken.
    pub(crate) fn poll_drain(
        &self,
        cx: &mut Context<'_>,
        limit: usize,
        batch: &mut Vec<Delivery>,
    ) -> Poll<()> {
        let mut inner = self.lock();
        if inner.queue.is_empty() {
            // A burst is over: give its memory back.
            if inner.queue.capacity() > 64 {
                inner.queue = VecDeque::new();
            }
            match &mut inner.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                empty => *empty = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        inner.take(limit, batch);
        Poll::Ready(())
    }

    /// Moves up to `limit` deliveries into `batch`, and does not wait for any.
    pub(crate) fn drain(&self, limit: usize, batch: &mut Vec<Delivery>) {
        self.lock().take(limit, batch);
    }

    /// Ends it: what is inside is let go, what comes is not taken.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        *inner = Inner {
            closed: true,
            ..Inner::default()
        };
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can panic halfway, so a poisoned lock still holds a sound queue.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
