//! Whatever a client sends and whenever its connection goes, the session neither panics nor says
//! anything after the end.

use bytestring::ByteString;
use proptest::collection::vec;
use proptest::prelude::*;
use topics::packet::{
    Ack, Auth, Disconnect, Packet, ProtocolVersion, QoS, ReasonCode, RetainHandling, SubscriptionOptions,
    Unsubscribe,
};
use topics::session::{Detach, Effect, SessionConfig};

use crate::harness::{
    Desk, aliased, delivery, expiring, lasting, packed, publish, subscribe, v5, v311, with_will,
};

/// A deed by its number, with two numbers to choose by.
type Deed = (u8, u8, u8);

fn packet(kind: u8, number: u8) -> Packet {
    let packet_id = u16::from(number % 6) + 1;
    let ack = |reason| Ack::new(packet_id, reason);
    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(number % 3)];
    let goodbye = |reason, expiry| {
        let mut disconnect = Disconnect::new(reason);
        disconnect.session_expiry_interval_s = expiry;
        Packet::Disconnect(disconnect)
    };
    match kind % 20 {
        0..=3 => Packet::Publish(publish(
            "a/b",
            qos,
            if qos == QoS::AtMostOnce { 0 } else { packet_id },
        )),
        4 => Packet::Publish(publish("", QoS::AtMostOnce, 0)),
        5 => aliased(["", "a"][usize::from(number % 2)], u16::from(number / 2)),
        6 => Packet::PubAck(ack(ReasonCode::Success)),
        7 => Packet::PubRec(ack(ReasonCode::Success)),
        8 => Packet::PubRec(ack(ReasonCode::QuotaExceeded)),
        9 => Packet::PubRel(ack(ReasonCode::Success)),
        10 => Packet::PubComp(ack(ReasonCode::Success)),
        11 | 12 => {
            let filter = ["a/b", "#", "a/+", "x#", "$share/g/a", "$share//", "+/+"][usize::from(number % 7)];
            let retain_handling = RetainHandling::SendIfNew;
            subscribe(
                filter,
                SubscriptionOptions {
                    retain_handling,
                    ..SubscriptionOptions::new(qos)
                },
            )
        }
        13 => Packet::Unsubscribe(Unsubscribe {
            packet_id,
            user_properties: Vec::new(),
            filters: vec![ByteString::from(
                ["a/b", "nothing", "x#"][usize::from(number % 3)],
            )],
        }),
        14 => Packet::PingReq,
        15 => goodbye(ReasonCode::Success, None),
        16 => goodbye(ReasonCode::DisconnectWithWill, Some(u32::from(number % 4) * 30)),
        17 => Packet::Connect(Box::new(v5())),
        18 => Packet::ConnAck(Box::default()),
        _ => Packet::Auth(Box::new(Auth {
            reason: ReasonCode::ReAuthenticate,
            authentication_method: [None, Some("method".into()), Some("other".into())]
                [usize::from(number % 3)]
            .clone(),
            authentication_data: (number > 60).then(|| "data".into()),
            reason_string: None,
            user_properties: Vec::new(),
        })),
    }
}

/// Follows what a session says and holds it to the rules of effects.
struct Watch {
    closed: bool,
    /// What the client speaks and takes.
    version: ProtocolVersion,
    max_packet_bytes: usize,
    /// Answers that the driver owes, given late on purpose.
    owed: Vec<Effect>,
}

impl Watch {
    fn look(&mut self, desk: &Desk, effects: Vec<Effect>) {
        for effect in effects {
            match packed(effect) {
                Effect::Send(packet) => {
                    assert!(!self.closed, "a packet after the end");
                    let version = desk.session.version().unwrap_or(self.version);
                    assert!(
                        packet.encoded_len(version) <= self.max_packet_bytes,
                        "more than {} bytes: {packet:?}",
                        self.max_packet_bytes
                    );
                }
                Effect::Close => {
                    assert!(!self.closed, "closed twice");
                    self.closed = true;
                }
                Effect::End => {
                    assert!(!desk.session.is_connected(), "ended under a connection");
                    assert_eq!(desk.session.waiting() + desk.session.subscriptions().count(), 0);
                    assert_eq!(
                        desk.session.next_timeout(),
                        None,
                        "an ended session wants to be woken"
                    );
                }
                Effect::Route { packet_id: 0, .. } => {}
                owed @ (Effect::Route { .. }
                | Effect::Subscribe { .. }
                | Effect::Unsubscribe { .. }
                | Effect::Authenticate { .. }) => {
                    self.owed.push(owed);
                }
                Effect::Forget(_)
                | Effect::Forward(_)
                | Effect::PublishWill(_)
                | Effect::HandOn(_)
                | Effect::Dropped(_)
                | Effect::Pause(_) => {}
            }
        }
    }

