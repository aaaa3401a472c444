//! What the daemon publishes, on its way to an external broker. The queue holds while the broker is
//! away or slow; when it is full, the newest message is dropped and counted, and its publisher told. The
//! last item of an answer is always taken, and there are no more of these than requests in work (Receive
//! Maximum). An answer that lost an item is given up, and its request answered anew when the broker brings
//! it again.
//!
//! Messages are numbered: what an actor published before it was done with a message has a number no higher
//! than the last one then, and must be at the broker before that message is acknowledged.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use topics::message::Message;

use super::gauge::LinkGauge;
use super::receipt::{Answering, Bell, Receipt};

/// See the module.
pub(crate) struct Uplink {
    max_messages: usize,
    max_bytes: usize,
    inner: Mutex<Inner>,
    bell: Arc<Bell>,
    gauge: Arc<LinkGauge>,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Outgoing>,
    bytes: usize,
    /// Messages taken so far, which is the number of the last one.
    taken: u64,
}

/// A message for the broker.
pub(super) struct Outgoing {
    pub(super) message: Arc<Message>,
    /// Counted from 1; 0 for one that nobody's acknowledgement waits for.
    pub(super) number: u64,
    /// Paid when the broker has acknowledged the message.
    pub(super) receipt: Option<Receipt>,
}

impl Uplink {
    pub(super) fn new(max_messages: usize, max_bytes: usize, bell: Arc<Bell>, gauge: Arc<LinkGauge>) -> Self {
        Self {
            max_messages,
            max_bytes,
            inner: Mutex::default(),
            bell,
            gauge,
        }
    }

    /// Whether there was room for it.
    pub(crate) fn push(&self, message: Arc<Message>, answering: Option<Answering>) -> bool {
        let (receipt, last) = match answering {
            None => (None, false),
            Some(Answering::Item(receipt)) => (Some(receipt), false),
            Some(Answering::Last(receipt)) => (Some(receipt), true),
        };
        if receipt.as_ref().is_some_and(Receipt::is_spoiled) {
            self.gauge.dropped_queue_full.add(1);
            return false;
        }
        let bytes = message.queued_bytes();
        {
            let mut inner = self.lock();
            let full = inner.queue.len() >= self.max_messages || inner.bytes + bytes > self.max_bytes;
            if full && !last {
                drop(inner);
                self.gauge.dropped_queue_full.add(1);
                if let Some(receipt) = receipt {
                    receipt.spoil();
                }
                return false;
            }
            inner.bytes += bytes;
            inner.taken += 1;
            let number = inner.taken;
            inner.queue.push_back(Outgoing {
                message,
                number,
                receipt: receipt.filter(|_| last),
            });
        }
        self.bell.ring();
        true
    }

    /// What is bound has changed.
    pub(crate) fn ring(&self) {
        self.bell.ring();
    }

    /// The number of the last message taken.
    pub(super) fn last(&self) -> u64 {
        self.lock().taken
    }

    /// The number of the message that waits longest.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.lock().queue.front().map(|outgoing| outgoing.number)
    }

    pub(super) fn pop(&self) -> Option<Outgoing> {
        let mut inner = self.lock();
        let outgoing = inner.queue.pop_front()?;
        inner.bytes -= outgoing.message.queued_bytes();
        Some(outgoing)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().queue.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can panic halfway, so a poisoned lock still holds a sound queue.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use actix::prelude::*;
    use topics::message::Message;
    use topics::name::TopicName;
    use topics::packet::QoS;

    use super::super::receipt::{Ending, Rung};
    use super::*;

    /// Takes the bell's word and does nothing.
    struct Nobody(Rc<RefCell<usize>>);

    impl Actor for Nobody {
        type Context = Context<Self>;
    }

    impl Handler<Rung> for Nobody {
        type Result = ();

        fn handle(&mut self, _: Rung, _: &mut Self::Context) {
            *self.0.borrow_mut() += 1;
        }
    }

    fn message(text: &'static str) -> Arc<Message> {
        let topic = TopicName::parse("clawdbot/phone/reply".into()).unwrap();
        Arc::new(Message::new(topic, text, QoS::AtLeastOnce))
    }

    fn bell() -> (Arc<Bell>, Rc<RefCell<usize>>) {
        let rings = Rc::new(RefCell::new(0));
        (Bell::new(Nobody(rings.clone()).start().recipient()), rings)
    }

    fn ended(bell: &Bell) -> Vec<(u64, Ending)> {
        let ended = bell.answer();
        ended.iter().map(|ended| (ended.key, ended.ending)).collect()
    }

    #[actix::test]
    async fn an_answer_that_loses_an_item_is_given_up_and_its_request_is_to_come_again() {
        let (bell, _) = bell();
        let uplink = Uplink::new(2, 1 << 20, bell.clone(), Arc::default());
        let (whole, torn) = (Receipt::new(1, bell.clone()), Receipt::new(2, bell.clone()));
        assert!(uplink.push(message("a"), Some(Answering::Item(whole.clone()))));
        assert!(uplink.push(message("b"), None));
        assert!(!uplink.push(message("no room"), Some(Answering::Item(torn.clone()))));
        assert!(!uplink.push(message("end"), Some(Answering::Last(torn))));
        assert!(uplink.push(message("end"), Some(Answering::Last(whole))));
        assert_eq!(
            (uplink.oldest(), uplink.last()),
            (Some(1), 3),
            "what was dropped has no number"
        );
        assert_eq!(ended(&bell), [(2, Ending::Dropped)]);
        assert_eq!(uplink.gauge.dropped_queue_full.get(), 2);
        assert_eq!(uplink.len(), 3, "the last item of a whole answer is always taken");
        while let Some(outgoing) = uplink.pop() {
            if let Some(receipt) = outgoing.receipt {
                receipt.done();
            }
        }
        assert_eq!(ended(&bell), [(1, Ending::Paid)]);
    }

    #[actix::test]
    async fn a_receipt_dropped_on_the_way_is_a_request_to_come_again() {
        let (bell, rings) = bell();
        drop(Receipt::new(7, bell.clone()));
        drop(Receipt::new(8, bell.clone()));
        actix_rt::task::yield_now().await;
        assert_eq!(*rings.borrow(), 1, "one message, however often it rang");
        assert_eq!(ended(&bell), [(7, Ending::Dropped), (8, Ending::Dropped)]);
    }
}
