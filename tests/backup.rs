//! A backup is all that another machine needs to go on as this one did; it is whole or not there, and made by itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::identity::support::{paired, with_secret};
use crate::store::conversations;
use crate::support::client::Client;
use crate::support::daemon::{Daemon, Home, Launch};
use crate::support::process::{self, Finished};
use crate::support::raw::RawClient;
use crate::support::{PATIENCE, wait_for};

const TOPIC: &str = "clawdbot/phone/kept";
const WORD: &str = "a word that is kept";

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the tests")
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a file");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

fn cli(home: &Home, arguments: &[&str]) -> Finished {
    process::finish(&mut home.command(arguments))
}

fn stop(mut daemon: Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit(PATIENCE).expect("it stops").code(), Some(0));
}

async fn keep_a_word(daemon: &Daemon) {
    let mut client = Client::of(daemon, "phone", "keeper").await;
    client.publish(TOPIC, 1, true, WORD).await;
}

async fn assert_has_the_word(daemon: &Daemon) {
    let mut client = Client::of(daemon, "phone", "reader").await;
    client.subscribe(TOPIC, 1).await;
    let message = client.message().await;
    assert!(message.retain);
    assert_eq!(message.payload, WORD.as_bytes());
}

/// The key that a command printed, in a file.
fn key_of(home: &Home, finished: &Finished) -> PathBuf {
    let path = home.path().join("key");
    private(&path, finished.stdout.lines().last().expect("a key"));
    path
}

fn verified(home: &Home, backup: &Path) -> Value {
    let finished = cli(home, &["backup", "verify", text(backup), "--json"]);
    finished.assert_code(0);
    serde_json::from_str(&finished.stdout).expect("JSON")
}

/// Retained messages in a backup; devices' states are among them.
fn retained(summary: &Value) -> u64 {
    summary["store"]["values"]["retained"].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn a_backup_of_a_running_daemon_goes_on_in_another_data_directory() {
    let home = Home::new();
    cli(&home, &["certs", "init"]).assert_code(0);
    fs::write(
        home.data_dir().join("clawdbot.toml"),
        "[conversation]\nmax_queued = 7\n",
    )
    .expect("a settings file");
    let tls = |launch: Launch| {
        launch
            .set("mqtt.tls", "127.0.0.1:0")
            .set("mqtt.secure_websocket", "127.0.0.1:0")
    };
    let daemon = tls(Daemon::launch_in(home)).start();
    let secret = paired(&daemon, 5, "phone");
    let token = daemon.token("tablet");
    keep_a_word(&daemon).await;

    let backup = daemon.home().path().join("my backup");
    let finished = daemon.cli(&["backup", "create", text(&backup)]);
    finished.assert_code(0);
    finished.assert_says(&["clawdbot backup key show --data-dir"]);
    assert_eq!(mode(&backup), 0o600);
    let shown = daemon.cli(&["backup", "key", "show"]);
    let key = key_of(daemon.home(), &shown);
    assert!(!finished.stdout.contains(shown.stdout.trim()), "a log is told it");
    let bytes = fs::read(&backup).expect("a backup");
    for secret in [WORD.as_bytes(), b"max_queued", b"PRIVATE KEY"] {
        let is_there = bytes.windows(secret.len()).any(|window| window == secret);
        assert!(!is_there, "{} can be read", String::from_utf8_lossy(secret));
    }
    // Who has seen it is reminded no more.
    let second = daemon.home().path().join("second");
    let finished = daemon.cli(&["backup", "create", text(&second)]);
    finished.assert_code(0);
    assert!(!finished.stderr.contains("key show"), "{finished:?}");
    daemon
        .cli(&["backup", "create", text(&backup)])
        .assert_code(1)
        .assert_says(&["is there already"]);

    let summary = verified(daemon.home(), &backup);
    assert!(retained(&summary) >= 1, "{summary}");
    let finished = daemon.cli(&["backup", "verify", text(&backup)]);
    for part in [
        "is whole",
        "clawdbot.toml",
        "certs/ca-key.pem",
        "keys/token-signing.key",
    ] {
        assert!(
            finished.stdout.contains(part),
            "{part} is missing in {finished:?}"
        );
    }
    assert!(!finished.stdout.contains("master.key"), "{finished:?}");

    let to = tls(Daemon::launch());
    // The first one's home goes with it, and these are wanted longer.
    let [key, backup] = [key, backup].map(|file| {
        let kept = to.home().path().join(file.file_name().expect("a name"));
        fs::copy(&file, &kept).expect("a copy");
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o600)).expect("permissions");
        kept
    });
    let restore = || {
        cli(
            to.home(),
            &["backup", "restore", text(&backup), "--key-file", text(&key)],
        )
    };
    restore().assert_code(0);
    let (old, new) = (daemon.home().data_dir(), to.home().data_dir());
    for name in [
        "certs/ca.pem",
        "certs/server.pem",
        "clawdbot.toml",
        "keys/backup.key",
    ] {
        let of = |directory: &Path| fs::read(directory.join(name)).expect("a file");
        assert_eq!(of(&old), of(&new), "{name}");
    }
    for (name, expected) in [("", 0o700), ("keys", 0o700), ("keys/token-signing.key", 0o600)] {
        assert_eq!(mode(&new.join(name)), expected, "{name}");
    }
    stop(daemon);
    let daemon = to.clone().start();
    with_secret(&daemon, 5, "its-own", "phone", &secret);
    RawClient::admitted(daemon.mqtt, 5, "tablet", &token);
    assert_has_the_word(&daemon).await;
    daemon.listener("tls");
    // Nothing is put over it, whether a daemon runs or not.
    restore().assert_code(2).assert_says(&["is not empty"]);
    stop(daemon);
    restore().assert_code(2).assert_says(&["is not empty"]);
}

