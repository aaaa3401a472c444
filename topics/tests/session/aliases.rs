//! Topic aliases that we give [MQTT5 3.1.2.11.5, 3.3.2.3.4].

use topics::packet::{Connect, Packet, ProtocolVersion, QoS};
use topics::session::{Effect, SessionConfig};

use crate::harness::{Desk, closes, delivery, lasting, on, puback, sent, v5, v311};

fn taking(aliases: u16, mut connect: Connect) -> Connect {
    connect.properties.topic_alias_maximum = Some(aliases);
    connect
}

/// Topic and alias of each PUBLISH.
fn topics(effects: &[Effect]) -> Vec<(String, Option<u16>)> {
    let publishes = sent(effects).into_iter().filter_map(|packet| match packet {
        Packet::Publish(publish) => Some(publish),
        _ => None,
    });
    publishes
        .map(|p| {
            let alias = p.properties.as_ref().and_then(|p| p.topic_alias);
            (p.topic.to_string(), alias)
        })
        .collect()
}

fn one(desk: &mut Desk, topic: &str) -> (String, Option<u16>) {
    topics(&desk.deliver(on(topic, "x"))).remove(0)
}

#[test]
fn a_topic_is_sent_once_with_its_alias_and_then_as_its_alias() {
    let mut desk = Desk::new();
    desk.attach(&taking(2, v5()));
    assert_eq!(one(&mut desk, "topic/a"), ("topic/a".into(), Some(1)));
    assert_eq!(one(&mut desk, "topic/b"), ("topic/b".into(), Some(2)));
    assert_eq!(one(&mut desk, "topic/a"), (String::new(), Some(1)));
    assert_eq!(one(&mut desk, "topic/b"), (String::new(), Some(2)));
    assert_eq!(
        one(&mut desk, "topic/c"),
        ("topic/c".into(), None),
        "more than the client takes are not given"
    );
    assert_eq!(one(&mut desk, "topic/a"), (String::new(), Some(1)));
}

#[test]
fn a_client_that_takes_none_is_given_none() {
    for connect in [v5(), taking(0, v5()), taking(9, v311(true))] {
        let mut desk = Desk::new();
        desk.attach(&connect);
        for _ in 0..2 {
            assert_eq!(one(&mut desk, "topic/a"), ("topic/a".into(), None));
        }
    }
}

#[test]
fn aliases_end_with_their_connection_and_what_is_sent_again_has_its_topic() {
    let mut desk = Desk::new();
    desk.attach(&taking(5, lasting(60)));
    for _ in 0..2 {
        desk.deliver(delivery("a", QoS::AtLeastOnce));
    }
    desk.lose();
    let effects = desk.attach(&taking(5, lasting(60)));
    assert_eq!(
        topics(&effects),
        [("topic".into(), Some(1)), (String::new(), Some(1))],
        "both are sent again"
    );
    desk.lose();
    let effects = desk.attach(&lasting(60));
    assert_eq!(topics(&effects), [("topic".into(), None), ("topic".into(), None)]);
}

#[test]
fn our_own_bound_holds_for_clients_that_take_many() {
    let mut desk = Desk::new();
    desk.attach(&taking(u16::MAX, v5()));
    let given = (0..100).filter(|n| one(&mut desk, &format!("topic/{n}")).1.is_some());
    assert_eq!(given.count(), 32);
}

#[test]
fn an_alias_is_given_only_where_the_packet_fits_with_it() {
    let packet_bytes = |desk: &mut Desk, topic: &str| {
        let effects = desk.deliver(on(topic, "x"));
        sent(&effects)
            .first()
            .map(|packet| packet.encoded_len(ProtocolVersion::V5))
    };
    // 2 of header, 9 of topic, 1 of properties, 1 of payload; an alias adds 3.
    for (most, first, second) in [(16, 16, 9), (15, 13, 13)] {
        let mut connect = taking(5, v5());
        connect.properties.maximum_packet_size = Some(most);
        // The shortest CONNACK, so that it fits as well.
        let mut desk = Desk::with(SessionConfig {
            topic_alias_maximum: 0,
            ..SessionConfig::default()
        });
        assert!(!closes(&desk.attach(&connect)));
        assert_eq!(packet_bytes(&mut desk, "topic/a"), Some(first));
        assert_eq!(packet_bytes(&mut desk, "topic/a"), Some(second));
    }
}

#[test]
fn window_and_order_are_as_without_aliases() {
    let mut connect = taking(5, v5());
    connect.properties.receive_maximum = Some(1);
    let mut desk = Desk::new();
    desk.attach(&connect);
    assert_eq!(
        topics(&desk.deliver(delivery("a", QoS::AtLeastOnce))),
        [("topic".into(), Some(1))]
    );
    assert!(topics(&desk.deliver(delivery("b", QoS::AtLeastOnce))).is_empty());
    assert_eq!(topics(&desk.receive(puback(1))), [(String::new(), Some(1))]);
}
