//! A session's bounded inbox for messages routed to it.
//!
//! Publishers on any arbiter push; the session drains in batches. One push costs a lock of a few
//! nanoseconds and at most one wake-up a batch, where a mailbox message a delivery would cost an
//! allocation and, across arbiters, a wake-up each.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use topics::session::Delivery;

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Taken.
    Taken,
    /// Taken, but the publisher had better wait until there is room again.
    Crowded,
    /// Not taken. The policy is "drop newest": the outbox is full, either because its session made no
    /// progress for so long that publishers wait for it no more, or because many publish at once.
    Dropped,
    /// Not taken: the session has ended, and so have its subscriptions.
    Closed,
}

/// How full an outbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Less than half full.
    Enough,
    /// Half full and more.
    Little,
    /// As good as none: the next message may find no place.
    None,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    max_messages: usize,
    max_bytes: usize,
    /// Whether something was put in since it was emptied last: for the arbiter that puts in and takes out, and
    /// need not lock to know.
    filled: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Delivery>,
    bytes: usize,
    waker: Option<Waker>,
    /// Publishers that wait for room.
    held_back: Vec<Waker>,
    /// Publishers waited in vain; they are not asked to again before the session makes progress.
    stalled: bool,
    closed: bool,
}

/// What became of deliveries that were put in together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handed {
    /// As [`Pushed::Taken`].
    pub(crate) taken: usize,
    /// As [`Pushed::Dropped`].
    pub(crate) dropped: usize,
    /// As [`Pushed::Crowded`], after the last of them.
    pub(crate) crowded: bool,
}

impl Inner {
    /// Moves up to `limit` deliveries into `batch`, which is empty.
    fn take(&mut self, limit: usize, batch: &mut VecDeque<Delivery>) {
        if self.queue.len() <= limit {
            std::mem::swap(&mut self.queue, batch);
            self.bytes = 0;
        } else {
            batch.extend(self.queue.drain(..limit));
            self.bytes -= batch.iter().map(|d| d.message.queued_bytes()).sum::<usize>();
        }
    }

    fn wake_held_back(&mut self) {
        self.held_back.drain(..).for_each(Waker::wake);
    }
}

impl Outbox {
    /// An empty outbox with its bounds.
    pub fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self {
            max_messages,
            max_bytes,
            filled: AtomicBool::new(false),
            inner: Mutex::default(),
        }
    }

    /// Adds a delivery and wakes the session if it sleeps.
    pub fn push(&self, delivery: Delivery) -> Pushed {
        match self.push_all(std::iter::once(delivery)) {
            Some(Handed { crowded: true, .. }) => Pushed::Crowded,
            Some(Handed { taken: 1.., .. }) => Pushed::Taken,
            Some(_) => Pushed::Dropped,
            None => Pushed::Closed,
        }
    }

    /// Adds deliveries under one lock; None where the session has ended.
    pub(crate) fn push_all(&self, deliveries: impl Iterator<Item = Delivery>) -> Option<Handed> {
        let mut handed = Handed::default();
        let waker = {
            let mut inner = self.lock();
            if inner.closed {
                return None;
            }
            for delivery in deliveries {
                let bytes = delivery.message.queued_bytes();
                if inner.queue.len() >= self.max_messages || inner.bytes + bytes > self.max_bytes {
                    handed.dropped += 1;
                    continue;
                }
                inner.bytes += bytes;
                inner.queue.push_back(delivery);
                handed.taken += 1;
            }
            if handed.taken == 0 {
                return Some(handed);
            }
            self.filled.store(true, Relaxed);
            handed.crowded = self.crowded(&inner);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Some(handed)
    }

    /// Whether publishers should wait. If so, `waker` is woken when they need not any more.
    pub(crate) fn is_crowded(&self, waker: &Waker) -> bool {
        let mut inner = self.lock();
        if !self.crowded(&inner) {
            return false;
        }
        if !inner.held_back.iter().any(|known| known.will_wake(waker)) {
            inner.held_back.push(waker.clone());
        }
        true
    }

    /// A publisher has waited long enough: until the session makes progress, what finds the outbox full
    /// is dropped and nobody waits.
    pub(crate) fn give_up_waiting(&self) {
        let mut inner = self.lock();
        inner.stalled = true;
        inner.wake_held_back();
    }

    fn relieve_held_back(&self, inner: &mut Inner) {
        if inner.queue.len() <= self.max_messages / 4 && inner.bytes <= self.max_bytes / 4 {
            inner.wake_held_back();
        }
    }

    /// Half full, so that everybody who publishes at this moment still finds room for one more.
    fn crowded(&self, inner: &Inner) -> bool {
        !inner.stalled
            && !inner.closed
            && (inner.queue.len() > self.max_messages / 2 || inner.bytes > self.max_bytes / 2)
    }

    /// Moves up to `limit` deliveries into `batch`, which is empty, or registers to be woken. Where it is all
    /// of them, the two change places, and none is copied.
    pub(crate) fn poll_drain(
        &self,
        cx: &mut Context<'_>,
        limit: usize,
        batch: &mut VecDeque<Delivery>,
    ) -> Poll<()> {
        let mut inner = self.lock();
        if inner.queue.is_empty() {
            self.filled.store(false, Relaxed);
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
        inner.stalled = false;
        self.relieve_held_back(&mut inner);
        Poll::Ready(())
    }

    /// Takes up to `limit` deliveries, and does not wait for any.
    pub(crate) fn drain(&self, limit: usize) -> VecDeque<Delivery> {
        let mut batch = VecDeque::new();
        let mut inner = self.lock();
        inner.take(limit, &mut batch);
        self.filled.store(!inner.queue.is_empty(), Relaxed);
        batch
    }

    /// Whether there may be something that this thread put in.
    pub(crate) fn may_hold_own(&self) -> bool {
        self.filled.load(Relaxed)
    }

    /// Deliveries that wait at the moment.
    pub(crate) fn len(&self) -> usize {
        self.lock().queue.len()
    }

    /// What they weigh.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// How much room there is for a message of so many bytes, whether or not publishers still wait for
    /// this session.
    pub(crate) fn room(&self, bytes: usize) -> Room {
        let inner = self.lock();
        let (messages, bytes) = (inner.queue.len(), inner.bytes + bytes);
        if inner.closed || messages >= self.max_messages || bytes > self.max_bytes {
            Room::None
        } else if messages > self.max_messages / 2 || bytes > self.max_bytes / 2 {
            Room::Little
        } else {
            Room::Enough
        }
    }

    /// Takes out what `wanted` says, in its order.
    pub(crate) fn extract(&self, wanted: impl FnMut(&Delivery) -> bool) -> VecDeque<Delivery> {
        let mut inner = self.lock();
        let (extracted, kept): (VecDeque<_>, _) =
            std::mem::take(&mut inner.queue).into_iter().partition(wanted);
        inner.bytes -= extracted.iter().map(|d| d.message.queued_bytes()).sum::<usize>();
        inner.queue = kept;
        self.relieve_held_back(&mut inner);
        extracted
    }

    /// Ends it: nothing that comes is taken any more. What is inside is given back.
    pub(crate) fn close(&self) -> Vec<Delivery> {
        let mut inner = self.lock();
        inner.wake_held_back();
        let ended = std::mem::replace(
            &mut *inner,
            Inner {
                closed: true,
                ..Inner::default()
            },
        );
        ended.queue.into()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can panic halfway, so a poisoned lock still holds a sound queue.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
