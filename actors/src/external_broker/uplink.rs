//! What the daemon publishes, on its way to an external broker. The queue holds while the broker is
//! away or slow; when it is full, the newest message is dropped and counted. The last item of an
//! answer is always taken, and there are no more of these than requests in work (Receive Maximum).
//! An answer that lost an item is given up, and its request answered anew when the broker brings it
//! again.

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
}

/// A message for the broker.
pub(super) struct Outgoing {
    pub(super) message: Arc<Message>,
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

    pub(crate) fn push(&self, message: Arc<Message>, answering: Option<Answering>) {
        let (receipt, last) = match answering {
            None => (None, false),
            Some(Answering::Item(receipt)) => (Some(receipt), false),
            Some(Answering::Last(receipt)) => (Some(receipt), true),
        };
        if receipt.as_ref().is_some_and(Receipt::is_spoiled) {
            self.gauge.dropped_queue_full.add(1);
            return;
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
                return;
            }
            inner.bytes += bytes;
            inner.queue.push_back(Outgoing {
                message,
                receipt: receipt.filter(|_| last),
            });
        }
        self.bell.ring();
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

    use super::super::receipt::Rung;
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

    #[actix::test]
    async fn an_answer_that_loses_an_item_is_given_up_and_its_request_is_to_come_again() {
        let (bell, _) = bell();
        let uplink = Uplink::new(2, 1 << 20, bell.clone(), Arc::default());
        let (whole, torn) = (Receipt::new(1, bell.clone()), Receipt::new(2, bell.clone()));
        uplink.push(message("a"), Some(Answering::Item(whole.clone())));
        uplink.push(message("b"), None);
        uplink.push(message("no room"), Some(Answering::Item(torn.clone())));
        uplink.push(message("end"), Some(Answering::Last(torn)));
        uplink.push(message("end"), Some(Answering::Last(whole)));
        let ended = bell.answer();
        assert_eq!(
            ended.iter().map(|e| (e.key, e.answered)).collect::<Vec<_>>(),
            [(2, false)]
        );
        assert_eq!(uplink.gauge.dropped_queue_full.get(), 2);
        assert_eq!(uplink.len(), 3, "the last item of a whole answer is always taken");
        while let Some(outgoing) = uplink.pop() {
            if let Some(receipt) = outgoing.receipt {
                receipt.done();
            }
        }
        let ended = bell.answer();
        assert_eq!(
            ended.iter().map(|e| (e.key, e.answered)).collect::<Vec<_>>(),
            [(1, true)]
        );
    }

    #[actix::test]
    async fn a_receipt_dropped_on_the_way_is_a_request_to_come_again() {
        let (bell, rings) = bell();
        drop(Receipt::new(7, bell.clone()));
        drop(Receipt::new(8, bell.clone()));
        actix_rt::task::yield_now().await;
        assert_eq!(*rings.borrow(), 1, "one message, however often it rang");
        assert!(bell.answer().iter().all(|ended| !ended.answered));
    }
}
