//! Rules of the configuration, and what is told of those who break them.

use super::*;
use crate::support::daemon::Launch;

const DASHBOARD: &str = r#"[
    {devices = "dash*", permission = "allow", action = "subscribe", topics = ["clawdbot/#", "$SYS/#"]},
    {permission = "deny", action = "publish", topics = ["house/door", "clawdbot/${device_id}/locked/#"]},
]"#;

fn with_rules() -> Launch {
    Daemon::launch().set("access", DASHBOARD)
}

fn log_lines(daemon: &Daemon, message: &str) -> Vec<Value> {
    let log = daemon.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).collect()
}

#[test]
fn a_dashboard_may_read_all_and_write_nothing_of_others() {
    let daemon = with_rules().start();
    let mut dashboard = Peer::of(&daemon, "dashboard", "wall");
    assert_eq!(dashboard.subscribe_all(&["clawdbot/#", "$SYS/#"]), [0, 0]);
    assert_eq!(dashboard.subscribe("#"), NOT_AUTHORIZED);
    assert_eq!(dashboard.publish("clawdbot/phone/command", "x"), NOT_AUTHORIZED);
    Peer::of(&daemon, VICTIM, VICTIM).publish("clawdbot/phone/x", "seen");
    loop {
        if dashboard.message() == ("clawdbot/phone/x".to_owned(), b"seen".to_vec()) {
            break;
        }
    }
    // Nobody becomes a dashboard by calling itself one.
    let token = daemon.token(ATTACKER);
    let hello = Hello {
        client_id: "dash",
        username: Some("dashboard"),
        token: Some(&token),
        ..Hello::default()
    };
    let mut attacker = Peer::connect(&daemon, hello).expect("let in");
    assert_eq!(attacker.subscribe("clawdbot/#"), NOT_AUTHORIZED);
}

#[test]
fn what_the_configuration_denies_no_token_allows() {
    let daemon = with_rules().start();
    let acl = json!([{"permission": "allow", "action": "all", "topic": "house/#"}]);
    let mut peer = Peer::with_acl(&daemon, ATTACKER, &acl);
    assert_ne!(peer.publish("house/lamp", "on"), NOT_AUTHORIZED);
    assert_eq!(peer.publish("house/door", "open"), NOT_AUTHORIZED);
    assert_eq!(peer.publish("clawdbot/tablet/locked/x", "x"), NOT_AUTHORIZED);
    assert_ne!(peer.publish("clawdbot/tablet/x", "x"), NOT_AUTHORIZED);
    // A subscription is another action, about which nothing was said.
    assert_eq!(peer.subscribe("house/#"), 0);
}

#[test]
fn rules_in_a_file_hold_as_well_and_a_broken_one_stops_the_start() {
    let home = crate::support::daemon::Home::new();
    let file = home.path().join("clawdbot.toml");
    let rule = |topic: &str| format!("[[access]]\npermission = \"deny\"\ntopics = \"{topic}\"\n");
    fs::write(&file, rule("a/#/b")).expect("a file");
    let arguments = ["check", "--config", file.to_str().expect("a path")];
    crate::support::process::finish(&mut home.command(&arguments))
        .assert_code(2)
        .assert_says(&["clawdbot.toml:3: access[1].topics"]);
    fs::write(&file, rule("clawdbot/tablet/locked")).expect("a file");
    let command = home.command(&["serve", "--config", file.to_str().expect("a path")]);
    let daemon = crate::support::daemon::start(home, command);
    let mut peer = Peer::of(&daemon, ATTACKER, ATTACKER);
    assert_eq!(peer.publish("clawdbot/tablet/locked", "x"), NOT_AUTHORIZED);
    assert_eq!(peer.subscribe("clawdbot/tablet/#"), NOT_AUTHORIZED);
}

#[test]
fn a_refusal_is_logged_with_the_device_and_the_rule_and_many_of_them_are_only_counted() {
    let daemon = with_rules().start();
    let mut peer = Peer::of(&daemon, ATTACKER, "noisy");
    for _ in 0..500 {
        assert_eq!(peer.publish("house/door", "open"), NOT_AUTHORIZED);
        assert_eq!(peer.publish("clawdbot/phone/x", "x"), NOT_AUTHORIZED);
    }
    assert_eq!(denied(&daemon, "publish"), 1_000.0);
    // Another device is heard all the same.
    assert_eq!(Peer::of(&daemon, VICTIM, "quiet").subscribe("#"), NOT_AUTHORIZED);
    let lines = log_lines(&daemon, "not authorized");
    let of = |device: &str| -> Vec<&Value> { lines.iter().filter(|line| line["device"] == device).collect() };
    let (noisy, quiet) = (of(ATTACKER), of(VICTIM));
    // A minute's end may fall among them.
    assert!((10..=20).contains(&noisy.len()), "{} lines", noisy.len());
    assert_eq!(quiet.len(), 1);
    assert_eq!(noisy[0]["client_id"], "noisy");
    assert_eq!(
        (&noisy[0]["action"], &noisy[0]["topic"]),
        (&json!("publish"), &json!("house/door"))
    );
    assert_eq!(
        noisy[0]["rule"],
        "decided by [[access]] entry 2 of the configuration: deny publish house/door"
    );
    assert_eq!(noisy[1]["rule"], "denied: no rule applies");
    assert!(noisy[9]["only_counted_for_s"].is_u64(), "{}", noisy[9]);
}

#[test]
fn long_topics_and_wills_do_not_fill_the_log_either() {
    let daemon = Daemon::launch().start();
    let long = format!("clawdbot/phone/{}", "x".repeat(60_000));
    let token = daemon.token(ATTACKER);
    let mut peer = Peer::of(&daemon, ATTACKER, ATTACKER);
    for _ in 0..50 {
        assert_eq!(peer.publish(&long, "x"), NOT_AUTHORIZED);
        let hello = Hello {
            client_id: "doomed",
            token: Some(&token),
            will: Some((&long, "x", false)),
            ..Hello::default()
        };
        assert_eq!(Peer::connect(&daemon, hello).err(), Some(NOT_AUTHORIZED));
    }
    let log = daemon.log();
    assert!(log.len() < 50_000, "{} bytes of log", log.len());
}
