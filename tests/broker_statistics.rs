//! `$SYS/broker/…`: statistics under Mosquitto's names, and who sees them.

#[path = "broker_statistics/counted.rs"]
mod counted;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::{BOTH, Client, Login, Version};
use crate::support::daemon::Daemon;
use crate::support::mosquitto::Mosquitto;
use crate::support::raw::{RawClient, connect, packet, publish, text};
use crate::support::{PATIENCE, wait_for};
use counted::{Counted, Traffic};

async fn anybody(daemon: &Daemon, version: Version, client_id: &str) -> Client {
    let mut login = Login::new(version, daemon, "anybody", client_id);
    login.token = None;
    Client::connect(daemon.mqtt, login).await.expect("let in")
}

/// The next value of a statistic for which this holds.
async fn until(client: &mut Client, name: &str, holds: impl Fn(&str) -> bool) -> String {
    loop {
        let message = client.message_on(&format!("$SYS/broker/{name}")).await;
        let value = String::from_utf8(message.payload).expect("text");
        if holds(&value) {
            return value;
        }
    }
}

#[tokio::test]
async fn statistics_stand_under_mosquittos_names_and_follow_what_happens() {
    let daemon = Daemon::launch()
        .set("auth.mode", "none")
        .set("mqtt.sys_interval_s", 1)
        .start();
    for version in BOTH {
        let mut watcher = anybody(&daemon, version, "watcher").await;
        watcher.subscribe("$SYS/#", 0).await;
        let version_said = until(&mut watcher, "version", |_| true).await;
        assert_eq!(
            version_said,
            format!("clawdbot version {}", env!("CARGO_PKG_VERSION"))
        );
        until(&mut watcher, "uptime", |said| said.ends_with(" seconds")).await;
        until(&mut watcher, "subscriptions/count", |said| said == "1").await;
        until(&mut watcher, "clients/connected", |said| said == "1").await;

        let mut other = anybody(&daemon, version, "other").await;
        other.subscribe("x", 1).await;
        let before: u64 = until(&mut watcher, "publish/messages/received", |_| true)
            .await
            .parse()
            .expect("a number");
        for k in 0..10 {
            other.publish("x", 1, k == 9, "y").await;
        }
        let many = |said: &str| said.parse::<u64>().expect("a number") >= before + 10;
        until(&mut watcher, "publish/messages/received", many).await;
        until(&mut watcher, "clients/connected", |said| said == "2").await;
        until(&mut watcher, "clients/total", |said| said == "2").await;
        until(&mut watcher, "subscriptions/count", |said| said == "2").await;
        let per_minute = until(&mut watcher, "load/publish/received/1min", |said| said != "0.00").await;
        assert!(per_minute.parse::<f64>().expect("a number") > 0.0);
        let (received, publishes) = (
            daemon
                .metric("clawdbot_mqtt_packets_received_other_total")
                .expect("counted"),
            daemon
                .metric("clawdbot_mqtt_messages_received_total")
                .expect("counted"),
        );
        let all = |said: &str| said.parse::<f64>().expect("a number") > publishes;
        assert!(received > 0.0);
        until(&mut watcher, "messages/received", all).await;
        watcher.disconnect().await;
        other.disconnect().await;
    }
}

#[tokio::test]
async fn a_filter_that_begins_with_a_wildcard_brings_no_statistics() {
    let daemon = Daemon::launch()
        .set("auth.mode", "none")
        .set("mqtt.sys_interval_s", 1)
        .start();
    for version in BOTH {
        let mut watcher = anybody(&daemon, version, "watcher").await;
        let mut everything = anybody(&daemon, version, "everything").await;
        everything.subscribe("#", 1).await;
        everything.subscribe("+/broker/uptime", 1).await;
        watcher.subscribe("$SYS/broker/uptime", 1).await;
        // One that was retained, and one that was said while all were subscribed.
        let first = until(&mut watcher, "uptime", |_| true).await;
        until(&mut watcher, "uptime", |said| said != first).await;
        watcher.publish("the/end", 1, false, "x").await;
        assert_eq!(everything.message().await.topic, "the/end");
        watcher.disconnect().await;
        everything.disconnect().await;
    }
}

