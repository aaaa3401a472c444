//! What became of the copies that one session accepted, as its effects and its client's packets tell.

use std::collections::{BTreeMap, BTreeSet};

use topics::packet::{Packet, Publish, QoS};
use topics::session::DropReason;

#[derive(Default)]
pub(super) struct Ledger {
    accepted: usize,
    /// Sent at QoS 0: nothing more is promised.
    sent: usize,
    /// Taken over by the client, with a PUBACK or a PUBREC.
    taken_over: usize,
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

    pub(super) fn drop_one(&mut self, reason: DropReason) {
        *self.dropped.entry(format!("{reason:?}")).or_default() += 1;
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

    pub(super) fn dropped(&self) -> usize {
        self.dropped.values().sum()
    }

    /// Holds what was accepted against what became of it.
    pub(super) fn check(&self, place: usize, waiting: usize) {
        let waits = waiting - self.releasing.len();
        assert_eq!(
            self.accepted,
            self.sent + self.taken_over + self.dropped() + waits,
            "place {place}: accepted, and not sent ({}), taken over ({}), dropped ({:?}) or waiting ({waits})",
            self.sent,
            self.taken_over,
            self.dropped
        );
    }
}
