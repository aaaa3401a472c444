//! A client that keeps to the rules and writes down what it is told. It reads only when it is asked to.

use std::collections::{BTreeSet, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use topics::packet::{
    Ack, Connect, ConnectProperties, Disconnect, Packet, ProtocolVersion, Publish, PublishProperties, QoS,
    ReasonCode, Will, decode,
};

use super::steps::{Connecting, Publication, Silence};

/// Only a broker that is wrong, or gone, lets a client wait for so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Client and server may both take aliases up to this one.
const ALIASES: [&str; 4] = ["a", "a/b", "b", "ä/€"];

/// Messages that only tell that everything before them has come. No wildcard of anybody else's finds them
/// [MQTT-4.7.2-1].
const MARKER: &str = "$marker/";

/// A message as a client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) identifiers: BTreeSet<u32>,
    pub(crate) properties: PublishProperties,
}

pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) version: ProtocolVersion,
    link: Option<Link>,
    last_packet_id: u16,
    pub(crate) silence: Option<Silence>,
    owed: Vec<Packet>,
    /// QoS 2, said to be received, and not released.
    unreleased: BTreeSet<u16>,
    marker: Bytes,
    /// What came since it was last taken.
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) events: Vec<String>,
}

struct Link {
    stream: TcpStream,
    input: BytesMut,
    aliases_from_server: HashMap<u16, ByteString>,
    aliases_to_server: BTreeSet<u16>,
}

