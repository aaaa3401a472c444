//! Answers of a form that was asked for, over MQTT and on the command line, with a real model.

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::daemon::{Daemon, Home};
use crate::support::data::{PROMPT, stories};
use crate::support::process;

const COMMAND: &str = "clawdbot/phone/command";

async fn phone(daemon: &Daemon) -> Client {
    let mut client = Client::of(daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    client
}

#[tokio::test]
async fn an_answer_has_the_form_that_was_asked_for() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let mut client = phone(&daemon).await;
    for seed in 0..4 {
        let choices = ["yes", "no", "perhaps"];
        let request = json!({"id": "choice", "prompt": PROMPT, "seed": seed,
            "response_format": {"type": "choice", "choices": choices}});
        client.publish(COMMAND, 1, false, request.to_string()).await;
        let answer = client.answer("choice").await;
        assert!(choices.contains(&answer.text().as_str()), "{answer:?}");
        assert_eq!(answer.finish_reason(), "stop");

        let schema = json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 10},
            "brave": {"type": "boolean"}}, "required": ["name", "brave"], "additionalProperties": false});
        let request = json!({"id": "schema", "prompt": PROMPT, "seed": seed, "response_format":
            {"type": "json_schema", "json_schema": {"name": "hero", "strict": true, "schema": schema}}});
        client.publish(COMMAND, 1, false, request.to_string()).await;
        let answer = client.answer("schema").await;
        let value: Value = serde_json::from_str(&answer.text()).expect("JSON");
        assert!(
            value["name"].is_string() && value["brave"].is_boolean(),
            "{value}"
        );

        let request = json!({"id": "regex", "prompt": PROMPT, "seed": seed,
            "response_format": {"type": "regex", "pattern": "[0-9]{2}:[0-9]{2}"}});
        client.publish(COMMAND, 1, false, request.to_string()).await;
        let answer = client.answer("regex").await;
        let (hours, minutes) = answer
            .text()
            .split_once(':')
            .map(|(h, m)| (h.len(), m.len()))
            .unwrap();
        assert_eq!((hours, minutes), (2, 2), "{answer:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_forced_is_an_error_that_says_why_and_harms_nobody() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let mut client = phone(&daemon).await;
    let deep = (0..100).fold(json!({}), |inner, _| json!({"items": inner}));
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let form = |format: Value| json!({"id": "x", "prompt": "a", "response_format": format});
    let schema = |schema: Value| form(json!({"type": "json_schema", "json_schema": {"schema": schema}}));
    for (request, code, says) in [
        (
            form(json!({"type": "xml"})),
            "invalid_request",
            "unknown variant `xml`",
        ),
        (
            form(json!({"type": "regex", "pattern": "(a)\\1"})),
            "invalid_response_format",
            "backreference",
        ),
        (
            schema(json!({"type": "array", "uniqueItems": true})),
            "invalid_response_format",
            "uniqueItems",
        ),
        (schema(deep), "invalid_response_format", "flatter"),
        (
            json!({"id": "x", "prompt": "a", "tools": [tool]}),
            "tools_unsupported",
            "response_format",
        ),
        (
            json!({"id": "x", "prompt": "a", "logprobs": true, "top_logprobs": 99}),
            "invalid_sampling",
            "0 to 20",
        ),
    ] {
        client.publish(COMMAND, 1, false, request.to_string()).await;
        let answer = client.answer("x").await;
        let (told, message) = answer.error();
        assert_eq!(told, code, "{request}: {message}");
        assert!(message.contains(says), "{request}: {message}");
    }
    let after = json!({"id": "after", "prompt": PROMPT, "max_tokens": 3});
    client.publish(COMMAND, 1, false, after.to_string()).await;
    client.answer("after").await.assert_whole();
    assert_eq!(daemon.metric("clawdbot_worker_lost_total"), Some(0.0));
}

#[tokio::test]
async fn log_probabilities_come_with_the_text_they_belong_to() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let mut client = phone(&daemon).await;
    let request = json!({"id": "x", "prompt": PROMPT, "temperature": 0, "max_tokens": 12, "logprobs": true,
        "top_logprobs": 3});
    client.publish(COMMAND, 1, false, request.to_string()).await;
    let answer = client.answer("x").await;
    let mut tokens = 0;
    for item in &answer.items {
        let Some(logprobs) = item["logprobs"].as_array() else {
            assert_eq!(item["delta"], "");
            continue;
        };
        tokens += logprobs.len();
        let text: String = logprobs
            .iter()
            .filter_map(|token| token["token"].as_str())
            .collect();
        assert_eq!(text, item["delta"]);
        for token in logprobs {
            // At temperature 0 the likeliest is chosen.
            assert_eq!(token["token"], token["top_logprobs"][0]["token"]);
            assert_eq!(token["logprob"], token["top_logprobs"][0]["logprob"]);
            assert_eq!(token["top_logprobs"].as_array().map(Vec::len), Some(3));
        }
    }
    assert_eq!(tokens, 12);
}

#[test]
fn the_command_line_forces_forms_too() {
    let Some(model) = stories() else { return };
    let model = model.to_str().expect("a path of the tests");
    let generate = ["generate", "--model", model, "--precision", "f32"];
    let run = |rest: &[&str]| process::finish(&mut Home::new().command(&[&generate[..], rest].concat()));
    let finished = run(&["--choice", "red", "--choice", "green", "--logprobs", "2", PROMPT]);
    finished.assert_code(0).assert_says(&["\" -"]);
    assert!(
        ["red\n", "green\n"].contains(&finished.stdout.as_str()),
        "{finished:#?}"
    );
    run(&["--regex", "(", PROMPT])
        .assert_code(2)
        .assert_says(&["unclosed"]);
    run(&["--regex", "a", "--choice", "b", PROMPT]).assert_code(2);
    run(&["--json-schema", "/nowhere.json", PROMPT])
        .assert_code(2)
        .assert_says(&["/nowhere.json", "give a JSON file"]);

    let daemon = Daemon::launch().model(&std::path::PathBuf::from(model)).start();
    let finished = daemon.cli(&["ask", "--choice", "red", "--choice", "green", PROMPT]);
    finished.assert_code(0);
    assert!(
        ["red\n", "green\n"].contains(&finished.stdout.as_str()),
        "{finished:#?}"
    );
}
