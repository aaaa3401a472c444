//! One session in the hands of a test: virtual time, and packets by the word.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::{
    Ack, ConnAck, Connect, ConnectProperties, Disconnect, Packet, ProtocolVersion, Publish,
    PublishProperties, QoS, ReasonCode, Subscribe, SubscribeFilter, SubscriptionOptions, Will,
};
use topics::session::{Delivery, Detach, Effect, Session, SessionConfig, Welcome};

pub(crate) struct Desk {
    pub(crate) session: Session,
    pub(crate) now: Instant,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self::with(SessionConfig::default())
    }

    pub(crate) fn with(config: SessionConfig) -> Self {
        let session = Session::new(Arc::new(config), ByteString::from_static("client"));
        Self {
            session,
            now: Instant::now(),
        }
    }

    pub(crate) fn attach(&mut self, connect: &Connect) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.session
            .attach(self.now, connect, Welcome::default(), &mut effects)
            .expect("a CONNECT in order");
        effects
    }

    /// Attaches, and tells whether an earlier session goes on.
    pub(crate) fn session_present(&mut self, connect: &Connect) -> bool {
        connack(&self.attach(connect)).session_present
    }

    pub(crate) fn receive(&mut self, packet: Packet) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.session.receive(self.now, packet, &mut effects);
        effects
    }

    pub(crate) fn deliver(&mut self, delivery: Delivery) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.session.deliver(self.now, delivery, &mut effects);
        effects
    }

    pub(crate) fn routed(&mut self, packet_id: u16, reason: ReasonCode) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.session.routed(packet_id, reason, &mut effects);
        effects
    }

    pub(crate) fn lose(&mut self) -> Vec<Effect> {
        self.detach(Detach::Lost)
    }

    pub(crate) fn detach(&mut self, cause: Detach) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.session.detach(self.now, cause, &mut effects);
        effects
    }

    /// The client says goodbye, and the connection goes.
    pub(crate) fn disconnect(&mut self, disconnect: Disconnect) -> Vec<Effect> {
        let mut effects = self.receive(Packet::Disconnect(disconnect));
        effects.extend(self.lose());
        effects
    }

    /// Lets time pass, stopping wherever the session asked to be woken.
    pub(crate) fn pass(&mut self, seconds: f64) -> Vec<Effect> {
        let end = self.now + Duration::from_secs_f64(seconds);
        let mut effects = Vec::new();
        while let Some(at) = self.session.next_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            let before = effects.len();
            self.session.tick(self.now, &mut effects);
            assert!(
                effects.len() > before || self.session.next_timeout().is_none_or(|next| next > self.now),
                "a timeout that does nothing comes back at once"
            );
        }
        self.now = end;
        effects
    }

    /// Subscribes as the driver would.
    pub(crate) fn subscribe(&mut self, filter: &str) -> Vec<Effect> {
        let mut effects = self.receive(subscribe(filter, SubscriptionOptions::new(QoS::ExactlyOnce)));
        let at = effects
            .iter()
            .position(|e| matches!(e, Effect::Subscribe { .. }))
            .expect("a subscription");
        let Effect::Subscribe { packet_id, wanted } = effects.remove(at) else {
            unreachable!()
        };
        let reasons = wanted.iter().map(|w| {
            w.filter
                .as_ref()
                .err()
                .copied()
                .unwrap_or(ReasonCode::GrantedQoS2)
        });
        self.session
            .subscribed(packet_id, &wanted, reasons.collect(), &mut effects);
        effects
    }
}

pub(crate) fn v5() -> Connect {
    Connect {
        protocol: ProtocolVersion::V5,
        is_bridge: false,
        clean_start: true,
        keep_alive_s: 0,
        client_id: ByteString::from_static("client"),
        username: None,
        password: None,
        will: None,
        properties: ConnectProperties::default(),
    }
}

/// A client that wants to find its session again for `expiry_s` seconds.
pub(crate) fn lasting(expiry_s: u32) -> Connect {
    let mut connect = v5();
    connect.clean_start = false;
    connect.properties.session_expiry_interval_s = Some(expiry_s);
    connect
}

pub(crate) fn v311(clean_session: bool) -> Connect {
    Connect {
        protocol: ProtocolVersion::V311,
        clean_start: clean_session,
        ..v5()
    }
}

pub(crate) fn with_will(mut connect: Connect, delay_s: u32) -> Connect {
    connect.will = Some(Will {
        topic: ByteString::from_static("will"),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_interval_s: delay_s,
        properties: None,
    });
    connect
}

pub(crate) fn subscribe(filter: &str, options: SubscriptionOptions) -> Packet {
    Packet::Subscribe(Subscribe {
        packet_id: 7,
        subscription_identifier: None,
        user_properties: Vec::new(),
        filters: vec![SubscribeFilter {
            filter: filter.into(),
            options,
        }],
    })
}

