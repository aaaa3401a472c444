//! Shared subscriptions as their members see them [MQTT5 4.8.2].

#[path = "shared_subscriptions/random.rs"]
mod random;

use std::collections::BTreeSet;

use crate::support::client::{BOTH, Client, Login, Version};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::raw::{RawClient, connect, packet, text};

fn login(version: Version, client_id: &str) -> Login {
    Login {
        version,
        client_id: client_id.to_owned(),
        username: "test".to_owned(),
        token: None,
        clean: true,
        keep_alive: std::time::Duration::from_secs(30),
        will: None,
        session_expiry_s: None,
    }
}

fn daemon() -> Daemon {
    Daemon::launch().set("auth.mode", "none").start()
}

async fn client(daemon: &Daemon, version: Version, client_id: &str) -> Client {
    Client::connect(daemon.mqtt, login(version, client_id))
        .await
        .expect("admitted")
}

async fn payload(client: &mut Client) -> String {
    String::from_utf8(client.message().await.payload).expect("text")
}

#[tokio::test]
async fn members_of_a_group_get_every_message_once_and_in_turn() {
    let daemon = daemon();
    for version in BOTH {
        let mut publisher = client(&daemon, version, "publisher").await;
        publisher.publish("jobs/a", 1, true, "retained").await;
        let mut members = Vec::new();
        for id in ["one", "two", "three"] {
            let mut member = client(&daemon, version, id).await;
            member.subscribe("$share/workers/jobs/+", 1).await;
            members.push(member);
        }
        let mut outsider = client(&daemon, version, "outsider").await;
        outsider.subscribe("jobs/b", 1).await;
        for number in 0..9 {
            publisher.publish("jobs/b", 1, false, number.to_string()).await;
        }
        let mut all = BTreeSet::new();
        for member in &mut members {
            for _ in 0..3 {
                // Were a retained message sent to a share, it would come first.
                assert!(all.insert(payload(member).await), "twice");
            }
            assert!(member.is_quiet());
        }
        assert_eq!(all, (0..9).map(|number| number.to_string()).collect());
        for number in 0..9 {
            assert_eq!(payload(&mut outsider).await, number.to_string());
        }
        publisher.publish("jobs/a", 1, true, "").await;
    }
}

#[tokio::test]
async fn what_a_lost_member_had_not_acknowledged_goes_to_another() {
    let daemon = daemon();
    // A member that reads and says nothing: everything stays unacknowledged.
    let mut silent = RawClient::open(daemon.mqtt);
    silent.send(&connect(4, "silent", None));
    assert_eq!(silent.connack_code(), 0);
    let filter = text(b"$share/g/jobs");
    silent.send(&packet(0x82, &[&[0, 1][..], &filter, &[1]].concat()));
    assert_eq!(silent.packet().expect("a SUBACK")[0], 0x90);

    let mut publisher = client(&daemon, Version::V5, "publisher").await;
    // More than its inflight window, so that some wait in the session behind it.
    for number in 0..150 {
        publisher.publish("jobs", 1, false, number.to_string()).await;
    }
    let mut heir = client(&daemon, Version::V5, "heir").await;
    heir.subscribe("$share/g/jobs", 1).await;
    drop(silent);
    for number in 0..150 {
        assert_eq!(payload(&mut heir).await, number.to_string());
    }
}

#[tokio::test]
async fn what_waits_for_a_member_that_unsubscribes_goes_to_another() {
    let daemon = daemon();
    let mut leaving = RawClient::open(daemon.mqtt);
    leaving.send(&connect(4, "leaving", None));
    assert_eq!(leaving.connack_code(), 0);
    let filter = text(b"$share/g/jobs");
    leaving.send(&packet(0x82, &[&[0, 1][..], &filter, &[1]].concat()));
    assert_eq!(leaving.packet().expect("a SUBACK")[0], 0x90);

    let mut publisher = client(&daemon, Version::V5, "publisher").await;
    for number in 0..150 {
        publisher.publish("jobs", 1, false, number.to_string()).await;
    }
    let mut heir = client(&daemon, Version::V5, "heir").await;
    heir.subscribe("$share/g/jobs", 1).await;
    leaving.send(&packet(0xA2, &[&[0, 2][..], &filter].concat()));
    let mut begun = 0;
    while leaving.packet().expect("an answer")[0] != 0xB0 {
        begun += 1;
    }
    assert!((1..150).contains(&begun), "{begun} were sent before");
    for number in begun..150 {
        assert_eq!(payload(&mut heir).await, number.to_string());
    }
    publisher.publish("jobs", 1, false, "after").await;
    assert_eq!(payload(&mut heir).await, "after");
}

#[tokio::test]
async fn a_member_that_is_away_keeps_messages_only_while_nobody_is_there() {
    let daemon = daemon();
    for version in BOTH {
        let mut publisher = client(&daemon, version, "publisher").await;
        let mut away = Client::connect(daemon.mqtt, login(version, "away").persistent())
            .await
            .expect("admitted");
        away.subscribe("$share/g/jobs", 1).await;
        drop(away);
        eventually("the member to be seen as away", || {
            (daemon.metric("clawdbot_mqtt_connections") == Some(1.0)).then_some(())
        })
        .await;
        publisher.publish("jobs", 1, false, "kept").await;
        let mut present = client(&daemon, version, "present").await;
        present.subscribe("$share/g/jobs", 1).await;
        for number in 0..3 {
            publisher.publish("jobs", 1, false, number.to_string()).await;
            assert_eq!(payload(&mut present).await, number.to_string());
        }
        drop(present);
        let mut back = Client::connect(daemon.mqtt, login(version, "away").persistent())
            .await
            .expect("admitted");
        assert!(back.session_present);
        assert_eq!(payload(&mut back).await, "kept");
        assert!(back.is_quiet());
        back.unsubscribe("$share/g/jobs").await;
    }
}

#[tokio::test]
async fn what_nobody_is_left_to_take_is_counted() {
    let daemon = daemon();
    let mut member = RawClient::open(daemon.mqtt);
    member.send(&connect(4, "member", None));
    assert_eq!(member.connack_code(), 0);
    member.send(&packet(
        0x82,
        &[&[0, 1][..], &text(b"$share/g/jobs"), &[1]].concat(),
    ));
    assert_eq!(member.packet().expect("a SUBACK")[0], 0x90);
    let mut publisher = client(&daemon, Version::V5, "publisher").await;
    for _ in 0..5 {
        publisher.publish("jobs", 1, false, "lost").await;
    }
    drop(member);
    eventually("the loss to be counted", || {
        let lost = daemon.metric("clawdbot_mqtt_messages_dropped_session_ended_total");
        (lost == Some(5.0)).then_some(())
    })
    .await;
}
