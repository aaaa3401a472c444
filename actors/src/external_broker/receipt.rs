//! What is owed to an external broker for a request that it brought: whoever holds the receipt owes
//! the answer. The last item takes it along ([`Answering::Last`]), and when the broker has acknowledged
//! that item, we acknowledge the request. A receipt that is dropped on the way (an actor died, a
//! mailbox was full, the daemon stops) leaves the request unacknowledged, and the broker brings it
//! again with the next connection.

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use actix::prelude::*;

/// See the module. Clones are the same debt; it is over when the last of them is gone.
#[derive(Clone)]
pub struct Receipt(Arc<Debt>);

struct Debt {
    key: u64,
    paid: AtomicBool,
    /// An item of the answer was dropped on its way to the broker.
    incomplete: AtomicBool,
    bell: Arc<Bell>,
}

/// What an item of an answer means for the receipt of its request.
#[derive(Clone, Debug)]
pub enum Answering {
    /// More is to come.
    Item(Receipt),
    /// The answer ends with it.
    Last(Receipt),
}

impl Receipt {
    pub(super) fn new(key: u64, bell: Arc<Bell>) -> Self {
        Self(Arc::new(Debt {
            key,
            paid: AtomicBool::new(false),
            incomplete: AtomicBool::new(false),
            bell,
        }))
    }

    /// Nothing more will be said about the request, and it must not come again.
    pub fn done(&self) {
        self.0.paid.store(true, Relaxed);
    }

    /// An item of the answer is lost, so the request must be answered once more.
    pub(super) fn spoil(&self) {
        self.0.incomplete.store(true, Relaxed);
    }

    pub(super) fn is_spoiled(&self) -> bool {
        self.0.incomplete.load(Relaxed)
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        let answered = self.paid.load(Relaxed) && !self.incomplete.load(Relaxed);
        self.bell.ended(Ended {
            key: self.key,
            answered,
        });
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Receipt({})", self.0.key)
    }
}

/// A debt that is over.
pub(super) struct Ended {
    pub(super) key: u64,
    /// If not, the request must come again.
    pub(super) answered: bool,
}

/// Tells the link's actor that there is something to do for it. Rung any number of times before
/// it looks, it is one message in its mailbox.
pub(super) struct Bell {
    actor: Recipient<Rung>,
    rung: AtomicBool,
    /// One entry for each receipt that ended: as many as there are requests in work, at most.
    ended: Mutex<Vec<Ended>>,
}

/// See [`Bell`].
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Rung;

impl Bell {
    pub(super) fn new(actor: Recipient<Rung>) -> Arc<Self> {
        Arc::new(Self {
            actor,
            rung: AtomicBool::new(false),
            ended: Mutex::default(),
        })
    }

    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Relaxed) {
            // Past the mailbox's bound, but never more than one.
            self.actor.do_send(Rung);
        }
    }

    /// Takes what ended; from now on it rings again.
    pub(super) fn answer(&self) -> Vec<Ended> {
        self.rung.store(false, Relaxed);
        mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ended(&self, ended: Ended) {
        self.ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(ended);
        self.ring();
    }
}
