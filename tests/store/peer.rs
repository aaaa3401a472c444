//! Two clients that keep to the rules of MQTT 3.1.1 over any number of lost connections, and remember what they were
//! told, as a client with storage of its own does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use topics::packet::{
    Ack, Connect, ConnectProperties, Packet, ProtocolVersion, Publish, QoS, ReasonCode, Subscribe,
    SubscribeFilter, SubscriptionOptions, decode,
};

use crate::support::PATIENCE;

const TOPIC: &str = "clawdbot/phone/crash";

/// Messages under way at once.
const WINDOW: usize = 16;

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The daemon is gone, or the time is over.
    Lost,
    /// The daemon does not know a session that it had.
    SessionGone,
}

/// A connection, packet by packet.
pub(super) struct Link {
    stream: TcpStream,
    input: BytesMut,
    deadline: Option<Instant>,
}

impl Link {
    /// Connects to the session of this client; None where there is nobody.
    pub(super) fn open(address: SocketAddr, client_id: &str, token: &str) -> Option<(Link, bool)> {
        Link::open_as(address, client_id, token, false)
    }

    /// The same; a clean session begins anew, and ends with its connection.
    pub(super) fn open_as(
        address: SocketAddr,
        client_id: &str,
        token: &str,
        clean: bool,
    ) -> Option<(Link, bool)> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a socket");
        let mut link = Link {
            stream,
            input: BytesMut::new(),
            deadline: None,
        };
        link.send(&Packet::Connect(Box::new(Connect {
            protocol: ProtocolVersion::V311,
            is_bridge: false,
            clean_start: clean,
            keep_alive_s: 30,
            client_id: client_id.to_owned().into(),
            username: Some("test".into()),
            password: Some(token.to_owned().into()),
            will: None,
            properties: ConnectProperties::default(),
        })))?;
        match link.packet()? {
            Packet::ConnAck(ack) => {
                assert_eq!(ack.reason, ReasonCode::Success);
                Some((link, ack.session_present))
            }
            other => panic!("{} instead of CONNACK", other.packet_type_name()),
        }
    }

    pub(super) fn send(&mut self, packet: &Packet) -> Option<()> {
        let mut out = BytesMut::new();
        packet
            .encode(ProtocolVersion::V311, &mut out)
            .expect("a packet of ours");
        self.stream.write_all(&out).ok()
    }

    pub(super) fn subscribe(&mut self, filter: &str, qos: QoS) {
        let filter = SubscribeFilter {
            filter: filter.to_owned().into(),
            options: SubscriptionOptions::new(qos),
        };
        self.send(&Packet::Subscribe(Subscribe {
            packet_id: 1,
            subscription_identifier: None,
            user_properties: Vec::new(),
            filters: vec![filter],
        }));
        assert!(matches!(self.packet(), Some(Packet::SubAck(_))));
    }

    /// The next packet; None where the connection, or the time, is over.
    pub(super) fn packet(&mut self) -> Option<Packet> {
        let patience = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < patience, "waited {PATIENCE:?} for a packet");
            let version = Some(ProtocolVersion::V311);
            if let Some(packet) = decode(&mut self.input, version, usize::MAX).expect("a sound packet") {
                return Some(packet);
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if self.deadline.is_some_and(|at| at <= Instant::now()) {
                        return None;
                    }
                }
                Err(_) => return None,
            }
        }
    }
}

fn ack(packet_id: u16) -> Ack {
    Ack::new(packet_id, ReasonCode::Success)
}

/// Publishes the numbers from 1 on, at QoS 1 and 2 in turn.
pub(super) struct Publisher {
    client_id: String,
    token: String,
    next: u64,
    last_packet_id: u16,
    /// By the order in which they were begun.
    under_way: Vec<UnderWay>,
    acknowledged: BTreeSet<u64>,
    was_known: bool,
    may_begin: bool,
}

struct UnderWay {
    packet_id: u16,
    number: u64,
    /// The other side has it: PUBREL is due.
    received: bool,
}

fn qos_of(number: u64) -> QoS {
    if number.is_multiple_of(2) {
        QoS::ExactlyOnce
    } else {
        QoS::AtLeastOnce
    }
}

impl Publisher {
    pub(super) fn new(client_id: &str, token: &str) -> Self {
        Self {
            client_id: client_id.to_owned(),
            token: token.to_owned(),
            next: 1,
            last_packet_id: 0,
            under_way: Vec::new(),
            acknowledged: BTreeSet::new(),
            was_known: false,
            may_begin: true,
        }
    }

    pub(super) fn acknowledged(&self, qos: QoS) -> BTreeSet<u64> {
        let of_it = |number: &&u64| qos_of(**number) == qos;
        self.acknowledged.iter().filter(of_it).copied().collect()
    }

    /// Publishes until the connection is lost, or nothing is under way any more and nothing new may begin.
    pub(super) fn run(&mut self, address: SocketAddr) -> Ended {
        let Some((mut link, present)) = Link::open(address, &self.client_id, &self.token) else {
            return Ended::Lost;
        };
        if self.was_known && !present {
            return Ended::SessionGone;
        }
        if self.again(&mut link).is_none() {
            return Ended::Lost;
        }
        while self.step(&mut link).is_some() {}
        Ended::Lost
    }

    /// Says again what was not acknowledged [MQTT-4.4.0-1].
    fn again(&mut self, link: &mut Link) -> Option<()> {
        for it in &self.under_way {
            if it.received {
                link.send(&Packet::PubRel(ack(it.packet_id)))?;
            } else {
                link.send(&publish(it, true))?;
            }
        }
        Some(())
    }

