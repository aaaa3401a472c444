//! The last word on each topic: kept, sent to new subscribers, let go. Beside the map, under a lock of its own.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use topics::filter::TopicFilter;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::RetainHandling;
use topics::session::Delivery;

use super::{Subscriber, Switchboard};
use crate::outbox::Pushed;
use crate::outside;
use crate::presence;
use crate::store::{Change, Store, Ticket};

impl Switchboard {
    /// Lets retained messages go whose time is over.
    pub(crate) fn expire_retained(&self, now: Instant) {
        let mut retained = self.0.retained.write().unwrap_or_else(PoisonError::into_inner);
        retained.retain(|topic, message| {
            let expired = message.is_expired(now);
            if let (true, Some(store)) = (expired, self.store_for(topic)) {
                // One that finds no room is let go at the next start.
                let _ = store.submit(Change::Forget(topic.clone()));
            }
            !expired
        });
    }

    /// Sends a new subscription the retained messages it asks for.
    pub(crate) fn send_retained(&self, filter: &TopicFilter, subscriber: &Subscriber, existed: bool) {
        let wants = match subscriber.options.retain_handling {
            RetainHandling::SendAtSubscribe => true,
            RetainHandling::SendIfNew => !existed,
            RetainHandling::DoNotSend => false,
        };
        if !wants {
            return;
        }
        let now = outside::now();
        let found = self
            .0
            .retained
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .matching(filter);
        for (_, message) in found {
            if message.is_expired(now) {
                continue;
            }
            let delivery = Delivery {
                qos: message.qos.min(subscriber.options.qos),
                retain: true,
                subscription_identifiers: subscriber.identifier.into_iter().collect(),
                share: None,
                kept: None,
                message,
            };
            // The SUBACK waits for all that was handed in before it.
            match self.push(&subscriber.session, delivery).0 {
                Pushed::Closed => continue,
                Pushed::Dropped => {
                    self.0.stats.dropped_outbox_full.add(1);
                    let client_id = &subscriber.session.client_id;
                    tracing::debug!(%client_id, "outbox full, newest message dropped");
                }
                Pushed::Taken | Pushed::Crowded => {}
            }
            self.0.stats.deliveries.add(1);
        }
    }

    /// Retained messages at the moment.
    pub fn retained_len(&self) -> usize {
        self.0
            .retained
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// What retained messages weigh.
    pub fn retained_bytes(&self) -> u64 {
        let retained = self.0.retained.read().unwrap_or_else(PoisonError::into_inner);
        retained.bytes() as u64
    }

    /// Makes it the last word on its topic. Returns what must be on disk before that is said to be so.
    pub(super) fn retain(&self, message: &Arc<Message>) -> Option<Ticket> {
        let store = self.store_for(&message.topic);
        // Handed to the store while this is held, so that both see changes in one order.
        let mut retained = self.0.retained.write().unwrap_or_else(PoisonError::into_inner);
        if message.payload.is_empty() {
            // An empty payload takes the retained message away [MQTT-3.3.1-6].
            let kept = retained.get(&message.topic)?.clone();
            return match store.map(|store| store.submit(Change::Forget(kept.topic.clone()))) {
                Some(Err(full)) => self.not_retained(message, &full),
                submitted => {
                    retained.remove(&message.topic);
                    submitted.and_then(Result::ok)
                }
            };
        }
        let kept = Arc::new(message.detached());
        let bytes = kept.queued_bytes();
        let before = match retained.insert(&message.topic, kept.clone(), bytes) {
            Ok(before) => before,
            Err(full) => return self.not_retained(message, &full),
        };
        match store.map(|store| store.submit(Change::Retain(kept))) {
            Some(Err(full)) => {
                match before {
                    // It had room a moment ago.
                    Some(before) => {
                        drop(retained.insert(&message.topic, before.clone(), before.queued_bytes()))
                    }
                    None => drop(retained.remove(&message.topic)),
                }
                self.not_retained(message, &full)
            }
            submitted => submitted.and_then(Result::ok),
        }
    }

    fn not_retained(&self, message: &Message, why: &dyn std::fmt::Display) -> Option<Ticket> {
        self.0.stats.retained_refused.add(1);
        tracing::warn!(topic = %message.topic, "message not retained: {why}");
        None
    }

    /// Statistics are of this run of the daemon alone.
    fn store_for(&self, topic: &TopicName) -> Option<&Arc<dyn Store>> {
        self.0.store.get().filter(|_| !topic.as_str().starts_with('$'))
    }

    /// Where changes to what is kept go from now on, and what was kept before. Called before the first client is
    /// let in. No device is connected yet, whatever its last presence says.
    pub fn keep_in(&self, store: Arc<dyn Store>, kept: Vec<Message>) {
        for mut message in kept {
            presence::correct_after_restart(&mut message);
            let (topic, bytes) = (message.topic.clone(), message.queued_bytes());
            let mut retained = self.0.retained.write().unwrap_or_else(PoisonError::into_inner);
            if let Err(full) = retained.insert(&topic, Arc::new(message), bytes) {
                self.0.stats.retained_refused.add(1);
                tracing::warn!(%topic, "kept message not retained any more: {full}");
            }
        }
        if self.0.store.set(store).is_err() {
            tracing::error!("a second store: it gets nothing");
        }
    }
}
