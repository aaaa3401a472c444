//! Memory runs short, and what is given up is what costs least.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::{Client, Login, Version};
use crate::support::daemon::{Daemon, Home};
use crate::support::data::{PROMPT, stories};
use crate::support::shape::write_wide_model;
use crate::support::{eventually, process};

/// A home in which the model is packed at both precisions.
fn packed(model: &std::path::Path) -> Home {
    let home = Home::new();
    for precision in ["int8", "int4"] {
        let model = model.to_str().expect("a path of plain text");
        let arguments = ["model", "quantize", model, "--precision", precision];
        process::finish(&mut home.command(&arguments)).assert_code(0);
    }
    home
}

#[tokio::test]
async fn when_memory_runs_short_the_precision_steps_down_under_a_running_answer_and_the_status_says_why() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::launch_in(packed(&model))
        .model(&model)
        .set("model.precision", "int8")
        .set("memory.interval_s", 1)
        .set("memory.dwell_s", 1)
        // No machine keeps so much free.
        .set("memory.keep_free_percent", 99)
        .set("supervisor.heartbeat_interval_s", 1)
        .start();
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    let mut rounds = 0;
    // Answers go on all the while.
    let precision = loop {
        let request = json!({"id": "q", "prompt": PROMPT, "temperature": 0, "max_tokens": 400});
        client
            .publish("clawdbot/phone/command", 1, false, request.to_string())
            .await;
        let answer = client.answer("q").await;
        answer.assert_whole();
        assert_eq!(answer.end()["attempt"], 1, "no process was lost");
        rounds += 1;
        if answer.end()["precision"] != "int8" || rounds == 3000 {
            break answer.end()["precision"].clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(precision, "int4", "after {rounds} answers");
    let status = daemon.status();
    assert_eq!(status["inference"]["model"]["precision"], "int4");
    let done = status["memory"]["done"].as_array().unwrap();
    let step = done.iter().find(|done| done["action"] == "step_down").unwrap();
    let reason = step["reason"].as_str().unwrap();
    assert!(step["to"] == "int4" && reason.contains("under 99 %"), "{status}");
    let ledger = &status["memory"]["ledger"];
    assert!(ledger["weights_bytes"].as_u64() > Some(0), "{ledger}");
    let top = daemon.cli(&["top", "--once"]);
    top.assert_code(0);
    for part in ["stories260K at int4", "tokens/s", "last: ", "Conversation"] {
        assert!(top.stdout.contains(part), "{part:?} is missing in {}", top.stdout);
    }
    // What is in the background stands still, or does not even begin.
    let request = json!({"id": "b", "prompt": PROMPT, "priority": "background", "max_tokens": 3});
    client
        .publish("clawdbot/phone/command", 1, false, request.to_string())
        .await;
    eventually("the background request to wait", || {
        (daemon.metric("clawdbot_requests_waiting") == Some(1.0)).then_some(())
    })
    .await;
    client.publish("clawdbot/phone/cancel", 1, false, "b").await;
    assert_eq!(client.answer("b").await.finish_reason(), "cancelled");
}

#[tokio::test]
async fn a_model_for_which_there_is_no_room_begins_with_the_fewest_bits_and_the_status_says_why() {
    let directory = tempfile::tempdir().unwrap();
    if !write_wide_model(directory.path()) {
        return;
    }
    let launch = || Daemon::launch().model(directory.path());
    // No machine keeps so much free.
    let daemon = launch().set("memory.keep_free_percent", 99).start();
    let status = daemon.status();
    assert_eq!(status["inference"]["model"]["precision"], "int4", "{status}");
    let done = &status["memory"]["done"][0];
    assert!(done["action"] == "step_down" && done["to"] == "int4", "{status}");
    let reason = done["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("at the start: int4 takes") && reason.contains("choose a smaller model"),
        "{reason}"
    );
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    let request = json!({"id": "q", "prompt": PROMPT, "temperature": 0, "max_tokens": 3});
    client
        .publish("clawdbot/phone/command", 1, false, request.to_string())
        .await;
    assert_eq!(client.answer("q").await.end()["precision"], "int4");
    drop(daemon);
    // Where nothing is to be kept free, nothing is given up for it.
    let daemon = launch().set("memory.keep_free_percent", 0).start();
    assert_eq!(daemon.status()["inference"]["model"]["precision"], "int8");
}

#[tokio::test]
async fn after_a_step_that_failed_the_next_process_has_the_precision_that_the_model_had() {
    let Some(model) = stories() else { return };
    let home = packed(&model);
    let folder = home.data_dir().join("packed");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|file| file.path());
    let mut files = files.filter(|path| path.to_string_lossy().ends_with("-int4.packed"));
    let file = files.next().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 8192 * 4096;
    bytes[middle] ^= 16;
    std::fs::write(&file, bytes).unwrap();
    let daemon = Daemon::launch_in(home)
        .model(&model)
        .set("model.precision", "int8")
        .set("memory.interval_s", 1)
        .set("memory.dwell_s", 600)
        .set("memory.keep_free_percent", 99)
        .set("supervisor.heartbeat_interval_s", 1)
        .set("supervisor.min_backoff_ms", 1)
        .start();
    eventually("a step that fails", || {
        daemon.log().contains("stay at their precision").then_some(())
    })
    .await;
    let first = daemon.worker_pid();
    process::signal(first, Signal::ILL);
    let precision = eventually("another process", || {
        let status = daemon.status();
        let is_there = status["inference"]["worker"] == "ready" && status["inference"]["workers_lost"] == 1;
        is_there.then(|| status["inference"]["model"]["precision"].clone())
    })
    .await;
    assert_eq!(precision, "int8");
}

