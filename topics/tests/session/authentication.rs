//! AUTH: admission is renewed without a new connection [MQTT5 4.12.1].

use topics::packet::{Auth, Connect, Packet, ReasonCode};
use topics::session::{Effect, Secret};

use crate::harness::{Desk, closes, connack, refusal, sent, v5};

const METHOD: &str = "method";

fn by_method() -> Connect {
    let mut connect = v5();
    connect.properties.authentication_method = Some(METHOD.into());
    connect.properties.authentication_data = Some("first".into());
    connect
}

fn auth(reason: ReasonCode, method: Option<&str>, data: Option<&'static str>) -> Packet {
    Packet::Auth(Box::new(Auth {
        reason,
        authentication_method: method.map(Into::into),
        authentication_data: data.map(Into::into),
        reason_string: None,
        user_properties: Vec::new(),
    }))
}

fn renewal() -> Packet {
    auth(ReasonCode::ReAuthenticate, Some(METHOD), Some("second"))
}

fn judged(desk: &mut Desk, verdict: Result<(), ReasonCode>) -> Vec<Effect> {
    let mut effects = Vec::new();
    desk.session.authenticated(verdict, &mut effects);
    effects
}

#[test]
fn the_method_of_connect_is_echoed() {
    let mut desk = Desk::new();
    let properties = connack(&desk.attach(&by_method())).properties;
    assert_eq!(properties.authentication_method.as_deref(), Some(METHOD));
    assert_eq!(properties.authentication_data, None);
    assert_eq!(
        connack(&desk.attach(&v5())).properties.authentication_method,
        None
    );
}

#[test]
fn new_data_is_judged_and_success_is_said_by_the_same_method() {
    let mut desk = Desk::new();
    desk.attach(&by_method());
    let effects = desk.receive(renewal());
    assert!(
        matches!(&effects[..], [Effect::Authenticate { data: Secret(data) }] if data == "second"),
        "{effects:?}"
    );
    assert!(
        !format!("{effects:?}").contains("second"),
        "a secret is not printed"
    );
    let effects = judged(&mut desk, Ok(()));
    let [Packet::Auth(answer)] = &sent(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(answer.reason, ReasonCode::Success);
    assert_eq!(answer.authentication_method.as_deref(), Some(METHOD));
    assert!(!closes(&effects));
}

#[test]
fn data_that_is_not_accepted_ends_the_connection() {
    let mut desk = Desk::new();
    desk.attach(&by_method());
    desk.receive(renewal());
    let effects = judged(&mut desk, Err(ReasonCode::NotAuthorized));
    assert_eq!(refusal(&effects), Some(ReasonCode::NotAuthorized));

    let mut desk = Desk::new();
    desk.attach(&by_method());
    let effects = desk.receive(auth(ReasonCode::ReAuthenticate, Some(METHOD), None));
    assert_eq!(refusal(&effects), Some(ReasonCode::NotAuthorized), "no data");
}

#[test]
fn another_method_than_that_of_connect_is_a_bad_one() {
    for method in [Some("other"), None] {
        let mut desk = Desk::new();
        desk.attach(&by_method());
        let effects = desk.receive(auth(ReasonCode::ReAuthenticate, method, Some("second")));
        let expected = Some(ReasonCode::BadAuthenticationMethod);
        assert_eq!(refusal(&effects), expected, "[MQTT-4.12.1-1]");
    }
}

#[test]
fn an_auth_that_nobody_asked_for_is_a_protocol_error() {
    let mut desk = Desk::new();
    desk.attach(&v5());
    assert_eq!(
        refusal(&desk.receive(renewal())),
        Some(ReasonCode::ProtocolError),
        "[MQTT-4.12.0-6]"
    );
    for reason in [ReasonCode::ContinueAuthentication, ReasonCode::Success] {
        let mut desk = Desk::new();
        desk.attach(&by_method());
        let effects = desk.receive(auth(reason, Some(METHOD), Some("second")));
        assert_eq!(refusal(&effects), Some(ReasonCode::ProtocolError), "{reason}");
    }
}
