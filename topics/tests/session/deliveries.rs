//! Messages to the client: window, order, sending again, expiry, bounds [MQTT5 4.3, 4.4, 4.6, 4.9].

use std::time::Duration;

use bytes::BytesMut;
use topics::packet::{Ack, Packet, ProtocolVersion, QoS, ReasonCode};
use topics::session::{DropReason, Effect, SessionConfig};

use crate::harness::{
    Desk, closes, delivery, expiring, lasting, payloads, puback, pubcomp, pubrec, pubrel, refusal, sent, v5,
    v311,
};

fn drops(effects: &[Effect]) -> Vec<DropReason> {
    effects
        .iter()
        .filter_map(|e| {
            if let Effect::Dropped(reason) = e {
                Some(*reason)
            } else {
                None
            }
        })
        .collect()
}

#[test]
fn no_more_is_under_way_than_the_client_receives_at_once() {
    let mut desk = Desk::new();
    let mut connect = v5();
    connect.properties.receive_maximum = Some(2);
    desk.attach(&connect);
    assert_eq!(payloads(&desk.deliver(delivery("a", QoS::AtLeastOnce))), ["a:1"]);
    assert_eq!(payloads(&desk.deliver(delivery("b", QoS::ExactlyOnce))), ["b:2"]);
    assert!(payloads(&desk.deliver(delivery("c", QoS::AtLeastOnce))).is_empty());
    assert_eq!(
        payloads(&desk.deliver(delivery("free", QoS::AtMostOnce))),
        ["free:0"],
        "QoS 0 has no window"
    );
    assert_eq!(payloads(&desk.receive(puback(1))), ["c:3"]);
    desk.deliver(delivery("d", QoS::AtLeastOnce));
    assert!(
        payloads(&desk.receive(pubrec(2))).is_empty(),
        "a PUBREC frees nothing [MQTT5 4.9]"
    );
    assert_eq!(payloads(&desk.receive(pubcomp(2))), ["d:4"]);
}

#[test]
fn a_message_that_goes_as_it_is_is_written_as_its_packet_would_be() {
    for (connect, version) in [(v5(), ProtocolVersion::V5), (v311(true), ProtocolVersion::V311)] {
        let mut desk = Desk::new();
        desk.attach(&connect);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for payload in ["", "some", &"much ".repeat(10_000)] {
                let mut delivery = delivery(payload, qos);
                delivery.retain = payload.is_empty();
                let effects = desk.deliver(delivery);
                let [Effect::Forward(message)] = &effects[..] else {
                    panic!("{effects:?}");
                };
                let (mut written, mut expected) = (BytesMut::new(), BytesMut::new());
                message.encode(version, &mut written).unwrap();
                message.to_packet().encode(version, &mut expected).unwrap();
                assert_eq!(written, expected);
            }
        }
    }
}

#[test]
fn an_identifier_that_is_still_under_way_is_passed_over_when_all_have_gone_round() {
    let mut desk = Desk::new();
    desk.attach(&v5());
    for payload in ["old", "older"] {
        desk.deliver(delivery(payload, QoS::AtLeastOnce));
    }
    // Twice round: 1 and 2 are passed over both times.
    for expected in (3..=65_535).chain(3..=65_535).chain([3]) {
        let sent = payloads(&desk.deliver(delivery("new", QoS::AtLeastOnce)));
        assert_eq!(sent, [format!("new:{expected}")]);
        desk.receive(puback(expected));
    }
    desk.receive(puback(1));
    for expected in (4..=65_535).chain([1, 3]) {
        let sent = payloads(&desk.deliver(delivery("new", QoS::AtLeastOnce)));
        assert_eq!(sent, [format!("new:{expected}")]);
        desk.receive(puback(expected));
    }
}

#[test]
fn our_own_bound_holds_for_clients_that_name_none() {
    for connect in [v5(), v311(true)] {
        let mut desk = Desk::with(SessionConfig {
            max_inflight: 1,
            ..SessionConfig::default()
        });
        desk.attach(&connect);
        desk.deliver(delivery("a", QoS::AtLeastOnce));
        assert!(payloads(&desk.deliver(delivery("b", QoS::AtLeastOnce))).is_empty());
    }
}

#[test]
fn what_was_not_acknowledged_is_sent_again_in_its_order_marked_as_such() {
    let mut desk = Desk::new();
    desk.attach(&lasting(60));
    desk.deliver(delivery("a", QoS::AtLeastOnce));
    desk.deliver(delivery("b", QoS::ExactlyOnce));
    desk.deliver(delivery("c", QoS::ExactlyOnce));
    desk.receive(pubrec(2));
    desk.lose();
    desk.deliver(delivery("d", QoS::AtLeastOnce));
    let effects = desk.attach(&lasting(60));
    assert_eq!(payloads(&effects), ["a:1*", "c:3*", "d:4"]);
    assert!(
        matches!(sent(&effects)[2], Packet::PubRel(Ack { packet_id: 2, .. })),
        "{effects:?}"
    );
}