    fn step(&mut self, link: &mut Link) -> Option<()> {
        while self.may_begin && self.under_way.len() < WINDOW {
            self.last_packet_id = self.last_packet_id % 200 + 1;
            if self
                .under_way
                .iter()
                .any(|it| it.packet_id == self.last_packet_id)
            {
                continue;
            }
            let it = UnderWay {
                packet_id: self.last_packet_id,
                number: self.next,
                received: false,
            };
            let packet = publish(&it, false);
            self.next += 1;
            self.under_way.push(it);
            link.send(&packet)?;
        }
        if self.under_way.is_empty() {
            return None;
        }
        match link.packet()? {
            Packet::PubAck(ack) => self.end(ack.packet_id),
            Packet::PubRec(rec) => {
                let it = self
                    .under_way
                    .iter_mut()
                    .find(|it| it.packet_id == rec.packet_id)
                    .expect("a PUBREC of something under way");
                it.received = true;
                self.acknowledged.insert(it.number);
                self.was_known = true;
                link.send(&Packet::PubRel(ack(rec.packet_id)))?;
            }
            Packet::PubComp(comp) => self.end(comp.packet_id),
            other => panic!("a {} for a publisher", other.packet_type_name()),
        }
        Some(())
    }

    fn end(&mut self, packet_id: u16) {
        let at = self
            .under_way
            .iter()
            .position(|it| it.packet_id == packet_id)
            .expect("an acknowledgement of something under way");
        self.acknowledged.insert(self.under_way.remove(at).number);
        self.was_known = true;
    }

    /// Ends what is under way.
    pub(super) fn finish(&mut self, address: SocketAddr) {
        self.may_begin = false;
        assert_eq!(self.run(address), Ended::Lost);
        assert!(
            self.under_way.is_empty(),
            "{} not acknowledged",
            self.under_way.len()
        );
    }
}

fn publish(it: &UnderWay, dup: bool) -> Packet {
    Packet::Publish(Publish {
        dup,
        qos: qos_of(it.number),
        retain: false,
        topic: TOPIC.into(),
        packet_id: it.packet_id,
        properties: None,
        payload: it.number.to_string().into(),
    })
}

/// Takes what comes, and counts.
pub(super) struct Subscriber {
    client_id: String,
    token: String,
    unreleased: BTreeSet<u16>,
    /// In the order in which they came first.
    came: Vec<u64>,
    times: BTreeMap<u64, usize>,
}

impl Subscriber {
    pub(super) fn new(client_id: &str, token: &str) -> Self {
        Self {
            client_id: client_id.to_owned(),
            token: token.to_owned(),
            unreleased: BTreeSet::new(),
            came: Vec::new(),
            times: BTreeMap::new(),
        }
    }

    pub(super) fn subscribe_and_leave(&self, address: SocketAddr) {
        let (mut link, _) = Link::open(address, &self.client_id, &self.token).expect("let in");
        link.subscribe(TOPIC, QoS::ExactlyOnce);
    }

    pub(super) fn run(&mut self, address: SocketAddr) -> Ended {
        self.run_until(address, None)
    }

    pub(super) fn run_for(&mut self, address: SocketAddr, time: Duration) {
        assert_eq!(self.run_until(address, Some(Instant::now() + time)), Ended::Lost);
    }

    fn run_until(&mut self, address: SocketAddr, deadline: Option<Instant>) -> Ended {
        let Some((mut link, present)) = Link::open(address, &self.client_id, &self.token) else {
            return Ended::Lost;
        };
        if !present {
            return Ended::SessionGone;
        }
        link.deadline = deadline;
        while self.step(&mut link).is_some() {}
        Ended::Lost
    }

    fn step(&mut self, link: &mut Link) -> Option<()> {
        match link.packet()? {
            Packet::Publish(publish) => {
                let repeated = publish.qos == QoS::ExactlyOnce && !self.unreleased.insert(publish.packet_id);
                if !repeated {
                    let text = str::from_utf8(&publish.payload).expect("a number");
                    let number = text.parse().expect("a number");
                    assert_eq!(publish.qos, qos_of(number));
                    let times = self.times.entry(number).or_default();
                    *times += 1;
                    if *times == 1 {
                        self.came.push(number);
                    }
                }
                link.send(&match publish.qos {
                    QoS::ExactlyOnce => Packet::PubRec(ack(publish.packet_id)),
                    _ => Packet::PubAck(ack(publish.packet_id)),
                })
            }
            Packet::PubRel(rel) => {
                self.unreleased.remove(&rel.packet_id);
                link.send(&Packet::PubComp(ack(rel.packet_id)))
            }
            other => panic!("a {} for a subscriber", other.packet_type_name()),
        }
    }

    pub(super) fn has_all(&self, publisher: &Publisher) -> bool {
        publisher
            .acknowledged
            .iter()
            .all(|number| self.times.contains_key(number))
    }

    pub(super) fn assert_has_all(&self, publisher: &Publisher) {
        let lost: Vec<_> = publisher
            .acknowledged
            .iter()
            .filter(|number| !self.times.contains_key(number))
            .collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }

    pub(super) fn assert_once_and_in_order(&self) {
        let twice: Vec<_> = self
            .times
            .iter()
            .filter(|(number, times)| qos_of(**number) == QoS::ExactlyOnce && **times > 1)
            .collect();
        assert!(
            twice.is_empty(),
            "QoS 2 messages that came again, with how often: {twice:?}"
        );
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let of_it: Vec<_> = self
                .came
                .iter()
                .filter(|number| qos_of(**number) == qos)
                .collect();
            assert!(of_it.is_sorted(), "{qos:?} out of order");
        }
    }
}
