//! Messages from the client: both handshakes from the receiver's side, aliases, quotas
//! [MQTT5 3.3.2.3.4, 3.3.4, 4.3].

use topics::packet::{Packet, Publish, PublishProperties, QoS, ReasonCode};
use topics::session::{Effect, SessionConfig};

use crate::harness::{Desk, aliased, lasting, publish, pubrel, refusal, sent, v5, v311};

fn routes(effects: &[Effect]) -> Vec<&str> {
    let messages = effects.iter().filter_map(|e| match e {
        Effect::Route { message, .. } => Some(message.topic.as_str()),
        _ => None,
    });
    messages.collect()
}

#[test]
fn a_publish_is_acknowledged_when_it_is_in_safe_hands() {
    let mut desk = Desk::new();
    desk.attach(&v5());
    let effects = desk.receive(Packet::Publish(publish("a", QoS::AtLeastOnce, 5)));
    assert_eq!((routes(&effects), sent(&effects).len()), (vec!["a"], 0));
    let effects = desk.routed(5, ReasonCode::NoMatchingSubscribers);
    assert!(matches!(&sent(&effects)[..], [Packet::PubAck(ack)]
        if ack.packet_id == 5 && ack.reason == ReasonCode::NoMatchingSubscribers));
}

#[test]
fn before_v5_every_publish_is_acknowledged_without_a_reason() {
    let mut desk = Desk::new();
    desk.attach(&v311(true));
    desk.receive(Packet::Publish(publish("a", QoS::AtLeastOnce, 5)));
    let effects = desk.routed(5, ReasonCode::NotAuthorized);
    assert!(matches!(&sent(&effects)[..], [Packet::PubAck(ack)] if ack.reason == ReasonCode::Success));
}

#[test]
fn a_repeated_qos_2_publish_is_routed_once() {
    let mut desk = Desk::new();
    desk.attach(&lasting(60));
    assert_eq!(
        routes(&desk.receive(Packet::Publish(publish("a", QoS::ExactlyOnce, 5)))).len(),
        1
    );
    desk.routed(5, ReasonCode::Success);
    desk.lose();
    desk.attach(&lasting(60));
    let repeated = Publish {
        dup: true,
        ..publish("a", QoS::ExactlyOnce, 5)
    };
    let effects = desk.receive(Packet::Publish(repeated));
    assert!(
        matches!(effects[..], [Effect::Send(Packet::PubRec(_))]),
        "{effects:?}"
    );
    assert!(matches!(sent(&desk.receive(pubrel(5)))[..], [Packet::PubComp(_)]));
    assert_eq!(
        routes(&desk.receive(Packet::Publish(publish("b", QoS::ExactlyOnce, 5)))),
        ["b"]
    );
}

#[test]
fn a_qos_2_publish_whose_routing_outlived_the_connection_is_known_as_repeated() {
    let mut desk = Desk::new();
    desk.attach(&lasting(60));
    desk.receive(Packet::Publish(publish("a", QoS::ExactlyOnce, 5)));
    desk.lose();
    assert!(
        desk.routed(5, ReasonCode::Success).is_empty(),
        "nobody is there to be told"
    );
    desk.attach(&lasting(60));
    let repeated = Publish {
        dup: true,
        ..publish("a", QoS::ExactlyOnce, 5)
    };
    let effects = desk.receive(Packet::Publish(repeated));
    assert!(
        matches!(effects[..], [Effect::Send(Packet::PubRec(_))]),
        "{effects:?}"
    );
}

#[test]
fn a_refused_qos_2_publish_may_be_sent_anew() {
    let mut desk = Desk::new();
    desk.attach(&v5());
    desk.receive(Packet::Publish(publish("a", QoS::ExactlyOnce, 5)));
    let effects = desk.routed(5, ReasonCode::QuotaExceeded);
    assert!(matches!(&sent(&effects)[..], [Packet::PubRec(ack)] if ack.reason == ReasonCode::QuotaExceeded));
    assert_eq!(
        routes(&desk.receive(Packet::Publish(publish("a", QoS::ExactlyOnce, 5)))).len(),
        1
    );
}

