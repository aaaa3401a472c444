//! What comes from strangers: broken packets, silence, other people's tokens. The connection it came
//! on ends with the right reason, and nobody else notices.

use std::time::{Duration, SystemTime};

use crate::support::client::{BOTH, Client, Login};
use crate::support::daemon::{Daemon, Home};
use crate::support::raw::{RawClient, connect, packet, publish, text};
use crate::support::wait_for;

const MALFORMED_PACKET: &[u8] = &[0x81];
const PROTOCOL_ERROR: &[u8] = &[0x82];
/// Where the specification leaves open which of the two it is.
const MALFORMED_OR_PROTOCOL_ERROR: &[u8] = &[0x81, 0x82];
const MALFORMED_OR_TOPIC_NAME_INVALID: &[u8] = &[0x81, 0x90];
const PACKET_TOO_LARGE: &[u8] = &[0x95];
const UNSUPPORTED_VERSION_311: u8 = 0x01;
const UNSUPPORTED_VERSION_5: u8 = 0x84;

/// A client that is connected all the while and must not notice anything.
struct Bystander {
    client: RawClient,
}

impl Bystander {
    fn of(daemon: &Daemon) -> Bystander {
        let mut client = RawClient::admitted(daemon.mqtt, 4, "bystander", &daemon.token("bystander"));
        client.send(&packet(
            0x82,
            &[&[0, 1], &text(b"clawdbot/bystander/x")[..], &[0]].concat(),
        ));
        assert_eq!(client.packet().expect("a SUBACK"), [0x90, 3, 0, 1, 0]);
        Bystander { client }
    }

    /// On its very first connection it still hears itself.
    fn assert_undisturbed(&mut self) {
        let message = publish(4, b"clawdbot/bystander/x", b"still here");
        self.client.send(&message);
        assert_eq!(self.client.packet().expect("the message"), message);
    }
}

#[test]
fn what_breaks_the_protocol_ends_its_connection_with_the_reason_and_no_other() {
    let daemon = Daemon::launch().set("mqtt.max_packet_bytes", 4096).start();
    let mut bystander = Bystander::of(&daemon);
    let token = daemon.token("phone");
    let oversized_header = [0x30, 0xFF, 0xFF, 0xFF, 0x7F];
    let own_topic = |payload: &[u8]| publish(5, b"clawdbot/phone/x", payload);
    let cases: Vec<(&str, Vec<u8>, &[u8])> = vec![
        (
            "a second CONNECT",
            connect(5, "phone", Some(&token)),
            PROTOCOL_ERROR,
        ),
        ("packet type 0", vec![0x00, 0x00], MALFORMED_OR_PROTOCOL_ERROR),
        (
            "a packet of 256 MiB, announced",
            oversized_header.to_vec(),
            PACKET_TOO_LARGE,
        ),
        (
            "a packet of 4 KiB and more",
            own_topic(&[b'x'; 5000]),
            PACKET_TOO_LARGE,
        ),
        ("QoS 3", vec![0x36, 0x05, 0, 1, b'a', 0, 1], MALFORMED_PACKET),
        (
            "wrong flags of SUBSCRIBE",
            packet(0x80, &[0, 1, 0, 0, 1, b'a', 0]),
            MALFORMED_PACKET,
        ),
        (
            "a topic that ends beyond its packet",
            packet(0x30, &[0, 200, b'a']),
            MALFORMED_PACKET,
        ),
        (
            "a topic that is not UTF-8",
            publish(5, b"\xC3\x28", b""),
            MALFORMED_PACKET,
        ),
        (
            "a topic with a wildcard",
            publish(5, b"clawdbot/phone/+", b""),
            MALFORMED_OR_TOPIC_NAME_INVALID,
        ),
        (
            "a Response Topic with a wildcard",
            packet(
                0x30,
                &[&text(b"clawdbot/phone/x")[..], &[6, 0x08, 0, 3], b"a/#"].concat(),
            ),
            PROTOCOL_ERROR,
        ),
        (
            "a packet only servers send",
            packet(0xD0, &[]),
            MALFORMED_OR_PROTOCOL_ERROR,
        ),
        (
            "a SUBSCRIBE for nothing",
            packet(0x82, &[0, 1, 0]),
            MALFORMED_OR_PROTOCOL_ERROR,
        ),
    ];
    for (number, (what, bytes, reasons)) in cases.iter().enumerate() {
        let (name, token) = (format!("five{number}"), daemon.token("phone"));
        let mut client = RawClient::admitted(daemon.mqtt, 5, &name, &token);
        client.send(bytes);
        let told = client.disconnect_reason();
        assert!(reasons.contains(&told), "{what}: {told:#x}");
        bystander.assert_undisturbed();
        // To 3.1.1 a property is payload, and nothing is wrong with it.
        if what.starts_with("a Response Topic") {
            continue;
        }
        // It has no word for the rest either: the connection is closed without one.
        let mut client =
            RawClient::admitted(daemon.mqtt, 4, &format!("four{number}"), &daemon.token("phone"));
        client.send(bytes);
        client.assert_closed();
        bystander.assert_undisturbed();
    }
    // What cannot even be told to be MQTT gets no answer in any version.
    for level in [4, 5] {
        let mut client = RawClient::admitted(daemon.mqtt, level, "endless", &token);
        client.send(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]);
        client.assert_closed();
        bystander.assert_undisturbed();
    }
    // Both versions are counted, but for what is no fault of the packet itself (the wildcard, the CONNECT).
    assert!(daemon.metric("clawdbot_mqtt_protocol_errors_total").unwrap() >= 18.0);
}

