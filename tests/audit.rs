//! `clawdbot audit`, on machines that are kept well and on others.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use clawdbot::security::DataDir;
use clawdbot::security::certificates::{Machine, OwnCertificates};
use rustix::process::geteuid;
use serde_json::Value;

use crate::support::daemon::{Daemon, Home};
use crate::support::foreign::certificate_of_a_day;
use crate::support::process::finish;

/// What the machine that tests run on is like is not what is tested.
const OF_THE_MACHINE: [&str; 6] = [
    "root_user",
    "firewall",
    "clock_sync",
    "parent_directory",
    "program_file",
    "network_mount",
];

/// What it prints for programs, with its exit code.
fn audited(command: &mut Command) -> (i32, Value) {
    let finished = finish(command);
    let report = serde_json::from_str(&finished.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error}: {finished:#?}"));
    (finished.status.code().expect("an exit code"), report)
}

/// As somebody asks who has the daemon's own settings.
fn audit(daemon: &Daemon) -> Command {
    let mut command = daemon.command(&["audit", "--json"]);
    let listener = |name| daemon.listener(name).to_string();
    command
        .env("CLAWDBOT__MQTT__WEBSOCKET", listener("websocket"))
        .env("CLAWDBOT__METRICS__LISTEN", listener("http"));
    command
}

fn findings(report: &Value) -> &[Value] {
    report["findings"].as_array().expect("a list")
}

/// The ids of errors and warnings that are not the machine's.
fn worse_than_notes(report: &Value) -> Vec<&str> {
    let ids = findings(report)
        .iter()
        .filter(|finding| finding["severity"] != "info")
        .map(|finding| finding["check_id"].as_str().expect("an id"));
    ids.filter(|id| !OF_THE_MACHINE.contains(id)).collect()
}

#[track_caller]
fn assert_found<'r>(report: &'r Value, check: &str, severity: &str, words: &[&str]) -> &'r Value {
    let found = findings(report)
        .iter()
        .find(|finding| finding["check_id"] == check);
    let found = found.unwrap_or_else(|| panic!("{check} found nothing: {report:#}"));
    assert_eq!(found["severity"], severity, "{found:#}");
    for word in words {
        assert!(found.to_string().contains(word), "{word} is missing in {found:#}");
    }
    found
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("permissions");
}

/// A home with a data directory and keys, as the first command makes them.
fn prepared() -> Home {
    let home = Home::new();
    finish(&mut home.command(&["token", "phone"])).assert_code(0);
    home
}

#[test]
fn a_new_daemon_with_the_defaults_has_nothing_but_notes() {
    let daemon = Daemon::launch().start();
    let (code, report) = audited(&mut audit(&daemon));
    assert_eq!(worse_than_notes(&report), Vec::<&str>::new(), "{report:#}");
    let is_root = geteuid().is_root();
    let found_root = findings(&report)
        .iter()
        .any(|finding| finding["check_id"] == "root_user");
    assert_eq!(found_root, is_root, "{report:#}");
    if !is_root {
        assert_eq!((code, &report["ok"]), (0, &true.into()), "{report:#}");
    }
    // In the form of doctor.
    assert!(
        report["checks_run"].as_u64().expect("a number") > 40,
        "{report:#}"
    );
    assert!(report.get("mended").is_none(), "nobody asked for it: {report:#}");
    for finding in findings(&report) {
        for field in ["check_id", "severity", "message", "fix_hint"] {
            assert!(
                finding[field].as_str().is_some_and(|text| text.len() > 3),
                "{field}: {finding:#}"
            );
        }
    }

    // And for people.
    let mut command = daemon.command(&["audit"]);
    for (name, value) in audit(&daemon).get_envs() {
        command.env(name, value.expect("a value"));
    }
    let people = finish(&mut command);
    assert!(people.stdout.contains("ok       auth_none: "), "{people:#?}");
    assert!(people.stdout.contains(" checks, "), "{people:#?}");
}

