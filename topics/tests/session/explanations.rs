//! Words for people, response information, and the size that every packet keeps to
//! [MQTT5 3.1.2.11.4, 3.1.2.11.6, 3.1.2.11.7].

use bytestring::ByteString;
use topics::packet::{Connect, Packet, ProtocolVersion, QoS, ReasonCode, Unsubscribe};
use topics::session::{Effect, SessionConfig, Welcome, refusal as refused};

use crate::harness::{Desk, closes, connack, publish, refusal, sent, v5, v311};

fn explained(wish: Option<bool>) -> Connect {
    let mut connect = v5();
    connect.properties.request_problem_information = wish;
    connect
}

fn bounded(most: u32) -> Connect {
    let mut connect = explained(Some(true));
    connect.properties.maximum_packet_size = Some(most);
    connect
}

/// A session whose CONNACK is as short as can be, so that a small Maximum Packet Size lets it go out.
fn desk() -> Desk {
    Desk::with(SessionConfig {
        topic_alias_maximum: 0,
        ..SessionConfig::default()
    })
}

/// The reason string of the last packet that can have one.
fn words(effects: &[Effect]) -> Option<String> {
    let string = sent(effects).into_iter().rev().find_map(|packet| match packet {
        Packet::PubAck(ack) | Packet::PubRec(ack) => Some(ack.reason_string),
        Packet::SubAck(ack) => Some(ack.reason_string),
        Packet::Disconnect(disconnect) => Some(disconnect.reason_string),
        _ => None,
    });
    string.flatten().map(|string| string.to_string())
}

fn longest(effects: &[Effect]) -> usize {
    let lengths = sent(effects)
        .into_iter()
        .map(|packet| packet.encoded_len(ProtocolVersion::V5));
    lengths.max().unwrap_or(0)
}

fn refused_publish(connect: &Connect, qos: QoS) -> Vec<Effect> {
    let mut desk = desk();
    desk.attach(connect);
    desk.receive(Packet::Publish(publish("a", qos, 1)));
    desk.routed(1, ReasonCode::NotAuthorized)
}

#[test]
fn a_refused_subscription_says_why_unless_that_is_unwanted_and_a_refused_publish_if_it_is_wanted() {
    for (wish, says) in [(None, true), (Some(true), true), (Some(false), false)] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let effects = refused_publish(&explained(wish), qos);
            assert_eq!(words(&effects).is_some(), wish == Some(true), "{effects:?}");
        }
        let mut desk = Desk::with(SessionConfig {
            max_subscriptions: 0,
            ..SessionConfig::default()
        });
        desk.attach(&explained(wish));
        let said = words(&desk.subscribe("a"));
        assert_eq!(said.is_some(), says);
        if let Some(said) = said {
            assert!(said.starts_with("filter 1: "), "{said}");
        }
    }
    assert_eq!(words(&refused_publish(&v311(true), QoS::AtLeastOnce)), None);
}

#[test]
fn what_went_well_needs_no_words() {
    let mut desk = desk();
    desk.attach(&explained(Some(true)));
    assert_eq!(words(&desk.subscribe("a")), None);
    desk.receive(Packet::Publish(publish("a", QoS::AtLeastOnce, 1)));
    assert_eq!(words(&desk.routed(1, ReasonCode::NoMatchingSubscribers)), None);
}

#[test]
fn a_goodbye_says_why_to_whoever_wants_to_know() {
    for (wish, says) in [(None, false), (Some(true), true), (Some(false), false)] {
        let mut desk = desk();
        let mut connect = explained(wish);
        connect.keep_alive_s = 10;
        desk.attach(&connect);
        let effects = desk.pass(15.0);
        assert_eq!(refusal(&effects), Some(ReasonCode::KeepAliveTimeout));
        assert_eq!(words(&effects).is_some(), says, "{wish:?}");

        desk.attach(&connect);
        let mut effects = Vec::new();
        desk.session
            .fail_because(ReasonCode::MalformedPacket, "a flag too many", &mut effects);
        assert_eq!(words(&effects).as_deref(), says.then_some("a flag too many"));
    }
}

#[test]
fn a_refused_connect_says_why_where_it_may_and_where_it_fits() {
    let said = |connect: &Connect| match refused(connect, ReasonCode::NotAuthorized, "no token") {
        Some(Packet::ConnAck(connack)) => {
            assert_eq!(connack.reason, ReasonCode::NotAuthorized);
            connack.properties.reason_string.map(|words| words.to_string())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(said(&v5()).as_deref(), Some("no token"));
    assert_eq!(said(&explained(Some(false))), None);
    assert_eq!(said(&bounded(16)).as_deref(), Some("no token"), "2 and 3 and 11");
    assert_eq!(said(&bounded(15)), None);
    assert_eq!(said(&bounded(5)), None);
    assert_eq!(refused(&bounded(4), ReasonCode::NotAuthorized, "no token"), None);
    assert_eq!(said(&v311(true)), None);
}

#[test]
fn words_are_left_out_before_a_packet_grows_too_large() {
    let whole = longest(&refused_publish(&explained(Some(true)), QoS::AtLeastOnce)) as u32;
    let effects = refused_publish(&bounded(whole), QoS::AtLeastOnce);
    assert!(words(&effects).is_some());
    let effects = refused_publish(&bounded(whole - 1), QoS::AtLeastOnce);
    assert!(words(&effects).is_none() && !closes(&effects), "{effects:?}");
    assert!(matches!(&sent(&effects)[..], [Packet::PubAck(_)]));
}

#[test]
fn an_answer_that_cannot_be_said_in_so_few_bytes_ends_the_connection() {
    let connack_bytes = longest(&desk().attach(&v5())) as u32;
    let mut desk = desk();
    desk.attach(&bounded(connack_bytes));
    let mut effects = desk.receive(Packet::Unsubscribe(Unsubscribe {
        packet_id: 9,
        user_properties: Vec::new(),
        filters: vec![ByteString::from_static("a"); 20],
    }));
    let Some(Effect::Unsubscribe { packet_id, filters }) = effects.pop() else {
        panic!("{effects:?}")
    };
    desk.session.unsubscribed(packet_id, &filters, &mut effects);
    assert_eq!(refusal(&effects), Some(ReasonCode::PacketTooLarge), "{effects:?}");
    assert!(longest(&effects) <= connack_bytes as usize);
}

#[test]
fn response_information_is_given_to_whoever_asks_and_left_out_where_it_does_not_fit() {
    let welcome = || Welcome {
        response_information: Some("clawdbot/mobile/reply".into()),
        ..Welcome::default()
    };
    let told = |connect: &Connect| {
        let mut desk = desk();
        let mut effects = Vec::new();
        desk.session
            .attach(desk.now, connect, welcome(), &mut effects)
            .unwrap();
        connack(&effects).properties.response_information
    };
    let mut asking = v5();
    assert_eq!(told(&asking), None);
    asking.properties.request_response_information = Some(false);
    assert_eq!(told(&asking), None);
    asking.properties.request_response_information = Some(true);
    assert_eq!(told(&asking).as_deref(), Some("clawdbot/mobile/reply"));
    asking.properties.maximum_packet_size = Some(30);
    assert_eq!(told(&asking), None);
}
