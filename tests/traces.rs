//! Traces, as a collector gets them that decodes OTLP by OpenTelemetry's own messages for Python.

use std::net::TcpListener;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::client::{Client, Properties};
use crate::support::collector::{Collector, Rotel};
use crate::support::daemon::{Daemon, Launch};
use crate::support::data::{PROMPT, stories};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn launch(endpoint: &str) -> Option<Launch> {
    let launch = Daemon::launch().model(&stories()?);
    Some(launch.set("telemetry.otlp_endpoint", endpoint))
}

fn time(span: &Value, which: &str) -> u64 {
    let text = span[which].as_str().expect("a time");
    text.parse().expect("nanoseconds")
}

fn attribute<'s>(span: &'s Value, name: &str) -> &'s Value {
    let attributes = span["attributes"].as_array().expect("attributes");
    let found = attributes.iter().find(|attribute| attribute["key"] == name);
    &found.unwrap_or_else(|| panic!("no {name}: {span:#}"))["value"]
}

#[tokio::test]
async fn a_request_is_one_trace_from_its_clients_on_and_without_a_word_of_it() {
    let Some(collector) = Collector::start() else {
        return;
    };
    let Some(launch) = launch(&collector.endpoint) else {
        return;
    };
    let daemon = launch.start();
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    let request = serde_json::json!({"id": "a", "prompt": PROMPT, "max_tokens": 12}).to_string();
    let properties = Properties {
        user_properties: vec![("traceparent".to_owned(), format!("00-{TRACE}-{SPAN}-01"))],
        ..Properties::default()
    };
    client
        .publish_with("clawdbot/phone/command", request, properties)
        .await;
    let answer = client.answer("a").await;
    answer.assert_whole();

    let spans = collector.spans(9);
    let named = |name: &str| spans.get(name).unwrap_or_else(|| panic!("no {name}: {spans:#?}"));
    let (root, inference) = (named("process command"), named("chat stories260K"));
    let process = named("inference process");
    assert_eq!(root["parent_span_id"], SPAN);
    for (child, parent) in [
        ("route", root),
        ("conversation", root),
        ("queue", root),
        ("chat stories260K", root),
        ("reply", root),
        ("inference process", inference),
        ("prefill", process),
        ("decode", process),
    ] {
        assert_eq!(named(child)["parent_span_id"], parent["span_id"], "{child}");
    }
    for span in spans.values() {
        assert_eq!(span["trace_id"], TRACE);
        let (from, to) = (
            time(span, "start_time_unix_nano"),
            time(span, "end_time_unix_nano"),
        );
        assert!(
            time(root, "start_time_unix_nano") <= from
                && from <= to
                && to <= time(root, "end_time_unix_nano"),
            "{span:#}"
        );
        let text = span.to_string();
        assert!(!text.contains(PROMPT) && !text.contains("phone"), "{text}");
    }
    // One behind the other, and no time between them.
    let stations = ["route", "conversation", "queue", "chat stories260K", "reply"];
    for pair in stations.windows(2).chain([&["prefill", "decode"][..]]) {
        assert_eq!(
            time(named(pair[0]), "end_time_unix_nano"),
            time(named(pair[1]), "start_time_unix_nano"),
            "{pair:?}"
        );
    }
    assert_eq!(
        attribute(inference, "gen_ai.usage.output_tokens")["int_value"],
        "12"
    );
    assert_eq!(
        attribute(inference, "gen_ai.response.model")["string_value"],
        "stories260K"
    );
    assert_eq!(
        attribute(process, "process.pid")["int_value"],
        daemon.worker_pid().to_string()
    );
    assert_eq!(attribute(root, "priority")["string_value"], "interactive");
    let service = root["resource"].to_string();
    assert!(
        service.contains("service.name") && service.contains("clawdbot"),
        "{service}"
    );
}