#[test]
fn before_the_first_start_nothing_is_made() {
    let home = Home::new();
    let (_, report) = audited(&mut home.command(&["audit", "--json", "--fix"]));
    assert_eq!(worse_than_notes(&report), Vec::<&str>::new(), "{report:#}");
    assert_found(&report, "daemon", "info", &["no daemon runs"]);
    assert!(!home.data_dir().exists(), "it made something");
}

#[test]
fn each_weak_setting_is_named_by_its_id() {
    let home = prepared();
    let weak = [
        ("log.level", "info,clawdbot=debug", "log_level"),
        ("telemetry.capture_content", "true", "capture_content"),
        ("store.mode", "none", "store_none"),
        ("store.check_interval_s", "0", "store_unchecked"),
        ("memory.keep_free_percent", "0", "memory_unguarded"),
        ("mqtt.max_connections", "1000", "connections_of_one_address"),
        ("auth.token_lifetime_s", "86400", "token_lifetime"),
        ("flapping.max_disconnects", "0", "flapping_off"),
        (
            "mqtt.allow_plaintext_beyond_loopback",
            "true",
            "allow_plaintext_beyond_loopback",
        ),
        (
            "mqtt.allow_beyond_private_network",
            "true",
            "allow_beyond_private_network",
        ),
        ("metrics.allow_beyond_loopback", "true", "metrics_beyond_loopback"),
        ("hub.endpoint", "http://mirror.example", "hub_plaintext"),
        (
            "telemetry.otlp_endpoint",
            "http://collector.example:4318",
            "telemetry_plaintext",
        ),
        (
            "access",
            "[{permission = \"allow\", devices = [\"a\"], topics = [\"#\"]}]",
            "access_everything",
        ),
        (
            "access",
            "[{permission = \"allow\", topics = [\"clawdbot/+/x\"]}]",
            "access_others",
        ),
    ];
    for (setting, value, id) in weak {
        let variable = format!("CLAWDBOT__{}", setting.to_uppercase().replace('.', "__"));
        let (_, report) = audited(home.command(&["audit", "--json"]).env(variable, value));
        assert_found(&report, id, "warning", &[]);
        assert_eq!(worse_than_notes(&report), [id], "{setting}: {report:#}");
    }
}

#[test]
fn nobody_asked_who_they_are_is_named() {
    let home = prepared();
    let mut command = home.command(&["audit", "--json"]);
    command.env("CLAWDBOT__AUTH__MODE", "none");
    let (_, report) = audited(&mut command);
    assert_found(&report, "auth_none", "warning", &["auth.mode"]);
}

#[test]
fn a_setting_that_makes_no_sense_is_named() {
    let home = Home::new();
    let mut command = home.command(&["audit", "--json"]);
    command.env("CLAWDBOT__MQTT__RECEIVE_MAXIMUM", "many");
    let (code, report) = audited(&mut command);
    assert_eq!(code, 2, "{report:#}");
    assert_found(&report, "settings", "error", &["mqtt.receive_maximum"]);
}

#[test]
fn what_others_can_reach_is_told_with_whence_and_how() {
    let home = prepared();
    let mut command = home.command(&["audit", "--json"]);
    command
        .env("CLAWDBOT__MQTT__TCP", "0.0.0.0:1883")
        .env("CLAWDBOT__MQTT__ALLOW_PLAINTEXT_BEYOND_LOOPBACK", "true");
    let (_, report) = audited(&mut command);
    assert_found(
        &report,
        "reach",
        "info",
        &["mqtt.tcp", "private networks only", "plain text"],
    );
    assert_found(
        &report,
        "allow_plaintext_beyond_loopback",
        "warning",
        &["mqtt.tcp = 0.0.0.0:1883"],
    );
}

