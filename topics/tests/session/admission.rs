//! A client is let in for a time, and a session may be ended from outside.

use std::time::Duration;

use topics::packet::{Disconnect, Packet, ReasonCode};
use topics::session::Effect;

use crate::harness::{Desk, closes, ends, lasting, sent, v5, v311};

fn reason(effects: &[Effect]) -> Option<ReasonCode> {
    sent(effects).into_iter().find_map(|packet| match packet {
        Packet::Disconnect(disconnect) => Some(disconnect.reason),
        _ => None,
    })
}

fn admit_for(desk: &mut Desk, seconds: u64) {
    let until = desk.now + Duration::from_secs(seconds);
    desk.session.admit_until(Some(until));
}

#[test]
fn the_time_is_over_when_it_is_and_not_before() {
    for (connect, said) in [(v311(true), None), (v5(), Some(ReasonCode::MaximumConnectTime))] {
        let mut desk = Desk::new();
        desk.attach(&connect);
        admit_for(&mut desk, 900);
        // Who is heard is let in no longer for it.
        for _ in 0..89 {
            assert!(desk.pass(10.0).is_empty());
            desk.receive(Packet::PingReq);
        }
        let effects = desk.pass(10.0);
        assert!(closes(&effects));
        assert_eq!(reason(&effects), said);
    }
}

#[test]
fn who_renews_in_time_goes_on_and_the_next_connection_has_its_own_time() {
    let mut desk = Desk::new();
    desk.attach(&lasting(600));
    admit_for(&mut desk, 30);
    desk.pass(20.0);
    desk.receive(Packet::PingReq);
    admit_for(&mut desk, 30);
    assert!(desk.pass(20.0).is_empty());
    desk.lose();
    desk.attach(&lasting(600));
    desk.pass(20.0);
    desk.receive(Packet::PingReq);
    assert!(desk.pass(20.0).is_empty(), "nobody said until when");
}

#[test]
fn an_abandoned_session_is_over_with_its_connection_or_at_once() {
    for connected in [true, false] {
        let mut desk = Desk::new();
        desk.attach(&lasting(600));
        desk.subscribe("a");
        if !connected {
            desk.disconnect(Disconnect::new(ReasonCode::Success));
        }
        let mut effects = Vec::new();
        desk.session
            .abandon(desk.now, ReasonCode::AdministrativeAction, &mut effects);
        if connected {
            assert_eq!(reason(&effects), Some(ReasonCode::AdministrativeAction));
            assert!(closes(&effects));
            effects = desk.lose();
        }
        assert!(ends(&effects), "{effects:?}");
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Forget(_))));
    }
}
