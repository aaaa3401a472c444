//! Daemons as clients of somebody else's broker: Mosquitto, with its own passwords and access list.

#[path = "external_broker/application.rs"]
mod application;
#[path = "external_broker/scripted.rs"]
mod scripted;

use std::collections::HashMap;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::broker::{Broker, password_of};
use crate::support::client::{Client, Properties};
use crate::support::daemon::Daemon;
use crate::support::data::{PROMPT, stories};
use crate::support::{eventually, process, wait_for};

const COMMAND: &str = "clawdbot/phone/command";
const REPLY: &str = "clawdbot/phone/reply";

fn request(id: &str, max_tokens: usize) -> String {
    json!({"id": id, "prompt": PROMPT, "temperature": 0, "max_tokens": max_tokens}).to_string()
}

/// A client of the device `phone` that receives its replies, and gets those that it missed.
async fn phone(broker: &Broker) -> Client {
    let login = broker.login("phone", "phone-client").persistent();
    let mut client = Client::connect(broker.address, login).await.expect("admitted");
    client.subscribe(REPLY, 1).await;
    client
}

fn unacknowledged(daemon: &Daemon) -> Option<f64> {
    daemon.metric("clawdbot_broker_requests_unacknowledged")
}

async fn until_unacknowledged(daemon: &Daemon, requests: f64) {
    eventually("the requests to arrive", || {
        (unacknowledged(daemon) == Some(requests)).then_some(())
    })
    .await;
}

async fn until_connected(daemon: &Daemon) {
    eventually("the daemon to be connected", || {
        (daemon.get("/health").0 == 200).then_some(())
    })
    .await;
}

/// Answers as a client collects them that knows QoS 1: an item it has is passed over, and a first item
/// begins the answer anew.
#[derive(Default)]
struct Collected {
    answers: HashMap<String, Vec<Value>>,
    begun_again: usize,
}

impl Collected {
    fn take(&mut self, item: Value) {
        let id = item["id"].as_str().expect("an id").to_owned();
        let seq = item["seq"].as_u64().and_then(|seq| usize::try_from(seq).ok());
        let seq = seq.expect("a number");
        let items = self.answers.entry(id).or_default();
        if seq == 0 && !items.is_empty() {
            items.clear();
            self.begun_again += 1;
        }
        assert!(seq <= items.len(), "{item} after {:?}", items.last());
        if seq == items.len() {
            items.push(item);
        }
    }

    fn whole(&self) -> usize {
        let ends = self.answers.values().filter_map(|items| items.last());
        ends.filter(|end| end["done"] == true && end["error"].is_null())
            .count()
    }

    /// Reads items until so many answers are whole.
    async fn until_whole(&mut self, client: &mut Client, answers: usize) {
        while self.whole() < answers {
            let message = client.message_on(REPLY).await;
            self.take(serde_json::from_slice(&message.payload).expect("JSON"));
        }
    }
}

