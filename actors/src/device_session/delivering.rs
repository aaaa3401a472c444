//! What goes to the client: deliveries given to the session, and what is to be sent written into the connection's
//! buffer.

use std::collections::VecDeque;
use std::time::Instant;

use actix::prelude::*;
use bytes::BytesMut;
use topics::packet::{Packet, ProtocolVersion, QoS};
use topics::session::{Delivery, Effect, Forward};

use super::DeviceSession;
use crate::outside;
use crate::stats::Stats;
use crate::switchboard::SessionHandle;

/// Deliveries handed over between a publish and its acknowledgement.
const OWN_BATCH: usize = 16;

/// Deliveries whose effects are carried out together: enough to stay in a loop, few enough that a session
/// keeps no large buffer for them.
const STEP_DELIVERIES: usize = 32;

impl DeviceSession {
    pub(super) fn send(&mut self, packet: &Packet) {
        let Some(version) = self.session.version() else {
            return;
        };
        self.keep_before(packet);
        let stats = self.switchboard.stats();
        match packet {
            Packet::Publish(publish) => {
                stats.messages_sent.add(1);
                self.payloads.sent_bytes += publish.payload.len() as u64;
            }
            _ => stats.other_packets_sent.add(1),
        }
        if let Err(error) = packet.encode(version, self.io.borrow_mut().out()) {
            let kind = packet.packet_type_name();
            tracing::error!(client_id = %self.session.client_id(), kind, %error, "packet not sent");
        }
    }

    /// Sends a message as it is that had to keep its place among other effects.
    pub(super) fn forward(&mut self, message: &Forward) {
        let Some(version) = self.session.version() else {
            return;
        };
        self.switchboard.stats().messages_sent.add(1);
        self.payloads.sent_bytes += message.payload_bytes() as u64;
        if message.qos() == QoS::ExactlyOnce && self.session.is_persistent() {
            self.send_after(self.switchboard.store().map(|store| store.newest()));
        }
        write(message, version, self.io.borrow_mut().out(), &self.handle);
    }

    /// A client that subscribed to its own topic has its copy before the PUBACK, as from Mosquitto:
    /// there are programs that take the PUBACK for the end of it.
    pub(super) fn deliver_own(&mut self, ctx: &mut Context<Self>) {
        if self.io.borrow().deliveries_wait || !self.handle.outbox.may_hold_own() {
            return;
        }
        self.hand_over();
        let mut batch = self.handle.outbox.drain(OWN_BATCH);
        if !batch.is_empty() {
            self.deliver(&mut batch, ctx);
        }
    }

    pub(super) fn deliver(&mut self, batch: &mut VecDeque<Delivery>, ctx: &mut Context<Self>) {
        if !self.session.is_connected() {
            self.hand_on_what_came_late(batch);
        }
        let now = outside::now();
        while !batch.is_empty() {
            let mut effects = self.scratch.pop().unwrap_or_default();
            let together = batch.len().min(STEP_DELIVERIES);
            self.send_on(now, batch.drain(..together), &mut effects);
            self.apply(&mut effects, ctx);
            self.scratch.push(effects);
        }
        self.payloads.count(self.switchboard.stats());
    }

    /// Gives deliveries to the session. What goes to the client as it is becomes bytes right here, which is most
    /// of it; the rest is left as effects.
    fn send_on(
        &mut self,
        now: Instant,
        deliveries: impl Iterator<Item = Delivery>,
        effects: &mut Vec<Effect>,
    ) {
        let version = self.session.version();
        let store = self.switchboard.store().filter(|_| self.session.is_persistent());
        let mut io = self.io.borrow_mut();
        let mut sent = 0;
        for delivery in deliveries {
            self.session
                .deliver_at_once(now, delivery, effects, &mut |message: Forward| {
                    let Some(version) = version else { return };
                    sent += 1;
                    self.payloads.sent_bytes += message.payload_bytes() as u64;
                    if let (QoS::ExactlyOnce, Some(store)) = (message.qos(), store) {
                        io.send_after(store.newest());
                    }
                    write(&message, version, io.out(), &self.handle);
                });
        }
        if sent > 0 {
            self.switchboard.stats().messages_sent.add(sent);
        }
    }
}

fn write(message: &Forward, version: ProtocolVersion, out: &mut BytesMut, to: &SessionHandle) {
    if let Err(error) = message.encode(version, out) {
        tracing::error!(client_id = %to.client_id, %error, "message not sent");
    }
}

/// Payloads that came and went since they were counted last: one addition for what was read or handed over
/// together, and not one for each packet.
#[derive(Default)]
pub(super) struct Payloads {
    pub(super) received_bytes: u64,
    sent_bytes: u64,
}

impl Payloads {
    pub(super) fn count(&mut self, stats: &Stats) {
        let Self {
            received_bytes,
            sent_bytes,
        } = std::mem::take(self);
        if received_bytes > 0 {
            stats.payload_received_bytes.add(received_bytes);
        }
        if sent_bytes > 0 {
            stats.payload_sent_bytes.add(sent_bytes);
        }
    }
}
