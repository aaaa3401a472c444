//! What we say to the broker: acknowledgements, what the daemon publishes, and goodbye.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use actix::prelude::*;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::QoS;

use super::connection::{Connection, presence_topic};
use super::uplink::Outgoing;
use super::{ExternalBroker, Stopping, wire};

use crate::outside;

/// How often actors that had no room are looked at, beside each time that one is done with a message of the
/// broker's: one that it had from elsewhere makes room without a word.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long other work may go on before what was given up is brought again: until then its acknowledgement
/// holds up those of all that came later.
const GIVEN_UP_PATIENCE: Duration = Duration::from_secs(60);

impl ExternalBroker {
    /// Does all that can be done now.
    pub(super) fn flush(&mut self, ctx: &mut Context<Self>) {
        let (ended, sent) = (self.bell.answer(), self.uplink.last());
        for ended in &ended {
            self.requests.ended(ended.key, ended.ending, sent);
        }
        if !ended.is_empty() {
            // There is room in somebody's mailbox now.
            self.hand_over_held(ctx);
        }
        self.subscribe(ctx);
        self.send_out();
        self.acknowledge();
        self.gauge
            .queued
            .store(self.uplink.len() + self.again.len(), Relaxed);
        self.gauge
            .unacknowledged
            .store(self.requests.unacknowledged(), Relaxed);
        self.gauge.held.store(self.held.len(), Relaxed);
        if self.held.len() > 0 && !mem::replace(&mut self.looks_again, true) {
            ctx.run_later(LOOK_AGAIN, |act, ctx| {
                act.looks_again = false;
                act.hand_over_held(ctx);
                act.flush(ctx);
            });
        }
        if self.is_idle() {
            self.idle(ctx);
        } else {
            self.bring_given_up(GIVEN_UP_PATIENCE, ctx);
        }
    }

    fn acknowledge(&mut self) {
        let Some(connection) = self.connection.as_mut().filter(|c| c.allowed.is_some()) else {
            return;
        };
        let again = self.again.iter().map(|outgoing| outgoing.number);
        let unconfirmed = connection.unconfirmed().chain(again).filter(|number| *number > 0);
        let oldest = unconfirmed.chain(self.uplink.oldest()).min();
        let confirmed = oldest.map_or(u64::MAX, |oldest| oldest - 1);
        while let Some(packet_id) = self.requests.acknowledge(confirmed) {
            connection.acknowledge(packet_id);
        }
        connection.flush_acknowledgements();
    }

    /// There is no word by which a client gives a message back: it comes again with another connection.
    fn bring_given_up(&mut self, patience: Duration, ctx: &mut Context<Self>) {
        if self.requests.given_up() == 0 || !matches!(self.stopping, Stopping::No) {
            self.given_up_since = None;
            return;
        }
        let since = *self.given_up_since.get_or_insert_with(outside::now);
        if outside::since(since) >= patience {
            let why = "some messages could not be handled to the end; the broker brings them again";
            self.lost(why.into(), ctx);
        }
    }

    fn send_out(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let Some(allowed) = connection.allowed else { return };
        while connection.room() > 0 {
            let Some(outgoing) = self.again.pop_front().or_else(|| self.uplink.pop()) else {
                break;
            };
            let Some(mut publish) = wire::publish_of(&outgoing.message, outside::now()) else {
                self.gauge.dropped_expired.add(1);
                settle(outgoing);
                continue;
            };
            publish.retain &= allowed.retain;
            // A packet identifier's two bytes are not in it yet.
            if publish.size() + 2 > allowed.max_packet_bytes {
                self.gauge.dropped_too_large.add(1);
                tracing::warn!(topic = %outgoing.message.topic, "a message larger than the broker takes is dropped");
                settle(outgoing);
                continue;
            }
            if let Err(outgoing) = connection.send(publish, outgoing) {
                self.again.push_front(outgoing);
                break;
            }
            self.gauge.messages_sent.add(1);
        }
    }

    /// Connected, with nothing in work and nothing to say.
    fn is_idle(&self) -> bool {
        self.gauge.is_connected()
            && self.connection.as_ref().is_some_and(Connection::is_idle)
            && self.requests.in_work() == 0
            && self.again.is_empty()
            && self.uplink.len() == 0
    }

    fn idle(&mut self, ctx: &mut Context<Self>) {
        match mem::replace(&mut self.stopping, Stopping::Left) {
            Stopping::No => {
                self.stopping = Stopping::No;
                self.bring_given_up(Duration::ZERO, ctx);
            }
            Stopping::Finishing(waiting) => {
                self.stopping = Stopping::Leaving(waiting);
                self.say("offline");
                self.send_out();
            }
            Stopping::Leaving(waiting) => {
                let said = self.connection.as_ref().is_some_and(Connection::say_goodbye);
                self.stopping = Stopping::Leaving(waiting);
                if said {
                    // Nothing more is said; the end of the connection is the answer.
                    self.gauge.down("stopped".into());
                } else {
                    self.left();
                }
            }
            Stopping::Left => {}
        }
    }

    pub(super) fn left(&mut self) {
        let stopping = mem::replace(&mut self.stopping, Stopping::Left);
        if let Stopping::Finishing(waiting) | Stopping::Leaving(waiting) = stopping {
            for waiting in waiting {
                // Whoever waited may have given up.
                let _ = waiting.send(());
            }
        }
    }

    /// Says whether the daemon is there: retained, before all else.
    pub(super) fn say(&mut self, state: &'static str) {
        match TopicName::parse(presence_topic(&self.config.client_id).into()) {
            Ok(topic) => {
                // What it said before and the broker did not take is out of date.
                self.again.retain(|outgoing| outgoing.message.topic != topic);
                self.again.push_front(Outgoing {
                    message: Arc::new(Message::new(topic, state, QoS::AtLeastOnce).retained()),
                    number: 0,
                    receipt: None,
                });
            }
            Err(error) => tracing::error!(%error, "a client id that makes no topic"),
        }
    }
}

/// There is nothing more to say about its request, if it ended one.
fn settle(outgoing: Outgoing) {
    if let Some(receipt) = outgoing.receipt {
        receipt.done();
    }
}
