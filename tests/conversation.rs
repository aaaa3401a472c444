//! Asking and being answered: the words of a real model, item by item, and everything that can come
//! between a request and its end.

use std::time::Duration;

use serde_json::json;

use crate::support::answer::Answer;
use crate::support::client::{Client, Login, Properties, Version};
use crate::support::daemon::Daemon;
use crate::support::data::{PROMPT, expected_story, stories};
use crate::support::eventually;

/// A request for the likeliest continuation of the story.
fn greedy(id: &str, max_tokens: usize) -> String {
    json!({"id": id, "prompt": PROMPT, "temperature": 0, "max_tokens": max_tokens}).to_string()
}

/// A client of the device `phone` that receives its replies and will be told of nothing else.
async fn phone(daemon: &Daemon) -> Client {
    let mut client = Client::of(daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    client
}

const COMMAND: &str = "clawdbot/phone/command";
const CANCEL: &str = "clawdbot/phone/cancel";

#[test]
fn ask_streams_a_story() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let finished = daemon.cli(&["ask", PROMPT]);
    finished.assert_code(0);
    assert!(
        finished.stdout.len() > 100 && finished.stdout.ends_with('\n'),
        "{finished:#?}"
    );
}

#[test]
fn at_temperature_0_the_answer_is_the_reference_continuation() {
    let (Some(model), Some(expected)) = (stories(), expected_story()) else {
        return;
    };
    let daemon = Daemon::with_model(&model);
    let finished = daemon.cli(&["ask", "--temperature", "0", "--max-tokens", "256", PROMPT]);
    finished.assert_code(0);
    let story = format!("{PROMPT}{}", finished.stdout);
    assert!(
        story.starts_with(&expected),
        "{story}\n--- instead of ---\n{expected}"
    );
}

#[test]
fn safetensors_tell_the_same_story_as_gguf() {
    let (Some(expected), Some(gguf)) = (expected_story(), stories()) else {
        return;
    };
    let daemon = Daemon::with_model(&gguf.with_file_name("hf"));
    let finished = daemon.cli(&["ask", "--temperature", "0", "--max-tokens", "256", PROMPT]);
    finished.assert_code(0);
    let story = format!("{PROMPT}{}", finished.stdout);
    assert!(
        story.starts_with(&expected),
        "{story}\n--- instead of ---\n{expected}"
    );
}

#[test]
fn a_prompt_that_begins_like_an_earlier_one_says_how_much_of_it_was_not_computed() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::launch()
        .model(&model)
        .set("model.precision", "int8")
        .start();
    let story =
        "Once upon a time there was a little girl who lived in a big house near the sea with her cat.";
    let ask = |prompt: &str| {
        let finished = daemon.cli(&["ask", "--json", "--temperature", "0", "--max-tokens", "4", prompt]);
        finished.assert_code(0);
        Answer::of_lines(&finished.stdout).end()["usage"].clone()
    };
    let first = ask(story);
    assert_eq!(first["prompt_tokens_details"], serde_json::Value::Null);
    let again = ask(&format!("{story} One day"));
    // Whole pages of 16.
    let cached = again["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    let whole = first["prompt_tokens"].as_u64().unwrap() / 16 * 16;
    assert!(whole > 0 && cached == whole, "{first} {again}");
}

#[test]
fn items_count_up_without_a_gap_and_the_last_one_tells_the_rest() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let finished = daemon.cli(&[
        "ask",
        "--json",
        "--temperature",
        "0",
        "--max-tokens",
        "20",
        PROMPT,
    ]);
    finished.assert_code(0);
    let answer = Answer::of_lines(&finished.stdout);
    assert_eq!(answer.items.iter().filter(|item| item["done"] == true).count(), 1);
    assert!(answer.items.len() > 5, "streamed, not sent at once: {answer:?}");
    let end = answer.end();
    assert_eq!(answer.finish_reason(), "length");
    assert_eq!(end["model"], "stories260K");
    assert_eq!(end["usage"], json!({"prompt_tokens": 5, "completion_tokens": 20}));
    let duration_s = end["timings"]["duration_s"].as_f64().unwrap();
    let first_s = end["timings"]["time_to_first_token_s"].as_f64().unwrap();
    assert!(
        0.0 < first_s && first_s <= duration_s && duration_s < 60.0,
        "{end}"
    );
}

