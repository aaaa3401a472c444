//! Coming, staying and going: keep-alive, session expiry, clean starts and take-over
//! [MQTT5 3.1.2.4, 3.1.2.10, 3.1.2.11.2, 3.1.4].

use std::time::Duration;

use topics::packet::{Connect, Disconnect, Packet, QoS, ReasonCode, RetainHandling, SubscriptionOptions};
use topics::session::{Detach, Effect, SessionConfig};

use crate::harness::{
    Desk, closes, connack, delivery, ends, lasting, payloads, refusal, sent, subscribe, v5, v311,
};

#[test]
fn silence_of_one_and_a_half_keep_alives_ends_the_connection() {
    let mut desk = Desk::new();
    let mut connect = v5();
    connect.keep_alive_s = 10;
    desk.attach(&connect);
    assert!(!closes(&desk.pass(14.9)));
    assert_eq!(refusal(&desk.pass(0.2)), Some(ReasonCode::KeepAliveTimeout));
}

#[test]
fn every_packet_is_a_sign_of_life() {
    let mut desk = Desk::new();
    let mut connect = v311(true);
    connect.keep_alive_s = 10;
    desk.attach(&connect);
    for _ in 0..5 {
        assert!(!closes(&desk.pass(14.0)));
        assert!(matches!(
            sent(&desk.receive(Packet::PingReq))[..],
            [Packet::PingResp]
        ));
    }
    let effects = desk.pass(15.0);
    assert!(
        matches!(effects[..], [Effect::Close]),
        "3.1.1 has no words for it: {effects:?}"
    );
}

#[test]
fn a_keep_alive_of_zero_lets_the_client_be_silent_for_ever() {
    let mut desk = Desk::new();
    desk.attach(&v5());
    assert_eq!(desk.session.next_timeout(), None);
    assert!(desk.pass(1e7).is_empty());
}

#[test]
fn a_server_keep_alive_is_told_to_v5_and_holds_for_it_alone() {
    let config = SessionConfig {
        max_keep_alive_s: 20,
        ..SessionConfig::default()
    };
    for (asked_s, told) in [(0, Some(20)), (10, None), (20, None), (100, Some(20))] {
        let mut desk = Desk::with(config.clone());
        let mut connect = v5();
        connect.keep_alive_s = asked_s;
        assert_eq!(
            connack(&desk.attach(&connect)).properties.server_keep_alive_s,
            told
        );
        assert!(closes(&desk.pass(30.0)), "asked for {asked_s}");
    }
    let mut desk = Desk::with(config);
    desk.attach(&v311(true));
    assert!(desk.pass(1e6).is_empty());
}

#[test]
fn a_session_without_expiry_ends_with_its_connection() {
    let mut desk = Desk::new();
    assert!(!desk.session_present(&v5()));
    desk.subscribe("a");
    let effects = desk.lose();
    assert!(
        matches!(&effects[..], [Effect::Forget(filters), Effect::End] if filters.len() == 1),
        "{effects:?}"
    );
}

#[test]
fn a_lasting_session_is_found_again_until_it_expires() {
    let mut desk = Desk::new();
    assert!(!desk.session_present(&lasting(60)), "nothing was there before");
    desk.subscribe("a");
    desk.lose();
    assert!(!ends(&desk.pass(59.0)));
    assert!(desk.session_present(&lasting(60)));
    assert_eq!(desk.session.subscriptions().count(), 1);
    desk.lose();
    assert!(ends(&desk.pass(60.0)));
    assert_eq!(desk.session.subscriptions().count(), 0);
}

#[test]
fn a_session_that_expired_is_not_found_even_if_no_timer_ran() {
    let mut desk = Desk::new();
    desk.attach(&lasting(60));
    desk.subscribe("a");
    desk.lose();
    desk.now += Duration::from_secs(61);
    let effects = desk.attach(&lasting(60));
    assert!(
        matches!(effects[0], Effect::Forget(_)) && !ends(&effects),
        "{effects:?}"
    );
    assert!(!connack(&effects).session_present);
}

