//! What is owed to an external broker for a message that it brought: whoever holds the receipt owes
//! the answer. A conversation's last item takes it along ([`Answering::Last`]), and when the broker has
//! acknowledged that item, we acknowledge the request. For an application's actor, which knows nothing of
//! all this, the message itself holds it ([`Handling`]). A receipt that is dropped on the way (an actor
//! died, the daemon stops) leaves the message unacknowledged, and the broker brings it again with the next
//! connection.

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use actix::prelude::*;

/// See the module. Clones are the same debt; it is over when the last of them is gone.
#[derive(Clone)]
pub struct Receipt(Arc<Debt>);

struct Debt {
    key: u64,
    paid: AtomicBool,
    /// An item of the answer was dropped on its way to the broker.
    incomplete: AtomicBool,
    /// The actor panicked over the message.
    failed: AtomicBool,
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
            failed: AtomicBool::new(false),
            bell,
        }))
    }

    /// Nothing more will be said about the request, and it must not come again.
    pub fn done(&self) {
        self.0.paid.store(true, Relaxed);
    }

    /// The actor panicked over it.
    pub(super) fn fail(&self) {
        self.0.failed.store(true, Relaxed);
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
        let ending = if self.failed.load(Relaxed) {
            Ending::Failed
        } else if self.paid.load(Relaxed) && !self.incomplete.load(Relaxed) {
            Ending::Paid
        } else {
            Ending::Dropped
        };
        self.bell.ended(Ended {
            key: self.key,
            ending,
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
    pub(super) ending: Ending,
}

/// How a debt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// All was done.
    Paid,
    /// It got lost on the way; the message must come again.
    Dropped,
    /// The message ended its actor; it may come again, but not for ever.
    Failed,
}

/// A message in the hands of an actor that knows nothing of receipts. It was handled when the actor lets go
/// of it while it lives on. One that is dropped with the mailbox of an actor that has stopped was not, nor
/// was one over which the actor panicked.
pub(crate) struct Handling {
    receipt: Receipt,
    actor_lives: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Handling {
    pub(crate) fn by<M>(actor: Recipient<M>, receipt: Receipt) -> Self
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
    {
        Self {
            receipt,
            actor_lives: Box::new(move || actor.connected()),
        }
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        // A mailbox is closed before it is emptied, also where a panic is the reason.
        match ((self.actor_lives)(), thread::panicking()) {
            (true, false) => self.receipt.done(),
            (true, true) => self.receipt.fail(),
            (false, _) => {}
        }
    }
}

impl fmt::Debug for Handling {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.receipt.fmt(formatter)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Actor for Nobody {
        type Context = Context<Self>;
    }

    impl Handler<Rung> for Nobody {
        type Result = ();

        fn handle(&mut self, _: Rung, _: &mut Self::Context) {}
    }

    /// Does with a message as it is told.
    #[derive(Default)]
    struct Worker(Vec<Work>);

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Work(
        What,
        #[expect(dead_code, reason = "it is dropped, and that counts")] Handling,
    );

    #[derive(Clone, Copy, PartialEq)]
    enum What {
        LetGo,
        Keep,
        LetAllGo,
        Stop,
        Panic,
    }

    impl Actor for Worker {
        type Context = Context<Self>;
    }

    impl Handler<Work> for Worker {
        type Result = ();

        fn handle(&mut self, work: Work, ctx: &mut Self::Context) {
            match work.0 {
                What::LetGo => {}
                What::Keep => self.0.push(work),
                What::LetAllGo => self.0.clear(),
                What::Stop => ctx.stop(),
                What::Panic => panic!("as it was told"),
            }
        }
    }

    /// How the debts of messages ended that were given to one actor, in the order of the messages.
    async fn endings(work: &[What]) -> Vec<Option<Ending>> {
        let bell = Bell::new(Nobody.start().recipient());
        let worker = Worker::default().start();
        for (key, what) in (0..).zip(work) {
            let receipt = Receipt::new(key, bell.clone());
            let handling = Handling::by(worker.clone().recipient::<Work>(), receipt);
            worker.do_send(Work(*what, handling));
        }
        for _ in 0..10 {
            actix_rt::task::yield_now().await;
        }
        let ended = bell.answer();
        let of = |key| {
            ended
                .iter()
                .find(|ended| ended.key == key)
                .map(|ended| ended.ending)
        };
        (0..).zip(work).map(|(key, _)| of(key)).collect()
    }

    #[actix::test]
    async fn a_message_is_handled_when_the_actor_has_let_go_of_it() {
        let (paid, not_yet) = (Some(Ending::Paid), None);
        assert_eq!(endings(&[What::LetGo, What::Keep]).await, [paid, not_yet]);
        assert_eq!(endings(&[What::Keep, What::LetAllGo]).await, [paid, paid]);
    }

    #[actix::test]
    async fn what_a_stopped_actor_leaves_in_its_mailbox_must_come_again() {
        let left = Some(Ending::Dropped);
        assert_eq!(
            endings(&[What::Stop, What::LetGo, What::LetGo]).await,
            [Some(Ending::Paid), left, left]
        );
    }

    #[actix::test]
    async fn what_an_actor_panics_over_is_told_from_what_stood_behind_it() {
        assert_eq!(
            endings(&[What::LetGo, What::Panic, What::LetGo]).await,
            [Some(Ending::Paid), Some(Ending::Failed), Some(Ending::Dropped)]
        );
    }
}