#[tokio::test]
async fn plain_text_is_answered_on_the_reply_topic_and_a_response_topic_with_its_correlation_data() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/#", 1).await;
    client.publish(COMMAND, 1, false, PROMPT).await;
    // Its own command comes back too, since it asked for everything of its device.
    let first = client.message_on("clawdbot/phone/reply").await;
    assert_eq!(
        (first.qos, first.retain, &first.correlation_data),
        (1, false, &None),
        "{first:?}"
    );

    let properties = Properties {
        response_topic: Some("clawdbot/phone/reply/here".to_owned()),
        correlation_data: Some(b"\x00\xff7".to_vec()),
        ..Properties::default()
    };
    client
        .publish_with(COMMAND, greedy("second", 3), properties)
        .await;
    let item = client.message_on("clawdbot/phone/reply/here").await;
    assert_eq!(item.correlation_data.as_deref(), Some(&b"\x00\xff7"[..]));
}

#[tokio::test]
async fn options_decide_length_end_and_chance() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let mut client = phone(&daemon).await;
    client.publish(COMMAND, 1, false, greedy("short", 3)).await;
    let short = client.answer("short").await;
    assert_eq!(
        (short.finish_reason(), &short.end()["usage"]["completion_tokens"]),
        ("length", &json!(3))
    );

    let stop = json!({"id": "stop", "prompt": PROMPT, "temperature": 0, "stop": [" girl", "never"]});
    client.publish(COMMAND, 1, false, stop.to_string()).await;
    let stopped = client.answer("stop").await;
    assert_eq!(
        (stopped.finish_reason(), stopped.text().as_str()),
        ("stop", ", there was a little")
    );

    let mut texts = Vec::new();
    for (id, seed) in [("a", 7), ("b", 7), ("c", 8)] {
        let draw = json!({"id": id, "prompt": PROMPT, "temperature": 1.0, "top_k": 50, "top_p": 0.95, "min_p": 0.01,
            "repetition_penalty": 1.1, "seed": seed, "max_tokens": 40, "priority": "urgent"});
        client.publish(COMMAND, 1, false, draw.to_string()).await;
        texts.push(client.answer(id).await.text());
    }
    assert_eq!(texts[0], texts[1], "the same seed");
    assert_ne!(texts[0], texts[2], "another seed");
}

#[tokio::test]
async fn messages_are_taken_in_the_place_of_a_prompt() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let mut client = phone(&daemon).await;
    let request = json!({"id": 7, "messages": [{"role": "user", "content": PROMPT}], "temperature": 0, "max_tokens": 5});
    client.publish(COMMAND, 1, false, request.to_string()).await;
    client.answer("7").await.assert_whole();
}

#[tokio::test]
async fn a_second_request_waits_for_the_first_and_is_not_lost() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let mut client = phone(&daemon).await;
    let frozen = daemon.freeze_worker();
    for id in ["first", "second", "third"] {
        client.publish(COMMAND, 1, false, greedy(id, 12)).await;
    }
    drop(frozen);
    let mut order = Vec::new();
    for _ in 0..3 {
        let answer = client.next_answer().await;
        answer.assert_whole();
        order.push(answer.end()["id"].clone());
        // Nothing of the next answer came before the end of this one.
        assert!(
            answer
                .items
                .iter()
                .all(|item| item["id"] == order[order.len() - 1])
        );
    }
    assert_eq!(order, ["first", "second", "third"]);
}

#[tokio::test]
async fn a_request_beyond_the_queue_is_told_to_come_again() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::launch()
        .model(&model)
        .set("conversation.max_queued", 1)
        .start();
    let mut client = phone(&daemon).await;
    let frozen = daemon.freeze_worker();
    for id in ["runs", "waits", "refused"] {
        client.publish(COMMAND, 1, false, greedy(id, 3)).await;
    }
    let refused = client.answer("refused").await;
    let (code, message) = refused.error();
    assert!(
        code == "queue_full" && message.contains("conversation.max_queued"),
        "{refused:?}"
    );
    assert!(
        refused.end()["error"]["retry_after_ms"].as_u64() > Some(0),
        "{refused:?}"
    );
    drop(frozen);
    client.answer("runs").await.assert_whole();
    client.answer("waits").await.assert_whole();
}