#[test]
fn before_v5_a_session_lasts_unless_it_is_clean() {
    let mut desk = Desk::new();
    desk.attach(&v311(false));
    desk.lose();
    desk.pass(3600.0);
    assert!(desk.session_present(&v311(false)));
    desk.lose();
    assert!(!desk.session_present(&v311(true)));
    assert!(ends(&desk.lose()), "a clean session ends with its connection too");
}

#[test]
fn a_clean_start_forgets_everything() {
    let mut desk = Desk::new();
    desk.attach(&lasting(60));
    desk.subscribe("a");
    desk.lose();
    desk.deliver(delivery("kept", QoS::AtLeastOnce));
    let mut clean = lasting(60);
    clean.clean_start = true;
    let effects = desk.attach(&clean);
    assert!(matches!(effects[0], Effect::Forget(_)), "{effects:?}");
    assert!(!connack(&effects).session_present);
    assert!(payloads(&effects).is_empty());
}

#[test]
fn the_granted_expiry_is_bounded_and_said() {
    let config = SessionConfig {
        max_session_expiry_s: 100,
        ..SessionConfig::default()
    };
    let mut desk = Desk::with(config);
    let told = connack(&desk.attach(&lasting(u32::MAX)))
        .properties
        .session_expiry_interval_s;
    assert_eq!(told, Some(100));
    desk.lose();
    assert!(ends(&desk.pass(100.0)));
    assert_eq!(
        connack(&desk.attach(&lasting(50)))
            .properties
            .session_expiry_interval_s,
        None
    );
}

#[test]
fn a_session_of_the_longest_expiry_never_ends() {
    let config = SessionConfig {
        max_session_expiry_s: u32::MAX,
        ..SessionConfig::default()
    };
    let mut desk = Desk::with(config);
    desk.attach(&lasting(u32::MAX));
    desk.lose();
    assert_eq!(desk.session.next_timeout(), None);
    assert!(desk.session_present(&lasting(u32::MAX)));
}

#[test]
fn a_goodbye_may_change_the_expiry_but_not_raise_it_from_zero() {
    let goodbye = |expiry_s| {
        let mut disconnect = Disconnect::new(ReasonCode::Success);
        disconnect.session_expiry_interval_s = Some(expiry_s);
        disconnect
    };
    let mut desk = Desk::new();
    desk.attach(&lasting(60));
    assert!(ends(&desk.disconnect(goodbye(0))));

    desk.attach(&lasting(60));
    desk.disconnect(goodbye(600));
    assert!(!ends(&desk.pass(599.0)));
    assert!(ends(&desk.pass(1.0)));

    desk.attach(&v5());
    let effects = desk.receive(Packet::Disconnect(goodbye(60)));
    assert_eq!(refusal(&effects), Some(ReasonCode::ProtocolError));
    assert!(ends(&desk.lose()));
}

#[test]
fn a_take_over_carries_a_lasting_session_on_and_begins_another_anew() {
    for (connect, found) in [(lasting(60), true), (v5(), false)] {
        let mut desk = Desk::new();
        desk.attach(&connect);
        desk.subscribe("a");
        let effects = desk.detach(Detach::TakenOver);
        assert!(!ends(&effects));
        assert_eq!(desk.session_present(&lasting(60)), found);
        assert_eq!(desk.session.subscriptions().count(), usize::from(found));
        assert!(
            desk.pass(1e6).is_empty(),
            "no timer of the old connection is left"
        );
    }
}

