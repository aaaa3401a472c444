//! What Prometheus and Grafana see: what is exported, told in the table and used by rules and dashboard is the same, and however many
//! devices there are, there is no more of it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use actors::external_broker::LinkGauge;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::daemon::{Daemon, Launch};
use crate::support::data::{PROMPT, stories};
use crate::support::foreign::prometheus;
use crate::support::process::finish;
use crate::support::prometheus::{Prometheus, config, read};
use crate::support::{eventually, wait_for};

/// The names behind `# TYPE`.
fn exported(metrics: &str) -> BTreeSet<String> {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .filter_map(|rest| rest.split(' ').next())
        .map(str::to_owned)
        .collect()
}

/// Rows of the table: the name and its labels.
fn documented() -> Vec<(String, Vec<String>)> {
    let table = read("METRICS.md");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let quoted =
        |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        assert_eq!(
            cells.len(),
            5,
            "a row has a name, a kind, a unit, labels and a meaning: {row}"
        );
        let name = quoted(cells[0]).pop().expect("a name");
        assert!(cells[4].trim().len() > 10, "no meaning: {row}");
        let labels = quoted(cells[3]);
        let labels = labels.into_iter().filter(|label| {
            label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        });
        (name, labels.collect())
    })
    .collect()
}

/// All that looks like a metric of ours in a text.
fn named_in(text: &str, table: &[(String, Vec<String>)]) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c: char| !is_part(c));
    let ours = words.filter(|word| {
        let recorded = word.contains(':');
        let label = table
            .iter()
            .any(|(_, labels)| labels.iter().any(|label| label == word));
        (word.starts_with("clawdbot_") || word.starts_with("gen_ai_")) && !recorded && !label
    });
    ours.map(|word| {
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| word.strip_suffix(end));
        let base = base.filter(|base| table.iter().any(|(name, _)| name == base));
        base.unwrap_or(word).to_owned()
    })
    .collect()
}

/// With everything that has metrics.
fn launch() -> Option<Launch> {
    let model = stories()?;
    let launch = Daemon::launch();
    finish(&mut launch.home().command(&["certs", "init"])).assert_code(0);
    let launch = launch
        .model(&model)
        .set("model.commands", "embedded")
        .set("mqtt.tls", "127.0.0.1:0")
        .set("mqtt.secure_websocket", "127.0.0.1:0")
        .set("metrics.disk_probe_interval_s", 1);
    Some(launch)
}

async fn some_of_everything(daemon: &Daemon) {
    eventually("the assistant", || {
        (daemon.status()["commands"] == "ready").then_some(())
    })
    .await;
    daemon
        .cli(&["ask", "turn off the lights in the kitchen"])
        .assert_code(0);
    daemon.cli(&["ask", "--max-tokens", "20", PROMPT]).assert_code(0);
}

#[tokio::test]
async fn what_is_exported_told_in_the_table_and_used_is_the_same() {
    let table = documented();
    let names: BTreeSet<String> = table.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names.len(), table.len(), "a metric has one row");

    for file in [
        "prometheus/clawdbot.rules.yml",
        "grafana/dashboards/clawdbot.json",
    ] {
        let unknown: Vec<_> = named_in(&read(file), &table)
            .difference(&names)
            .cloned()
            .collect();
        assert!(
            unknown.is_empty(),
            "{file} uses what is not in the table: {unknown:?}"
        );
    }

    let Some(launch) = launch() else { return };
    let daemon = launch.start();
    some_of_everything(&daemon).await;
    let (_, metrics) = daemon.get("/metrics");
    let mut there = exported(&metrics);
    // An external broker takes the place of the doors that this daemon has.
    let link = LinkGauge::default();
    let of_link = |name: &str, end: &str| format!("{}{end}", name.replace('.', "_"));
    there.extend(link.levels().iter().map(|(name, _)| of_link(name, "")));
    there.extend(link.counters().iter().map(|(name, _)| of_link(name, "_total")));
    let untold: Vec<_> = there.difference(&names).collect();
    let untrue: Vec<_> = names.difference(&there).collect();
    assert!(
        untold.is_empty() && untrue.is_empty(),
        "not in the table: {untold:?}; not exported: {untrue:?}"
    );
    // And so are the labels of what is there.
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').expect("a value");
        let Some((name, labels)) = series.split_once('{') else {
            continue;
        };
        if name == "target_info" {
            continue;
        }
        let is_it = |row: &&(String, Vec<String>)| {
            let rest = name.strip_prefix(row.0.as_str());
            rest.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        };
        let (_, known) = table.iter().find(is_it).unwrap_or_else(|| panic!("{name}"));
        for label in labels.split("\",").filter_map(|pair| pair.split_once("=\"")) {
            assert!(
                label.0 == "le" || known.iter().any(|known| known == label.0),
                "the label {} of {name} is not in the table",
                label.0
            );
        }
    }
}

