//! One scenario on every way in: QoS 2 with a payload of many reads, a will, a refusal, the daemon's end.

use rustix::process::Signal;

use super::Everywhere;
use super::wires::{ALL, Way};
use crate::support::PATIENCE;
use crate::support::raw::{RawClient, connect, packet, text};

const ACCEPTED: u8 = 0;
const SERVER_SHUTTING_DOWN: u8 = 0x8B;
const PACKET_TOO_LARGE: u8 = 0x95;

/// CONNECT with a will at QoS 1.
pub(super) fn connect_with_will(level: u8, client_id: &str, token: &str, topic: &str) -> Vec<u8> {
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    let body = [
        &text(b"MQTT")[..],
        &[level, 0b1100_1110, 0, 60],
        properties,
        &text(client_id.as_bytes()),
        properties,
        &text(topic.as_bytes()),
        &text(b"lost"),
        &text(b"test"),
        &text(token.as_bytes()),
    ];
    packet(0x10, &body.concat())
}

pub(super) fn subscribe(level: u8, filter: &str) -> Vec<u8> {
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    let body = [&[0, 1][..], properties, &text(filter.as_bytes()), &[2]];
    packet(0x82, &body.concat())
}

fn publish(level: u8, first: u8, topic: &str, payload: &[u8]) -> Vec<u8> {
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    let body = [&text(topic.as_bytes())[..], &[0, 7], properties, payload];
    packet(first, &body.concat())
}

/// The packet's first byte and its packet id.
fn kind_and_id(client: &mut RawClient) -> (u8, [u8; 2]) {
    let packet = client.packet().expect("a packet");
    (packet[0], [packet[2], packet[3]])
}

fn round_trip(everywhere: &Everywhere, way: Way, level: u8) {
    let token = everywhere.daemon.token("phone");
    let mut sender = everywhere.open(way);
    sender.send(&connect_with_will(
        level,
        "sender",
        &token,
        "clawdbot/phone/x/gone",
    ));
    assert_eq!(sender.connack_code(), ACCEPTED);
    let mut receiver = everywhere.open(way);
    receiver.send(&connect(
        level,
        "receiver",
        Some(&everywhere.daemon.token("phone")),
    ));
    assert_eq!(receiver.connack_code(), ACCEPTED);
    receiver.send(&subscribe(level, "clawdbot/phone/x/#"));
    assert_eq!(receiver.packet().expect("a SUBACK")[0], 0x90);

    let payload: Vec<u8> = (0..300_000u32).map(|number| number as u8).collect();
    let sent = publish(level, 0x34, "clawdbot/phone/x/1", &payload);
    sender.send(&sent);
    assert_eq!(kind_and_id(&mut sender), (0x50, [0, 7]));
    sender.send(&[0x62, 2, 0, 7]);
    assert_eq!(kind_and_id(&mut sender), (0x70, [0, 7]));

    let received = receiver.packet().expect("a PUBLISH");
    assert_eq!(received[0], 0x34);
    assert!(received.ends_with(&payload), "other bytes came");
    let id_at = received.len() - payload.len() - if level == 5 { 3 } else { 2 };
    let id = [received[id_at], received[id_at + 1]];
    receiver.send(&[0x50, 2, id[0], id[1]]);
    assert_eq!(kind_and_id(&mut receiver), (0x62, id));
    receiver.send(&[0x70, 2, id[0], id[1]]);
    receiver.send(&[0xC0, 0]);
    assert_eq!(receiver.packet().expect("a PINGRESP"), [0xD0, 0]);

    drop(sender);
    let will = receiver.packet().expect("the will");
    assert!(will[0] == 0x32 && will.ends_with(b"lost"), "{will:02x?}");
    receiver.send(&[0xE0, 0]);
    receiver.assert_closed();
}

#[test]
fn a_session_is_the_same_on_every_way_in() {
    let Some(everywhere) = Everywhere::start() else {
        return;
    };
    for way in ALL {
        for level in [4, 5] {
            eprintln!("{way:?}, level {level}");
            round_trip(&everywhere, way, level);
        }
    }
    let handshakes_failed = everywhere.daemon.metric("clawdbot_mqtt_handshakes_failed_total");
    assert_eq!(handshakes_failed, Some(0.0));
}

#[test]
fn refusals_and_last_words_arrive_on_every_way_in() {
    let Some(mut everywhere) = Everywhere::start_with(|launch| launch.set("mqtt.max_packet_bytes", 2000))
    else {
        return;
    };
    let token = everywhere.daemon.token("phone");
    for way in ALL {
        let mut stranger = everywhere.open(way);
        stranger.send(&connect(5, "stranger", Some("no token")));
        assert_eq!(
            stranger.connack_code(),
            0x86,
            "{way:?}: bad user name or password"
        );
        stranger.assert_closed();

        let mut loud = everywhere.open(way);
        loud.send(&connect(5, "loud", Some(&token)));
        assert_eq!(loud.connack_code(), 0);
        loud.send(&publish(5, 0x32, "clawdbot/phone/x", &[b'x'; 5000]));
        assert_eq!(loud.disconnect_reason(), PACKET_TOO_LARGE, "{way:?}");
    }
    let mut clients = ALL.map(|way| {
        let mut client = everywhere.open(way);
        let token = everywhere.daemon.token("phone");
        client.send(&connect(5, &format!("{way:?}"), Some(&token)));
        assert_eq!(client.connack_code(), 0);
        client
    });
    everywhere.daemon.signal(Signal::TERM);
    for (client, way) in clients.iter_mut().zip(ALL) {
        assert_eq!(client.disconnect_reason(), SERVER_SHUTTING_DOWN, "{way:?}");
    }
    let status = everywhere.daemon.exit(PATIENCE).expect("it exits");
    assert_eq!(status.code(), Some(0));
    assert!(!everywhere.unix().exists(), "the socket was left behind");
}
