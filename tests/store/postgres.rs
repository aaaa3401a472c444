//! The store on a PostgreSQL server: as durable as in a file, unreadable there, and over TLS that is not fooled.

use std::path::Path;
use std::time::Duration;

use crate::support::client::{Client, Login, Version};
use crate::support::daemon::{Daemon, Home};
use crate::support::postgres::{PASSWORD, Server};
use crate::support::process::{self, Finished};
use crate::support::random::Random;

use super::crash::survive;
use super::kill_and_restart;
use super::upkeep::{WORDS, keep_words, stop, words};

/// Each costs a start of a daemon, and some one of the server.
const ROUNDS: u64 = 25;

#[test]
fn nothing_acknowledged_is_lost_over_kills_of_the_daemon_and_crashes_of_the_server() {
    let Some(mut server) = Server::start() else { return };
    let launch = server.daemon(Daemon::launch());
    let mut crashes = 0;
    survive(launch, ROUNDS, |chance: &mut Random| {
        if chance.one_in(3) {
            server.crash();
            server.start_again();
            crashes += 1;
            std::thread::sleep(Duration::from_millis(chance.below(400) as u64));
        }
    });
    println!("{crashes} crashes of the server");
    assert_eq!(
        server.ask("SELECT count(*) FROM clawdbot_openings"),
        (ROUNDS + 1).to_string()
    );
}

#[tokio::test]
async fn what_is_acknowledged_waits_for_the_server_and_goes_on_with_it() {
    let Some(mut server) = Server::start() else { return };
    let launch = server.daemon(Daemon::launch());
    let daemon = launch.clone().start();
    keep_words(&daemon).await;
    server.crash();
    let mut client = Client::of(&daemon, "phone", "waiting").await;
    let published = client.publish("clawdbot/phone/kept/99", 1, true, "while it was away");
    let mut published = Box::pin(published);
    let early = tokio::time::timeout(Duration::from_millis(700), &mut published).await;
    assert!(early.is_err(), "it was acknowledged and could not be kept");
    server.start_again();
    published.await;
    let daemon = kill_and_restart(daemon, &launch);
    assert_eq!(words(&daemon).await.len(), WORDS + 1);
}

fn is_in_a_file_of(directory: &Path, needle: &[u8]) -> bool {
    let entries = std::fs::read_dir(directory).expect("a directory").flatten();
    entries.map(|entry| entry.path()).any(|path| {
        if path.is_dir() {
            return is_in_a_file_of(&path, needle);
        }
        // Some come and go.
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle)
    })
}

#[tokio::test]
async fn the_server_can_read_nothing_of_what_it_keeps() {
    let Some(server) = Server::start() else { return };
    let daemon = server.daemon(Daemon::launch()).start();
    let mut client = Client::of(&daemon, "bedroom", "bedroom").await;
    client
        .publish("clawdbot/bedroom/curtain", 1, true, "the curtain is wide open")
        .await;
    stop(daemon);
    server.ask("CHECKPOINT");
    for secret in ["bedroom", "curtain", "wide open"] {
        assert!(
            !is_in_a_file_of(&server.path("data"), secret.as_bytes()),
            "{secret}"
        );
    }
    // What is looked for would be found.
    assert!(is_in_a_file_of(&server.path("data"), b"clawdbot_values"));
}

#[test]
fn two_daemons_do_not_share_a_database() {
    let Some(server) = Server::start() else { return };
    let daemon = server.daemon(Daemon::launch()).start();
    refused(&server, &[], &["in use by another Clawdbot"]);
    drop(daemon);
}

/// A daemon with these settings that does not begin.
fn refused(server: &Server, settings: &[(&str, &str)], said: &[&str]) {
    let finished = tried(server, settings);
    assert!(!finished.status.success());
    finished.assert_says(said);
    assert!(!finished.stderr.contains(PASSWORD) && !finished.stdout.contains(PASSWORD));
}

fn tried(server: &Server, settings: &[(&str, &str)]) -> Finished {
    let home = Home::new();
    let mut command = cli(server, &home, &["serve"]);
    for (key, value) in settings {
        command.env(variable(key), value);
    }
    process::finish(&mut command)
}

fn variable(key: &str) -> String {
    format!("CLAWDBOT__{}", key.to_uppercase().replace('.', "__"))
}

fn cli(server: &Server, home: &Home, arguments: &[&str]) -> std::process::Command {
    let mut command = home.command(arguments);
    command.envs(server.settings().map(|(key, value)| (variable(key), value)));
    command
}

#[tokio::test]
async fn a_connection_by_tls_is_one_to_the_server_that_its_certificate_names_or_none() {
    let Some(server) = Server::start() else { return };
    let (ca, other) = (server.path("ca.pem"), server.path("other-ca.pem"));
    let (ca, other) = (ca.to_str().expect("a path"), other.to_str().expect("a path"));
    let by_name = server.url("").replace("host=127.0.0.1", "host=localhost");
    let elsewhere = server
        .url("")
        .replace("host=127.0.0.1", "host=db.example hostaddr=127.0.0.1");
    let (url, file) = ("store.postgres_url", "store.postgres_ca_certificate");
    refused(
        &server,
        &[(url, &by_name), (file, other)],
        &["cannot be connected to", "certificate"],
    );
    refused(
        &server,
        &[(url, &elsewhere), (file, ca)],
        &["cannot be connected to", "certificate"],
    );
    refused(
        &server,
        &[(url, &by_name), (file, "/nowhere")],
        &[file, "cannot be read"],
    );
    refused(
        &server,
        &[(url, "host=db.example sslmode=disable"), (file, ca)],
        &[&variable(url), "sslmode=disable"],
    );
    let launch = server.daemon(Daemon::launch()).set(url, &by_name).set(file, ca);
    let daemon = launch.clone().start();
    keep_words(&daemon).await;
    let encrypted = "SELECT DISTINCT version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name = 'clawdbot'";
    assert_eq!(server.ask(encrypted), "TLSv1.3");
    assert_eq!(words(&kill_and_restart(daemon, &launch)).await.len(), WORDS);
}