#[tokio::test]
async fn a_daemon_answers_what_an_external_broker_brings() {
    let (Some(model), Some(broker)) = (stories(), Broker::start()) else {
        return;
    };
    let daemon = broker.daemon("hub-1").model(&model).start();
    let mut phone = phone(&broker).await;
    phone.subscribe("clawdbot/phone/reply/here", 1).await;
    phone.publish(COMMAND, 1, false, request("plain", 12)).await;
    phone.answer("plain").await.assert_whole();

    let properties = Properties {
        response_topic: Some("clawdbot/phone/reply/here".to_owned()),
        correlation_data: Some(b"\x00\xff7".to_vec()),
        message_expiry_s: Some(600),
        user_properties: Vec::new(),
    };
    phone.publish_with(COMMAND, request("there", 3), properties).await;
    let item = phone.message_on("clawdbot/phone/reply/here").await;
    assert_eq!(item.correlation_data.as_deref(), Some(&b"\x00\xff7"[..]));
    until_unacknowledged(&daemon, 0.0).await;

    let status = daemon.status();
    assert_eq!(status["broker"]["connected"], true, "{status}");
    assert_eq!(
        daemon.metric("clawdbot_broker_requests_received_total"),
        Some(2.0)
    );
    let (code, health) = daemon.get("/health");
    assert!(
        code == 200 && health.contains(r#""broker":{"connected":true}"#),
        "{health}"
    );
    assert!(!daemon.log().contains("mqtt listens"), "no listener of its own");
    assert!(
        !daemon.log().contains(&password_of("clawdbot")),
        "a password in the log"
    );
    let mut ask = daemon.command(&["ask", "x"]);
    ask.env("CLAWDBOT__BROKER__MODE", "external")
        .env("CLAWDBOT__BROKER__ADDRESS", "mqtt://127.0.0.1")
        .env("CLAWDBOT__BROKER__CLIENT_ID", "hub-1");
    let asked = process::finish(&mut ask);
    asked
        .assert_code(2)
        .assert_says(&["has no listener to ask at", "--connect"]);
}

#[tokio::test]
async fn a_cancel_reaches_the_daemon_that_works_on_the_request() {
    let (Some(model), Some(broker)) = (stories(), Broker::start()) else {
        return;
    };
    // Each request goes to one of them, the cancel to both.
    let daemons = ["hub-1", "hub-2"].map(|id| broker.daemon(id).model(&model).start());
    let frozen = daemons.each_ref().map(Daemon::freeze_worker);
    let mut phone = phone(&broker).await;
    for id in ["a", "b"] {
        phone.publish(COMMAND, 1, false, request(id, 400)).await;
    }
    for daemon in &daemons {
        until_unacknowledged(daemon, 1.0).await;
    }
    phone.publish("clawdbot/phone/cancel", 1, false, "").await;
    for daemon in &daemons {
        eventually("the cancel to arrive", || {
            (daemon.metric("clawdbot_broker_messages_received_total") == Some(2.0)).then_some(())
        })
        .await;
    }
    drop(frozen);
    for id in ["a", "b"] {
        assert_eq!(phone.answer(id).await.finish_reason(), "cancelled");
    }
}

#[tokio::test]
async fn two_daemons_share_the_requests_and_none_is_answered_twice() {
    let (Some(model), Some(broker)) = (stories(), Broker::start()) else {
        return;
    };
    let daemons = ["hub-1", "hub-2"].map(|id| broker.daemon(id).model(&model).start());
    let mut phone = phone(&broker).await;
    for number in 0..20 {
        phone
            .publish(COMMAND, 1, false, request(&number.to_string(), 5))
            .await;
    }
    let mut collected = Collected::default();
    collected.until_whole(&mut phone, 20).await;
    assert_eq!(collected.begun_again, 0);
    let received = daemons
        .each_ref()
        .map(|daemon| daemon.metric("clawdbot_broker_requests_received_total").unwrap());
    assert!(received.iter().all(|requests| *requests > 0.0), "{received:?}");
    assert_eq!(received.iter().sum::<f64>(), 20.0);
}

#[tokio::test]
async fn a_killed_daemon_finds_what_it_had_not_answered_when_it_is_back() {
    let (Some(model), Some(broker)) = (stories(), Broker::start()) else {
        return;
    };
    let launches = ["hub-1", "hub-2"].map(|id| broker.daemon(id).model(&model));
    let mut daemons = launches.clone().map(|launch| launch.start());
    let mut phone = phone(&broker).await;
    let mut collected = Collected::default();
    let [frozen, other_frozen] = daemons.each_ref().map(Daemon::freeze_worker);
    for number in 0..10 {
        phone
            .publish(COMMAND, 1, false, request(&number.to_string(), 400))
            .await;
    }
    until_unacknowledged(&daemons[0], 5.0).await;
    // Killed in the middle of an answer: its first item is here, and no more is made.
    drop(frozen);
    let first = phone.message_on(REPLY).await;
    let frozen = daemons[0].freeze_worker();
    collected.take(serde_json::from_slice(&first.payload).unwrap());
    daemons[0].signal(Signal::KILL);
    daemons[0].exit(Duration::from_secs(60)).expect("killed");
    drop((frozen, other_frozen));
    let [again, _] = launches;
    let again = again.start();
    collected.until_whole(&mut phone, 10).await;
    assert!(
        collected.begun_again > 0,
        "an answer that was cut off begins again"
    );
    for daemon in [&again, &daemons[1]] {
        until_unacknowledged(daemon, 0.0).await;
    }
}

#[tokio::test]
async fn what_a_stopping_daemon_cannot_answer_any_more_waits_for_it() {
    let (Some(model), Some(broker)) = (stories(), Broker::start()) else {
        return;
    };
    let launch = broker.daemon("hub-1").model(&model).set("shutdown.timeout_s", 3);
    let mut daemon = launch.clone().start();
    let mut phone = phone(&broker).await;
    let frozen = daemon.freeze_worker();
    for id in ["runs", "waits"] {
        phone.publish(COMMAND, 1, false, request(id, 30)).await;
    }
    until_unacknowledged(&daemon, 2.0).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit(Duration::from_secs(60)).unwrap().code(), Some(0));
    drop(frozen);
    let again = launch.start();
    let mut collected = Collected::default();
    collected.until_whole(&mut phone, 2).await;
    until_unacknowledged(&again, 0.0).await;
}

