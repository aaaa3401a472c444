//! A session with its client and what lies between them and the broker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytestring::ByteString;
use topics::packet::{Ack, Packet, ProtocolVersion, QoS, ReasonCode};
use topics::session::{Delivery, Session, SessionConfig};

use super::ledger::Ledger;
use super::plane::PUBLISHERS;

/// So few that the bound is met.
const MAX_WAITING: usize = 6;

pub(super) struct Place {
    pub(super) session: Session,
    pub(super) version: ProtocolVersion,
    pub(super) ledger: Ledger,
    /// Routed here, and not taken in by the session yet.
    pub(super) outbox: VecDeque<Delivery>,
    pub(super) up: VecDeque<Packet>,
    pub(super) down: VecDeque<Packet>,
    /// QoS 2, received and not released.
    pub(super) held: BTreeSet<u16>,
    /// As the client had them, each once; what it was sent as retained is apart.
    pub(super) received: Vec<Received>,
    /// What the tree should hold of this place, and what the groups.
    pub(super) subscribed: BTreeMap<&'static str, QoS>,
    /// What each publisher had published when the session began.
    pub(super) begun_at: [usize; PUBLISHERS],
}

/// A message as a client had it.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) publisher: usize,
    pub(super) number: usize,
    pub(super) topic: String,
    pub(super) qos: QoS,
    /// The share that it came by.
    pub(super) share: Option<String>,
}

impl Place {
    pub(super) fn new(number: usize) -> Self {
        Self {
            session: new_session(number),
            version: [ProtocolVersion::V311, ProtocolVersion::V5][number % 2],
            ledger: Ledger::default(),
            outbox: VecDeque::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            held: BTreeSet::new(),
            received: Vec::new(),
            subscribed: BTreeMap::new(),
            begun_at: [0; PUBLISHERS],
        }
    }

    /// Messages in the session and before it.
    pub(super) fn waiting(&self) -> usize {
        self.session.waiting() + self.outbox.len()
    }

    /// The client takes a packet, and may owe the acknowledgement of a message until its next connection.
    /// Returns the message, if it is one that it did not have from the connection at hand.
    pub(super) fn hear(&mut self, packet: Packet, answers: bool) -> Option<Received> {
        match packet {
            Packet::Publish(publish) => {
                let ack = Ack::new(publish.packet_id.max(1), ReasonCode::Success);
                match publish.qos {
                    QoS::AtLeastOnce if answers => self.up.push_back(Packet::PubAck(ack)),
                    QoS::ExactlyOnce if answers => self.up.push_back(Packet::PubRec(ack)),
                    _ => {}
                }
                let is_new = publish.qos != QoS::ExactlyOnce || self.held.insert(publish.packet_id);
                let payload = str::from_utf8(&publish.payload).expect("text");
                let mut words = payload.splitn(3, ' ');
                let mut number = || words.next()?.parse().ok();
                // What takes a retained message away has no payload.
                let (publisher, number) = (number()?, number()?);
                (is_new && !publish.retain).then(|| Received {
                    publisher,
                    number,
                    topic: publish.topic.to_string(),
                    qos: publish.qos,
                    share: words.next().map(str::to_owned),
                })
            }
            Packet::PubRel(ack) => {
                self.held.remove(&ack.packet_id);
                self.up
                    .push_back(Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)));
                None
            }
            _ => None,
        }
    }

    /// What the session was is over, and so are the client's handshakes with it.
    pub(super) fn begin_anew(&mut self, published: [usize; PUBLISHERS]) {
        self.ledger.forget_handshakes();
        self.held.clear();
        self.begun_at = published;
    }

    /// What the client had on its own behalf is in order, and no copy came twice but at QoS 1.
    pub(super) fn check_received(&self, at: usize) {
        let mut last = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for message in self.received.iter().filter(|message| message.share.is_none()) {
            let Received {
                publisher,
                number,
                topic,
                qos,
                ..
            } = message;
            if !seen.insert((publisher, topic, number)) {
                assert_eq!(*qos, QoS::AtLeastOnce, "place {at}: {message:?} came twice");
                continue;
            }
            let last = last.entry((publisher, topic, qos)).or_insert(*number);
            assert!(*last <= *number, "place {at}: {message:?} came after {last}");
            *last = *number;
        }
    }
}

pub(super) fn new_session(place: usize) -> Session {
    let config = SessionConfig {
        max_inflight: 3,
        max_queued_messages: MAX_WAITING,
        max_queued_bytes: 1000,
        ..SessionConfig::default()
    };
    Session::new(Arc::new(config), ByteString::from(format!("place {place}")))
}
