//! A device of a test, at the level of packets: 3.1.1 and 5.0 alike.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::raw::{RawClient, packet, text};

pub(super) const LEVELS: [u8; 2] = [4, 5];

pub(super) const PAIR: &str = "clawdbot/bridge/request/pair";
pub(super) const TOKEN: &str = "clawdbot/bridge/request/token";
pub(super) const NOT_AUTHORIZED: u8 = 0x87;

/// A code for a device.
#[track_caller]
pub(super) fn code_for(daemon: &Daemon, name: &str) -> String {
    let finished = daemon.cli(&["device", "pair", name, "--json"]);
    finished.assert_code(0);
    let answer: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    answer["code"].as_str().expect("a code").to_owned()
}

/// A CONNECT with a clean session.
pub(super) fn connect_as(
    level: u8,
    client_id: &str,
    username: Option<&str>,
    password: Option<&str>,
) -> Vec<u8> {
    let mut body = text(b"MQTT");
    body.push(level);
    let flags = 0b10 | u8::from(username.is_some()) << 7 | u8::from(password.is_some()) << 6;
    body.extend([flags, 0, 60]);
    if level == 5 {
        body.push(0);
    }
    for field in [Some(client_id), username, password].into_iter().flatten() {
        body.extend(text(field.as_bytes()));
    }
    packet(0x10, &body)
}

/// The code of the CONNACK.
pub(super) fn try_connect(address: SocketAddr, connect: &[u8]) -> (RawClient, u8) {
    let mut client = RawClient::open(address);
    client.send(connect);
    let code = client.connack_code();
    (client, code)
}

/// A connection of a stranger who has a code.
#[track_caller]
pub(super) fn stranger(daemon: &Daemon, level: u8, client_id: &str) -> RawClient {
    let (client, code) = try_connect(daemon.mqtt, &connect_as(level, client_id, Some("pairing"), None));
    assert_eq!(code, 0, "a stranger is let in while a code waits");
    client
}

/// A PUBLISH at QoS 1, with the answer to its PUBACK: 0 before 5.0.
pub(super) fn publish_1(client: &mut RawClient, level: u8, topic: &str, payload: &str) -> u8 {
    let mut body = text(topic.as_bytes());
    body.extend([0, 9]);
    if level == 5 {
        body.push(0);
    }
    body.extend_from_slice(payload.as_bytes());
    client.send(&packet(0x32, &body));
    let ack = client.packet().expect("a PUBACK");
    assert_eq!(ack[0], 0x40, "{ack:02x?} is no PUBACK");
    ack.get(4).copied().unwrap_or(0)
}

/// The message that must come now: its topic and its payload.
#[track_caller]
pub(super) fn message(client: &mut RawClient, level: u8) -> (String, Vec<u8>) {
    let packet = client.packet().expect("a PUBLISH");
    assert_eq!(packet[0], 0x30, "{packet:02x?} is no PUBLISH at QoS 0");
    let body = &packet[1 + packet[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1..];
    let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let topic = String::from_utf8(body[2..2 + length].to_vec()).expect("a topic");
    let rest = &body[2 + length..];
    let payload = if level == 5 {
        &rest[1 + usize::from(rest[0])..]
    } else {
        rest
    };
    (topic, payload.to_vec())
}

/// An answer that must come now on its usual topic.
#[track_caller]
pub(super) fn answer(client: &mut RawClient, level: u8, request: &str) -> Value {
    let (topic, payload) = message(client, level);
    assert_eq!(topic, request.replace("request", "response"));
    serde_json::from_slice(&payload).expect("JSON")
}

/// Publishes and returns the answer.
#[track_caller]
pub(super) fn ask(client: &mut RawClient, level: u8, request: &str, payload: &str) -> Value {
    assert_eq!(publish_1(client, level, request, payload), 0);
    answer(client, level, request)
}

/// The secret of a device, by the whole of the pairing.
#[track_caller]
pub(crate) fn paired(daemon: &Daemon, level: u8, name: &str) -> String {
    let code = code_for(daemon, name);
    let mut device = stranger(daemon, level, "new");
    let answer = ask(&mut device, level, PAIR, &code);
    assert_eq!(answer["status"], "ok", "{answer}");
    assert_eq!(answer["data"]["device"], name);
    answer["data"]["secret"].as_str().expect("a secret").to_owned()
}

/// A device that came in by its secret.
#[track_caller]
pub(crate) fn with_secret(
    daemon: &Daemon,
    level: u8,
    client_id: &str,
    name: &str,
    secret: &str,
) -> RawClient {
    let connect = connect_as(level, client_id, Some(name), Some(secret));
    let (client, code) = try_connect(daemon.mqtt, &connect);
    assert_eq!(code, 0, "the secret lets {name} in");
    client
}

/// A token for a device by its secret.
#[track_caller]
pub(super) fn token_by_secret(daemon: &Daemon, level: u8, name: &str, secret: &str) -> String {
    let mut device = with_secret(daemon, level, "asks-for-token", name, secret);
    let answer = ask(&mut device, level, TOKEN, "");
    assert_eq!(answer["status"], "ok", "{answer}");
    answer["data"]["token"].as_str().expect("a token").to_owned()
}

/// What is known of a device.
#[track_caller]
pub(super) fn shown(daemon: &Daemon, name: &str) -> Value {
    let finished = daemon.cli(&["device", "show", name, "--json"]);
    finished.assert_code(0);
    serde_json::from_str(&finished.stdout).expect("JSON")
}

/// An access list of somebody who may do everything.
pub(super) fn everything() -> Value {
    json!([
        {"permission": "allow", "action": "all", "topic": "#"},
        {"permission": "allow", "action": "all", "topic": "$SYS/#"},
    ])
}
