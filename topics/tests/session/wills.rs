//! Wills [MQTT5 3.1.2.5, 3.1.3.2.2].

use std::time::Duration;

use topics::packet::{Disconnect, PublishProperties, ReasonCode};
use topics::session::{Detach, Effect};

use crate::harness::{Desk, ends, lasting, v5, v311, wills, with_will};

#[test]
fn a_will_is_published_at_once_when_the_connection_is_lost() {
    for connect in [v5(), lasting(60), v311(true), v311(false)] {
        let mut desk = Desk::new();
        desk.attach(&with_will(connect, 0));
        assert_eq!(wills(&desk.lose()), 1);
        assert_eq!(wills(&desk.pass(1e6)), 0, "only once");
    }
}

#[test]
fn a_will_is_published_when_the_client_falls_silent_or_breaks_the_protocol() {
    let mut desk = Desk::new();
    let mut connect = with_will(v5(), 0);
    connect.keep_alive_s = 10;
    desk.attach(&connect);
    desk.pass(20.0);
    assert_eq!(wills(&desk.lose()), 1);

    desk.attach(&with_will(v5(), 0));
    let mut effects = Vec::new();
    desk.session.fail(ReasonCode::ProtocolError, &mut effects);
    assert_eq!(wills(&desk.lose()), 1);
}

#[test]
fn a_normal_goodbye_takes_the_will_along() {
    let mut desk = Desk::new();
    desk.attach(&with_will(lasting(60), 0));
    let effects = desk.disconnect(Disconnect::new(ReasonCode::Success));
    assert_eq!(wills(&effects) + wills(&desk.pass(100.0)), 0);
}

#[test]
fn every_other_goodbye_leaves_the_will_to_be_published() {
    for reason in [
        ReasonCode::DisconnectWithWill,
        ReasonCode::UnspecifiedError,
        ReasonCode::QuotaExceeded,
    ] {
        let mut desk = Desk::new();
        desk.attach(&with_will(v5(), 0));
        assert_eq!(wills(&desk.disconnect(Disconnect::new(reason))), 1, "{reason}");
    }
}

#[test]
fn a_will_waits_for_its_delay() {
    let mut desk = Desk::new();
    desk.attach(&with_will(lasting(60), 30));
    assert_eq!(wills(&desk.lose()), 0);
    assert_eq!(wills(&desk.pass(29.0)), 0);
    let effects = desk.pass(2.0);
    assert_eq!((wills(&effects), ends(&effects)), (1, false));
}

#[test]
fn a_client_that_is_back_in_time_has_no_will_published() {
    let mut desk = Desk::new();
    desk.attach(&with_will(lasting(60), 30));
    desk.lose();
    desk.pass(29.0);
    let effects = desk.attach(&lasting(60));
    assert_eq!(
        wills(&effects) + wills(&desk.lose()) + wills(&desk.pass(100.0)),
        0
    );
}

#[test]
fn a_client_that_is_back_too_late_finds_its_will_published_even_if_no_timer_ran() {
    let mut desk = Desk::new();
    desk.attach(&with_will(lasting(60), 30));
    desk.lose();
    desk.now += Duration::from_secs(31);
    assert_eq!(wills(&desk.attach(&lasting(60))), 1);
}

#[test]
fn the_end_of_the_session_ends_the_wills_delay() {
    let mut desk = Desk::new();
    desk.attach(&with_will(lasting(10), 30));
    desk.lose();
    let effects = desk.pass(10.0);
    assert!(
        matches!(effects[..], [Effect::PublishWill(_), Effect::End]),
        "{effects:?}"
    );

    let mut desk = Desk::new();
    desk.attach(&with_will(v5(), 30));
    assert_eq!(wills(&desk.lose()), 1, "a session without expiry ends at once");
}

#[test]
fn a_goodbye_that_ends_the_session_at_once_does_not_delay_the_will() {
    let mut desk = Desk::new();
    desk.attach(&with_will(lasting(60), 30));
    let mut disconnect = Disconnect::new(ReasonCode::DisconnectWithWill);
    disconnect.session_expiry_interval_s = Some(0);
    let effects = desk.disconnect(disconnect);
    assert_eq!((wills(&effects), ends(&effects)), (1, true));
}

#[test]
fn a_take_over_publishes_the_will_but_for_a_delay_in_a_session_that_goes_on() {
    let cases = [
        (v5(), 0, 1),
        (v5(), 30, 1),
        (lasting(60), 0, 1),
        (lasting(60), 30, 0),
    ];
    for (connect, delay_s, expected) in cases {
        let mut desk = Desk::new();
        desk.attach(&with_will(connect, delay_s));
        let mut effects = desk.detach(Detach::TakenOver);
        assert!(!ends(&effects), "the session goes on with the next connection");
        effects.extend(desk.attach(&lasting(60)));
        assert_eq!(wills(&effects), expected, "delay {delay_s}");
    }
}

#[test]
fn a_clean_start_ends_the_old_session_and_publishes_its_delayed_will() {
    let mut desk = Desk::new();
    desk.attach(&with_will(lasting(60), 30));
    desk.lose();
    let effects = desk.attach(&v5());
    assert!(
        matches!(effects[..], [Effect::PublishWill(_), Effect::Send(_)]),
        "{effects:?}"
    );
}

#[test]
fn a_wills_expiry_counts_from_its_publication() {
    let mut desk = Desk::new();
    let mut connect = with_will(lasting(600), 100);
    let properties = PublishProperties {
        message_expiry_interval_s: Some(5),
        ..PublishProperties::default()
    };
    connect.will.as_mut().unwrap().properties = Some(Box::new(properties));
    desk.attach(&connect);
    desk.pass(50.0);
    desk.lose();
    let lost_at = desk.now;
    let effects = desk.pass(100.0);
    let [Effect::PublishWill(will)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(will.expires_at, Some(lost_at + Duration::from_secs(105)));
}

#[test]
fn a_connection_that_could_not_be_told_it_was_let_in_leaves_no_will() {
    let mut desk = Desk::new();
    let mut connect = with_will(v5(), 0);
    connect.properties.maximum_packet_size = Some(4);
    let effects = desk.attach(&connect);
    assert!(matches!(effects[..], [Effect::Close]), "{effects:?}");
    assert_eq!(wills(&desk.lose()), 0);
}