/// As small as a session can be: connects, publishes on a topic of its own, and is gone.
fn come_and_go(daemon: &Daemon, number: usize) {
    let mut socket = TcpStream::connect(daemon.listener("mqtt")).expect("a connection");
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a time-out");
    let id = format!("device-{number:05}");
    let topic = format!("clawdbot/{id}/state/{number}");
    let mut packets = vec![0x10, (12 + id.len()) as u8, 0, 4];
    packets.extend(b"MQTT\x04\x02\x00\x3c\x00");
    packets.push(id.len() as u8);
    packets.extend(id.as_bytes());
    packets.extend([0x32, (2 + topic.len() + 2 + 2) as u8, 0, topic.len() as u8]);
    packets.extend(topic.as_bytes());
    packets.extend([0, 1, b'h', b'i', 0xe0, 0]);
    socket.write_all(&packets).expect("written");
    let mut answers = Vec::new();
    socket.read_to_end(&mut answers).expect("read to its end");
    assert_eq!(answers.get(..4), Some(&[0x20, 2, 0, 0][..]), "{answers:?}");
    assert_eq!(answers.get(4..8), Some(&[0x40, 2, 0, 1][..]), "{answers:?}");
}

#[test]
fn ten_thousand_devices_make_no_more_series_than_one() {
    let daemon = Daemon::launch()
        .set("auth.mode", "none")
        .set("metrics.disk_probe_interval_s", 1)
        .start();
    for number in 0..50 {
        come_and_go(&daemon, number);
    }
    wait_for("the first probe", || {
        daemon.metric("clawdbot_disk_probe_duration_seconds_count")
    });
    let series = || {
        let (_, metrics) = daemon.get("/metrics");
        let series = metrics.lines().filter(|line| !line.starts_with('#'));
        series
            .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
            .collect::<BTreeSet<_>>()
    };
    let before = series();
    for number in 50..10_000 {
        come_and_go(&daemon, number);
    }
    assert_eq!(
        daemon.metric("clawdbot_mqtt_connections_accepted_total"),
        Some(10_000.0)
    );
    let after = series();
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
}

#[tokio::test]
async fn an_actor_that_falls_is_counted_and_so_is_the_one_in_its_place() {
    let daemon = Daemon::launch().application("nervous").start();
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/echo", 1).await;
    let counted = || {
        let fell = daemon.metric("clawdbot_panics_total");
        (
            fell,
            daemon.metric_where("clawdbot_actor_restarts_total", "actor=\"Nervous\""),
        )
    };
    for (word, times) in [("hello", Some(0.0)), ("again", Some(1.0))] {
        client
            .publish("clawdbot/phone/telemetry", 1, false, json!(word).to_string())
            .await;
        assert_eq!(
            client.message().await.payload,
            json!(word).to_string().into_bytes()
        );
        eventually("the counts", || (counted() == (times, times)).then_some(())).await;
        client
            .publish("clawdbot/phone/telemetry", 1, false, json!("boo").to_string())
            .await;
        eventually("a panic", || (counted().0 > times).then_some(())).await;
    }
}