#[tokio::test]
async fn an_urgent_request_passes_those_that_wait() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::launch()
        .model(&model)
        .set("model.max_sequences", 1)
        .start();
    let mut client = Client::of(&daemon, "phone", "phone").await;
    let mut other = Client::of(&daemon, "tablet", "tablet").await;
    let mut third = Client::of(&daemon, "watch", "watch").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    other.subscribe("clawdbot/tablet/reply", 1).await;
    third.subscribe("clawdbot/watch/reply", 1).await;
    let frozen = daemon.freeze_worker();
    client.publish(COMMAND, 1, false, greedy("runs", 3)).await;
    let with_priority =
        |priority| json!({"id": priority, "prompt": PROMPT, "max_tokens": 200, "priority": priority});
    eventually("the first to run", || {
        (daemon.metric("clawdbot_requests_running") == Some(1.0)).then_some(())
    })
    .await;
    other
        .publish(
            "clawdbot/tablet/command",
            1,
            false,
            with_priority("background").to_string(),
        )
        .await;
    third
        .publish(
            "clawdbot/watch/command",
            1,
            false,
            with_priority("urgent").to_string(),
        )
        .await;
    // The one that ran stands still for the urgent one, and the other waits.
    eventually("one to wait and one to stand still", || {
        let (waits, stands) = (
            daemon.metric("clawdbot_requests_waiting"),
            daemon.metric("clawdbot_requests_paused"),
        );
        (waits == Some(1.0) && stands == Some(1.0)).then_some(())
    })
    .await;
    drop(frozen);
    let waited_s = |answer: &Answer| answer.end()["timings"]["queue_s"].as_f64().unwrap();
    let (urgent, background) = (third.answer("urgent").await, other.answer("background").await);
    assert!(
        waited_s(&urgent) < waited_s(&background),
        "{urgent:?} {background:?}"
    );
    client.answer("runs").await.assert_whole();
}

#[tokio::test]
async fn a_cancel_by_id_ends_that_request_only() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let mut client = phone(&daemon).await;
    let frozen = daemon.freeze_worker();
    for id in ["runs", "waits", "stays"] {
        client.publish(COMMAND, 1, false, greedy(id, 400)).await;
    }
    client.publish(CANCEL, 1, false, "waits").await;
    let waited = client.answer("waits").await;
    assert_eq!((waited.finish_reason(), waited.items.len()), ("cancelled", 1));
    client.publish(CANCEL, 1, false, r#"{"id": "runs"}"#).await;
    // Barrier: what comes after the cancel on the same topic's owner has been read after it.
    client.publish(CANCEL, 1, false, "nobody").await;
    drop(frozen);
    assert_eq!(client.answer("runs").await.finish_reason(), "cancelled");
    client.answer("stays").await.assert_whole();
}