#[test]
fn a_client_that_ignores_the_receive_maximum_is_told_and_parted_with() {
    let config = SessionConfig {
        receive_maximum: 2,
        ..SessionConfig::default()
    };
    let mut desk = Desk::with(config.clone());
    desk.attach(&v5());
    for packet_id in 1..=2 {
        desk.receive(Packet::Publish(publish("a", QoS::ExactlyOnce, packet_id)));
        desk.routed(packet_id, ReasonCode::Success);
    }
    let effects = desk.receive(Packet::Publish(publish("a", QoS::ExactlyOnce, 3)));
    assert_eq!(refusal(&effects), Some(ReasonCode::ReceiveMaximumExceeded));

    let mut desk = Desk::with(config);
    desk.attach(&v311(true));
    for packet_id in 1..=10 {
        let effects = desk.receive(Packet::Publish(publish("a", QoS::ExactlyOnce, packet_id)));
        assert_eq!(routes(&effects).len(), 1, "before 5.0 nobody told it of a limit");
    }
}

#[test]
fn the_receive_maximum_begins_anew_with_each_connection() {
    let mut desk = Desk::with(SessionConfig {
        receive_maximum: 2,
        ..SessionConfig::default()
    });
    for round in 0..3 {
        desk.attach(&lasting(60));
        for packet_id in 1..=2 {
            let effects = desk.receive(Packet::Publish(publish(
                "a",
                QoS::ExactlyOnce,
                round * 2 + packet_id,
            )));
            assert_eq!(routes(&effects).len(), 1, "round {round}");
            desk.routed(round * 2 + packet_id, ReasonCode::Success);
        }
        desk.lose();
    }
}

#[test]
fn an_alias_stands_for_its_topic_until_the_connection_ends() {
    let mut desk = Desk::new();
    desk.attach(&lasting(60));
    assert_eq!(routes(&desk.receive(aliased("a", 1))), ["a"]);
    assert_eq!(routes(&desk.receive(aliased("b", 10))), ["b"]);
    assert_eq!(routes(&desk.receive(aliased("", 1))), ["a"]);
    assert_eq!(
        routes(&desk.receive(aliased("c", 1))),
        ["c"],
        "and may be given another topic"
    );
    assert_eq!(routes(&desk.receive(aliased("", 1))), ["c"]);
    desk.lose();
    desk.attach(&lasting(60));
    assert_eq!(
        refusal(&desk.receive(aliased("", 1))),
        Some(ReasonCode::ProtocolError)
    );
}

#[test]
fn an_alias_above_the_maximum_is_refused() {
    let mut desk = Desk::new();
    desk.attach(&v5());
    assert_eq!(
        refusal(&desk.receive(aliased("a", 11))),
        Some(ReasonCode::TopicAliasInvalid)
    );
}

#[test]
fn a_subscription_identifier_from_a_client_is_a_protocol_error() {
    let mut desk = Desk::new();
    desk.attach(&v5());
    let properties = PublishProperties {
        subscription_identifiers: vec![1],
        ..PublishProperties::default()
    };
    let packet = Publish {
        properties: Some(Box::new(properties)),
        ..publish("a", QoS::AtMostOnce, 0)
    };
    assert_eq!(
        refusal(&desk.receive(Packet::Publish(packet))),
        Some(ReasonCode::ProtocolError)
    );
}

#[test]
fn a_pubrel_before_its_pubrec_is_a_protocol_error() {
    let mut desk = Desk::new();
    desk.attach(&v5());
    desk.receive(Packet::Publish(publish("a", QoS::ExactlyOnce, 5)));
    assert_eq!(refusal(&desk.receive(pubrel(5))), Some(ReasonCode::ProtocolError));
}