#[test]
fn a_server_that_lets_nobody_in_or_is_not_there_is_told_at_the_start() {
    let Some(mut server) = Server::start() else { return };
    let wrong = server.path("ca.key");
    refused(
        &server,
        &[("store.postgres_password_file", wrong.to_str().expect("a path"))],
        &["cannot be connected to", "password authentication failed"],
    );
    let url = server.url("password=hunter2");
    let finished = tried(&server, &[("store.postgres_url", &url)]);
    finished.assert_says(&["CLAWDBOT__STORE__POSTGRES_URL", "postgres_password_file"]);
    assert!(!finished.stderr.contains("hunter2"));
    server.crash();
    refused(&server, &[], &["cannot be connected to", "refused"]);
    server.start_again();
}

#[tokio::test]
async fn the_store_on_a_server_is_looked_after_as_one_in_a_file_and_goes_there_and_back() {
    let Some(server) = Server::start() else { return };
    let launch = Daemon::launch();
    let archive = launch.home().path().join("archive");
    let key = launch.home().path().join("key");
    let [archive, key] = [&archive, &key].map(|path| path.to_str().expect("a path"));
    let daemon = launch.clone().start();
    keep_words(&daemon).await;
    let exported = daemon.cli(&["store", "export", archive]);
    exported.assert_code(0);
    private(key, exported.stdout.lines().last().expect("a key"));
    stop(daemon);

    let served = server.daemon(Daemon::launch_in(Home::new()));
    let run = |arguments: &[&str]| process::finish(&mut cli(&server, served.home(), arguments));
    let import = ["store", "import", archive, "--key-file", key];
    run(&import).assert_code(0);
    let again = run(&import);
    assert!(!again.status.success());
    again.assert_says(&["not empty"]);
    run(&["store", "verify"]).assert_code(0);
    run(&["store", "compact"]).assert_code(0);
    let daemon = served.clone().start();
    assert_eq!(words(&daemon).await.len(), WORDS);
    daemon.cli(&["keys", "rotate", "--master"]).assert_code(0);

    // One value is changed behind everybody's back.
    server.ask(
        "UPDATE clawdbot_values SET value = set_byte(value, 30, 255 - get_byte(value, 30)) WHERE (place, name) = \
         (SELECT place, name FROM clawdbot_values WHERE place = 'retained' ORDER BY name LIMIT 1)",
    );
    let found = daemon.cli(&["store", "verify"]);
    found.assert_code(1).assert_says(&["damaged"]);
    let daemon = kill_and_restart(daemon, &served);
    // Which it was is not known: the state of a device is retained, too.
    assert!(words(&daemon).await.len() >= WORDS - 1);
    daemon.cli(&["store", "verify", "--forget"]).assert_code(1);
    daemon.cli(&["store", "verify"]).assert_code(0);
    let back = format!("{archive}.back");
    daemon.cli(&["store", "export", &back]).assert_code(0);
    stop(daemon);
}

fn private(path: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).expect("a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("a file");
}

#[tokio::test]
async fn a_session_and_what_waits_for_it_are_kept_on_the_server() {
    let Some(server) = Server::start() else { return };
    let launch = server.daemon(Daemon::launch());
    let daemon = launch.clone().start();
    let phone = async |daemon: &Daemon| {
        let login = Login::new(Version::V5, daemon, "phone", "phone").persistent();
        Client::connect(daemon.mqtt, login).await.expect("admitted")
    };
    let mut away = phone(&daemon).await;
    away.subscribe("clawdbot/phone/news", 1).await;
    away.disconnect().await;
    let mut other = Client::of(&daemon, "phone", "other").await;
    other
        .publish("clawdbot/phone/news", 1, false, vec![b'x'; 9_000])
        .await;
    let daemon = kill_and_restart(daemon, &launch);
    let mut back = phone(&daemon).await;
    assert!(back.session_present);
    assert_eq!(back.message().await.payload.len(), 9_000);
}

#[test]
fn doctor_names_a_server_that_lets_nobody_in_before_a_daemon_needs_it() {
    let Some(mut server) = Server::start() else { return };
    let home = Home::new();
    let settings = server.settings();
    let doctor = || {
        let mut command = home.command(&["doctor", "--json"]);
        for (key, value) in &settings {
            let name = format!("CLAWDBOT__{}", key.to_uppercase().replace('.', "__"));
            command.env(name, value);
        }
        process::finish(&mut command)
    };
    let well = doctor();
    assert!(!well.stdout.contains("\"check_id\":\"store\""), "{}", well.stdout);
    assert_eq!(
        server.ask("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'clawdbot%'"),
        "0"
    );
    server.crash();
    let gone = doctor();
    gone.assert_code(1);
    let report: serde_json::Value = serde_json::from_str(&gone.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings");
    let store = findings.iter().find(|finding| finding["check_id"] == "store");
    let store = store.unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(store["severity"], "error");
    assert_eq!(store["path"], "store.postgres_url");
}
