//! A client that makes a second connection while the first is still there, or was a moment ago.

use crate::support::daemon::Daemon;
use crate::support::raw::{RawClient, packet, publish, text};

const CAME_BACK: usize = 60;

/// A CONNECT of 3.1.1 with a session that stays and a will.
fn connect_with_will(client_id: &str) -> Vec<u8> {
    let mut body = [&text(b"MQTT")[..], &[4, 0b0000_0100, 0, 60]].concat();
    for field in [client_id.as_bytes(), b"will", b"lost"] {
        body.extend(text(field));
    }
    packet(0x10, &body)
}

#[test]
fn a_goodbye_is_heard_although_its_client_is_back_at_once() {
    // Its connections are watched by one reactor after the other, its session stays where it is.
    let daemon = Daemon::launch()
        .set("auth.mode", "none")
        .set("mqtt.session_threads", 3)
        .start();
    let mut watcher = RawClient::open(daemon.mqtt);
    watcher.send(&packet(
        0x10,
        &[&text(b"MQTT")[..], &[4, 2, 0, 60], &text(b"watcher")].concat(),
    ));
    assert_eq!(watcher.connack_code(), 0);
    watcher.send(&packet(0x82, &[&[0, 1], &text(b"will")[..], &[0]].concat()));
    assert_eq!(watcher.packet().expect("a SUBACK"), [0x90, 3, 0, 1, 0]);

    for _ in 0..CAME_BACK {
        let mut client = RawClient::open(daemon.mqtt);
        client.send(&connect_with_will("comes back"));
        assert_eq!(client.connack_code(), 0);
        client.send(&[0xE0, 0]);
    }
    let barrier = publish(4, b"will", b"barrier");
    watcher.send(&barrier);
    assert_eq!(
        watcher.packet().expect("a message"),
        barrier,
        "no will, for nobody was lost"
    );
}