#[test]
fn sending_again_keeps_to_what_the_new_connection_allows() {
    let mut desk = Desk::new();
    desk.attach(&lasting(60));
    for payload in ["a", "b", "c"] {
        desk.deliver(delivery(payload, QoS::AtLeastOnce));
    }
    desk.lose();
    let mut connect = lasting(60);
    connect.properties.receive_maximum = Some(1);
    assert_eq!(payloads(&desk.attach(&connect)), ["a:1*"]);
    assert!(
        payloads(&desk.receive(puback(2))).is_empty(),
        "an acknowledgement of the old connection"
    );
    assert_eq!(payloads(&desk.receive(puback(1))), ["b:2*"]);
    assert_eq!(payloads(&desk.receive(puback(2))), ["c:3*"]);
}

#[test]
fn an_acknowledgement_out_of_turn_is_a_protocol_error() {
    type Answer = fn(u16) -> Packet;
    let wrong: [(QoS, &[Answer]); 5] = [
        (QoS::AtLeastOnce, &[pubrec]),
        (QoS::AtLeastOnce, &[pubcomp]),
        (QoS::ExactlyOnce, &[puback]),
        (QoS::ExactlyOnce, &[pubcomp]),
        (QoS::ExactlyOnce, &[pubrec, puback]),
    ];
    for (qos, answers) in wrong {
        for connect in [v5(), v311(true)] {
            let mut desk = Desk::new();
            desk.attach(&connect);
            desk.deliver(delivery("a", qos));
            let effects = answers
                .iter()
                .map(|answer| desk.receive(answer(1)))
                .next_back()
                .unwrap();
            assert!(closes(&effects), "{qos:?} {effects:?}");
            if desk.session.version() == Some(topics::packet::ProtocolVersion::V5) {
                assert_eq!(refusal(&effects), Some(ReasonCode::ProtocolError));
            }
        }
    }
}

#[test]
fn an_acknowledgement_of_nothing_is_no_error() {
    let mut desk = Desk::new();
    desk.attach(&v5());
    assert!(desk.receive(puback(9)).is_empty());
    assert!(desk.receive(pubcomp(9)).is_empty());
    assert!(matches!(sent(&desk.receive(pubrec(9)))[..], [Packet::PubRel(_)]));
    assert!(matches!(sent(&desk.receive(pubrel(9)))[..], [Packet::PubComp(_)]));
}

#[test]
fn a_repeated_pubrec_is_answered_again() {
    let mut desk = Desk::new();
    desk.attach(&v5());
    desk.deliver(delivery("a", QoS::ExactlyOnce));
    for _ in 0..2 {
        assert!(matches!(
            sent(&desk.receive(pubrec(1)))[..],
            [Packet::PubRel(Ack { packet_id: 1, .. })]
        ));
    }
}

#[test]
fn a_pubrec_that_refuses_ends_the_handshake_and_frees_the_window() {
    let mut desk = Desk::with(SessionConfig {
        max_inflight: 1,
        ..SessionConfig::default()
    });
    desk.attach(&lasting(60));
    desk.deliver(delivery("a", QoS::ExactlyOnce));
    desk.deliver(delivery("b", QoS::ExactlyOnce));
    let refused = Packet::PubRec(Ack::new(1, ReasonCode::QuotaExceeded));
    assert_eq!(payloads(&desk.receive(refused)), ["b:2"]);
    desk.lose();
    assert_eq!(
        payloads(&desk.attach(&lasting(60))),
        ["b:2*"],
        "what was refused is not sent again"
    );
}

#[test]
fn a_packet_identifier_is_not_used_again_before_it_is_free() {
    let mut desk = Desk::new();
    desk.attach(&v5());
    assert_eq!(
        payloads(&desk.deliver(delivery("slow", QoS::AtLeastOnce))),
        ["slow:1"]
    );
    for round in 0..70_000_u32 {
        let effects = desk.deliver(delivery("a", QoS::AtLeastOnce));
        let [Packet::Publish(publish)] = &sent(&effects)[..] else {
            panic!("{effects:?}")
        };
        assert!(publish.packet_id > 1, "round {round}");
        let packet_id = publish.packet_id;
        desk.receive(puback(packet_id));
    }
}