#[tokio::test]
async fn the_memory_of_the_daemon_has_owners() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::launch().model(&model).set("memory.interval_s", 1).start();
    let ledger_has = |part: &'static str, bytes: u64| {
        let daemon = &daemon;
        async move {
            eventually(part, || {
                let ledger = daemon.status()["memory"]["ledger"].clone();
                let found = ledger[part].as_u64().expect("a number");
                (found >= bytes).then_some(())
            })
            .await;
        }
    };
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client
        .publish("clawdbot/phone/status", 1, true, vec![b'r'; 50_000])
        .await;
    ledger_has("retained_bytes", 50_000).await;
    // The store has read and written pages for it.
    ledger_has("store_cache_bytes", 4096).await;
    let away = Login::new(Version::V5, &daemon, "phone", "away").persistent();
    let mut away = Client::connect(daemon.mqtt, away).await.unwrap();
    away.subscribe("clawdbot/phone/note", 1).await;
    away.disconnect().await;
    for _ in 0..20 {
        client
            .publish("clawdbot/phone/note", 1, false, vec![b'n'; 3_000])
            .await;
    }
    ledger_has("sessions_bytes", 60_000).await;
    // Nobody answers it: it waits.
    let frozen = daemon.freeze_worker();
    let prompt = "word ".repeat(8_000);
    let request = json!({"id": "q", "prompt": prompt, "max_tokens": 3});
    client
        .publish("clawdbot/phone/command", 1, false, request.to_string())
        .await;
    ledger_has("queues_bytes", 40_000).await;
    drop(frozen);
    client.subscribe("clawdbot/phone/reply", 1).await;
    eventually("the request to end", || {
        (daemon.status()["memory"]["ledger"]["queues_bytes"].as_u64() < Some(40_000)).then_some(())
    })
    .await;
}

#[test]
fn whether_a_model_fits_is_said_before_it_is_loaded() {
    let Some(model) = stories() else { return };
    let home = Home::new();
    let model = model.to_str().unwrap();
    let fit = |more: &[&str]| {
        let mut arguments = vec!["model", "fit", model];
        arguments.extend(more);
        process::finish(&mut home.command(&arguments))
    };
    let said = fit(&[]);
    said.assert_code(0);
    assert!(
        said.stdout.contains("int4 fits with 512 tokens") && said.stdout.contains("it runs at f32"),
        "{said:?}"
    );
    let found = fit(&["--json", "--context", "100", "--at-once", "2"]);
    found.assert_code(0);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(
        (&found["context_tokens"], &found["best"]),
        (&json!(200), &json!("f32"))
    );
    let weights = |precision: &str| {
        let all = found["precisions"].as_array().unwrap();
        let at = all.iter().find(|at| at["precision"] == precision).unwrap();
        at["weights_bytes"].as_u64().unwrap()
    };
    assert!(
        weights("int4") < weights("int8") && weights("int8") < weights("f16"),
        "{found}"
    );
    // A request for more than there is in the world.
    let never = fit(&["--at-once", "1000000000000"]);
    never.assert_code(1).assert_says(&["it fits at no precision"]);
    assert!(never.stdout.contains("and not with"), "{never:?}");
}
