//! A client that says goodbye and closes its socket with messages unread. That resets the connection, and what
//! the daemon learns of first need not be what the client said last.

use super::Everywhere;
use super::same_session::{connect_with_will, subscribe};
use super::wires::{ALL, Way};
use crate::support::raw::{RawClient, packet, text};
use crate::support::wait_for;

const PAYLOAD_BYTES: usize = 64 * 1024;

fn publish(client: &mut RawClient, topic: &str, payload: &[u8]) {
    let body = [&text(topic.as_bytes())[..], &[0, 1], payload].concat();
    client.send(&packet(0x32, &body));
    assert_eq!(client.packet().expect("a PUBACK"), [0x40, 2, 0, 1]);
}

#[test]
fn a_goodbye_is_heard_although_its_client_leaves_messages_unread() {
    let start = |launch: crate::support::daemon::Launch| launch.set("mqtt.max_queued_bytes", 1024 * 1024);
    let Some(everywhere) = Everywhere::start_with(start) else {
        return;
    };
    let daemon = &everywhere.daemon;
    let mut watcher = RawClient::admitted(daemon.mqtt, 4, "watcher", &daemon.token("phone"));
    watcher.send(&subscribe(4, "clawdbot/phone/x/will"));
    assert_eq!(watcher.packet().expect("a SUBACK")[0], 0x90);
    let mut writer = RawClient::admitted(daemon.mqtt, 4, "writer", &daemon.token("phone"));
    let dropped = || {
        daemon
            .metric("clawdbot_mqtt_messages_dropped_outbox_full_total")
            .expect("counted")
    };
    let leave = |way: Way, writer: &mut RawClient, last_words: &[u8]| {
        let mut reader = everywhere.open(way);
        reader.send(&connect_with_will(
            4,
            "reader",
            &daemon.token("phone"),
            "clawdbot/phone/x/will",
        ));
        assert_eq!(reader.connack_code(), 0);
        reader.send(&subscribe(4, "clawdbot/phone/x/flood"));
        assert_eq!(reader.packet().expect("a SUBACK")[0], 0x90);
        // Until it is so far behind that nothing is read of it either.
        let before = dropped();
        while dropped() == before {
            publish(writer, "clawdbot/phone/x/flood", &[b'x'; PAYLOAD_BYTES]);
        }
        reader.send(last_words);
        drop(reader);
        wait_for("the end of the connection", || {
            (daemon.metric("clawdbot_mqtt_connections") == Some(2.0)).then_some(())
        });
    };
    for way in ALL {
        leave(way, &mut writer, &[0xE0, 0]);
        let end = format!("{way:?}");
        publish(&mut writer, "clawdbot/phone/x/will", end.as_bytes());
        let came = watcher.packet().expect("a message");
        assert!(came.ends_with(end.as_bytes()), "{way:?}: its will was told");
    }
    // Without a goodbye it is lost.
    leave(Way::Tcp, &mut writer, &[0xC0, 0]);
    assert!(watcher.packet().expect("the will").ends_with(b"lost"));
}