#[tokio::test]
async fn when_the_broker_is_back_so_is_the_daemon_with_the_answers_of_the_meantime() {
    let (Some(model), Some(mut broker)) = (stories(), Broker::start()) else {
        return;
    };
    let daemon = broker.daemon("hub-1").model(&model).start();
    let mut asking = phone(&broker).await;
    let frozen = daemon.freeze_worker();
    for id in ["runs", "waits"] {
        asking.publish(COMMAND, 1, false, request(id, 20)).await;
    }
    until_unacknowledged(&daemon, 2.0).await;
    broker.stop();
    drop(frozen);
    eventually("the answers to be there", || {
        (daemon.metric("clawdbot_requests_ended_total") == Some(2.0)).then_some(())
    })
    .await;
    eventually("the daemon to say so", || {
        let (code, health) = daemon.get("/health");
        (code == 503 && health.contains("cannot be reached")).then_some(())
    })
    .await;
    broker.start_again();
    let mut asking = phone(&broker).await;
    let mut collected = Collected::default();
    collected.until_whole(&mut asking, 2).await;
    assert_eq!(
        collected.begun_again, 0,
        "answered once, although the broker brought them again"
    );
    asking.publish(COMMAND, 1, false, request("later", 5)).await;
    collected.until_whole(&mut asking, 3).await;
    until_unacknowledged(&daemon, 0.0).await;
    assert_eq!(daemon.metric("clawdbot_broker_connections_lost_total"), Some(1.0));
    assert_eq!(daemon.metric("clawdbot_broker_connections_made_total"), Some(2.0));
}

#[tokio::test]
async fn an_answer_that_finds_no_room_while_the_broker_is_away_is_given_anew() {
    let (Some(model), Some(mut broker)) = (stories(), Broker::start()) else {
        return;
    };
    let daemon = broker
        .daemon("hub-1")
        .model(&model)
        .set("broker.max_queued_messages", 3)
        .start();
    let mut asking = phone(&broker).await;
    let frozen = daemon.freeze_worker();
    asking.publish(COMMAND, 1, false, request("long", 100)).await;
    until_unacknowledged(&daemon, 1.0).await;
    broker.stop();
    drop(frozen);
    eventually("the answer to be given up", || {
        (daemon.metric("clawdbot_requests_ended_total") == Some(1.0)).then_some(())
    })
    .await;
    assert!(daemon.metric("clawdbot_broker_messages_dropped_queue_full_total") > Some(0.0));
    broker.start_again();
    let mut asking = phone(&broker).await;
    let mut collected = Collected::default();
    collected.until_whole(&mut asking, 1).await;
    assert_eq!(collected.begun_again, 1);
    until_unacknowledged(&daemon, 0.0).await;
}

#[tokio::test]
async fn an_answer_that_finds_no_room_at_a_slow_broker_is_given_anew_by_another_connection() {
    let (Some(model), Some(broker)) = (stories(), Broker::start()) else {
        return;
    };
    let daemon = broker
        .daemon("hub-1")
        .model(&model)
        .set("broker.max_queued_messages", 3)
        .start();
    let mut phone = phone(&broker).await;
    let frozen = daemon.freeze_worker();
    phone.publish(COMMAND, 1, false, request("long", 200)).await;
    until_unacknowledged(&daemon, 1.0).await;
    broker.pause();
    drop(frozen);
    eventually("the answer to be given up", || {
        (daemon.metric("clawdbot_requests_ended_total") == Some(1.0)).then_some(())
    })
    .await;
    broker.go_on();
    let mut collected = Collected::default();
    collected.until_whole(&mut phone, 1).await;
    assert_eq!(collected.begun_again, 1);
    until_unacknowledged(&daemon, 0.0).await;
    assert_eq!(daemon.metric("clawdbot_broker_connections_made_total"), Some(2.0));
}