#[test]
fn what_does_not_begin_with_connect_is_closed_without_a_word() {
    let daemon = Daemon::launch().set("mqtt.max_packet_bytes", 4096).start();
    let mut bystander = Bystander::of(&daemon);
    let connect_of_megabytes = [0x10, 0xFF, 0xFF, 0xFF, 0x7F];
    let other_protocol = packet(0x10, &[&text(b"MQQT")[..], &[4, 2, 0, 60], &text(b"x")].concat());
    for (what, bytes) in [
        ("HTTP", &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..]),
        ("TLS", &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..]),
        ("zeroes", &[0; 64][..]),
        ("PINGREQ", &packet(0xC0, &[])[..]),
        ("PUBLISH", &publish(4, b"a", b"b")[..]),
        ("a CONNECT of 256 MiB, announced", &connect_of_megabytes[..]),
        ("another protocol's name", &other_protocol[..]),
        (
            "a CONNECT with reserved flags",
            &packet(0x10, &[&text(b"MQTT")[..], &[4, 3, 0, 60], &text(b"x")].concat()),
        ),
    ] {
        let mut client = RawClient::open(daemon.mqtt);
        client.send(bytes);
        if let Some(packet) = client.packet() {
            // A CONNACK that refuses is a right answer to a broken CONNECT, too.
            assert!(packet[0] == 0x20 && packet[3] != 0, "{what}: {packet:02x?}");
            client.assert_closed();
        }
        bystander.assert_undisturbed();
    }
}

#[test]
fn credentials_that_cannot_be_read_get_no_answer_and_other_faults_of_mqtt_5_do() {
    let daemon = Daemon::launch().start();
    let with = |flags: u8, rest: &[u8]| {
        let fields = [&text(b"MQTT")[..], &[5, flags, 0, 60, 0], &text(b"x"), rest].concat();
        packet(0x10, &fields)
    };
    for (what, bytes) in [
        ("no user name", with(0b1000_0010, b"")),
        ("a user name with U+0000", with(0b1000_0010, &text(b"u\0"))),
        ("no password", with(0b1100_0010, &text(b"u"))),
        (
            "no keep-alive",
            packet(0x10, &[&text(b"MQTT")[..], &[5, 2]].concat()),
        ),
    ] {
        let mut client = RawClient::open(daemon.mqtt);
        client.send(&bytes);
        assert_eq!(client.packet(), None, "{what}");
    }
    let mut client = RawClient::open(daemon.mqtt);
    client.send(&with(0b0000_0010, b"more than announced"));
    assert_eq!(client.connack_code(), MALFORMED_PACKET[0]);
    client.assert_closed();
}

#[test]
fn a_version_that_does_not_exist_is_refused_by_its_code() {
    let daemon = Daemon::launch().start();
    let token = daemon.token("phone");
    for level in [2, 6, 255] {
        let mut client = RawClient::open(daemon.mqtt);
        client.send(&connect(level, "phone", Some(&token)));
        let told = client.connack_code();
        assert!(
            matches!(told, UNSUPPORTED_VERSION_311 | UNSUPPORTED_VERSION_5),
            "level {level}: {told:#x}"
        );
        client.assert_closed();
    }
}

#[test]
fn who_never_says_connect_or_only_half_of_it_is_closed_in_time() {
    let daemon = Daemon::launch().set("mqtt.connect_timeout_s", 1).start();
    let mut bystander = Bystander::of(&daemon);
    let whole = connect(5, "phone", Some(&daemon.token("phone")));
    let mut silent = RawClient::open(daemon.mqtt);
    let mut half = RawClient::open(daemon.mqtt);
    half.send(&whole[..whole.len() / 2]);
    silent.assert_closed();
    half.assert_closed();
    bystander.assert_undisturbed();
}