#[tokio::test]
async fn what_failed_is_a_span_with_its_error_and_what_the_client_does_not_want_traced_is_none() {
    let Some(collector) = Collector::start() else {
        return;
    };
    let Some(launch) = launch(&collector.endpoint) else {
        return;
    };
    let daemon = launch.start();
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    let unwanted = Properties {
        user_properties: vec![("traceparent".to_owned(), format!("00-{TRACE}-{SPAN}-00"))],
        ..Properties::default()
    };
    let request = serde_json::json!({"id": "untraced", "prompt": PROMPT, "max_tokens": 2}).to_string();
    client
        .publish_with("clawdbot/phone/command", request, unwanted)
        .await;
    client.answer("untraced").await.assert_whole();
    let request =
        serde_json::json!({"id": "long", "prompt": PROMPT.repeat(200), "max_tokens": 2}).to_string();
    client.publish("clawdbot/phone/command", 1, false, request).await;
    let (code, _) = {
        let answer = client.answer("long").await;
        let (code, message) = answer.error();
        (code.to_owned(), message.to_owned())
    };
    let spans = collector.spans(1);
    let root = spans
        .get("process command")
        .unwrap_or_else(|| panic!("{spans:#?}"));
    assert_ne!(root["trace_id"], TRACE);
    assert_eq!(root["parent_span_id"], "");
    assert_eq!(attribute(root, "error.type")["string_value"], code.as_str());
    assert_eq!(root["status"]["code"], "STATUS_CODE_ERROR");
}

#[tokio::test]
async fn a_collector_of_others_takes_metrics_the_whole_trace_of_a_request_and_logs_over_http_and_grpc() {
    let Some(collector) = Collector::start() else {
        return;
    };
    let Some(rotel) = Rotel::before(&collector) else {
        return;
    };
    for (protocol, endpoint) in [("http/protobuf", &rotel.http), ("grpc", &rotel.grpc)] {
        let Some(launch) = launch(endpoint) else { return };
        let daemon = launch.set("telemetry.otlp_protocol", protocol).start();
        let mut client = Client::of(&daemon, "phone", "phone").await;
        client.subscribe("clawdbot/phone/reply", 1).await;
        let prompts = [("short", PROMPT.to_owned()), ("long", PROMPT.repeat(200))];
        for (id, prompt) in prompts {
            let request = serde_json::json!({"id": id, "prompt": prompt, "max_tokens": 2}).to_string();
            client.publish("clawdbot/phone/command", 1, false, request).await;
            client.answer(id).await;
        }
        let is_metrics = |told: &Value| {
            let names = told["names"].as_array();
            names.is_some_and(|names| names.iter().any(|name| name == "clawdbot.requests.account"))
        };
        let is_line = |told: &Value| told["record"]["body"]["string_value"] == "a request failed";
        let spans = |told: &[Value]| -> Vec<String> {
            let spans = told.iter().filter(|told| told["span_id"].is_string());
            let mut names: Vec<_> = spans.map(|span| span["name"].to_string()).collect();
            names.sort_unstable();
            names
        };
        let told = collector
            .until(|told| spans(told).len() >= 10 && told.iter().any(is_metrics) && told.iter().any(is_line));
        let of_both = [
            "chat stories260K",
            "conversation",
            "decode",
            "inference process",
            "prefill",
            "process command",
            "process command",
            "queue",
            "reply",
            "route",
        ];
        assert_eq!(
            spans(&told),
            of_both.map(|name| format!("{name:?}")),
            "{protocol}"
        );
    }
}

#[tokio::test]
async fn words_are_in_a_trace_only_where_they_are_to_be_captured() {
    let Some(collector) = Collector::start() else {
        return;
    };
    let Some(launch) = launch(&collector.endpoint) else {
        return;
    };
    let daemon = launch.set("telemetry.capture_content", true).start();
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    let request = serde_json::json!({"id": "a", "prompt": PROMPT, "max_tokens": 12}).to_string();
    client.publish("clawdbot/phone/command", 1, false, request).await;
    let answer = client.answer("a").await;
    let spans = collector.spans(9);
    let messages = |name: &str| -> Value {
        let text = attribute(&spans["chat stories260K"], name)["string_value"].as_str();
        serde_json::from_str(text.expect("text")).expect("JSON")
    };
    assert_eq!(
        messages("gen_ai.input.messages"),
        serde_json::json!([{"role": "user", "parts": [{"type": "text", "content": PROMPT}]}])
    );
    let said = serde_json::json!([{
        "role": "assistant",
        "parts": [{"type": "text", "content": answer.text()}],
        "finish_reason": "length",
    }]);
    assert_eq!(messages("gen_ai.output.messages"), said);
}