#[tokio::test]
async fn what_was_said_is_remembered_in_the_other_data_directory() {
    let Some((_folder, model)) = conversations::chatting_model() else {
        return;
    };
    let daemon = Daemon::launch().model(&model).start();
    let mut phone = conversations::device(&daemon, "phone").await;
    let said = conversations::ask(&mut phone, "phone", "1", json!({})).await;
    let first = conversations::prompt_tokens(&said);
    let backup = daemon.home().path().join("backup");
    daemon.cli(&["backup", "create", text(&backup)]).assert_code(0);
    let key = daemon.home().data_dir().join("keys/backup.key");

    let to = Daemon::launch().model(&model);
    let restore = ["backup", "restore", text(&backup), "--key-file", text(&key)];
    cli(to.home(), &restore).assert_code(0);
    let restored = to.start();
    let mut phone = conversations::device(&restored, "phone").await;
    let said = conversations::ask(&mut phone, "phone", "2", json!({})).await;
    let second = conversations::prompt_tokens(&said);
    assert!(second > first, "{first}, then {second}");
}

#[tokio::test]
async fn without_a_daemon_and_under_a_passphrase_it_is_the_same() {
    let from = Daemon::launch();
    let at = |name: &str| from.home().path().join(name);
    let (backup, right, wrong) = (at("backup"), at("right"), at("wrong"));
    let create = [
        "backup",
        "create",
        text(&backup),
        "--passphrase-file",
        text(&right),
    ];
    private(&right, "correct horse battery staple\n");
    private(&wrong, "correct horse battery stable\n");
    let nothing = cli(from.home(), &create);
    nothing.assert_code(2).assert_says(&["clawdbot serve"]);

    let daemon = from.clone().start();
    keep_a_word(&daemon).await;
    stop(daemon);
    let finished = cli(from.home(), &create);
    finished.assert_code(0);
    assert_eq!(finished.stdout.lines().count(), 1, "{finished:?}");
    let key = from.home().data_dir().join("keys/backup.key");
    assert!(!key.exists(), "nobody needs it");

    let to = Daemon::launch();
    let restore = |backup: &Path, flag: &str, secret: &Path| {
        let arguments = ["backup", "restore", text(backup), flag, text(secret)];
        cli(to.home(), &arguments)
    };
    let finished = restore(&backup, "--passphrase-file", &wrong);
    finished.assert_code(2).assert_says(&["does not open it"]);
    private(&wrong, &"ab".repeat(32));
    let finished = restore(&backup, "--key-file", &wrong);
    finished
        .assert_code(2)
        .assert_says(&["sealed under a passphrase"]);
    // What is cut short, changed, or something else makes no data directory.
    let (bytes, broken) = (fs::read(&backup).expect("a backup"), at("broken"));
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let mut newer = bytes.clone();
    newer[15] += 1;
    for (bytes, said) in [
        (&bytes[..bytes.len() - 1], "cut short"),
        (&flipped[..], "use another copy"),
        (&newer[..], "a newer Clawdbot made it"),
        (&b"something else, and long enough for a header"[..], "no backup"),
    ] {
        fs::write(&broken, bytes).expect("a file");
        let finished = restore(&broken, "--passphrase-file", &right);
        finished.assert_code(2).assert_says(&[said]);
        assert!(!to.home().data_dir().exists(), "{said}");
    }
    restore(&backup, "--passphrase-file", &right).assert_code(0);
    assert_has_the_word(&to.start()).await;
}

