//! What was said is remembered for a device, over restarts, until it is forgotten.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use crate::support::answer::Answer;
use crate::support::client::{Client, Login, Version};
use crate::support::daemon::{Daemon, Launch};
use crate::support::data;

use super::kill_and_restart;

/// The small model with a chat template, so that it has turns.
pub(crate) fn chatting_model() -> Option<(TempDir, PathBuf)> {
    let source = data::shared("models/stories260K/hf")?;
    let folder = TempDir::with_prefix("clawdbot-chat-").expect("a temporary directory");
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        fs::copy(source.join(name), folder.path().join(name)).expect("a copy");
    }
    let path = folder.path().join("tokenizer_config.json");
    let text = fs::read_to_string(&path).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    config["chat_template"] =
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}".into();
    fs::write(&path, config.to_string()).expect("a configuration");
    let model = folder.path().to_owned();
    Some((folder, model))
}

fn launch(model: &Path) -> Launch {
    Daemon::launch().model(model)
}

pub(crate) async fn device(daemon: &Daemon, name: &str) -> Client {
    let login = Login::new(Version::V5, daemon, name, name).persistent();
    let mut client = Client::connect(daemon.mqtt, login).await.expect("admitted");
    client.subscribe(&format!("clawdbot/{name}/reply"), 1).await;
    client
}

pub(crate) async fn ask(client: &mut Client, device: &str, id: &str, extra: serde_json::Value) -> Answer {
    let mut request = json!({"id": id, "prompt": "Tell me more.", "temperature": 0, "max_tokens": 8});
    let fields = extra.as_object().expect("fields").clone();
    request.as_object_mut().expect("a request").extend(fields);
    let topic = format!("clawdbot/{device}/command");
    client.publish(&topic, 1, false, request.to_string()).await;
    let answer = client.answer(id).await;
    answer.assert_whole();
    answer
}

pub(crate) fn prompt_tokens(answer: &Answer) -> u64 {
    answer.end()["usage"]["prompt_tokens"].as_u64().expect("a number")
}

#[tokio::test]
async fn a_device_goes_on_where_it_was_over_reconnects_and_kill_minus_9_until_it_resets() {
    let Some((_folder, model)) = chatting_model() else {
        return;
    };
    let launch = launch(&model);
    let daemon = launch.clone().start();
    let mut phone = device(&daemon, "phone").await;
    let first = prompt_tokens(&ask(&mut phone, "phone", "1", json!({})).await);
    let second = prompt_tokens(&ask(&mut phone, "phone", "2", json!({})).await);
    assert!(second > first, "{first}, then {second}");

    let mut tablet = device(&daemon, "tablet").await;
    let of_another = prompt_tokens(&ask(&mut tablet, "tablet", "1", json!({})).await);
    assert_eq!(of_another, first, "another device has a conversation of its own");

    let without = ask(&mut phone, "phone", "3", json!({"history": false})).await;
    assert_eq!(prompt_tokens(&without), first, "it was asked without");

    drop(phone);
    let daemon = kill_and_restart(daemon, &launch);
    let mut phone = device(&daemon, "phone").await;
    let third = prompt_tokens(&ask(&mut phone, "phone", "4", json!({})).await);
    assert!(third > second, "{second}, then {third}");

    phone
        .publish("clawdbot/phone/conversation/reset", 1, false, "")
        .await;
    let daemon = kill_and_restart(daemon, &launch);
    let mut phone = device(&daemon, "phone").await;
    let anew = prompt_tokens(&ask(&mut phone, "phone", "5", json!({})).await);
    assert_eq!(anew, first, "it was reset");
}

#[tokio::test]
async fn a_history_is_bounded_in_tokens() {
    let Some((_folder, model)) = chatting_model() else {
        return;
    };
    let daemon = launch(&model).set("conversation.history_tokens", 100).start();
    let mut phone = device(&daemon, "phone").await;
    let mut most = 0;
    for round in 0..12 {
        let answer = ask(&mut phone, "phone", &round.to_string(), json!({})).await;
        most = most.max(prompt_tokens(&answer));
    }
    let alone = prompt_tokens(&ask(&mut phone, "phone", "alone", json!({"history": false})).await);
    assert!(
        most > alone && most <= alone + 100,
        "{alone} alone, {most} at most"
    );
}

#[tokio::test]
async fn a_prompt_that_only_fits_without_what_was_said_before_is_answered_without() {
    let Some((_folder, model)) = chatting_model() else {
        return;
    };
    let daemon = launch(&model).start();
    let mut phone = device(&daemon, "phone").await;
    for round in 0..6 {
        ask(&mut phone, "phone", &round.to_string(), json!({"max_tokens": 30})).await;
    }
    let long = "Once upon a time there was a little girl. ".repeat(28);
    let alone = ask(
        &mut phone,
        "phone",
        "alone",
        json!({"prompt": &long, "history": false}),
    )
    .await;
    assert_eq!(alone.finish_reason(), "length", "{alone:?}");
    let answer = ask(&mut phone, "phone", "long", json!({"prompt": &long})).await;
    assert_eq!(answer.finish_reason(), "length", "{answer:?}");
    assert_eq!(answer.text(), alone.text());
}
