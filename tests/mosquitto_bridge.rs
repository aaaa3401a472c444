//! Mosquitto as a bridge: two brokers that share topics, with what Mosquitto sends by default.

use std::net::SocketAddr;

use crate::support::daemon::Daemon;
use crate::support::mosquitto::Mosquitto;
use crate::support::raw::{RawClient, connect, packet, text};
use crate::support::wait_for;

/// A Mosquitto that is bridged to a daemon for `shared/#`, both ways. Nothing is said of the protocol: a bridge marks
/// itself in its level, and tells its state by its will.
fn bridge_to(daemon: &Daemon) -> Option<Mosquitto> {
    Mosquitto::start(&format!(
        "connection hub\naddress {}\nremote_clientid bridge\ntopic shared/# both 1\nrestart_timeout 1",
        daemon.mqtt
    ))
}

/// A 3.1.1 client that is subscribed to a filter.
fn subscriber(address: SocketAddr, client_id: &str, filter: &str) -> RawClient {
    let mut client = RawClient::open(address);
    client.send(&connect(4, client_id, None));
    assert_eq!(client.connack_code(), 0);
    client.send(&packet(
        0x82,
        &[&[0, 1], &text(filter.as_bytes())[..], &[0]].concat(),
    ));
    assert_eq!(client.packet().expect("a SUBACK"), [0x90, 3, 0, 1, 0]);
    client
}

/// A PUBLISH at QoS 0, retained or not.
fn publish(retain: bool, topic: &str, payload: &str) -> Vec<u8> {
    let body = [&text(topic.as_bytes())[..], payload.as_bytes()].concat();
    packet(0x30 | u8::from(retain), &body)
}

#[test]
fn a_bridge_of_mosquittos_shares_topics_without_an_echo() {
    let daemon = Daemon::launch().set("auth.mode", "none").start();
    let mut watcher = subscriber(daemon.mqtt, "watcher", "$SYS/broker/connection/#");
    let Some(bridge) = bridge_to(&daemon) else {
        return;
    };
    let state = watcher.packet().expect("the bridge tells that it is connected");
    assert!(state.ends_with(b"/state1"), "{}", String::from_utf8_lossy(&state));

    let mut here = subscriber(daemon.mqtt, "here", "shared/#");
    let mut there = subscriber(bridge.address, "there", "shared/#");
    for (number, retain) in [(1, false), (2, true)] {
        let topic = format!("shared/{number}");
        for (from_here, payload) in [(true, "from here"), (false, "from there")] {
            let sender = if from_here { &mut here } else { &mut there };
            sender.send(&publish(retain, &topic, payload));
            let message = publish(false, &topic, payload);
            // Each has it once: a copy that came back would be read in the place of the next message.
            assert_eq!(here.packet().as_ref(), Some(&message), "{payload}, here");
            assert_eq!(there.packet().as_ref(), Some(&message), "{payload}, there");
        }
    }
    // What is retained at one of them is retained at the other.
    let last = publish(true, "shared/2", "from there");
    for (address, name) in [(daemon.mqtt, "late here"), (bridge.address, "late there")] {
        let mut late = subscriber(address, name, "shared/2");
        assert_eq!(late.packet().as_ref(), Some(&last), "{name}");
    }
    here.send(&publish(true, "shared/2", "for good"));
    wait_for("what was retained here to be retained there", || {
        let mut late = subscriber(bridge.address, "later", "shared/2");
        late.packet().filter(|packet| packet.ends_with(b"for good"))
    });

    drop(bridge);
    let state = watcher.packet().expect("its will");
    assert!(state.ends_with(b"/state0"), "{}", String::from_utf8_lossy(&state));
}
