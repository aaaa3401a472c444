//! A member of shared subscriptions: what another may have instead of it, and what stays [MQTT5 4.8.2].

use topics::packet::{Ack, Packet, QoS, ReasonCode, SubscriptionOptions};
use topics::session::{Delivery, DropReason, Effect, SessionConfig};

use crate::harness::{
    Desk, delivery, lasting, payloads, puback, pubrec, refusal, sent, shared, subscribe, v5, v311,
};

/// What another member gets when it takes everything offered.
fn handed_on(desk: &mut Desk) -> Vec<String> {
    let mut taken = Vec::new();
    desk.session.hand_on(&mut |delivery| {
        taken.push(payload(delivery));
        true
    });
    taken
}

fn payload(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.payload.to_vec()).unwrap()
}

fn bequeathed(effects: &[Effect]) -> Vec<String> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::HandOn(deliveries) => Some(deliveries),
            _ => None,
        })
        .flatten()
        .map(payload)
        .collect()
}

fn lost(effects: &[Effect]) -> usize {
    effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Dropped(DropReason::SessionEnded)))
        .count()
}

/// A window of two, with one message of each kind under way and more behind them.
fn busy_member(expiry_s: u32) -> Desk {
    let mut desk = Desk::with(SessionConfig {
        max_inflight: 3,
        ..SessionConfig::default()
    });
    desk.attach(&lasting(expiry_s));
    desk.deliver(shared("sent at 1", QoS::AtLeastOnce));
    desk.deliver(shared("sent at 2", QoS::ExactlyOnce));
    desk.deliver(delivery("own, sent", QoS::AtLeastOnce));
    desk.deliver(shared("waiting at 1", QoS::AtLeastOnce));
    desk.deliver(delivery("own, waiting", QoS::AtLeastOnce));
    desk.deliver(shared("waiting at 2", QoS::ExactlyOnce));
    desk
}

#[test]
fn shares_are_subscribed_to_by_clients_of_both_versions() {
    for connect in [v5(), v311(true)] {
        let mut desk = Desk::new();
        let connack = crate::harness::connack(&desk.attach(&connect));
        assert_eq!(
            connack.properties.shared_subscription_available, None,
            "that is yes"
        );
        let effects = desk.subscribe("$share/g/a/+");
        assert!(
            matches!(&sent(&effects)[..], [Packet::SubAck(ack)] if ack.reasons == [ReasonCode::GrantedQoS2])
        );
        assert_eq!(desk.session.subscriptions().count(), 1);
    }
}

#[test]
fn no_local_with_a_share_is_a_protocol_error() {
    let mut options = SubscriptionOptions::new(QoS::AtMostOnce);
    options.no_local = true;
    let mut bytes = bytes::BytesMut::new();
    subscribe("$share/g/a", options)
        .encode(topics::packet::ProtocolVersion::V5, &mut bytes)
        .unwrap();
    let fault =
        topics::packet::decode(&mut bytes, Some(topics::packet::ProtocolVersion::V5), 1 << 20).unwrap_err();
    let mut desk = Desk::new();
    desk.attach(&v5());
    let mut effects = Vec::new();
    desk.session.fail(fault.reason(), &mut effects);
    assert_eq!(refusal(&effects), Some(ReasonCode::ProtocolError));
}

#[test]
fn a_lost_member_hands_on_all_but_what_is_begun_at_qos_2() {
    let mut desk = busy_member(60);
    desk.lose();
    assert_eq!(
        handed_on(&mut desk),
        ["sent at 1", "waiting at 1", "waiting at 2"]
    );
    assert!(handed_on(&mut desk).is_empty(), "once");
    assert_eq!(
        payloads(&desk.attach(&lasting(60))),
        ["sent at 2:2*", "own, sent:3*", "own, waiting:4"],
        "and keeps the rest [MQTT-4.8.2-4]"
    );
}

#[test]
fn what_nobody_takes_waits_for_the_member_as_if_nothing_had_been_asked() {
    let mut desk = busy_member(60);
    desk.lose();
    let mut offered = 0;
    desk.session.hand_on(&mut |_| {
        offered += 1;
        false
    });
    assert_eq!(offered, 3);
    assert_eq!(
        payloads(&desk.attach(&lasting(60))),
        ["sent at 1:1*", "sent at 2:2*", "own, sent:3*"]
    );
    assert_eq!(payloads(&desk.receive(puback(1))), ["waiting at 1:4"]);
}

#[test]
fn a_session_that_ends_bequeaths_its_shares_and_counts_what_is_lost_with_it() {
    let mut desk = busy_member(0);
    let effects = desk.lose();
    assert_eq!(
        bequeathed(&effects),
        ["sent at 1", "waiting at 1", "waiting at 2"]
    );
    assert_eq!(
        lost(&effects),
        3,
        "one of them at QoS 2 [MQTT-4.8.2-5]: {effects:?}"
    );

    let mut desk = busy_member(60);
    desk.lose();
    let effects = desk.pass(60.0);
    assert_eq!(bequeathed(&effects).len(), 3, "{effects:?}");
    assert_eq!(lost(&effects), 3);
    assert_eq!(desk.session.waiting(), 0);
}

#[test]
fn a_clean_start_bequeaths_too() {
    let mut desk = busy_member(60);
    desk.lose();
    let effects = desk.attach(&v5());
    assert_eq!(bequeathed(&effects).len(), 3, "{effects:?}");
    assert!(payloads(&effects).is_empty());
}

#[test]
fn after_an_unsubscribe_what_was_sent_is_finished_and_only_the_rest_handed_on() {
    let mut desk = busy_member(60);
    let share = "$share/g/topic".parse().unwrap();
    let other = "$share/other/topic".parse().unwrap();
    let mut taken = Vec::new();
    for filter in [&other, &share] {
        desk.session.hand_on_share(filter, &mut |delivery| {
            taken.push(payload(delivery));
            true
        });
    }
    assert_eq!(taken, ["waiting at 1", "waiting at 2"], "[MQTT-3.10.4-3]");
    assert_eq!(payloads(&desk.receive(puback(1))), ["own, waiting:4"]);
    assert!(matches!(sent(&desk.receive(pubrec(2)))[..], [Packet::PubRel(_)]));
}

#[test]
fn what_a_member_refuses_is_nobody_elses() {
    let mut desk = Desk::new();
    desk.attach(&lasting(60));
    desk.deliver(shared("a", QoS::AtLeastOnce));
    desk.deliver(shared("b", QoS::ExactlyOnce));
    desk.receive(Packet::PubAck(Ack::new(1, ReasonCode::QuotaExceeded)));
    desk.receive(Packet::PubRec(Ack::new(2, ReasonCode::QuotaExceeded)));
    desk.lose();
    assert!(handed_on(&mut desk).is_empty(), "[MQTT-4.8.2-6]");
    assert!(payloads(&desk.attach(&lasting(60))).is_empty());
}

#[test]
fn room_in_the_queue_comes_back_with_what_was_handed_on() {
    let mut desk = Desk::with(SessionConfig {
        max_queued_messages: 1,
        ..SessionConfig::default()
    });
    desk.attach(&lasting(60));
    desk.lose();
    desk.deliver(shared("a", QoS::AtLeastOnce));
    assert_eq!(handed_on(&mut desk), ["a"]);
    assert!(desk.deliver(shared("b", QoS::AtLeastOnce)).is_empty());
    assert!(
        !desk.deliver(shared("c", QoS::AtLeastOnce)).is_empty(),
        "full again"
    );
}
