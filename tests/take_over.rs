//! A client that makes a second connection while the first is still there, or was a moment ago.

use crate::support::daemon::Daemon;
use crate::support::raw::{RawClient, connect, packet, publish, text};
use crate::support::wait_for;

const CAME_BACK: usize = 60;

/// A CONNECT of 3.1.1 with a session that stays and a will.
fn connect_with_will(client_id: &str) -> Vec<u8> {
    let mut body = [&text(b"MQTT")[..], &[4, 0b0000_0100, 0, 60]].concat();
    for field in [client_id.as_bytes(), b"will", b"lost"] {
        body.extend(text(field));
    }
    packet(0x10, &body)
}

fn subscribe(filter: &str) -> Vec<u8> {
    packet(0x82, &[&[0, 1][..], &text(filter.as_bytes()), &[0]].concat())
}

/// Sees what is published on `will` and `t`.
fn watcher(daemon: &Daemon) -> RawClient {
    let mut watcher = RawClient::open(daemon.mqtt);
    watcher.send(&connect(4, "watcher", None));
    assert_eq!(watcher.connack_code(), 0);
    for filter in ["will", "t"] {
        watcher.send(&subscribe(filter));
        assert_eq!(watcher.packet().expect("a SUBACK"), [0x90, 3, 0, 1, 0]);
    }
    watcher
}

#[test]
fn a_goodbye_is_heard_although_its_client_is_back_at_once() {
    // Its connections are watched by one reactor after the other, its session stays where it is.
    let daemon = Daemon::launch()
        .set("auth.mode", "none")
        .set("mqtt.session_threads", 3)
        .start();
    let mut watcher = watcher(&daemon);
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

#[test]
fn a_goodbye_behind_publications_that_had_to_wait_is_heard() {
    let daemon = Daemon::launch()
        .set("auth.mode", "none")
        .set("mqtt.max_messages_per_s", 1)
        .start();
    let mut watcher = watcher(&daemon);
    let read_bytes = || {
        daemon
            .metric("clawdbot_mqtt_received_bytes_total")
            .expect("counted")
    };
    // So much that nothing more is read of a client that has to wait, and so little that the goodbye is.
    for payload_bytes in [10_000, 1] {
        let message = publish(4, b"t", &vec![b'x'; payload_bytes]);
        let mut client = RawClient::open(daemon.mqtt);
        client.send(&connect_with_will("comes back"));
        assert_eq!(client.connack_code(), 0);
        let before = read_bytes();
        // The router has to be asked in the middle of it.
        let said = [message.repeat(14), subscribe("u"), message.repeat(14)].concat();
        client.send(&said);
        wait_for("everything to be read", || {
            (read_bytes() >= before + said.len() as f64).then_some(())
        });
        client.send(&[0xE0, 0]);
        let mut again = RawClient::open(daemon.mqtt);
        again.send(&connect_with_will("comes back"));
        assert_eq!(again.connack_code(), 0);
        again.send(&[0xE0, 0]);
        for number in 0..28 {
            let came = watcher.packet().expect("a message");
            assert!(
                came == message,
                "message {number} of {payload_bytes} bytes is another one"
            );
        }
    }
    let barrier = publish(4, b"will", b"barrier");
    watcher.send(&barrier);
    assert_eq!(
        watcher.packet().expect("a message"),
        barrier,
        "no will, for nobody was lost"
    );
}
