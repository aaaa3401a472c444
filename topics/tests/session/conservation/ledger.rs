//! What became of the copies that one session accepted, as its effects and its client's packets tell.

use std::collections::{BTreeMap, BTreeSet};

use topics::packet::{Packet, Publish, QoS};
use topics::session::Delivery;

#[derive(Default)]
pub(super) struct Ledger {
    accepted: usize,
    /// Sent at QoS 0: nothing more is promised.
    sent: usize,
    /// Taken over by the client, with a PUBACK or a PUBREC.
    taken_over: usize,
    /// Given to another member of the share that they came by, which has accepted them.
    pub(super) handed_on: usize,
    pub(super) dropped: BTreeMap<String, usize>,
    /// Sent and not taken over, by packet identifier.
    outstanding: BTreeMap<u16, String>,
    /// Taken over at QoS 2, and the handshake is not over.
    releasing: BTreeSet<u16>,
}

impl Ledger {
    pub(super) fn accept(&mut self) {
        self.accepted += 1;
    }

    pub(super) fn drop_one(&mut self, reason: impl std::fmt::Debug) {
        *self.dropped.entry(format!("{reason:?}")).or_default() += 1;
    }

    /// It may have been sent before, if nobody knows whether it arrived.
    pub(super) fn hand_on(&mut self, delivery: &Delivery) {
        let payload = delivery.message.payload.clone();
        self.handed_on += 1;
        self.outstanding.retain(|_, sent| sent.as_bytes() != payload);
    }

    pub(super) fn send(&mut self, publish: &Publish) {
        if publish.qos == QoS::AtMostOnce {
            self.sent += 1;
            return;
        }
        let payload = String::from_utf8(publish.payload.to_vec()).expect("text");
        if publish.dup {
            let first = self.outstanding.get(&publish.packet_id);
            assert_eq!(first, Some(&payload), "DUP says that it was sent before");
        }
        assert!(
            !self.releasing.contains(&publish.packet_id),
            "packet identifier {} is in use [MQTT-2.2.1-4]",
            publish.packet_id
        );
        self.outstanding.insert(publish.packet_id, payload);
    }

    /// What the client answers, before its session hears it.
    pub(super) fn answered(&mut self, packet: &Packet) {
        match packet {
            Packet::PubAck(ack) => {
                self.take_over(ack.packet_id);
            }
            Packet::PubRec(ack) => {
                let is_new = self.take_over(ack.packet_id);
                self.releasing.extend(is_new.then_some(ack.packet_id));
            }
            Packet::PubComp(ack) => {
                self.releasing.remove(&ack.packet_id);
            }
            _ => {}
        }
    }

    fn take_over(&mut self, packet_id: u16) -> bool {
        let is_new = self.outstanding.remove(&packet_id).is_some();
        self.taken_over += usize::from(is_new);
        is_new
    }

    /// The session was ended, or begins anew: its handshakes are over.
    pub(super) fn forget_handshakes(&mut self) {
        self.outstanding.clear();
        self.releasing.clear();
    }

    /// Holds what was accepted against what became of it; `waiting` are those in the session and before it.
    /// Returns how many of the copies that it was given to keep have met their fate here, or wait for it.
    pub(super) fn check(&self, place: usize, waiting: usize) -> usize {
        let waits = waiting - self.releasing.len();
        let here = self.sent + self.taken_over + self.dropped.values().sum::<usize>() + waits;
        assert_eq!(
            self.accepted,
            here + self.handed_on,
            "place {place}: accepted, and not sent ({}), taken over ({}), handed on ({}), dropped ({:?}) or \
             waiting ({waits})",
            self.sent,
            self.taken_over,
            self.handed_on,
            self.dropped
        );
        here
    }
}