#[test]
fn open_files_are_named_and_fix_closes_them_and_says_so() {
    let home = prepared();
    let data = home.data_dir();
    let (keys, key) = (data.join("keys"), data.join("keys/token-signing.key"));
    let note = data.join("clawdbot.toml");
    fs::write(&note, "").expect("written");
    set_mode(&data, 0o755);
    set_mode(&keys, 0o750);
    set_mode(&key, 0o644);
    set_mode(&note, 0o666);
    let (code, report) = audited(&mut home.command(&["audit", "--json"]));
    assert_eq!((code, &report["ok"]), (2, &false.into()), "{report:#}");
    assert_found(&report, "data_dir_mode", "warning", &["chmod 700", "755"]);
    assert_found(&report, "config_file", "error", &["chmod go-w"]);
    let open = findings(&report)
        .iter()
        .filter(|finding| finding["check_id"] == "file_mode");
    assert_eq!(open.count(), 3, "{report:#}");

    // What would be done is said, and not done.
    let (_, dry) = audited(&mut home.command(&["audit", "--json", "--fix", "--dry-run"]));
    let outcomes = |report: &Value, outcome: &str| {
        let mended = report["mended"].as_array().expect("a list");
        assert!(
            mended.iter().all(|mended| mended["outcome"] == outcome),
            "{report:#}"
        );
        mended.len()
    };
    assert_eq!(outcomes(&dry, "would_be_done"), 4);
    assert_eq!(mode(&key), 0o644);
    assert_found(&dry, "file_mode", "warning", &["clawdbot.toml"]);

    let (_, mended) = audited(&mut home.command(&["audit", "--json", "--fix"]));
    assert_eq!(outcomes(&mended, "done"), 4);
    let told = mended["mended"].to_string();
    assert!(told.contains(&format!("chmod 600 '{}'", key.display())), "{told}");
    assert_eq!(worse_than_notes(&mended), Vec::<&str>::new(), "{mended:#}");
    assert_eq!([&data, &keys].map(|path| mode(path)), [0o700, 0o700]);
    assert_eq!([mode(&key), mode(&note)], [0o600, 0o640]);

    // The second time there is nothing to do.
    let (_, again) = audited(&mut home.command(&["audit", "--json", "--fix"]));
    assert_eq!(outcomes(&again, "done"), 0);
    let people = finish(&mut home.command(&["audit", "--fix"]));
    assert!(
        people.stdout.contains("nothing that can be mended"),
        "{people:#?}"
    );
}

#[test]
fn fix_follows_no_link_out_of_the_data_directory() {
    let home = prepared();
    let elsewhere = home.path().join("elsewhere");
    fs::write(&elsewhere, "").expect("written");
    set_mode(&elsewhere, 0o666);
    std::os::unix::fs::symlink(&elsewhere, home.data_dir().join("keys/link.key")).expect("a link");
    let (_, report) = audited(&mut home.command(&["audit", "--json", "--fix"]));
    assert_eq!(report["mended"], Value::Array(Vec::new()), "{report:#}");
    assert_eq!(mode(&elsewhere), 0o666);
}

#[test]
fn a_dry_run_belongs_to_fix() {
    let home = Home::new();
    finish(&mut home.command(&["audit", "--dry-run"])).assert_code(2);
}

#[test]
fn keys_and_certificates_that_grew_old_are_named_and_ours_is_renewed() {
    let home = prepared();
    let data = home.data_dir();
    let year = Duration::from_secs(370 * 24 * 3600);
    let key = fs::File::options()
        .write(true)
        .open(data.join("keys/token-signing.key"));
    key.expect("the key")
        .set_modified(SystemTime::now() - year)
        .expect("a time");
    let own = OwnCertificates::at(&data.join("certs"));
    let then = SystemTime::now() - Duration::from_secs(350 * 24 * 3600);
    own.create(&Machine::here(), &[], false, then)
        .expect("certificates");
    let command = |arguments: &[&str]| {
        let mut command = home.command(arguments);
        command
            .env("CLAWDBOT__MQTT__TLS", "127.0.0.1:0")
            .env("CLAWDBOT__MQTT__SECURE_WEBSOCKET", "");
        command
    };
    let (_, report) = audited(&mut command(&["audit", "--json"]));
    assert_found(
        &report,
        "signing_key_age",
        "warning",
        &["clawdbot keys rotate", "370 days"],
    );
    assert_found(
        &report,
        "certificate_end",
        "warning",
        &["ENDS SOON", "clawdbot certs renew"],
    );
    assert_eq!(worse_than_notes(&report).len(), 2, "{report:#}");

    let (_, report) = audited(&mut command(&["audit", "--json", "--fix"]));
    assert_eq!(
        report["mended"][0]["action"], "clawdbot certs renew",
        "{report:#}"
    );
    assert_eq!(
        worse_than_notes(&report),
        ["signing_key_age"],
        "a key is its owner's to exchange"
    );
    finish(&mut command(&["keys", "rotate"])).assert_code(0);
    let (_, report) = audited(&mut command(&["audit", "--json"]));
    assert_eq!(worse_than_notes(&report), Vec::<&str>::new(), "{report:#}");
}