pub(crate) fn publish(topic: &str, qos: QoS, packet_id: u16) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: topic.into(),
        packet_id,
        properties: None,
        payload: Bytes::from_static(b"payload"),
    }
}

pub(crate) fn aliased(topic: &str, alias: u16) -> Packet {
    let properties = PublishProperties {
        topic_alias: Some(alias),
        ..PublishProperties::default()
    };
    Packet::Publish(Publish {
        properties: Some(Box::new(properties)),
        ..publish(topic, QoS::AtMostOnce, 0)
    })
}

pub(crate) fn delivery(payload: &str, qos: QoS) -> Delivery {
    let topic = TopicName::parse("topic".into()).unwrap();
    let message = Arc::new(Message::new(topic, payload.to_owned(), qos));
    Delivery {
        message,
        qos,
        retain: false,
        subscription_identifiers: Vec::new(),
        share: None,
        kept: None,
    }
}

/// A delivery of QoS 0 on this topic.
pub(crate) fn on(topic: &str, payload: &str) -> Delivery {
    let topic = TopicName::parse(topic.into()).unwrap();
    let message = Message::new(topic, payload.to_owned(), QoS::AtMostOnce);
    Delivery {
        message: Arc::new(message),
        ..delivery("", QoS::AtMostOnce)
    }
}

/// A delivery that came by a shared subscription.
pub(crate) fn shared(payload: &str, qos: QoS) -> Delivery {
    Delivery {
        share: Some(Arc::new("$share/g/topic".parse().unwrap())),
        kept: None,
        ..delivery(payload, qos)
    }
}

/// A delivery of QoS 1 that is of no use after some seconds.
pub(crate) fn expiring(payload: &str, now: Instant, seconds: u64) -> Delivery {
    let mut delivery = delivery(payload, QoS::AtLeastOnce);
    let mut message = (*delivery.message).clone();
    message.expires_at = Some(now + Duration::from_secs(seconds));
    delivery.message = Arc::new(message);
    delivery
}

pub(crate) fn puback(packet_id: u16) -> Packet {
    Packet::PubAck(Ack::new(packet_id, ReasonCode::Success))
}

pub(crate) fn pubrec(packet_id: u16) -> Packet {
    Packet::PubRec(Ack::new(packet_id, ReasonCode::Success))
}

pub(crate) fn pubrel(packet_id: u16) -> Packet {
    Packet::PubRel(Ack::new(packet_id, ReasonCode::Success))
}

pub(crate) fn pubcomp(packet_id: u16) -> Packet {
    Packet::PubComp(Ack::new(packet_id, ReasonCode::Success))
}

pub(crate) fn sent(effects: &[Effect]) -> Vec<Packet> {
    effects
        .iter()
        .filter_map(|e| match e {
            Effect::Send(packet) => Some(packet.clone()),
            Effect::Forward(message) => Some(message.to_packet()),
            _ => None,
        })
        .collect()
}

/// A message that goes as it is, as the packet that it goes in; anything else unchanged.
pub(crate) fn packed(effect: Effect) -> Effect {
    match effect {
        Effect::Forward(message) => Effect::Send(message.to_packet()),
        other => other,
    }
}

/// The payloads sent, each with its packet identifier and a star when marked as a repetition.
pub(crate) fn payloads(effects: &[Effect]) -> Vec<String> {
    let publishes = sent(effects).into_iter().filter_map(|packet| match packet {
        Packet::Publish(publish) => Some(publish),
        _ => None,
    });
    publishes
        .map(|p| {
            let payload = String::from_utf8_lossy(&p.payload);
            format!("{payload}:{}{}", p.packet_id, if p.dup { "*" } else { "" })
        })
        .collect()
}

pub(crate) fn connack(effects: &[Effect]) -> ConnAck {
    let found = sent(effects).into_iter().find_map(|packet| match packet {
        Packet::ConnAck(connack) => Some(connack),
        _ => None,
    });
    *found.expect("a CONNACK")
}

/// The reason of a DISCONNECT that is followed by the end of the connection.
pub(crate) fn refusal(effects: &[Effect]) -> Option<ReasonCode> {
    match effects {
        [.., Effect::Send(Packet::Disconnect(disconnect)), Effect::Close] => Some(disconnect.reason),
        _ => None,
    }
}

pub(crate) fn closes(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Close))
}

pub(crate) fn ends(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::End))
}

pub(crate) fn wills(effects: &[Effect]) -> usize {
    effects
        .iter()
        .filter(|effect| matches!(effect, Effect::PublishWill(_)))
        .count()
}
