//! `clawdbot doctor`, on machines that something is wrong with.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::daemon::{Daemon, Home, Launch};
use crate::support::data::stories;
use crate::support::foreign::certificate_of_a_day;
use crate::support::process::{self, finish};
use crate::support::{eventually, wait_for};

/// What it prints for programs, with its exit code.
fn examined(command: &mut Command) -> (i32, Value) {
    let finished = finish(command);
    let report = serde_json::from_str(&finished.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error}: {finished:#?}"));
    (finished.status.code().expect("an exit code"), report)
}

/// As somebody asks who has the daemon's own settings.
fn doctor(daemon: &Daemon) -> Command {
    let mut command = daemon.command(&["doctor", "--json"]);
    command
        .env(
            "CLAWDBOT__MQTT__WEBSOCKET",
            daemon.listener("websocket").to_string(),
        )
        .env("CLAWDBOT__METRICS__LISTEN", daemon.listener("http").to_string())
        // What the machine has free beside the tests is not what is tested.
        .env("CLAWDBOT__MEMORY__KEEP_FREE_PERCENT", "0");
    command
}

fn alone(home: &Home) -> Command {
    let mut command = home.command(&["doctor", "--json"]);
    command.env("CLAWDBOT__MEMORY__KEEP_FREE_PERCENT", "0");
    command
}

/// The severity and the words of what a check found; none where it found nothing.
fn found(report: &Value, check: &str) -> Option<(String, String)> {
    let findings = report["findings"].as_array().expect("a list");
    let finding = findings.iter().find(|finding| finding["check_id"] == check)?;
    let hint = finding["fix_hint"].as_str().expect("a hint");
    assert!(hint.len() > 5, "{finding}");
    let word = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    Some((word("severity"), format!("{} {}", word("path"), word("message"))))
}

#[track_caller]
fn assert_found(report: &Value, check: &str, severity: &str, words: &[&str]) {
    let (found, text) = found(report, check).unwrap_or_else(|| panic!("{check} found nothing: {report:#}"));
    assert_eq!(found, severity, "{report:#}");
    for word in words {
        assert!(text.contains(word), "{word} is missing in {text}");
    }
}

#[test]
fn a_daemon_that_is_well_has_nothing_but_notes() {
    let daemon = Daemon::launch().set("model.path", "embedded").start();
    let mut command = doctor(&daemon);
    command.env("CLAWDBOT__MODEL__PATH", "embedded");
    let (code, report) = examined(&mut command);
    let findings = report["findings"].as_array().expect("a list");
    // A disk may be slow while others test, and so may an answer.
    let is_slow =
        |finding: &Value| ["disk_speed", "request"].contains(&finding["check_id"].as_str().unwrap_or(""));
    assert!(findings.iter().all(is_slow), "{report:#}");
    assert_eq!((code, &report["ok"]), (0, &true.into()), "{report:#}");
    assert_eq!(report["checks_run"], 17, "{report:#}");

    // And for people.
    let mut command = daemon.command(&["doctor"]);
    for (name, value) in doctor(&daemon).get_envs() {
        command.env(name, value.expect("a value"));
    }
    let people = finish(command.env("CLAWDBOT__MODEL__PATH", "embedded"));
    people.assert_code(0);
    assert!(
        people.stdout.contains("ok       keys: tokens can be signed"),
        "{people:#?}"
    );
}

#[test]
fn before_the_first_start_it_says_what_will_be_made() {
    let home = Home::new();
    let (code, report) = examined(&mut alone(&home));
    assert_eq!(code, 0, "{report:#}");
    assert_found(&report, "data_dir", "info", &["data_dir"]);
    assert_found(&report, "daemon", "info", &["no daemon runs"]);
    assert!(!home.data_dir().exists(), "it made something");
}

#[test]
fn a_port_that_is_taken_is_named_with_its_setting() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let mut command = alone(&home);
    command.env("CLAWDBOT__MQTT__TCP", &address);
    let (code, report) = examined(&mut command);
    assert_eq!(code, 2, "{report:#}");
    assert_found(&report, "ports", "error", &["mqtt.tcp", &address]);
}