#[tokio::test]
async fn a_cancel_without_an_id_ends_all_of_the_device_and_none_of_another() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let mut client = phone(&daemon).await;
    let mut other = Client::of(&daemon, "tablet", "tablet").await;
    other.subscribe("clawdbot/tablet/reply", 1).await;
    let frozen = daemon.freeze_worker();
    other
        .publish("clawdbot/tablet/command", 1, false, greedy("other", 30))
        .await;
    for id in ["runs", "waits"] {
        client.publish(COMMAND, 1, false, greedy(id, 400)).await;
    }
    client.publish(CANCEL, 1, false, "").await;
    drop(frozen);
    for id in ["runs", "waits"] {
        assert_eq!(client.answer(id).await.finish_reason(), "cancelled", "{id}");
    }
    other.answer("other").await.assert_whole();
    // And the device may ask again.
    client.publish(COMMAND, 1, false, greedy("again", 3)).await;
    client.answer("again").await.assert_whole();
    assert!(client.is_quiet(), "an item too many");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_with_the_remedy() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::launch()
        .model(&model)
        .set("conversation.max_prompt_bytes", 8000)
        .start();
    let mut client = phone(&daemon).await;
    let too_many_bytes = "x".repeat(8001);
    let too_many_tokens = "story ".repeat(700);
    let cases: &[(&[u8], &str, &str)] = &[
        (br#"{"prompt": "#, "invalid_json", "mend it, or send plain text"),
        (
            br#"{"id": "x", "prompt": "a", "tempratur": 1}"#,
            "invalid_request",
            "unknown field `tempratur`",
        ),
        (
            br#"{"id": "x", "prompt": "a", "max_tokens": "many"}"#,
            "invalid_request",
            "many",
        ),
        (
            br#"{"id": "x"}"#,
            "invalid_request",
            "give `prompt` or `messages`",
        ),
        (
            br#"{"id": "x", "prompt": "a", "messages": []}"#,
            "invalid_request",
            "not both",
        ),
        (
            br#"{"id": "x", "messages": []}"#,
            "empty_prompt",
            "say what you want",
        ),
        (
            br#"{"id": "x", "prompt": " "}"#,
            "empty_prompt",
            "say what you want",
        ),
        (b"", "empty_prompt", "say what you want"),
        (b"\xff\xfe", "invalid_utf8", "encoded as UTF-8"),
        (too_many_bytes.as_bytes(), "prompt_too_long", "at most 8000"),
        (too_many_tokens.as_bytes(), "prompt_too_long", "shorten it"),
        (
            br#"{"id": "x", "prompt": "a", "max_tokens": 4097}"#,
            "invalid_request",
            "at most 4096",
        ),
        (
            br#"{"id": "x", "prompt": "a", "temperature": -1}"#,
            "invalid_sampling",
            "temperature",
        ),
        (
            br#"{"id": "x", "prompt": "a", "top_p": 2}"#,
            "invalid_sampling",
            "top_p",
        ),
        (
            br#"{"id": "x", "prompt": "a", "priority": "now"}"#,
            "invalid_request",
            "urgent",
        ),
        (br#"{"id": [], "prompt": "a"}"#, "invalid_request", "`id` must be"),
    ];
    for (payload, code, remedy) in cases {
        client.publish(COMMAND, 1, false, *payload).await;
        let answer = client.next_answer().await;
        let (told, message) = answer.error();
        let payload = String::from_utf8_lossy(&payload[..payload.len().min(80)]);
        assert_eq!(told, *code, "{payload}: {message}");
        assert!(
            message.contains(remedy),
            "{payload}: {remedy:?} is missing in {message:?}"
        );
        assert_eq!(answer.items.len(), 1, "{payload}");
        if payload.contains(r#""id": "x""#) {
            assert_eq!(answer.end()["id"], "x", "{payload}");
        }
    }
    // None of it did any harm.
    client.publish(COMMAND, 1, false, greedy("after", 3)).await;
    client.answer("after").await.assert_whole();
}

#[tokio::test]
async fn a_response_topic_of_another_device_is_refused_on_the_own_reply_topic() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let mut client = phone(&daemon).await;
    let mut other = Client::of(&daemon, "tablet", "tablet").await;
    other.subscribe("clawdbot/tablet/reply", 1).await;
    for topic in ["clawdbot/tablet/reply", "clawdbot/phonebook", "elsewhere"] {
        let properties = Properties {
            response_topic: Some(topic.to_owned()),
            ..Properties::default()
        };
        client.publish_with(COMMAND, greedy("x", 3), properties).await;
        let answer = client.next_answer().await;
        let (code, message) = answer.error();
        assert!(
            code == "not_authorized" && message.contains("under its own topics"),
            "{topic}: {answer:?}"
        );
    }
    // What the other device hears is its own answer and nothing before.
    other
        .publish("clawdbot/tablet/command", 1, false, greedy("own", 3))
        .await;
    assert_eq!(other.next_answer().await.end()["id"], "own");
}

