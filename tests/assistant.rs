//! The assistant that comes with the program: asked with no model named, and what is told of what it understood.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::daemon::Daemon;

const COMMAND: &str = "clawdbot/phone/command";

/// A daemon as everybody has it who has named no model.
fn fresh() -> Daemon {
    Daemon::launch().set("model.path", "embedded").start()
}

fn actions(answer: &str) -> Value {
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    assert!(
        answer["say"].as_str().is_some_and(|say| !say.is_empty()),
        "{answer}"
    );
    answer["actions"].clone()
}

#[test]
fn without_a_model_of_its_own_a_daemon_understands_commands_in_two_languages() {
    let daemon = fresh();
    for (sentence, wanted) in [
        (
            "turn off the lights in the kitchen and set the bedroom to 21 degrees",
            json!([
                {"intent": "HassTurnOff", "slots": {"area": "kitchen", "domain": "light"}},
                {"intent": "HassClimateSetTemperature", "slots": {"area": "bedroom", "temperature": 21}},
            ]),
        ),
        (
            "把客厅的灯调到百分之三十",
            json!([{"intent": "HassLightSet", "slots": {"area": "客厅", "brightness": 30}}]),
        ),
    ] {
        let finished = daemon.cli(&["ask", sentence]);
        finished.assert_code(0);
        assert_eq!(actions(&finished.stdout), wanted, "{sentence}");
    }
}

#[tokio::test]
async fn what_was_understood_is_an_event_of_the_device_and_what_was_not_is_none() {
    let daemon = fresh();
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    client.subscribe("clawdbot/phone/intent", 1).await;
    // Whatever chance a request asks for, a command means the same.
    let request = json!({"id": "out", "prompt": "Who was the first emperor of Rome?", "temperature": 1.5});
    client.publish(COMMAND, 1, false, request.to_string()).await;
    let request = json!({"id": "in", "prompt": "Lock the front door, please.", "temperature": 1.5});
    client.publish(COMMAND, 1, false, request.to_string()).await;

    let mut texts = [String::new(), String::new()];
    let mut events = Vec::new();
    while events.is_empty() || texts.iter().any(String::is_empty) {
        let message = client.message().await;
        let value: Value = serde_json::from_slice(&message.payload).expect("JSON");
        if message.topic == "clawdbot/phone/intent" {
            events.push(value);
        } else if let Some(text) = value["delta"].as_str() {
            texts[usize::from(value["id"] == "in")].push_str(text);
        }
    }
    let [refused, understood] = texts;
    assert_eq!(actions(&refused), json!([{"intent": "unsupported", "slots": {}}]));
    assert!(refused.contains("clawdbot model pull"), "{refused}");
    let wanted = json!([{"intent": "HassTurnOn", "slots": {"name": "front door", "domain": "lock"}}]);
    assert_eq!(actions(&understood), wanted);
    let [event] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(
        (&event["id"], &event["device_id"]),
        (&json!("in"), &json!("phone"))
    );
    assert_eq!(event["actions"], wanted);
    daemon.accounts_add_up().await;
}

#[tokio::test]
async fn a_form_that_a_request_asks_for_itself_is_what_it_gets() {
    let daemon = fresh();
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    let request = json!({"id": "x", "prompt": "lights on", "response_format": {"type": "choice", "choices": ["a", "b"]}});
    client.publish(COMMAND, 1, false, request.to_string()).await;
    let answer = client.answer("x").await;
    assert!(["a", "b"].contains(&answer.text().as_str()), "{answer:?}");
}

#[test]
fn eval_scores_a_test_set_and_says_what_was_confused() {
    let daemon = fresh();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/assistant/en-dev.jsonl");
    let lines = fs::read_to_string(own).expect("the set");
    let some: Vec<&str> = lines.lines().take(60).collect();
    let set = daemon.home().path().join("some.jsonl");
    fs::write(&set, some.join("\n")).expect("a file");
    let set = set.to_str().expect("UTF-8");
    let finished = daemon.cli(&["eval", "--model", "embedded", "--json", "--at-once", "4", set]);
    finished.assert_code(0);
    let told: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    let scores = &told["scores"];
    assert_eq!(told["sentences"], 60);
    let right = scores["intents_right"].as_u64().expect("a number");
    assert!(
        right * 10 > scores["commands"].as_u64().expect("a number") * 7,
        "{told}"
    );

    fs::write(
        set,
        "{\"text\": \"x\", \"actions\": [{\"intent\": \"HassDance\", \"slots\": {}}]}",
    )
    .expect("a file");
    let finished = daemon.cli(&["eval", set]);
    finished.assert_code(2);
    assert!(
        finished.stderr.contains("HassDance") && finished.stderr.contains("line 1"),
        "{finished:#?}"
    );
    let finished = daemon.cli(&["eval", "--model", "embedded", "/nowhere.jsonl"]);
    finished.assert_code(2);
    assert!(finished.stderr.contains("/nowhere.jsonl"), "{finished:#?}");
}