#[test]
fn every_rule_is_well_formed_and_fires_when_it_should_and_only_then() {
    let Some(mut promtool) = prometheus("promtool") else {
        return;
    };
    let rules = config("prometheus/clawdbot.rules.yml");
    finish(promtool.args(["check", "rules"]).arg(&rules)).assert_code(0);
    let Some(mut promtool) = prometheus("promtool") else {
        return;
    };
    finish(
        promtool
            .args(["check", "config", "--syntax-only"])
            .arg(config("prometheus/prometheus.yml")),
    )
    .assert_code(0);
    let Some(mut promtool) = prometheus("promtool") else {
        return;
    };
    let files = ["", ".days"].map(|which| format!("prometheus/clawdbot.rules{which}.test.yml"));
    finish(
        promtool
            .args(["test", "rules"])
            .args(files.each_ref().map(|file| config(file))),
    )
    .assert_code(0);
    // Each alert is told of in a test that expects it, and in one that expects nothing.
    let rules = read("prometheus/clawdbot.rules.yml");
    let tests = files.map(|file| read(&file)).concat();
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        let cases: Vec<&str> = tests
            .split("alertname: ")
            .filter(|case| case.starts_with(&format!("{alert}\n")))
            .collect();
        let expects_nothing = |case: &&str| {
            case.lines()
                .nth(1)
                .is_some_and(|line| line.contains("exp_alerts: []"))
        };
        assert!(
            cases.iter().any(|case| !expects_nothing(case)),
            "{alert} is never expected to fire"
        );
        assert!(
            cases.iter().any(expects_nothing),
            "{alert} is never expected to be silent"
        );
    }
}

/// Of every panel its title and its expressions.
fn panels(of: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in of["panels"].as_array().into_iter().flatten() {
        let title = panel["title"].as_str().unwrap_or_default();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            found.push((title.to_owned(), expression.to_owned()));
        }
        found.extend(panels(panel));
    }
    found
}

#[tokio::test]
async fn prometheus_scrapes_a_daemon_at_work_and_every_panel_has_data() {
    let Some(launch) = launch() else { return };
    let daemon = launch.start();
    let Some(prometheus) = Prometheus::scraping(&daemon) else {
        return;
    };
    some_of_everything(&daemon).await;
    // The first one that comes by itself comes after a day.
    daemon.cli(&["store", "verify"]).assert_code(0);
    let mut client = Client::of(&daemon, "phone", "phone").await;
    client.subscribe("clawdbot/phone/reply", 1).await;
    let dashboard: Value = serde_json::from_str(&read("grafana/dashboards/clawdbot.json")).expect("JSON");
    let mut left = panels(&dashboard);
    assert!(left.len() > 20, "{} expressions", left.len());
    let mut asked = 0;
    // Rates want two scrapes with something between them.
    for _ in 0..90 {
        for prompt in ["turn on the fan in the bedroom", PROMPT] {
            asked += 1;
            let request = json!({"id": format!("r{asked}"), "prompt": prompt, "max_tokens": 8});
            client
                .publish("clawdbot/phone/command", 1, false, request.to_string())
                .await;
            client.answer(&format!("r{asked}")).await;
        }
        left.retain(|(_, expression)| {
            let expression = expression
                .replace("$__rate_interval", "20s")
                .replace("$__range", "20s")
                .replace("$__interval", "5s");
            let result = prometheus.query(&expression).unwrap_or_default();
            let is_number = |sample: &Value| sample["value"][1].as_str().is_some_and(|value| value != "NaN");
            !result.iter().any(is_number)
        });
        if left.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // No alert fires on a daemon that is well, and then there is none to show.
    left.retain(|(_, expression)| !expression.contains("ALERTS"));
    assert!(left.is_empty(), "no data: {left:#?}");
    let up = prometheus.query("up{job=\"clawdbot\"}").expect("an answer");
    assert_eq!(up[0]["value"][1], "1", "{up:?}");
}