#[tokio::test]
async fn without_a_model_a_request_is_told_how_to_get_one_and_messages_are_routed() {
    let daemon = Daemon::launch().start();
    let mut client = phone(&daemon).await;
    client.publish(COMMAND, 1, false, greedy("x", 3)).await;
    let answer = client.answer("x").await;
    let (code, message) = answer.error();
    assert!(
        code == "no_model" && message.contains("clawdbot serve --model PATH"),
        "{answer:?}"
    );
    client.subscribe("clawdbot/phone/notes/+", 2).await;
    client.publish("clawdbot/phone/notes/a", 2, false, "routed").await;
    assert_eq!(
        client.message_on("clawdbot/phone/notes/a").await.payload,
        b"routed"
    );
    assert_eq!(
        daemon.get("/health").1.trim(),
        r#"{"model":"none","connections":1,"status":"ok"}"#
    );
    let finished = daemon.cli(&["ask", PROMPT]);
    finished.assert_code(1).assert_says(&["no_model", "--model PATH"]);
}

#[tokio::test]
async fn an_answer_goes_on_while_its_client_is_away_for_less_than_the_grace() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let mut client = phone(&daemon).await;
    let frozen = daemon.freeze_worker();
    client.publish(COMMAND, 1, false, greedy("away", 40)).await;
    client.disconnect().await;
    let mut client = phone(&daemon).await;
    drop(frozen);
    client.answer("away").await.assert_whole();
}

#[tokio::test]
async fn an_answer_nobody_can_receive_ends_after_the_grace_but_not_that_of_a_kept_session() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::launch()
        .model(&model)
        .set("conversation.undeliverable_grace_s", 1)
        .start();
    let kept = Login::new(Version::V5, &daemon, "phone", "phone").persistent();
    let mut client = Client::connect(daemon.mqtt, kept.clone()).await.unwrap();
    client.subscribe("clawdbot/phone/reply", 1).await;
    let mut other = Client::of(&daemon, "tablet", "tablet").await;
    let frozen = daemon.freeze_worker();
    client.publish(COMMAND, 1, false, greedy("kept", 30)).await;
    client.disconnect().await;
    other
        .publish("clawdbot/tablet/command", 1, false, greedy("lost", 400))
        .await;
    other.disconnect().await;
    // Asked later and abandoned later, so by then the grace of the other has passed as well.
    eventually("the abandoned request to be cancelled", || {
        daemon
            .log()
            .contains("nobody can receive the answer: cancelled")
            .then_some(())
    })
    .await;
    drop(frozen);
    eventually("its end", || {
        let ended = daemon.metric_where("clawdbot_requests_ended_total", r#"finish_reason="cancelled""#);
        (ended == Some(1.0)).then_some(())
    })
    .await;
    let mut client = Client::connect(daemon.mqtt, kept).await.unwrap();
    assert!(client.session_present);
    client.answer("kept").await.assert_whole();
}

#[tokio::test]
async fn a_request_whose_time_has_passed_is_told_so() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let mut client = phone(&daemon).await;
    let frozen = daemon.freeze_worker();
    client.publish(COMMAND, 1, false, greedy("runs", 3)).await;
    let short = Properties {
        message_expiry_s: Some(1),
        ..Properties::default()
    };
    client.publish_with(COMMAND, greedy("late", 3), short).await;
    let long = Properties {
        message_expiry_s: Some(600),
        ..Properties::default()
    };
    client.publish_with(COMMAND, greedy("in time", 3), long).await;
    // A second has to pass, and nothing tells when it has.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    drop(frozen);
    client.answer("runs").await.assert_whole();
    let late = client.answer("late").await;
    assert!(
        late.error().0 == "expired" && late.error().1.contains("longer"),
        "{late:?}"
    );
    client.answer("in time").await.assert_whole();
}

#[tokio::test]
async fn presence_is_kept_for_whoever_asks_later() {
    let daemon = Daemon::launch().start();
    let first = Client::of(&daemon, "phone", "first").await;
    let mut second = Client::of(&daemon, "phone", "second").await;
    second.subscribe("clawdbot/phone/status", 1).await;
    let status = second.message().await;
    assert_eq!((status.payload.as_slice(), status.retain), (&b"online"[..], true));
    // One of two clients leaves: the device is still here, and nothing is announced.
    first.disconnect().await;
    second.disconnect().await;
    let mut third = Client::of(&daemon, "phone", "third").await;
    third.subscribe("clawdbot/phone/status", 1).await;
    assert_eq!(third.message().await.payload, b"online");
}