#[tokio::test]
async fn an_interval_of_nothing_publishes_nothing() {
    let daemon = Daemon::launch()
        .set("auth.mode", "none")
        .set("mqtt.sys_interval_s", 0)
        .start();
    let mut watcher = anybody(&daemon, Version::V5, "watcher").await;
    watcher.subscribe("$SYS/#", 0).await;
    watcher.subscribe("x", 1).await;
    watcher.publish("x", 1, false, "y").await;
    assert_eq!(watcher.message().await.topic, "x");
    assert_eq!(daemon.metric("clawdbot_mqtt_retained"), Some(0.0));
}

#[tokio::test]
async fn a_device_sees_statistics_only_if_its_token_says_so() {
    let daemon = Daemon::launch().start();
    let mut device = Client::of(&daemon, "phone", "phone").await;
    for filter in ["$SYS/#", "$SYS/broker/uptime"] {
        assert_eq!(device.try_subscribe(filter, 0).await, None, "{filter}");
    }
    for (topic, granted) in [("#", None), ("$SYS/#", Some(0))] {
        let acl = json!([{"permission": "allow", "action": "subscribe", "topic": topic}]);
        let mut login = Login::new(Version::V5, &daemon, "steward", "steward");
        login.token = Some(daemon.home().token_with_acl("steward", acl));
        let mut steward = Client::connect(daemon.mqtt, login).await.expect("admitted");
        assert_eq!(
            steward.try_subscribe("$SYS/#", 0).await,
            granted,
            "allowed {topic}"
        );
        steward.disconnect().await;
    }
}

/// Mosquitto's interval of a second takes two.
const ROUND: Duration = Duration::from_millis(2500);

/// Names whose values follow from what was said on the wire.
const OF_THE_WIRE: [&str; 8] = [
    "bytes/received",
    "bytes/sent",
    "messages/received",
    "messages/sent",
    "publish/bytes/received",
    "publish/bytes/sent",
    "publish/messages/received",
    "publish/messages/sent",
];

/// Names whose values follow from who is there.
const OF_THE_CLIENTS: [(&str, f64); 5] = [
    ("clients/connected", 2.0),
    ("clients/total", 2.0),
    ("clients/expired", 0.0),
    ("subscriptions/count", 1.0),
    ("shared_subscriptions/count", 1.0),
];

/// Two clients talk, and stay.
fn converse(broker: SocketAddr, traffic: &mut Traffic) -> [Counted; 2] {
    let mut reader = Counted::open(broker);
    reader.say(traffic, &connect(4, "reader", None));
    reader.hear(traffic, 0x20);
    for (id, filter) in [(1, "x"), (2, "$share/g/y")] {
        let body = [&[0, id][..], &text(filter.as_bytes()), &[1]].concat();
        reader.say(traffic, &packet(0x82, &body));
        reader.hear(traffic, 0x90);
    }
    let mut writer = Counted::open(broker);
    writer.say(traffic, &connect(4, "writer", None));
    writer.hear(traffic, 0x20);
    for topic in [b"x", b"y"] {
        for payload_bytes in [0, 1, 100, 100_000] {
            writer.say(traffic, &publish(4, topic, &vec![b'x'; payload_bytes]));
            reader.hear(traffic, 0x30);
        }
        let body = [&text(topic)[..], &[0, 7], &[b'y'; 300]].concat();
        writer.say(traffic, &packet(0x32, &body));
        writer.hear(traffic, 0x40);
        let came = reader.hear(traffic, 0x32);
        let id_at = came.len() - 300 - 2;
        reader.say(traffic, &packet(0x40, &came[id_at..id_at + 2]));
    }
    for client in [&mut reader, &mut writer] {
        client.say(traffic, &[0xC0, 0]);
        client.hear(traffic, 0xD0);
    }
    [reader, writer]
}

/// What a client that comes now finds retained under these names.
fn look(broker: SocketAddr, traffic: &mut Traffic, names: &[&str]) -> BTreeMap<String, f64> {
    let mut watcher = Counted::open(broker);
    watcher.say(traffic, &connect(4, "watcher", None));
    watcher.hear(traffic, 0x20);
    let mut found = BTreeMap::new();
    for name in names {
        let topic = format!("$SYS/broker/{name}");
        watcher.say(
            traffic,
            &packet(0x82, &[&[0, 1][..], &text(topic.as_bytes()), &[0]].concat()),
        );
        watcher.hear(traffic, 0x90);
        // What is retained; it may be said anew at the same moment.
        let mut came = watcher.hear_any(traffic);
        while came[0] != 0x31 {
            came = watcher.hear_any(traffic);
        }
        let value = String::from_utf8_lossy(&came[2 + 2 + topic.len()..]).into_owned();
        found.insert((*name).to_owned(), value.parse().expect("a number"));
        watcher.say(
            traffic,
            &packet(0xA2, &[&[0, 2][..], &text(topic.as_bytes())].concat()),
        );
        while watcher.hear_any(traffic)[0] != 0xB0 {}
    }
    watcher.say(traffic, &[0xE0, 0]);
    watcher.hear_the_end();
    found
}