#[tokio::test]
async fn a_wrong_password_is_said_and_tried_again_until_it_is_right() {
    let Some(broker) = Broker::start() else { return };
    broker.change_password("clawdbot", "another");
    let daemon = broker.daemon("hub-1").start_unready();
    eventually("three attempts", || {
        let log = daemon.log();
        let attempts = log
            .lines()
            .filter(|line| line.contains("tried again after a wait"));
        (attempts.count() >= 3).then_some(())
    })
    .await;
    let (code, health) = daemon.get("/health");
    assert_eq!(code, 503);
    for word in ["does not let us in", "broker.username"] {
        assert!(health.contains(word), "{health}");
    }
    assert_eq!(daemon.metric("clawdbot_broker_connected"), Some(0.0));
    assert!(daemon.metric("clawdbot_broker_connections_failed_total") >= Some(3.0));
    let status = daemon.status();
    assert!(status["broker"]["reason"].is_string(), "{status}");
    broker.change_password("clawdbot", &password_of("clawdbot"));
    until_connected(&daemon).await;
}

#[tokio::test]
async fn by_tls_only_a_broker_that_proves_its_name_is_spoken_to() {
    let Some(broker) = Broker::start_with_tls() else {
        return;
    };
    let daemon = broker.daemon("hub-1").start();
    assert_eq!(daemon.metric("clawdbot_broker_connected"), Some(1.0));

    let trusts_another = broker
        .daemon("hub-2")
        .set("broker.ca_certificate", broker.path("other-ca.pem").display())
        .start_unready();
    let expects_another = broker
        .daemon("hub-3")
        .set(
            "broker.address",
            format!("mqtts://127.0.0.1:{}", broker.address.port()),
        )
        .start_unready();
    for daemon in [trusts_another, expects_another] {
        let health = wait_for("the reason", || {
            let (_, health) = daemon.get("/health");
            health.contains("broker.ca_certificate").then_some(health)
        });
        assert!(health.contains("could be trusted"), "{health}");
    }
}

#[tokio::test]
async fn a_device_reaches_no_topics_of_another() {
    let (Some(model), Some(broker)) = (stories(), Broker::start()) else {
        return;
    };
    let daemon = broker.daemon("hub-1").model(&model).start();
    let (mut phone, mut tablet) = (phone(&broker).await, broker.client("tablet").await);
    // The broker's part: neither asking in another's name nor listening to another's answers.
    tablet.publish(COMMAND, 1, false, request("foreign", 3)).await;
    tablet.subscribe("clawdbot/phone/#", 1).await;
    tablet.subscribe("clawdbot/tablet/#", 1).await;
    phone.publish(COMMAND, 1, false, request("own", 3)).await;
    phone.answer("own").await.assert_whole();
    assert_eq!(
        daemon.metric("clawdbot_broker_requests_received_total"),
        Some(1.0)
    );
    // Ours: we may write everywhere, and must not be talked into it.
    let properties = Properties {
        response_topic: Some("clawdbot/tablet/reply".to_owned()),
        ..Properties::default()
    };
    phone.publish_with(COMMAND, request("aside", 3), properties).await;
    let refused = phone.next_answer().await;
    assert_eq!(refused.error().0, "not_authorized");
    tablet.publish("clawdbot/tablet/last", 1, false, "x").await;
    assert_eq!(
        tablet.message().await.topic,
        "clawdbot/tablet/last",
        "nothing of the phone's before"
    );
    until_unacknowledged(&daemon, 0.0).await;
}

#[tokio::test]
async fn the_broker_is_told_whether_a_daemon_is_there() {
    let Some(broker) = Broker::start() else { return };
    // The daemons' own topics are for those whom the access list lets read them.
    let acl = broker.path("acl");
    let rules = std::fs::read_to_string(&acl).unwrap();
    std::fs::write(
        &acl,
        format!("{rules}\nuser tablet\ntopic read clawdbot/bridge/state/+\n"),
    )
    .unwrap();
    broker.change_password("tablet", &password_of("tablet"));
    let mut watcher = broker.client("tablet").await;
    watcher.subscribe("clawdbot/bridge/state/+", 1).await;
    let launch = broker.daemon("hub-1");
    let mut daemon = launch.clone().start();
    let said = watcher.message().await;
    assert_eq!(
        (said.topic.as_str(), said.payload.as_slice()),
        ("clawdbot/bridge/state/hub-1", &b"online"[..])
    );
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit(Duration::from_secs(60)).unwrap().code(), Some(0));
    assert_eq!(watcher.message().await.payload, b"offline", "its own word");
    let daemon = launch.start();
    assert_eq!(watcher.message().await.payload, b"online");
    drop(daemon);
    assert_eq!(watcher.message().await.payload, b"offline", "its will");
}