#[test]
fn half_a_packet_and_then_silence_ends_with_the_keep_alive() {
    let daemon = Daemon::launch().start();
    let mut bystander = Bystander::of(&daemon);
    let token = daemon.token("phone");
    for level in [4, 5] {
        let mut connect = connect(level, "phone", Some(&token));
        // The keep-alive follows the protocol name, the level and the flags.
        let keep_alive = connect
            .windows(2)
            .position(|bytes| bytes == [0, 60])
            .expect("a keep-alive");
        connect[keep_alive + 1] = 1;
        let mut client = RawClient::open(daemon.mqtt);
        client.send(&connect);
        assert_eq!(client.connack_code(), 0);
        let whole = publish(level, b"clawdbot/phone/x", &[b'x'; 100]);
        client.send(&whole[..50]);
        if level == 5 {
            assert_eq!(client.disconnect_reason(), 0x8D, "keep alive timeout");
        } else {
            client.assert_closed();
        }
        bystander.assert_undisturbed();
    }
}

#[test]
fn bytes_that_come_one_by_one_make_the_same_packets() {
    let daemon = Daemon::launch().start();
    let token = daemon.token("phone");
    let mut client = RawClient::open(daemon.mqtt);
    for byte in connect(5, "phone", Some(&token))
        .into_iter()
        .chain(packet(0xC0, &[]))
    {
        client.send(&[byte]);
    }
    assert_eq!(client.connack_code(), 0);
    assert_eq!(client.packet().expect("a PINGRESP"), [0xD0, 0]);
}

#[tokio::test]
async fn tokens_that_are_wrong_expired_foreign_or_missing_are_refused_and_counted() {
    let daemon = Daemon::launch().start();
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    let cases = [
        ("garbage", Some("garbage".to_owned()), 0x86, 4),
        (
            "expired",
            Some(daemon.home().token_at("phone", long_ago)),
            0x86,
            4,
        ),
        (
            "foreign",
            Some(Home::new().token_at("phone", SystemTime::now())),
            0x86,
            4,
        ),
        ("no device id", Some(daemon.token("bridge")), 0x86, 4),
        ("cut off", Some(daemon.token("phone")[..60].to_owned()), 0x86, 4),
        ("missing", None, 0x87, 5),
    ];
    let mut refusals = 0.0;
    for (what, token, code_v5, code_v4) in cases {
        for (level, code) in [(5, code_v5), (4, code_v4)] {
            let mut client = RawClient::open(daemon.mqtt);
            client.send(&connect(level, "phone", token.as_deref()));
            assert_eq!(client.connack_code(), code, "{what} at level {level}");
            client.assert_closed();
            refusals += 1.0;
        }
    }
    assert_eq!(
        daemon.metric("clawdbot_mqtt_authentication_failures_total"),
        Some(refusals)
    );
    let log = daemon.log();
    assert!(
        log.contains("the token has expired") && log.contains("clawdbot token DEVICE"),
        "{log}"
    );
    assert!(
        !log.contains(&daemon.token("phone")[..40]),
        "no token stands in the log"
    );
}

#[tokio::test]
async fn a_client_id_of_another_device_is_refused() {
    let daemon = Daemon::launch().start();
    let mut owner = Client::of(&daemon, "tablet", "tablet-1").await;
    for version in BOTH {
        // The identifier of another device's session, and another device's own name.
        for client_id in ["tablet-1", "tablet"] {
            let login = Login::new(version, &daemon, "phone", client_id);
            let refused = Client::connect(daemon.mqtt, login).await.err().expect("refused");
            let named = refused.contains("BadClientId") || refused.contains("ClientIdentifierNotValid");
            assert!(named, "{version:?} {client_id}: {refused}");
        }
    }
    owner.subscribe("clawdbot/tablet/x", 1).await;
    owner.publish("clawdbot/tablet/x", 1, false, "undisturbed").await;
    assert_eq!(owner.message().await.payload, b"undisturbed");
}

#[tokio::test]
async fn without_tokens_on_loopback_everybody_is_let_in() {
    let daemon = Daemon::launch().set("auth.mode", "none").start();
    for version in BOTH {
        let mut login = Login::new(version, &daemon, "phone", "anybody");
        login.token = None;
        let mut client = Client::connect(daemon.mqtt, login).await.expect("let in");
        client.subscribe("any/+", 0).await;
        client.publish("any/topic", 1, false, "x").await;
        assert_eq!(client.message().await.topic, "any/topic");
    }
}

#[test]
fn one_connection_too_many_is_turned_away_and_the_next_after_a_goodbye_is_not() {
    let daemon = Daemon::launch().set("mqtt.max_connections", 2).start();
    let token = daemon.token("phone");
    let mut first = RawClient::admitted(daemon.mqtt, 5, "first", &daemon.token("phone"));
    let _second = RawClient::admitted(daemon.mqtt, 5, "second", &daemon.token("phone"));
    let mut third = RawClient::open(daemon.mqtt);
    third.assert_closed();
    assert_eq!(
        daemon.metric("clawdbot_mqtt_connections_refused_total"),
        Some(1.0)
    );
    first.send(&packet(0xE0, &[]));
    first.assert_closed();
    wait_for("a free place", || {
        let mut again = RawClient::open(daemon.mqtt);
        again.send(&connect(5, "third", Some(&token)));
        again.packet().filter(|packet| packet[3] == 0)
    });
}