/// Holds a broker's statistics against what its clients counted themselves.
fn assert_counts_what_is_said(name: &str, broker: SocketAddr) {
    let mut traffic = Traffic::default();
    let _clients = converse(broker, &mut traffic);
    let deadline = Instant::now() + PATIENCE;
    loop {
        thread::sleep(ROUND);
        let expected = OF_THE_WIRE.into_iter().zip(traffic.in_the_order_of_names());
        let expected: BTreeMap<_, _> = expected.chain(OF_THE_CLIENTS).collect();
        let found = look(
            broker,
            &mut traffic,
            &expected.keys().copied().collect::<Vec<_>>(),
        );
        let found: BTreeMap<_, _> = found
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        if found == expected {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{name} counts {found:?}, its clients {expected:?}"
        );
    }
    let loads = ["bytes/received", "bytes/sent", "connections", "sockets"];
    let names: Vec<_> = loads
        .iter()
        .flat_map(|of| ["1min", "5min", "15min"].map(|over| format!("load/{of}/{over}")))
        .collect();
    let names: Vec<_> = names
        .iter()
        .map(String::as_str)
        .chain(["clients/maximum"])
        .collect();
    for (of, value) in look(broker, &mut traffic, &names) {
        assert!(value > 0.0, "{name}: {of} is {value}");
    }
}

#[test]
fn what_is_counted_is_what_was_said_on_the_wire_and_what_mosquitto_counts() {
    let daemon = Daemon::launch()
        .set("auth.mode", "none")
        .set("mqtt.sys_interval_s", 1)
        .start();
    let Some(mosquitto) = Mosquitto::start("sys_interval 1") else {
        return;
    };
    thread::scope(|scope| {
        scope.spawn(|| assert_counts_what_is_said("Mosquitto", mosquitto.address));
        scope.spawn(|| assert_counts_what_is_said("the daemon", daemon.mqtt));
    });
}

#[test]
fn the_bytes_of_those_who_are_not_let_in_are_counted_too() {
    let daemon = Daemon::launch().start();
    let mut refused = RawClient::open(daemon.mqtt);
    let said = connect(5, "refused", Some("no token"));
    refused.send(&said);
    let answer = refused.packet().expect("a CONNACK");
    refused.assert_closed();
    for (name, value) in [
        ("received_bytes", said.len()),
        ("sent_bytes", answer.len()),
        ("packets_received_other", 1),
        ("packets_sent_other", 1),
        ("connects_received", 1),
    ] {
        let found = daemon.metric(&format!("clawdbot_mqtt_{name}_total"));
        assert_eq!(found, Some(value as f64), "{name}");
    }
}

#[test]
fn a_session_whose_client_does_not_come_back_is_counted_as_expired() {
    let daemon = Daemon::launch().set("auth.mode", "none").start();
    let expired = || daemon.metric("clawdbot_mqtt_sessions_expired_total");
    let mut brief = RawClient::open(daemon.mqtt);
    brief.send(&connect(5, "brief", None));
    assert_eq!(brief.connack_code(), 0);
    drop(brief);
    wait_for("the session to end", || {
        (daemon.metric("clawdbot_mqtt_sessions") == Some(0.0)).then_some(())
    });
    assert_eq!(expired(), Some(0.0), "it ended with its connection");

    let mut lasting = RawClient::open(daemon.mqtt);
    let expiry_of_a_second = [5, 0x11, 0, 0, 0, 1];
    let body = [
        &text(b"MQTT")[..],
        &[5, 0, 0, 60],
        &expiry_of_a_second,
        &text(b"lasting"),
    ];
    lasting.send(&packet(0x10, &body.concat()));
    assert_eq!(lasting.connack_code(), 0);
    drop(lasting);
    wait_for("the session to expire", || (expired() == Some(1.0)).then_some(()));
}