#[tokio::test]
async fn a_collector_that_is_not_there_holds_up_nobody_and_not_the_end_either() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port");
    // It takes connections, and says nothing.
    let endpoint = format!("http://{}", nobody.local_addr().expect("an address"));
    for protocol in ["http/protobuf", "grpc"] {
        holds_up_nobody(&endpoint, protocol).await;
    }
}

async fn holds_up_nobody(endpoint: &str, protocol: &str) {
    let Some(launch) = launch(endpoint) else { return };
    let mut daemon = launch.set("telemetry.otlp_protocol", protocol).start();
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    for number in 0..20 {
        let request =
            serde_json::json!({"id": format!("r{number}"), "prompt": PROMPT, "max_tokens": 2}).to_string();
        client.publish("clawdbot/phone/command", 1, false, request).await;
        client.answer(&format!("r{number}")).await.assert_whole();
    }
    daemon.accounts_add_up().await;
    daemon.signal(Signal::TERM);
    let ended = daemon.exit(Duration::from_secs(60)).expect("it ends");
    assert!(ended.success(), "{ended:?}");
    assert!(
        daemon.log().contains("the last traces were not sent"),
        "{}",
        daemon.log()
    );
}

#[tokio::test]
async fn a_collector_is_told_the_same_metrics_as_prometheus() {
    let Some(collector) = Collector::start() else {
        return;
    };
    let mut daemon = Daemon::launch()
        .set("telemetry.otlp_endpoint", &collector.endpoint)
        .start();
    let told = collector.next("metrics");
    let names = told["names"].as_array().expect("names");
    let (_, scraped) = daemon.get("/metrics");
    for name in names {
        let name = name.as_str().expect("a name").replace('.', "_");
        assert!(scraped.contains(&name), "{name}");
    }
    for name in [
        "clawdbot.mqtt.connections",
        "clawdbot.memory.used",
        "clawdbot.requests.account",
    ] {
        assert!(
            names.iter().any(|told| told == name),
            "{name} is missing: {names:?}"
        );
    }
    // And once more at the end.
    daemon.signal(Signal::TERM);
    collector.next("metrics");
    let ended = daemon.exit(Duration::from_secs(60)).expect("it ends");
    assert!(ended.success(), "{ended:?}");
}

#[tokio::test]
async fn a_log_line_of_a_request_goes_to_the_collector_with_the_id_of_its_trace() {
    let Some(collector) = Collector::start() else {
        return;
    };
    let Some(launch) = launch(&collector.endpoint) else {
        return;
    };
    // At this level the exporter says much of itself, none of which may be exported again.
    let daemon = launch.set("log.level", "debug").start();
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    let request =
        serde_json::json!({"id": "long", "prompt": PROMPT.repeat(200), "max_tokens": 2}).to_string();
    let properties = Properties {
        user_properties: vec![("traceparent".to_owned(), format!("00-{TRACE}-{SPAN}-01"))],
        ..Properties::default()
    };
    client
        .publish_with("clawdbot/phone/command", request, properties)
        .await;
    client.answer("long").await;
    loop {
        let record = collector.next("log")["record"].clone();
        let text = record.to_string();
        assert!(!text.contains(PROMPT), "{text}");
        if record["body"]["string_value"] == "a request failed" {
            assert_eq!(attribute(&record, "trace_id")["string_value"], TRACE);
            assert_eq!(attribute(&record, "code")["string_value"], "prompt_too_long");
            assert_eq!(record["severity_text"], "INFO");
            // The record's own fields, by which a backend links it to the trace and sorts it.
            assert_eq!(record["trace_id"], TRACE);
            assert_ne!(record["span_id"], "");
            assert_ne!(record["span_id"], SPAN);
            assert_eq!(record["time_unix_nano"], record["observed_time_unix_nano"]);
            assert!(record["time_unix_nano"].is_string(), "{record}");
            assert!(record["event_name"].is_null(), "{record}");
            break;
        }
    }
}