    fn owes_a_subscription(&self) -> bool {
        self.owed
            .iter()
            .any(|owed| matches!(owed, Effect::Subscribe { .. }))
    }

    fn answer(&mut self, desk: &mut Desk, number: u8) {
        if self.owed.is_empty() {
            return;
        }
        let reason = [ReasonCode::Success, ReasonCode::QuotaExceeded][usize::from(number % 2)];
        let mut effects = Vec::new();
        match self.owed.remove(0) {
            Effect::Route { packet_id, .. } => desk.session.routed(packet_id, reason, &mut effects),
            Effect::Subscribe { packet_id, wanted } => {
                let reasons = vec![reason; wanted.len()];
                desk.session.subscribed(packet_id, &wanted, reasons, &mut effects);
            }
            Effect::Unsubscribe { packet_id, filters } => {
                desk.session.unsubscribed(packet_id, &filters, &mut effects);
            }
            Effect::Authenticate { .. } => {
                let verdict = if reason.is_error() { Err(reason) } else { Ok(()) };
                desk.session.authenticated(verdict, &mut effects);
            }
            _ => {}
        }
        self.look(desk, effects);
    }
}

fn act(desk: &mut Desk, watch: &mut Watch, (deed, kind, number): Deed) {
    let effects = match deed % 16 {
        0 | 1 => {
            let mut connect = [v5(), lasting(60), v311(true), v311(false)][usize::from(kind % 4)].clone();
            connect.keep_alive_s = u16::from(number % 3) * 20;
            if connect.protocol == topics::packet::ProtocolVersion::V5 {
                connect.properties.receive_maximum = [None, Some(1)][usize::from(number % 2)];
                connect.properties.maximum_packet_size = [None, Some(3), Some(40)][usize::from(number % 3)];
                connect.properties.topic_alias_maximum = [None, Some(1)][usize::from(number / 2 % 2)];
                connect.properties.request_problem_information =
                    [None, Some(true), Some(false)][usize::from(number / 4 % 3)];
                connect.properties.authentication_method = (number & 32 != 0).then(|| "method".into());
            }
            if number & 8 != 0 {
                connect = with_will(connect, u32::from(number));
            }
            // Take-over without a detach now and then, as a careless driver would.
            if number & 16 != 0 {
                let effects = desk.detach(Detach::TakenOver);
                watch.look(desk, effects);
            }
            watch.closed = false;
            watch.version = connect.protocol;
            let most = connect.properties.maximum_packet_size;
            watch.max_packet_bytes = most.map_or(usize::MAX, |bytes| bytes as usize);
            desk.attach(&connect)
        }
        2 => desk.lose(),
        3 => desk.pass(f64::from(number)),
        4 => {
            let mut effects = Vec::new();
            desk.session.fail(ReasonCode::MalformedPacket, &mut effects);
            effects
        }
        5 => desk.deliver(expiring("short", desk.now, u64::from(number % 40))),
        6 | 7 => {
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(number % 3)];
            desk.deliver(delivery(&"x".repeat(usize::from(kind)), qos))
        }
        8 | 9 => return watch.answer(desk, number),
        // As the driver does: behind a SUBSCRIBE without its answer the next packets wait.
        _ if watch.owes_a_subscription() => return watch.answer(desk, number),
        _ => desk.receive(packet(kind, number)),
    };
    if !desk.session.is_connected() {
        watch.closed = true;
    }
    watch.look(desk, effects);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_conversation_makes_a_session_panic_or_speak_after_the_end(
        deeds in vec(any::<Deed>(), 1..120)
    ) {
        let config = SessionConfig {
            receive_maximum: 3,
            max_inflight: 3,
            max_queued_messages: 4,
            max_subscriptions: 2,
            max_session_expiry_s: 100,
            ..SessionConfig::default()
        };
        let mut desk = Desk::with(config);
        // Nothing may be sent before the first connection either.
        let mut watch = Watch {
            closed: true,
            version: ProtocolVersion::V5,
            max_packet_bytes: usize::MAX,
            owed: Vec::new(),
        };
        for deed in deeds {
            act(&mut desk, &mut watch, deed);
            prop_assert!(desk.session.waiting() <= 3 + 4);
            prop_assert!(desk.session.subscriptions().count() <= 2);
        }
    }
}
