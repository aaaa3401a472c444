//! The embedded assistant beside another model: commands are understood by it, all else is said by the other.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::answer::Answer;
use crate::support::client::Client;
use crate::support::daemon::{Daemon, Launch};
use crate::support::data::{PROMPT, stories};
use crate::support::{eventually, process};

const COMMAND: &str = "clawdbot/phone/command";
const SENTENCE: &str = "turn off the lights in the kitchen";

fn launch() -> Option<Launch> {
    let model = stories()?;
    let launch = Daemon::launch()
        .model(&model)
        .set("model.commands", "embedded")
        // However busy the machine is with other tests.
        .set("model.commands_within_ms", 60_000);
    Some(launch.set("supervisor.min_backoff_ms", 1))
}

/// As soon as the assistant is there, which the other model's being ready says nothing of.
async fn phone(daemon: &Daemon) -> Client {
    understands(daemon).await;
    let mut client = Client::of(daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    client
}

async fn understands(daemon: &Daemon) {
    eventually("the assistant", || {
        (daemon.status()["commands"] == "ready").then_some(())
    })
    .await;
}

async fn ask(client: &mut Client, id: &str, prompt: &str) -> Answer {
    let request = json!({"id": id, "prompt": prompt, "max_tokens": 12}).to_string();
    client.publish(COMMAND, 1, false, request).await;
    client.answer(id).await
}

fn is_understood(answer: &Answer) -> bool {
    let wanted = json!([{"intent": "HassTurnOff", "slots": {"area": "kitchen", "domain": "light"}}]);
    answer.assert_whole();
    answer.end()["actions"] == wanted
}

#[tokio::test]
async fn a_command_is_done_at_once_and_a_story_is_told_by_the_other_model() {
    let Some(launch) = launch() else { return };
    let daemon = launch.start();
    let mut client = phone(&daemon).await;
    client.subscribe("clawdbot/phone/intent", 1).await;

    let request = json!({"id": "c", "prompt": SENTENCE}).to_string();
    client.publish(COMMAND, 1, false, request).await;
    let (mut answer, mut event) = (Answer::default(), None);
    while !answer.is_complete() {
        let message = client.message().await;
        let value: Value = serde_json::from_slice(&message.payload).expect("JSON");
        if message.topic == "clawdbot/phone/intent" {
            event = Some(value);
        } else {
            answer.take(value);
        }
    }
    assert!(is_understood(&answer), "{answer:?}");
    // In words, as all that is said here, and whoever acts on it was told before the request was over.
    assert!(
        !answer.text().is_empty() && !answer.text().contains('{'),
        "{answer:?}"
    );
    let event = event.expect("an event before the last item");
    assert_eq!(event["actions"], answer.end()["actions"]);
    assert_eq!(event["say"], answer.text());

    let story = ask(&mut client, "s", PROMPT).await;
    story.assert_whole();
    assert_eq!(story.end().get("actions"), None, "{story:?}");
    assert_ne!(story.end()["model"], answer.end()["model"]);
    // A form of its own is for the other model, too.
    let request =
        json!({"id": "f", "prompt": SENTENCE, "response_format": {"type": "choice", "choices": ["a", "b"]}});
    client.publish(COMMAND, 1, false, request.to_string()).await;
    let formed = client.answer("f").await;
    assert!(["a", "b"].contains(&formed.text().as_str()), "{formed:?}");
    daemon.accounts_add_up().await;
}

#[tokio::test]
async fn a_command_is_done_while_the_other_model_is_busy() {
    let Some(launch) = launch() else { return };
    let daemon = launch.start();
    let mut client = phone(&daemon).await;
    let frozen = daemon.freeze_worker_of("stories260K");
    // Of another device, whose turn is not this one's.
    let mut tablet = Client::of(&daemon, "tablet", "tablet").await;
    tablet.subscribe("clawdbot/tablet/reply", 1).await;
    let story = json!({"id": "s", "prompt": PROMPT, "max_tokens": 12}).to_string();
    tablet.publish("clawdbot/tablet/command", 1, false, story).await;
    assert!(is_understood(&ask(&mut client, "c", SENTENCE).await));
    assert!(tablet.is_quiet());
    drop(frozen);
    tablet.answer("s").await.assert_whole();
    daemon.accounts_add_up().await;
}

#[tokio::test]
async fn without_the_assistants_process_the_other_model_answers_until_there_is_one_again() {
    let Some(launch) = launch() else { return };
    let daemon = launch.set("model.commands_within_ms", 400).start();
    let mut client = phone(&daemon).await;
    let frozen = daemon.freeze_worker_of("assistant.gguf");
    let told = ask(&mut client, "frozen", SENTENCE).await;
    told.assert_whole();
    assert_eq!(told.end().get("actions"), None, "{told:?}");
    drop(frozen);
    process::signal(daemon.worker_pid_of("assistant.gguf"), Signal::KILL);
    // Whoever asks meanwhile is answered by one of them.
    let mut number = 0;
    loop {
        number += 1;
        let answer = ask(&mut client, &format!("k{number}"), SENTENCE).await;
        answer.assert_whole();
        let was_lost = daemon
            .metric("clawdbot_commands_lost_total")
            .is_some_and(|lost| lost >= 1.0);
        if was_lost && is_understood(&answer) {
            break;
        }
        assert!(number < 500, "it did not come back");
        if number > 20 {
            understands(&daemon).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    daemon.accounts_add_up().await;
}

#[tokio::test]
async fn what_is_cancelled_before_it_is_understood_is_not_done() {
    let Some(launch) = launch() else { return };
    let daemon = launch.start();
    let mut client = phone(&daemon).await;
    let mut watcher = Client::of(&daemon, "phone", "watcher").await;
    watcher.subscribe("clawdbot/phone/intent", 1).await;
    let frozen = daemon.freeze_worker_of("assistant.gguf");
    let request = json!({"id": "c", "prompt": SENTENCE}).to_string();
    client.publish(COMMAND, 1, false, request).await;
    client
        .publish("clawdbot/phone/cancel", 1, false, json!({"id": "c"}).to_string())
        .await;
    let answer = client.answer("c").await;
    assert_eq!(answer.finish_reason(), "cancelled");
    drop(frozen);
    // All that the one before could have led to has happened when another is understood.
    let mut number = 0;
    while !is_understood(&ask(&mut client, &format!("d{number}"), SENTENCE).await) {
        number += 1;
        assert!(number < 500, "it is not understood");
    }
    let event = watcher.message().await;
    let event: Value = serde_json::from_slice(&event.payload).expect("JSON");
    assert_eq!(event["id"], format!("d{number}"));
    daemon.accounts_add_up().await;
}

#[tokio::test]
async fn what_is_being_understood_when_the_daemon_stops_is_told_so() {
    let Some(launch) = launch() else { return };
    let daemon = launch.start();
    let mut client = phone(&daemon).await;
    let _frozen = daemon.freeze_worker_of("assistant.gguf");
    for number in 0..3 {
        let request = json!({"id": format!("s{number}"), "prompt": SENTENCE}).to_string();
        client.publish(COMMAND, 1, false, request).await;
    }
    let model = daemon.freeze_worker_of("stories260K");
    daemon.signal(Signal::TERM);
    for number in 0..3 {
        let answer = client.answer(&format!("s{number}")).await;
        assert_eq!(answer.error().0, "shutting_down", "{answer:?}");
    }
    drop(model);
}

#[tokio::test]
async fn whoever_is_sure_enough_of_nothing_is_answered_by_the_other_model() {
    let Some(launch) = launch() else { return };
    let daemon = launch.start();
    let mut client = phone(&daemon).await;
    let request = json!({"id": "c", "prompt": SENTENCE, "max_tokens": 4, "min_confidence": 1}).to_string();
    client.publish(COMMAND, 1, false, request).await;
    let told = client.answer("c").await;
    told.assert_whole();
    assert_eq!(told.end().get("actions"), None, "{told:?}");
    // And in the order in which they were asked: a command does not overtake a story of its own device.
    let story = json!({"id": "s", "prompt": PROMPT, "max_tokens": 40}).to_string();
    client.publish(COMMAND, 1, false, story).await;
    let command = json!({"id": "d", "prompt": SENTENCE}).to_string();
    client.publish(COMMAND, 1, false, command).await;
    let mut ends = Vec::new();
    while ends.len() < 2 {
        let item = client.item().await;
        if item["done"] == true {
            ends.push(item["id"].clone());
        }
    }
    assert_eq!(ends, ["s", "d"]);
}
