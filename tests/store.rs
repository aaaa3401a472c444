//! What was acknowledged outlives the daemon, however it ends.

mod conversations;
mod crash;
mod peer;
mod requests;

use rustix::process::Signal;

use crate::support::PATIENCE;
use crate::support::client::{BOTH, Client, Login};
use crate::support::daemon::{Daemon, Launch};

/// The daemon is killed on the spot, and another takes its place.
fn kill_and_restart(mut daemon: Daemon, launch: &Launch) -> Daemon {
    daemon.signal(Signal::KILL);
    daemon.exit(PATIENCE).expect("it is dead");
    launch.clone().start()
}

#[tokio::test]
async fn a_retained_message_that_was_acknowledged_outlives_kill_minus_9() {
    let launch = Daemon::launch();
    let mut daemon = launch.clone().start();
    for (round, version) in (0..).zip(BOTH) {
        let mut client = Client::connect(daemon.mqtt, Login::new(version, &daemon, "phone", "phone"))
            .await
            .expect("admitted");
        for qos in [1, 2] {
            client
                .publish(
                    &format!("clawdbot/phone/kept/{qos}"),
                    qos,
                    true,
                    format!("round {round}"),
                )
                .await;
        }
        client.publish("clawdbot/phone/gone", 1, true, "something").await;
        client.publish("clawdbot/phone/gone", 1, true, "").await;
        daemon = kill_and_restart(daemon, &launch);
        let mut client = Client::connect(daemon.mqtt, Login::new(version, &daemon, "phone", "phone"))
            .await
            .expect("admitted");
        client.subscribe("clawdbot/phone/#", 1).await;
        client.publish("clawdbot/phone/last", 1, false, "").await;
        let mut found = Vec::new();
        loop {
            let message = client.message().await;
            if message.topic == "clawdbot/phone/last" {
                break;
            }
            if !message.topic.ends_with("/status") {
                assert!(message.retain);
                assert_eq!(message.payload, format!("round {round}").as_bytes());
                found.push(message.topic);
            }
        }
        found.sort();
        assert_eq!(found, ["clawdbot/phone/kept/1", "clawdbot/phone/kept/2"]);
    }
}

#[tokio::test]
async fn who_was_online_when_the_daemon_was_killed_is_offline_in_the_next_one() {
    let launch = Daemon::launch();
    let daemon = launch.clone().start();
    let mut watcher = Client::of(&daemon, "phone", "watcher").await;
    watcher.subscribe("clawdbot/phone/status", 1).await;
    assert_eq!(watcher.message().await.payload, b"online");
    // The commit of what nobody waits for comes before that of what is waited for now.
    watcher.publish("clawdbot/phone/mark", 1, true, "x").await;
    let daemon = kill_and_restart(daemon, &launch);
    // As another client of the device would come first, ask with a token that may read without being it.
    let token = daemon.home().token_with_acl(
        "tablet",
        serde_json::json!([{"permission": "allow", "action": "subscribe", "topic": "clawdbot/#"}]),
    );
    let login = Login::with_token(crate::support::client::Version::V5, "tablet", token);
    let mut other = Client::connect(daemon.mqtt, login).await.expect("admitted");
    other.subscribe("clawdbot/phone/status", 1).await;
    assert_eq!(other.message().await.payload, b"offline");
}
