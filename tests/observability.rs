//! What can be seen from outside: health, metrics, logs.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::daemon::Daemon;
use crate::support::data::{PROMPT, stories};
use crate::support::{process, wait_for};

#[test]
fn metrics_tell_of_a_request_and_never_of_whose_it_was() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let device = "secretdevice";
    let ask = [
        "ask",
        "--device",
        device,
        "--temperature",
        "0",
        "--max-tokens",
        "30",
        PROMPT,
    ];
    daemon.cli(&ask).assert_code(0);
    let value = |name: &str| daemon.metric(name).unwrap_or_else(|| panic!("{name} is missing"));

    assert_eq!(value("gen_ai_server_request_duration_seconds_count"), 1.0);
    let duration_s = value("gen_ai_server_request_duration_seconds_sum");
    assert!(duration_s > 0.0 && duration_s < 60.0, "{duration_s}");
    assert_eq!(value("gen_ai_server_time_to_first_token_seconds_count"), 1.0);
    let first_s = value("gen_ai_server_time_to_first_token_seconds_sum");
    assert!(
        first_s > 0.0 && first_s <= duration_s,
        "{first_s} of {duration_s}"
    );
    assert_eq!(value("gen_ai_server_time_per_output_token_seconds_count"), 1.0);
    let per_token_s = value("gen_ai_server_time_per_output_token_seconds_sum");
    assert!(per_token_s > 0.0 && per_token_s < duration_s, "{per_token_s}");
    let text = daemon.get("/metrics").1;
    assert!(
        text.lines()
            .any(|line| line.starts_with("gen_ai_client_token_usage")),
        "{text}"
    );

    assert_eq!(value("clawdbot_requests_ended_total"), 1.0);
    assert_eq!(value("clawdbot_requests_running"), 0.0);
    assert_eq!(value("clawdbot_requests_waiting"), 0.0);
    assert_eq!(value("clawdbot_worker_ready"), 1.0);
    assert_eq!(value("clawdbot_worker_lost_total"), 0.0);
    assert_eq!(value("clawdbot_mqtt_connections_accepted_total"), 1.0);
    assert_eq!(value("clawdbot_mqtt_messages_received_total"), 1.0);
    assert!(value("clawdbot_mqtt_messages_sent_total") > 5.0);
    assert_eq!(value("clawdbot_mqtt_authentication_failures_total"), 0.0);
    let total = value("clawdbot_machine_memory_total_bytes");
    let available = value("clawdbot_machine_memory_available_bytes");
    assert!(available > 0.0 && available <= total, "{available} of {total}");

    assert!(
        !text.contains(device) && !text.contains("clawdbot/") && !text.contains(PROMPT),
        "{text}"
    );
}

#[test]
fn health_is_bad_while_the_model_is_away_and_good_again_after() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::with_model(&model);
    let health = |expected: &str| {
        let (code, body) = daemon.get("/health");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        (body["model"] == expected).then_some((code, body))
    };
    let (code, body) = health("ready").expect("ready");
    assert_eq!((code, &body["status"]), (200, &"ok".into()));
    // Loading again takes a moment in which nobody needs to look, so its successor is held up, too.
    let first = daemon.worker_pid();
    process::signal(first, Signal::KILL);
    let successor = wait_for("another process", || {
        Some(daemon.worker_pid()).filter(|pid| *pid != first)
    });
    wait_for("the model to be ready again", || health("ready"));
    assert!(process::is_running(successor));
    assert_eq!(daemon.metric("clawdbot_worker_lost_total"), Some(1.0));
    let log = daemon.log();
    assert!(log.contains("killed by signal 9"), "{log}");
}

#[test]
fn a_request_finds_its_way_into_no_log() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::launch().model(&model).set("log.level", "debug").start();
    daemon
        .cli(&["ask", "--max-tokens", "3", "a private matter"])
        .assert_code(0);
    assert!(!daemon.log().contains("private matter"), "{}", daemon.log());
}

#[test]
fn log_lines_are_json_objects_where_that_is_asked_for() {
    let daemon = Daemon::launch().start();
    for line in daemon.log().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(
            line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
}
