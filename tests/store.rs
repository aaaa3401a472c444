//! What was acknowledged outlives the daemon, however it ends.

mod archive;
pub(crate) mod conversations;
mod crash;
mod full_disk;
mod peer;
#[cfg(feature = "postgres")]
mod postgres;
mod requests;
mod upkeep;

use rustix::process::Signal;
use topics::packet::{Packet, Publish, QoS};

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

/// A publication at QoS 2 that is received and not released.
fn publish_and_stop_halfway(link: &mut peer::Link, payload: &str) {
    link.send(&Packet::Publish(Publish {
        dup: false,
        qos: QoS::ExactlyOnce,
        retain: false,
        topic: "clawdbot/phone/halfway".into(),
        packet_id: 7,
        properties: None,
        payload: payload.to_owned().into(),
    }));
    assert!(matches!(link.packet(), Some(Packet::PubRec(_))));
}

#[tokio::test]
async fn an_identifier_of_a_session_that_was_given_up_is_no_repetition_in_a_later_one() {
    let launch = Daemon::launch();
    let daemon = launch.clone().start();
    let token = daemon.token("phone");
    let open = |daemon: &Daemon, clean| {
        let opened = peer::Link::open_as(daemon.mqtt, "publisher", &token, clean);
        opened.expect("admitted").0
    };
    publish_and_stop_halfway(&mut open(&daemon, false), "of the first session");
    drop(open(&daemon, true));
    // Its SUBACK is sent when that, and all that was before it, is on disk.
    let mut lasting = open(&daemon, false);
    lasting.subscribe("clawdbot/phone/none", QoS::AtLeastOnce);
    let daemon = kill_and_restart(daemon, &launch);
    let mut reader = Client::of(&daemon, "phone", "reader").await;
    reader.subscribe("clawdbot/phone/halfway", 2).await;
    let (mut lasting, session_present) =
        peer::Link::open(daemon.mqtt, "publisher", &token).expect("admitted");
    assert!(session_present);
    publish_and_stop_halfway(&mut lasting, "of the last");
    assert_eq!(reader.message().await.payload, b"of the last");
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

#[cfg(not(feature = "postgres"))]
#[test]
fn a_program_without_postgresql_says_how_to_build_one_with_it() {
    let mut check = crate::support::daemon::Home::new().command(&["check"]);
    let finished = crate::support::process::finish(check.env("CLAWDBOT__STORE__MODE", "postgres"));
    finished
        .assert_code(2)
        .assert_says(&["CLAWDBOT__STORE__MODE", "--features postgres"]);
}
