//! A request that was accepted is answered, if need be by the next daemon.

use rustix::process::Signal;
use serde_json::{Value, json};
use topics::packet::{Ack, Packet, Publish, QoS, ReasonCode};

use crate::support::PATIENCE;
use crate::support::answer::Answer;
use crate::support::client::{Client, Login, Version};
use crate::support::daemon::{Daemon, Launch};
use crate::support::data::{PROMPT, stories};

use super::kill_and_restart;
use super::peer::Link;

fn request(id: &str, max_tokens: usize) -> String {
    json!({"id": id, "prompt": PROMPT, "temperature": 0, "max_tokens": max_tokens}).to_string()
}

async fn phone(daemon: &Daemon) -> Client {
    let login = Login::new(Version::V5, daemon, "phone", "phone").persistent();
    Client::connect(daemon.mqtt, login).await.expect("admitted")
}

async fn asked(launch: &Launch, ids: &[&str]) -> Daemon {
    let daemon = launch.clone().start();
    let mut phone = phone(&daemon).await;
    phone.subscribe("clawdbot/phone/reply", 1).await;
    // The model does nothing, so that nothing is answered before the end.
    std::mem::forget(daemon.freeze_worker());
    for id in ids {
        phone
            .publish("clawdbot/phone/command", 1, false, request(id, 20))
            .await;
    }
    daemon
}

async fn assert_answered(daemon: &Daemon, ids: &[&str]) {
    let mut phone = phone(daemon).await;
    assert!(phone.session_present);
    let mut texts = Vec::new();
    for id in ids {
        let answer = phone.answer(id).await;
        answer.assert_whole();
        assert_eq!(answer.finish_reason(), "length", "{answer:?}");
        assert_eq!(answer.end()["attempt"], 2, "{answer:?}");
        texts.push(answer.text());
    }
    assert!(
        texts.iter().all(|text| *text == texts[0] && !text.is_empty()),
        "{texts:?}"
    );
    phone
        .publish("clawdbot/phone/command", 1, false, request("new", 20))
        .await;
    let answer = phone.answer("new").await;
    assert_eq!(answer.end()["attempt"], 1);
    assert_eq!(answer.text(), texts[0]);
}

#[tokio::test]
async fn requests_that_were_acknowledged_are_answered_after_kill_minus_9() {
    let Some(model) = stories() else { return };
    let launch = Daemon::launch().model(&model);
    let ids = ["first", "second", "third"];
    let daemon = asked(&launch, &ids).await;
    let daemon = kill_and_restart(daemon, &launch);
    assert_answered(&daemon, &ids).await;
    // What was answered is not answered again.
    let daemon = kill_and_restart(daemon, &launch);
    let mut phone = phone(&daemon).await;
    phone.publish("clawdbot/phone/reply", 1, false, "mark").await;
    loop {
        let message = phone.message().await;
        if message.payload == b"mark" {
            break;
        }
        // An item whose acknowledgement the kill swallowed.
        let item: Value = serde_json::from_slice(&message.payload).expect("an item");
        assert_ne!(item["attempt"], 3, "{item}");
    }
}

#[tokio::test]
async fn requests_that_wait_when_the_daemon_is_stopped_are_answered_by_the_next_one() {
    let Some(model) = stories() else { return };
    let launch = Daemon::launch().model(&model).set("shutdown.timeout_s", 2);
    let ids = ["first", "second"];
    let mut daemon = asked(&launch, &ids).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit(PATIENCE).expect("it exits").code(), Some(0));
    let daemon = launch.clone().start();
    assert_answered(&daemon, &ids).await;
}

#[tokio::test]
async fn an_answer_that_a_kill_cut_off_begins_anew_and_says_so() {
    let Some(model) = stories() else { return };
    let launch = Daemon::launch().model(&model);
    let daemon = launch.clone().start();
    let mut client = phone(&daemon).await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    client
        .publish("clawdbot/phone/command", 1, false, request("long", 400))
        .await;
    let first: Value = serde_json::from_slice(&client.message().await.payload).expect("an item");
    assert_eq!(first["seq"], 0);
    let daemon = kill_and_restart(daemon, &launch);
    let mut client = phone(&daemon).await;
    let (mut ends, mut second) = (0, Answer::default());
    while !second.is_complete() {
        let item: Value = serde_json::from_slice(&client.message().await.payload).expect("an item");
        if item["attempt"] == 2 {
            second.take(item);
        } else {
            // Items of the first attempt that were on their way.
            ends += usize::from(item["done"] == true);
        }
    }
    assert_eq!(ends, 0, "the first attempt came to no end");
    second.assert_whole();
}

#[test]
fn who_loses_its_connection_in_the_middle_of_an_answer_gets_the_rest() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let token = daemon.token("phone");
    let open = || Link::open(daemon.mqtt, "phone", &token).expect("admitted");
    let (mut link, _) = open();
    link.subscribe("clawdbot/phone/reply", QoS::AtLeastOnce);
    link.send(&Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "clawdbot/phone/command".into(),
        packet_id: 0,
        properties: None,
        payload: request("long", 400).into(),
    }));
    let mut answer = Answer::default();
    for _ in 0..3 {
        take_item(&mut link, &mut answer);
    }
    drop(link);
    let (mut link, session_present) = open();
    assert!(session_present);
    while !answer.is_complete() {
        take_item(&mut link, &mut answer);
    }
    answer.assert_whole();
}

/// Takes and acknowledges the next item, unless it came before: it is not known whether an acknowledgement arrived.
fn take_item(link: &mut Link, answer: &mut Answer) {
    let Some(Packet::Publish(publish)) = link.packet() else {
        panic!("no item came");
    };
    link.send(&Packet::PubAck(Ack::new(publish.packet_id, ReasonCode::Success)));
    let item: Value = serde_json::from_slice(&publish.payload).expect("an item");
    if item["seq"].as_u64() >= Some(answer.items.len() as u64) {
        answer.take(item);
    }
}