#[test]
fn a_setting_that_makes_no_sense_is_named() {
    let home = Home::new();
    let mut command = alone(&home);
    command.env("CLAWDBOT__MQTT__RECEIVE_MAXIMUM", "many");
    let (code, report) = examined(&mut command);
    assert_eq!(code, 2, "{report:#}");
    assert_found(&report, "settings", "error", &["mqtt.receive_maximum", "many"]);
}

/// What a daemon has left that ran once.
fn left() -> Launch {
    let launch = Daemon::launch();
    let mut daemon = launch.clone().start();
    wait_for("the first probe", || {
        daemon.home().data_dir().join("disk-probe").exists().then_some(())
    });
    daemon.signal(Signal::TERM);
    daemon.exit(Duration::from_secs(60)).expect("it ends");
    launch
}

#[test]
fn a_key_that_cannot_be_used_is_named() {
    let launch = left();
    let home = launch.home();
    let key = home.data_dir().join("keys/master.key");
    fs::write(&key, "short").expect("written");
    let (code, report) = examined(&mut alone(home));
    assert_eq!(code, 2, "{report:#}");
    assert_found(&report, "keys", "error", &["master.key"]);

    let keys = home.data_dir().join("keys");
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o755)).expect("permissions");
    let (code, report) = examined(&mut alone(home));
    assert_eq!(code, 2, "{report:#}");
    assert_found(&report, "keys", "error", &["keys"]);
}

#[test]
fn a_disk_that_takes_nothing_is_named() {
    let launch = left();
    let home = launch.home();
    // The system refuses to let a file grow at all.
    fs::remove_file(home.data_dir().join("disk-probe")).expect("the daemon's probe");
    let program = env!("CARGO_BIN_EXE_clawdbot");
    let script = "trap '' XFSZ; ulimit -S -f 0; exec \"$0\" doctor --json";
    let (code, report) = examined(&mut home.command_of(OsStr::new("sh"), &["-c", script, program]));
    assert_eq!(code, 1, "{report:#}");
    assert_found(&report, "disk_speed", "error", &["nothing can be written"]);
}

#[test]
fn a_clock_that_was_set_back_by_a_day_is_noticed() {
    let launch = left();
    let home = launch.home();
    let tomorrow = SystemTime::now() + Duration::from_secs(24 * 3600);
    let store = fs::File::options()
        .write(true)
        .open(home.data_dir().join("store.redb"));
    store.expect("the store").set_modified(tomorrow).expect("a time");
    let (_, report) = examined(&mut alone(home));
    assert_found(&report, "clock", "warning", &["set back"]);
}

#[test]
fn a_certificate_that_ends_tomorrow_is_named() {
    let launch = left();
    let home = launch.home();
    let Some((certificate_path, key_path)) = certificate_of_a_day(home.path()) else {
        return;
    };
    let mut command = alone(home);
    command
        .env("CLAWDBOT__MQTT__TLS", "127.0.0.1:0")
        .env("CLAWDBOT__MQTT__TLS_CERTIFICATE", &certificate_path)
        .env("CLAWDBOT__MQTT__TLS_KEY", &key_path);
    let (_, report) = examined(&mut command);
    assert_found(&report, "certificate", "warning", &["ENDS SOON", "hub.crt"]);
}

