//! What of the session is kept in the store, and what is not said before it is there.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use actix::prelude::*;
use topics::packet::{Packet, QoS, ReasonCode};

use super::DeviceSession;
use crate::outside;
use crate::store::{Change, SessionRecord, StoreFull, Ticket};

/// How long a publisher is not read from where the store has much to write.
const PAUSE: Duration = Duration::from_millis(50);

impl DeviceSession {
    /// Says to publishers and to the store what the session is now. Returns what must be on disk before its client
    /// may count on that.
    pub(super) fn keep_session(&mut self) -> Option<Ticket> {
        self.handle
            .persistent
            .store(self.session.is_persistent(), Relaxed);
        let store = self.switchboard.store()?;
        let change = match self.session.to_keep() {
            Some(session) => Change::Session(Box::new(SessionRecord {
                client_id: self.session.client_id().clone(),
                device_id: self.admission.device_id.clone(),
                session,
            })),
            None if self.is_recorded => Change::EndSession(self.session.client_id().clone()),
            None => return None,
        };
        self.is_recorded = matches!(change, Change::Session(_));
        let submitted = store.submit(change);
        if let Err(error) = &submitted {
            self.is_recorded = true;
            tracing::warn!(client_id = %self.session.client_id(), %error, "a session is not kept as it is now");
        }
        submitted.ok()
    }

    /// The session is over.
    pub(super) fn forget_session(&mut self) {
        self.handle.persistent.store(false, Relaxed);
        self.forget_received();
        if let (true, Some(store)) = (std::mem::take(&mut self.is_recorded), self.switchboard.store()) {
            // There is always room for that; a closed store is one of a daemon that ends.
            let _ = store.submit(Change::EndSession(self.session.client_id().clone()));
        }
    }

    /// What is written from now on is sent when this is on disk.
    pub(super) fn send_after(&self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.io.borrow_mut().send_after(ticket);
        }
    }

    /// A packet is about to be written: some may only be seen when what they promise is on disk.
    pub(super) fn keep_before(&mut self, packet: &Packet) {
        if let Packet::PubComp(ack) = packet {
            self.note_released(ack.packet_id);
        }
        if !self.session.is_persistent() {
            return;
        }
        let Some(store) = self.switchboard.store().cloned() else {
            return;
        };
        match packet {
            Packet::SubAck(_) | Packet::UnsubAck(_) => {
                // Retained messages that it brings were handed in before.
                self.keep_session();
            }
            Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) => {}
            Packet::Publish(publish) if publish.qos == QoS::ExactlyOnce => {}
            _ => return,
        }
        self.send_after(Some(store.newest()));
    }

    /// Notes that the client used an identifier for a QoS 2 message.
    pub(super) fn note_received(&mut self, packet_id: u16) -> Option<Ticket> {
        let received = Change::Received(self.session.client_id().clone(), packet_id);
        let ticket = self.switchboard.store()?.submit(received).ok()?;
        self.received.insert(packet_id);
        Some(ticket)
    }

    /// The identifier is the client's again. Whether or not the session still outlives its connection: a later one of
    /// the same client must not take a new message under it for this one.
    fn note_released(&mut self, packet_id: u16) {
        if let (true, Some(store)) = (self.received.remove(&packet_id), self.switchboard.store()) {
            // There is always room for that.
            let _ = store.submit(Change::Released(self.session.client_id().clone(), packet_id));
        }
    }

    /// What the client had not released goes with its session.
    pub(super) fn forget_received(&mut self) {
        for packet_id in std::mem::take(&mut self.received) {
            if let Some(store) = self.switchboard.store() {
                // There is always room for that.
                let _ = store.submit(Change::Released(self.session.client_id().clone(), packet_id));
            }
        }
    }

    pub(super) fn store_is_full(&self) -> bool {
        self.switchboard.store().is_some_and(|store| store.is_full())
    }

    /// Nothing more can be kept, and before MQTT 5 there is no word for that: the client comes again with what was
    /// not acknowledged.
    pub(super) fn turn_away(&mut self, ctx: &mut Context<Self>) {
        tracing::warn!(client_id = %self.session.client_id(), "{StoreFull}; its publisher is disconnected");
        self.step(ctx, |session, effects| {
            session.fail_because(ReasonCode::ServerBusy, StoreFull, effects);
        });
    }

    /// Where the store has much to write, whoever gives it more is not read from for a moment.
    pub(super) fn pause_for_the_store(&mut self) {
        if self.switchboard.store().is_some_and(|store| store.is_crowded()) {
            self.io.borrow_mut().pause(outside::now() + PAUSE);
        }
    }
}