#[test]
fn a_certificate_of_somebody_elses_that_ends_tomorrow_is_named_and_left_alone() {
    let home = prepared();
    let Some((certificate, key)) = certificate_of_a_day(home.path()) else {
        return;
    };
    let before = fs::read(&certificate).expect("a file");
    set_mode(&key, 0o600);
    let mut command = home.command(&["audit", "--json", "--fix"]);
    command
        .env("CLAWDBOT__MQTT__TLS", "127.0.0.1:0")
        .env("CLAWDBOT__MQTT__SECURE_WEBSOCKET", "")
        .env("CLAWDBOT__MQTT__TLS_CERTIFICATE", &certificate)
        .env("CLAWDBOT__MQTT__TLS_KEY", &key);
    let (_, report) = audited(&mut command);
    assert_found(&report, "certificate_end", "warning", &["ENDS SOON", "hub.crt"]);
    assert_eq!(fs::read(&certificate).expect("a file"), before);

    set_mode(&key, 0o644);
    let (code, report) = audited(&mut command);
    assert_eq!(code, 2, "{report:#}");
    assert_found(&report, "secret_file", "error", &["mqtt.tls_key", "chmod 600"]);
    assert_eq!(mode(&key), 0o644, "it is not in the data directory");
}

#[test]
#[cfg(target_os = "linux")]
fn a_listener_that_the_settings_do_not_name_any_more_is_found() {
    let daemon = Daemon::launch().start();
    let mut command = audit(&daemon);
    // As somebody has it who switched the door off, and did not restart the daemon.
    command.env("CLAWDBOT__MQTT__WEBSOCKET", "");
    let (_, report) = audited(&mut command);
    let websocket = daemon.listener("websocket").to_string();
    assert_found(&report, "forgotten_listener", "warning", &[&websocket]);
    assert_eq!(worse_than_notes(&report), ["forgotten_listener"], "{report:#}");
}

#[test]
fn a_data_directory_in_a_synced_folder_is_named() {
    let home = Home::new();
    let data = home.path().join("Dropbox/hub");
    DataDir::prepare(&data).expect("a data directory");
    let mut command = home.command(&["audit", "--json"]);
    command.env("CLAWDBOT__DATA_DIR", &data);
    let (_, report) = audited(&mut command);
    assert_found(&report, "synced_folder", "warning", &["Dropbox"]);
}

#[test]
fn the_example_for_nftables_is_about_the_ports_of_the_defaults() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("a file");
    let rules = read("config/deploy/nftables.conf");
    let ports = rules.lines().find(|line| line.contains("elements = { 1883"));
    let ports = ports.expect("the ports").to_owned();
    let defaults = read("config/default.toml");
    let mut count = 0;
    for line in defaults.lines() {
        let address = line
            .split_once(" = ")
            .map_or("", |(_, value)| value.trim_matches('"'));
        if let Ok(address) = address.parse::<std::net::SocketAddr>() {
            assert!(
                ports.contains(&address.port().to_string()),
                "{line} is missing in {ports}"
            );
            count += 1;
        }
    }
    assert_eq!((count, ports.matches(',').count()), (5, 4), "{ports}");
}