#[test]
fn backups_that_are_not_made_are_named() {
    let launch = left();
    let home = launch.home();
    let mut command = home.command(&["doctor", "--json"]);
    command.env(
        "CLAWDBOT__BACKUP__DIRECTORY",
        home.path().join("a disk that is away"),
    );
    let (_, report) = examined(&mut command);
    assert_found(&report, "backups", "warning", &["a disk that is away"]);
    command.env("CLAWDBOT__BACKUP__DIRECTORY", home.path());
    let (_, report) = examined(&mut command);
    assert_found(&report, "backups", "warning", &["no backup yet"]);
    finish(&mut home.command(&[
        "backup",
        "create",
        "--directory",
        &home.path().display().to_string(),
    ]))
    .assert_code(0);
    let (_, report) = examined(&mut command);
    assert_eq!(found(&report, "backups"), None, "{report:#}");
}

#[test]
fn little_memory_is_named() {
    let launch = left();
    let home = launch.home();
    let mut command = home.command(&["doctor", "--json"]);
    command.env("CLAWDBOT__MEMORY__KEEP_FREE_PERCENT", "90");
    // A process that takes most of what there is would be no good neighbour of other tests: more is asked for instead.
    let limits = platform::memory::limits().expect("a measurement");
    let shares = limits
        .iter()
        .map(|limit| limit.available_bytes * 100 / limit.total_bytes);
    let share = shares.min().expect("a limit");
    let (_, report) = examined(&mut command);
    match share {
        0..=85 => assert_found(&report, "memory", "warning", &["90 % are to stay free"]),
        95.. => assert_eq!(found(&report, "memory"), None),
        // What others do meanwhile decides.
        _ => {}
    }
}

#[tokio::test]
async fn a_process_of_the_model_that_was_killed_is_named() {
    let Some(model) = stories() else { return };
    let daemon = Daemon::launch()
        .model(&model)
        .set("supervisor.min_backoff_ms", 1)
        .start();
    process::signal(daemon.worker_pid(), Signal::KILL);
    eventually("another process", || {
        (daemon.metric("clawdbot_worker_lost_total") == Some(1.0)
            && daemon.metric("clawdbot_worker_ready") == Some(1.0))
        .then_some(())
    })
    .await;
    let with_model = || {
        let mut command = doctor(&daemon);
        command.env("CLAWDBOT__MODEL__PATH", &model);
        command
    };
    let (code, report) = examined(&mut with_model());
    assert_eq!(code, 0, "{report:#}");
    assert_found(&report, "model", "warning", &["1 of its processes were lost"]);
}

#[test]
fn a_daemon_with_other_settings_than_these_is_told_from_one_that_is_well() {
    let daemon = Daemon::launch().start();
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr();
    let nobody = nobody.expect("an address").to_string();
    let mut command = doctor(&daemon);
    command.env("CLAWDBOT__METRICS__LISTEN", &nobody);
    let (code, report) = examined(&mut command);
    assert_eq!(code, 1, "{report:#}");
    assert_found(&report, "listeners", "error", &["metrics.listen", &nobody]);
    assert_found(&report, "metrics", "error", &["cannot be read"]);
    wait_for("the daemon to be well", || {
        (daemon.get("/health").0 == 200).then_some(())
    });
}

#[test]
fn a_daemon_that_hangs_is_told_from_none() {
    let daemon = Daemon::launch().start();
    daemon.signal(Signal::STOP);
    let (code, report) = examined(&mut doctor(&daemon));
    daemon.signal(Signal::CONT);
    assert_eq!(code, 1, "{report:#}");
    assert_found(&report, "daemon", "error", &["did not answer"]);
    assert!(found(&report, "ports").is_none(), "{report:#}");
}

#[test]
fn with_an_external_broker_its_ports_are_nobodys_fault() {
    let home = Home::new();
    let broker = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = broker.local_addr().expect("an address").to_string();
    let mut command = alone(&home);
    command
        .env("CLAWDBOT__BROKER__MODE", "external")
        .env("CLAWDBOT__BROKER__CLIENT_ID", "hub")
        .env("CLAWDBOT__BROKER__ADDRESS", format!("mqtt://{address}"))
        .env("CLAWDBOT__MQTT__TCP", &address);
    let (code, report) = examined(&mut command);
    assert_eq!(code, 0, "{report:#}");
}
