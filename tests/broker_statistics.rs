//! `$SYS/broker/…`: statistics under Mosquitto's names, and who sees them.

use serde_json::json;

use crate::support::client::{BOTH, Client, Login, Version};
use crate::support::daemon::Daemon;

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