impl Client {
    pub(crate) fn new(name: &str, version: ProtocolVersion) -> Self {
        Self {
            name: name.to_owned(),
            version,
            link: None,
            last_packet_id: 0,
            silence: None,
            owed: Vec::new(),
            unreleased: BTreeSet::new(),
            marker: Bytes::new(),
            deliveries: Vec::new(),
            events: Vec::new(),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    pub(crate) fn will_topic(&self) -> String {
        format!("will/{}", self.name)
    }

    pub(crate) fn marker_topic(&self) -> String {
        format!("{MARKER}{}", self.name)
    }

    /// Connects, taking over from its older connection if there is one.
    pub(crate) fn connect(&mut self, broker: SocketAddr, how: &Connecting, will_payload: &str) {
        let older = self.link.take();
        self.forget_handshakes();
        let stream = TcpStream::connect(broker).expect("the broker accepts");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        self.link = Some(Link {
            stream,
            input: BytesMut::new(),
            aliases_from_server: HashMap::new(),
            aliases_to_server: BTreeSet::new(),
        });
        let is_v5 = self.version == ProtocolVersion::V5;
        let will = how.will.as_ref().map(|what| Will {
            topic: self.will_topic().into(),
            payload: will_payload.to_owned().into(),
            qos: what.qos,
            retain: what.retain,
            delay_interval_s: 0,
            properties: is_v5.then(|| properties(what)).flatten(),
        });
        let mut properties = ConnectProperties::default();
        if is_v5 {
            properties.session_expiry_interval_s = (how.expiry_s > 0).then_some(how.expiry_s);
            properties.receive_maximum = how.receive_maximum;
            properties.topic_alias_maximum = how.topic_alias_maximum;
        }
        self.send(&Packet::Connect(Box::new(Connect {
            protocol: self.version,
            is_bridge: false,
            clean_start: how.clean_start,
            keep_alive_s: 0,
            client_id: self.name.as_str().into(),
            username: None,
            password: None,
            will,
            properties,
        })));
        let Some(Packet::ConnAck(connack)) = self.receive() else {
            panic!("{}: no CONNACK", self.name);
        };
        self.events.push(format!(
            "CONNACK {:?}, session present: {}",
            connack.reason, connack.session_present
        ));
        if let Some(older) = older {
            self.see_the_end_of(older);
        }
    }

    /// The older connection's end. MQTT 5 tells its reason there [MQTT-3.1.4-3]; Mosquitto does so only since
    /// a later version than most systems have.
    fn see_the_end_of(&mut self, older: Link) {
        let newer = self.link.replace(older);
        while self.receive().is_some() {}
        self.link = newer;
        // What came on the older one is acknowledged nowhere.
        self.forget_handshakes();
    }

    pub(crate) fn disconnect(&mut self, expiry_s: Option<u32>, with_will: bool) {
        let is_v5 = self.version == ProtocolVersion::V5;
        self.send(&Packet::Disconnect(Disconnect {
            reason: if is_v5 && with_will {
                ReasonCode::DisconnectWithWill
            } else {
                ReasonCode::Success
            },
            session_expiry_interval_s: expiry_s.filter(|_| is_v5),
            reason_string: None,
            user_properties: Vec::new(),
            server_reference: None,
        }));
        self.see_the_end();
    }

    /// Ends the connection without a goodbye, and waits until the broker knows.
    pub(crate) fn lose_connection(&mut self) {
        let link = self.link.as_ref().expect("a connection");
        link.stream.shutdown(Shutdown::Write).expect("a socket");
        self.see_the_end();
    }

    fn see_the_end(&mut self) {
        while self.receive().is_some() {}
        self.link = None;
        self.forget_handshakes();
    }

    fn forget_handshakes(&mut self) {
        self.silence = None;
        self.owed.clear();
        self.unreleased.clear();
    }

    /// Publishes and waits until the broker has done what there is to do.
    pub(crate) fn publish(&mut self, what: &Publication, payload: &str) {
        let publish = self.publish_packet(what, payload);
        let packet_id = publish.packet_id;
        let qos = publish.qos;
        self.send(&Packet::Publish(publish));
        if qos == QoS::AtMostOnce {
            self.ping();
        } else if self.acknowledged(packet_id) && qos == QoS::ExactlyOnce {
            self.release(packet_id);
        }
    }

    pub(crate) fn publish_marker(&mut self, topic: &str, payload: &str) {
        let packet_id = self.next_packet_id();
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: topic.into(),
            packet_id,
            properties: None,
            payload: payload.to_owned().into(),
        }));
        self.acknowledged(packet_id);
    }

    /// Publishes, and loses the connection when the first acknowledgement is there. Gives back what must be
    /// said again.
    pub(crate) fn publish_and_lose_connection(&mut self, what: &Publication, payload: &str) -> Publish {
        let publish = self.publish_packet(
            &Publication {
                by_alias: false,
                ..what.clone()
            },
            payload,
        );
        self.send(&Packet::Publish(publish.clone()));
        self.acknowledged(publish.packet_id);
        self.lose_connection();
        Publish { dup: true, ..publish }
    }

    pub(crate) fn publish_again(&mut self, publish: Publish) {
        let (packet_id, qos) = (publish.packet_id, publish.qos);
        self.send(&Packet::Publish(publish));
        if self.acknowledged(packet_id) && qos == QoS::ExactlyOnce {
            self.release(packet_id);
        }
    }

    fn release(&mut self, packet_id: u16) {
        self.send(&Packet::PubRel(Ack::new(packet_id, ReasonCode::Success)));
        self.acknowledged(packet_id);
    }

    fn publish_packet(&mut self, what: &Publication, payload: &str) -> Publish {
        let is_v5 = self.version == ProtocolVersion::V5;
        let mut topic = ByteString::from(what.topic);
        let mut properties = is_v5.then(|| properties(what)).flatten();
        let alias = ALIASES.iter().position(|alias| *alias == what.topic);
        if let (true, true, Some(at)) = (is_v5, what.by_alias, alias) {
            let alias = 1 + at as u16;
            properties.get_or_insert_default().topic_alias = Some(alias);
            let link = self.link.as_mut().expect("a connection");
            if !link.aliases_to_server.insert(alias) {
                topic = ByteString::new();
            }
        }
        Publish {
            dup: false,
            qos: what.qos,
            retain: what.retain,
            topic,
            packet_id: if what.qos == QoS::AtMostOnce {
                0
            } else {
                self.next_packet_id()
            },
            properties,
            payload: if what.is_empty {
                Bytes::new()
            } else {
                payload.to_owned().into()
            },
        }
    }

    pub(crate) fn next_packet_id(&mut self) -> u16 {
        self.last_packet_id = self.last_packet_id % 60_000 + 1;
        self.last_packet_id
    }

    /// Packets are handled in their order, and so what was said before is done when this is answered.
    pub(crate) fn ping(&mut self) {
        self.send(&Packet::PingReq);
        while self.expect_packet() != Packet::PingResp {}
    }

    /// Waits for the acknowledgement of a packet; false where it is a refusal.
    fn acknowledged(&mut self, packet_id: u16) -> bool {
        loop {
            if let Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) = self.expect_packet() {
                assert_eq!(
                    ack.packet_id, packet_id,
                    "{}: an acknowledgement out of turn",
                    self.name
                );
                let is_refusal = ack.reason as u8 >= 0x80;
                if is_refusal {
                    self.events.push(format!("refused: {:?}", ack.reason));
                }
                return !is_refusal;
            }
        }
    }

    /// Sends what is answered by one packet that `is_answer` knows, and writes down what that says.
    pub(crate) fn ask(&mut self, packet: &Packet, answer: impl Fn(Packet) -> Option<String>) {
        self.send(packet);
        loop {
            if let Some(said) = answer(self.expect_packet()) {
                self.events.push(said);
                return;
            }
        }
    }

    /// Acknowledges what it owes.
    pub(crate) fn speak_again(&mut self) {
        self.silence = None;
        for packet in std::mem::take(&mut self.owed) {
            self.answer(packet);
        }
    }

    /// Reads until the marker with this payload, and until no handshake is left open that the broker could go on
    /// with.
    pub(crate) fn read_to_marker(&mut self, payload: &str) {
        while self.marker != payload.as_bytes() || !self.unreleased.is_empty() {
            self.expect_packet();
        }
    }

    /// Reads until a message on this topic with this payload was there.
    pub(crate) fn read_to_message(&mut self, topic: &str, payload: &str) {
        while !self
            .deliveries
            .iter()
            .any(|d| d.topic == topic && d.payload == payload.as_bytes())
        {
            self.expect_packet();
        }
    }

    fn expect_packet(&mut self) -> Packet {
        let name = self.name.clone();
        self.receive()
            .unwrap_or_else(|| panic!("{name}: the broker closed the connection"))
    }

    /// The next packet; a message or its release is answered as it should be. None at the end.
    fn receive(&mut self) -> Option<Packet> {
        let packet = self.read()?;
        match &packet {
            Packet::Publish(publish) => self.take(publish.clone()),
            Packet::PubRel(ack) => {
                self.unreleased.remove(&ack.packet_id);
                let done = Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success));
                if self.silence.is_some() {
                    self.owed.push(done)
                } else {
                    self.answer(done)
                }
            }
            _ => {}
        }
        Some(packet)
    }

    fn take(&mut self, publish: Publish) {
        let answer = match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(Packet::PubAck(Ack::new(publish.packet_id, ReasonCode::Success))),
            QoS::ExactlyOnce => Some(Packet::PubRec(Ack::new(publish.packet_id, ReasonCode::Success))),
        };
        if let Some(answer) = answer {
            match (self.silence, publish.qos) {
                (None, _) | (Some(Silence::AfterReceived), QoS::ExactlyOnce) => self.answer(answer),
                _ => self.owed.push(answer),
            }
        }
        let mut properties = publish
            .properties
            .map_or_else(Default::default, |properties| *properties);
        let link = self.link.as_mut().expect("a connection");
        let topic = match properties.topic_alias.take() {
            Some(alias) if publish.topic.is_empty() => link.aliases_from_server[&alias].clone(),
            Some(alias) => {
                link.aliases_from_server.insert(alias, publish.topic.clone());
                publish.topic
            }
            None => publish.topic,
        };
        if topic.starts_with(MARKER) {
            self.marker = publish.payload;
            return;
        }
        self.deliveries.push(Delivery {
            topic: topic.to_string(),
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            dup: publish.dup,
            identifiers: std::mem::take(&mut properties.subscription_identifiers)
                .into_iter()
                .collect(),
            properties,
        });
    }

    fn answer(&mut self, packet: Packet) {
        if let Packet::PubRec(ack) = &packet {
            self.unreleased.insert(ack.packet_id);
        }
        self.send(&packet);
    }

    pub(crate) fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        packet
            .encode(self.version, &mut bytes)
            .expect("a packet that can be written");
        let link = self.link.as_mut().expect("a connection");
        // The broker may have ended the connection; whoever reads sees it.
        let _ended = link.stream.write_all(&bytes);
    }

    fn read(&mut self) -> Option<Packet> {
        let link = self.link.as_mut().expect("a connection");
        loop {
            match decode(&mut link.input, Some(self.version), 1 << 20) {
                Ok(Some(packet)) => return Some(packet),
                Ok(None) => {}
                Err(error) => panic!("{}: the broker sent what cannot be read: {error}", self.name),
            }
            let mut bytes = [0; 4096];
            match link.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => link.input.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{}: nothing came: {error}", self.name),
            }
        }
    }
}

/// The properties of a publication, as its bits say.
fn properties(what: &Publication) -> Option<Box<PublishProperties>> {
    let bit = |place: usize| what.properties >> place & 1 == 1;
    let properties = PublishProperties {
        payload_format_is_utf8: bit(0).then_some(true),
        message_expiry_interval_s: bit(1).then_some(900),
        topic_alias: None,
        response_topic: bit(2).then(|| "answers/here".into()),
        correlation_data: bit(3).then(|| Bytes::from_static(b"\x00\xFF")),
        subscription_identifiers: Vec::new(),
        user_properties: if bit(4) {
            vec![
                ("b".into(), "1".into()),
                ("a".into(), "2".into()),
                ("b".into(), "3".into()),
            ]
        } else {
            Vec::new()
        },
        content_type: bit(5).then(|| "text/plain".into()),
    };
    (!properties.is_empty()).then(|| Box::new(properties))
}