/// `backup create`, in the background.
fn begin(mut command: Command) -> std::process::Child {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.spawn().expect("it starts")
}

#[tokio::test]
async fn a_backup_that_is_killed_on_the_way_is_whole_or_not_there() {
    let launch = Daemon::launch().set("mqtt.max_packet_bytes", 1 << 20);
    let mut daemon = launch.clone().start();
    let mut client = Client::of(&daemon, "phone", "large").await;
    for number in 0..20 {
        let topic = format!("clawdbot/phone/large/{number}");
        client.publish(&topic, 1, true, vec![b'x'; 500_000]).await;
    }
    drop(client);
    let backup = launch.home().path().join("backup");
    let whole_or_not_there = || {
        if backup.exists() {
            verified(launch.home(), &backup);
            fs::remove_file(&backup).expect("removed");
        }
    };
    let create = ["backup", "create", text(&backup)];
    // By the daemon, which is killed.
    for delay_ms in [20, 60] {
        let mut asking = begin(daemon.command(&create));
        std::thread::sleep(Duration::from_millis(delay_ms));
        daemon.signal(Signal::KILL);
        daemon.exit(PATIENCE).expect("it is dead");
        process::wait(&mut asking, PATIENCE).expect("it ends");
        whole_or_not_there();
        daemon = launch.clone().start();
    }
    stop(daemon);
    // And by the command itself.
    for delay_ms in [1, 5, 20, 50, 100, 200, 400] {
        let mut creating = begin(launch.home().command(&create));
        std::thread::sleep(Duration::from_millis(delay_ms));
        process::signal(creating.id(), Signal::KILL);
        process::wait(&mut creating, PATIENCE).expect("it is dead");
        whole_or_not_there();
    }
    cli(launch.home(), &create).assert_code(0);
    let summary = verified(launch.home(), &backup);
    assert!(retained(&summary) >= 20, "{summary}");
    assert!(
        !backup.with_extension("part").exists(),
        "what was begun is cleared away"
    );
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn of_a_directory_so_many_are_kept_and_nothing_that_is_not_ours_is_touched() {
    let launch = Daemon::launch();
    let directory = launch.home().path().join("backups");
    fs::create_dir(&directory).expect("a directory");
    let foreign = [
        "clawdbot-20200101T000000Z.backup.gz",
        "clawdbot.backup",
        "photo.jpg",
    ];
    let old = [
        "clawdbot-20200101T000000Z.backup",
        "clawdbot-20200102T000000Z.backup",
    ];
    for name in foreign.into_iter().chain(old) {
        fs::write(directory.join(name), name).expect("a file");
    }
    let daemon = launch.start();
    let create = |keep: &str| {
        let mut command = daemon.command(&["backup", "create", "--json"]);
        command
            .env("CLAWDBOT__BACKUP__DIRECTORY", &directory)
            .env("CLAWDBOT__BACKUP__KEEP", keep);
        let finished = process::finish(&mut command);
        finished.assert_code(0);
        let made: Value = serde_json::from_str(&finished.stdout).expect("JSON");
        made
    };
    let made = create("2");
    assert_eq!(made["removed"], json!(1), "{made}");
    let file = PathBuf::from(made["file"].as_str().expect("a file"));
    let new = file.file_name().expect("a name").to_string_lossy().into_owned();
    let mut expected: Vec<String> = foreign.iter().map(|name| (*name).to_owned()).collect();
    expected.extend([old[1].to_owned(), new.clone()]);
    expected.sort();
    assert_eq!(names(&directory), expected);

    let listed = daemon.cli(&["backup", "list", "--directory", text(&directory)]);
    listed.assert_code(0);
    let lines: Vec<&str> = listed.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{listed:?}");
    assert!(
        lines[0].starts_with(old[1]) && lines[0].contains("days ago"),
        "{listed:?}"
    );
    assert!(
        lines[1].starts_with(&new) && lines[1].contains("minutes ago"),
        "{listed:?}"
    );
    let nowhere = daemon.cli(&["backup", "list"]);
    nowhere.assert_code(2).assert_says(&["backup.directory"]);
}

#[test]
fn a_daemon_makes_one_by_itself_when_the_newest_is_old_enough() {
    let launch = Daemon::launch();
    let directory = launch.home().path().join("backups");
    fs::create_dir(&directory).expect("a directory");
    let launch = launch.set("backup.directory", directory.display());
    let daemon = launch.clone().start();
    let last = "clawdbot_backup_last_timestamp_seconds";
    wait_for("a backup", || daemon.metric(last).filter(|at| *at > 0.0));
    assert_eq!(daemon.metric("clawdbot_backup_interval_seconds"), Some(86_400.0));
    assert_eq!(daemon.metric("clawdbot_backup_failures_total"), Some(0.0));
    let made = names(&directory);
    assert_eq!(made.len(), 1, "{made:?}");
    // Nobody has seen its key, and somebody had better.
    wait_for("a warning", || {
        daemon.log().contains("backup key show").then_some(())
    });
    verified(daemon.home(), &directory.join(&made[0]));
    stop(daemon);

    let daemon = launch.clone().start();
    wait_for("a look", || daemon.metric(last).filter(|at| *at > 0.0));
    assert_eq!(names(&directory), made, "another start is no reason");
    stop(daemon);
    fs::rename(
        directory.join(&made[0]),
        directory.join("clawdbot-20200101T000000Z.backup"),
    )
    .expect("renamed");
    let daemon = launch.start();
    wait_for("another", || {
        let whole = names(&directory)
            .iter()
            .filter(|name| name.ends_with(".backup"))
            .count();
        (whole == 2).then_some(())
    });
    stop(daemon);
}

#[test]
fn a_place_that_is_not_there_is_counted_and_harms_nobody() {
    let launch = Daemon::launch();
    let directory = launch.home().path().join("not mounted");
    let daemon = launch.set("backup.directory", directory.display()).start();
    wait_for("a failure", || {
        daemon
            .metric("clawdbot_backup_failures_total")
            .filter(|count| *count >= 1.0)
    });
    assert_eq!(daemon.metric("clawdbot_backup_last_timestamp_seconds"), Some(0.0));
    assert!(!directory.exists(), "it is nobody's to make");
    wait_for("a line", || {
        daemon.log().contains("no backup could be made").then_some(())
    });
    let (code, _) = daemon.get("/health");
    assert_eq!(code, 200);
    let mut command = daemon.command(&["backup", "create"]);
    let finished = process::finish(command.env("CLAWDBOT__BACKUP__DIRECTORY", &directory));
    finished.assert_code(1).assert_says(&["not mounted"]);
}
