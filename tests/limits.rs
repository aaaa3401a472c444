//! What one client may take of the machine: what it is told at the limit, and that nobody else notices.

use std::process::Command;
use std::time::Duration;

use crate::support::daemon::Daemon;
use crate::support::data;
use crate::support::raw::{RawClient, connect, packet, publish, text};

fn client(daemon: &Daemon, level: u8, name: &str) -> RawClient {
    let mut client = RawClient::open(daemon.mqtt);
    client.send(&connect(level, name, None));
    assert_eq!(client.connack_code(), 0);
    client
}

fn subscribe(client: &mut RawClient, filter: &str) -> u8 {
    subscribe_at(client, 4, filter)
}

fn subscribe_at(client: &mut RawClient, level: u8, filter: &str) -> u8 {
    let no_properties: &[u8] = if level == 5 { &[0] } else { &[] };
    let body = [&[0, 1][..], no_properties, &text(filter.as_bytes()), &[0]].concat();
    client.send(&packet(0x82, &body));
    *client.packet().expect("a SUBACK").last().expect("a code")
}

#[test]
fn a_client_that_publishes_too_fast_is_slowed_and_loses_nothing() {
    let daemon = Daemon::launch()
        .set("auth.mode", "none")
        .set("mqtt.max_messages_per_s", 50)
        .start();
    let mut reader = client(&daemon, 4, "reader");
    assert_eq!(subscribe(&mut reader, "t/#"), 0);
    let mut fast = client(&daemon, 4, "fast");
    for number in 0..100_u8 {
        fast.send(&publish(4, b"t/fast", &[number]));
    }
    // Pings are answered while publications wait.
    fast.send(&[0xC0, 0]);
    assert_eq!(fast.packet(), Some(vec![0xD0, 0]));
    let mut other = client(&daemon, 4, "other");
    other.send(&publish(4, b"t/other", b"!"));

    let mut numbers = Vec::new();
    let mut other_came_before = None;
    while numbers.len() < 100 || other_came_before.is_none() {
        let packet = reader.packet().expect("a PUBLISH");
        match packet.last() {
            Some(b'!') if packet.ends_with(b"t/other!") => other_came_before = Some(numbers.len()),
            Some(number) => numbers.push(*number),
            None => unreachable!("a packet has bytes"),
        }
    }
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    assert!(
        other_came_before < Some(100),
        "the other client had to wait for the fast one"
    );
    let paused = daemon.metric("clawdbot_mqtt_publishers_paused_total");
    assert!(paused > Some(0.0), "{paused:?}");
}

#[test]
fn bytes_are_limited_as_messages_are() {
    let daemon = Daemon::launch()
        .set("auth.mode", "none")
        .set("mqtt.max_bytes_per_s", 10_000)
        .start();
    let mut reader = client(&daemon, 4, "reader");
    assert_eq!(subscribe(&mut reader, "t"), 0);
    let mut fast = client(&daemon, 4, "fast");
    for _ in 0..3 {
        fast.send(&publish(4, b"t", &[7; 5000]));
    }
    for _ in 0..3 {
        assert_eq!(reader.packet().expect("a PUBLISH").len(), 5000 + 3 + 3);
    }
    assert!(daemon.metric("clawdbot_mqtt_publishers_paused_total") > Some(0.0));
}

#[test]
fn a_client_whose_publications_wait_is_not_taken_for_a_silent_one() {
    let daemon = Daemon::launch()
        .set("auth.mode", "none")
        .set("mqtt.max_bytes_per_s", 10_000)
        .start();
    let mut hasty = RawClient::open(daemon.mqtt);
    let keep_alive_of_a_second = [4, 2, 0, 1];
    let body = [&text(b"MQTT")[..], &keep_alive_of_a_second, &text(b"hasty")];
    hasty.send(&packet(0x10, &body.concat()));
    assert_eq!(hasty.connack_code(), 0);
    // Paid for after three seconds, and the client says something in each of them.
    hasty.send(&publish(4, b"t", &[7; 40_000]));
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(400));
        hasty.send(&publish(4, b"t", b"!"));
    }
    hasty.send(&[0xC0, 0]);
    assert_eq!(hasty.packet(), Some(vec![0xD0, 0]));
}

#[test]
fn topics_too_deep_or_too_long_are_refused_in_the_protocol_s_words() {
    let daemon = Daemon::launch()
        .set("auth.mode", "none")
        .set("mqtt.max_topic_levels", 3)
        .set("mqtt.max_topic_bytes", 10)
        .start();
    let mut old = client(&daemon, 4, "old");
    assert_eq!(subscribe(&mut old, "a/b/c"), 0);
    assert_eq!(subscribe(&mut old, "a/b/c/d"), 0x80);
    assert_eq!(subscribe(&mut old, "0123456789a"), 0x80);
    for topic in ["a/b/c/d", "0123456789a"] {
        let mut new = client(&daemon, 5, "new");
        new.send(&publish(5, b"a/b/c", b"taken"));
        assert_eq!(old.packet().expect("a PUBLISH").len(), 2 + 2 + 5 + 5);
        new.send(&publish(5, topic.as_bytes(), b"not taken"));
        assert_eq!(new.disconnect_reason(), 0x90, "Topic Name invalid");
    }
}

#[test]
fn a_client_identifier_may_be_as_long_as_the_wire_can_carry() {
    let daemon = Daemon::launch().set("auth.mode", "none").start();
    for level in [4, 5] {
        let name = "n".repeat(65_535);
        let mut long = client(&daemon, level, &name);
        assert_eq!(subscribe_at(&mut long, level, "a"), 0);
        // It is nobody else's, however much of it is the same.
        let mut other = client(&daemon, level, &name[..65_534]);
        other.send(&publish(level, b"a", b"x"));
        assert!(long.packet().expect("a PUBLISH").ends_with(b"x"));
    }
}

#[test]
fn the_inference_process_steps_back_behind_the_broker() {
    let Some(model) = data::stories() else { return };
    let daemon = Daemon::with_model(&model);
    let niceness = |pid: u32| {
        let output = Command::new("ps")
            .args(["-o", "ni=", "-p", &pid.to_string()])
            .output()
            .expect("ps is everywhere");
        let text = String::from_utf8(output.stdout).expect("a number");
        text.trim().parse::<i32>().expect("a number")
    };
    assert_eq!(
        niceness(daemon.worker_pid()),
        (niceness(daemon.pid()) + 10).min(19)
    );
}