#[test]
fn nothing_is_looked_at_after_the_end_was_said() {
    let mut desk = Desk::new();
    desk.attach(&lasting(60));
    assert!(matches!(
        desk.receive(Packet::Disconnect(Disconnect::new(ReasonCode::Success)))[..],
        [Effect::Close]
    ));
    assert!(desk.receive(Packet::PingReq).is_empty());
    assert!(desk.deliver(delivery("kept", QoS::AtLeastOnce)).is_empty());
    assert_eq!(desk.session.next_timeout(), None);
    desk.lose();
    assert_eq!(payloads(&desk.attach(&lasting(60))), ["kept:1"]);
}

#[test]
fn a_second_connect_is_a_protocol_error() {
    let mut desk = Desk::new();
    desk.attach(&v5());
    assert_eq!(
        refusal(&desk.receive(Packet::Connect(Box::new(v5())))),
        Some(ReasonCode::ProtocolError)
    );
}

#[test]
fn a_misplaced_wildcard_is_a_malformed_packet() {
    for filter in ["ab/+e", "a/#/b", "#a", "$share//a", "$share/g"] {
        let mut desk = Desk::new();
        desk.attach(&v5());
        let effects = desk.receive(subscribe(filter, SubscriptionOptions::new(QoS::AtMostOnce)));
        assert_eq!(refusal(&effects), Some(ReasonCode::MalformedPacket), "{filter}");
    }
}

#[test]
fn a_bridge_gets_nothing_of_its_own_and_the_retain_flag_as_published() {
    for is_bridge in [true, false] {
        let mut desk = Desk::new();
        desk.attach(&Connect {
            is_bridge,
            ..v311(true)
        });
        match &desk.receive(subscribe("a", SubscriptionOptions::new(QoS::AtLeastOnce)))[..] {
            [Effect::Subscribe { wanted, .. }] => {
                let options = wanted[0].options;
                assert_eq!([options.no_local, options.retain_as_published], [is_bridge; 2]);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_subscription_says_whether_it_was_there_before() {
    let mut desk = Desk::new();
    desk.attach(&lasting(60));
    let mut options = SubscriptionOptions::new(QoS::AtMostOnce);
    options.retain_handling = RetainHandling::SendIfNew;
    let existed = |effects: &[Effect]| match effects {
        [Effect::Subscribe { wanted, .. }] => wanted[0].existed,
        other => panic!("{other:?}"),
    };
    assert!(!existed(&desk.receive(subscribe("a", options))));
    desk.subscribe("a");
    assert!(existed(&desk.receive(subscribe("a", options))));
    assert!(
        !existed(&desk.receive(subscribe("+", options))),
        "another filter, though it matches the same"
    );
    desk.lose();
    desk.attach(&lasting(60));
    assert!(existed(&desk.receive(subscribe("a", options))));
}

#[test]
fn a_filter_that_is_twice_in_a_subscribe_was_there_the_second_time() {
    let mut desk = Desk::new();
    desk.attach(&v5());
    let Packet::Subscribe(mut twice) = subscribe("a", SubscriptionOptions::new(QoS::AtLeastOnce)) else {
        unreachable!()
    };
    twice.filters.push(twice.filters[0].clone());
    match &desk.receive(Packet::Subscribe(twice))[..] {
        [Effect::Subscribe { wanted, .. }] => {
            assert_eq!([wanted[0].existed, wanted[1].existed], [false, true])
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_subscription_too_many_is_refused_and_an_old_one_may_change() {
    let mut desk = Desk::with(SessionConfig {
        max_subscriptions: 2,
        ..SessionConfig::default()
    });
    desk.attach(&v5());
    desk.subscribe("a");
    desk.subscribe("b");
    let reasons = |effects: &[Effect]| match &sent(effects)[..] {
        [Packet::SubAck(ack)] => ack.reasons.clone(),
        ref other => panic!("{other:?}"),
    };
    assert_eq!(reasons(&desk.subscribe("c")), [ReasonCode::QuotaExceeded]);
    assert_eq!(reasons(&desk.subscribe("b")), [ReasonCode::GrantedQoS2]);
    assert_eq!(desk.session.subscriptions().count(), 2);
}