#[test]
fn an_expiry_is_counted_down_and_an_expired_message_is_not_sent() {
    let mut desk = Desk::new();
    let mut connect = lasting(600);
    connect.properties.receive_maximum = Some(1);
    desk.attach(&connect);
    desk.deliver(delivery("first", QoS::AtLeastOnce));
    desk.deliver(expiring("short", desk.now, 5));
    desk.deliver(expiring("long", desk.now, 60));
    desk.pass(10.5);
    let effects = desk.receive(puback(1));
    assert_eq!(drops(&effects), [DropReason::Expired]);
    let [Packet::Publish(publish)] = &sent(&effects)[..] else {
        panic!("{effects:?}")
    };
    let left_s = publish
        .properties
        .as_ref()
        .and_then(|p| p.message_expiry_interval_s);
    assert_eq!(left_s, Some(50));
}

#[test]
fn a_message_that_expired_while_it_waited_has_used_its_identifier_up() {
    let mut desk = Desk::new();
    desk.attach(&lasting(600));
    desk.lose();
    desk.deliver(expiring("short", desk.now, 5));
    desk.deliver(delivery("long", QoS::AtLeastOnce));
    desk.pass(10.0);
    assert_eq!(payloads(&desk.attach(&lasting(600))), ["long:2"]);
}

#[test]
fn an_expired_message_under_way_is_still_sent_again() {
    let mut desk = Desk::new();
    desk.attach(&lasting(600));
    let mut short = expiring("short", desk.now, 5);
    short.qos = QoS::ExactlyOnce;
    desk.deliver(short);
    desk.lose();
    desk.pass(10.0);
    // The client may have half of the handshake: a new message under the identifier would be lost.
    assert_eq!(payloads(&desk.attach(&lasting(600))), ["short:1*"]);
}

#[test]
fn a_full_queue_drops_the_newest_and_says_so() {
    let bounded_by_count = SessionConfig {
        max_queued_messages: 2,
        ..SessionConfig::default()
    };
    let bounded_by_bytes = SessionConfig {
        max_queued_bytes: 400,
        ..SessionConfig::default()
    };
    for config in [bounded_by_count, bounded_by_bytes] {
        let mut desk = Desk::with(config);
        desk.attach(&lasting(60));
        desk.lose();
        assert!(desk.deliver(delivery("a", QoS::AtLeastOnce)).is_empty());
        assert!(desk.deliver(delivery("b", QoS::AtLeastOnce)).is_empty());
        assert_eq!(
            drops(&desk.deliver(delivery("c", QoS::AtLeastOnce))),
            [DropReason::QueueFull]
        );
        assert_eq!(payloads(&desk.attach(&lasting(60))), ["a:1", "b:2"]);
    }
}

#[test]
fn what_expired_makes_room_in_a_full_queue() {
    let mut desk = Desk::with(SessionConfig {
        max_queued_messages: 2,
        ..SessionConfig::default()
    });
    desk.attach(&lasting(600));
    desk.lose();
    desk.deliver(expiring("short", desk.now, 5));
    desk.deliver(expiring("long", desk.now, 500));
    desk.now += Duration::from_secs(10);
    assert_eq!(
        drops(&desk.deliver(delivery("new", QoS::AtLeastOnce))),
        [DropReason::Expired]
    );
    assert_eq!(
        drops(&desk.deliver(delivery("more", QoS::AtLeastOnce))),
        [DropReason::QueueFull]
    );
    assert_eq!(payloads(&desk.attach(&lasting(600))), ["long:1", "new:2"]);
}

#[test]
fn qos_0_is_not_kept_for_a_client_that_is_away() {
    let mut desk = Desk::new();
    desk.attach(&lasting(60));
    desk.lose();
    assert_eq!(
        drops(&desk.deliver(delivery("a", QoS::AtMostOnce))),
        [DropReason::Offline]
    );
}

#[test]
fn what_is_larger_than_the_client_takes_is_dropped_and_not_sent() {
    let mut desk = Desk::new();
    let mut connect = lasting(60);
    desk.attach(&connect);
    let large = "x".repeat(100);
    assert_eq!(
        payloads(&desk.deliver(delivery(&large, QoS::AtLeastOnce))).len(),
        1
    );
    desk.lose();
    connect.properties.maximum_packet_size = Some(60);
    let effects = desk.attach(&connect);
    assert_eq!(
        drops(&effects),
        [DropReason::TooLarge],
        "sent again, it would be too large too"
    );
    assert!(payloads(&effects).is_empty());
    assert_eq!(
        drops(&desk.deliver(delivery(&large, QoS::AtMostOnce))),
        [DropReason::TooLarge]
    );
    assert_eq!(
        payloads(&desk.deliver(delivery("small", QoS::AtLeastOnce))),
        ["small:2"]
    );
}
