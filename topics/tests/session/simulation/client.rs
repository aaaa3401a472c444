//! A client that keeps to the rules: both sides of every handshake, sending again after a loss.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use topics::packet::{Ack, ConnAck, Packet, ProtocolVersion, Publish, QoS, ReasonCode};

/// A small space, so that identifiers come back soon, and a window that fits into it.
const PACKET_IDS: u16 = 20;
const OWN_WINDOW: usize = 15;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Await {
    Ack,
    Rec,
    Comp,
}

struct Outgoing {
    publish: Publish,
    awaits: Await,
}

/// What a client received as new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) topic: String,
    pub(super) payload: String,
}

pub(super) struct Client {
    pub(super) version: ProtocolVersion,
    pub(super) receive_maximum: u16,
    outgoing: Vec<Outgoing>,
    /// What its user wants published, while the window is full or the connection gone.
    waiting: VecDeque<Publish>,
    /// QoS 2, received and not released.
    held: BTreeSet<u16>,
    /// QoS 1 and 2 from the broker on this connection, not acknowledged to their end.
    unacknowledged: BTreeSet<u16>,
    pub(super) received: Vec<Received>,
    server_receive_maximum: usize,
    connected: bool,
    last_packet_id: u16,
}

impl Client {
    pub(super) fn new(version: ProtocolVersion, receive_maximum: u16) -> Self {
        Self {
            version,
            receive_maximum,
            outgoing: Vec::new(),
            waiting: VecDeque::new(),
            held: BTreeSet::new(),
            unacknowledged: BTreeSet::new(),
            received: Vec::new(),
            server_receive_maximum: OWN_WINDOW,
            connected: false,
            last_packet_id: 0,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.outgoing.is_empty() && self.waiting.is_empty() && self.unacknowledged.is_empty()
    }

    pub(super) fn publish(&mut self, topic: &str, qos: QoS, payload: String) {
        self.waiting.push_back(Publish {
            dup: false,
            qos,
            retain: false,
            topic: topic.into(),
            packet_id: 0,
            properties: None,
            payload: Bytes::from(payload),
        });
    }

    pub(super) fn lose_connection(&mut self) {
        self.connected = false;
        self.unacknowledged.clear();
    }

    /// What it says to a packet, and what it has to say besides.
    pub(super) fn receive(&mut self, packet: Packet) -> Vec<Packet> {
        let mut answers = Vec::new();
        match packet {
            Packet::ConnAck(connack) => self.welcomed(&connack, &mut answers),
            Packet::Publish(publish) => self.take(publish, &mut answers),
            Packet::PubAck(ack) => self.finish(ack.packet_id, Await::Ack),
            Packet::PubRec(ack) => {
                let outgoing = self
                    .outgoing
                    .iter_mut()
                    .find(|o| o.publish.packet_id == ack.packet_id);
                let outgoing = outgoing.expect("a PUBREC answers something");
                assert!(outgoing.awaits != Await::Ack, "a PUBREC for a QoS 1 message");
                outgoing.awaits = Await::Comp;
                answers.push(Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            Packet::PubRel(ack) => {
                self.held.remove(&ack.packet_id);
                self.unacknowledged.remove(&ack.packet_id);
                answers.push(Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            Packet::PubComp(ack) => self.finish(ack.packet_id, Await::Comp),
            Packet::SubAck(_) => {}
            other => panic!("the broker sent {other:?}"),
        }
        answers.extend(self.next_publishes());
        answers
    }

    /// Publishes that wait and may go now.
    pub(super) fn next_publishes(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        while self.connected && self.outgoing.len() < self.server_receive_maximum {
            let Some(mut publish) = self.waiting.pop_front() else {
                break;
            };
            if publish.qos != QoS::AtMostOnce {
                publish.packet_id = self.next_packet_id();
                let awaits = if publish.qos == QoS::AtLeastOnce {
                    Await::Ack
                } else {
                    Await::Rec
                };
                self.outgoing.push(Outgoing {
                    publish: publish.clone(),
                    awaits,
                });
            }
            packets.push(Packet::Publish(publish));
        }
        packets
    }

    fn welcomed(&mut self, connack: &ConnAck, answers: &mut Vec<Packet>) {
        assert_eq!(connack.reason, ReasonCode::Success);
        self.connected = true;
        if let Some(maximum) = connack.properties.receive_maximum {
            self.server_receive_maximum = usize::from(maximum).min(OWN_WINDOW);
        }
        let again = self.outgoing.iter().map(|outgoing| match outgoing.awaits {
            Await::Comp => Packet::PubRel(Ack::new(outgoing.publish.packet_id, ReasonCode::Success)),
            _ => Packet::Publish(Publish {
                dup: true,
                ..outgoing.publish.clone()
            }),
        });
        answers.extend(again);
    }

    fn take(&mut self, publish: Publish, answers: &mut Vec<Packet>) {
        let packet_id = publish.packet_id;
        let is_new = match publish.qos {
            QoS::AtMostOnce => true,
            QoS::AtLeastOnce => {
                answers.push(Packet::PubAck(Ack::new(packet_id, ReasonCode::Success)));
                true
            }
            QoS::ExactlyOnce => {
                self.unacknowledged.insert(packet_id);
                assert!(
                    self.version < ProtocolVersion::V5
                        || self.unacknowledged.len() <= usize::from(self.receive_maximum),
                    "more at once than the client's Receive Maximum [MQTT-3.3.4-9]"
                );
                answers.push(Packet::PubRec(Ack::new(packet_id, ReasonCode::Success)));
                self.held.insert(packet_id)
            }
        };
        if is_new {
            self.received.push(Received {
                topic: publish.topic.to_string(),
                payload: String::from_utf8(publish.payload.to_vec()).expect("text"),
            });
        }
    }

    fn finish(&mut self, packet_id: u16, awaits: Await) {
        let at = self
            .outgoing
            .iter()
            .position(|o| o.publish.packet_id == packet_id);
        let outgoing = self
            .outgoing
            .remove(at.expect("an acknowledgement answers something"));
        assert!(outgoing.awaits == awaits, "an acknowledgement out of turn");
    }

    fn next_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id % PACKET_IDS + 1;
            if self
                .outgoing
                .iter()
                .all(|o| o.publish.packet_id != self.last_packet_id)
            {
                return self.last_packet_id;
            }
        }
    }
}
