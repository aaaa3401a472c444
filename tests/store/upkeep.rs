//! The store is looked after: damage is found, named and lived with, and the master key is changed, with and without a
//! daemon.

use std::path::{Path, PathBuf};

use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use rustix::process::Signal;
use serde_json::Value;

use super::kill_and_restart;
use crate::support::client::Client;
use crate::support::daemon::{Daemon, Launch};
use crate::support::process::{self, Finished};
use crate::support::{PATIENCE, wait_for};

const RETAINED: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("retained");

/// Topics that the tests keep something on.
pub(super) const WORDS: usize = 60;

pub(super) async fn keep_words(daemon: &Daemon) {
    let mut client = Client::of(daemon, "phone", "keeper").await;
    for number in 0..WORDS {
        let topic = format!("clawdbot/phone/kept/{number:02}");
        client.publish(&topic, 1, true, format!("word {number:02}")).await;
    }
}

/// The words that a daemon serves.
pub(super) async fn words(daemon: &Daemon) -> Vec<String> {
    let mut client = Client::of(daemon, "phone", "reader").await;
    client.subscribe("clawdbot/phone/kept/+", 1).await;
    client.subscribe("clawdbot/phone/last", 1).await;
    client.publish("clawdbot/phone/last", 1, false, "").await;
    let mut found = Vec::new();
    loop {
        let message = client.message().await;
        if message.topic == "clawdbot/phone/last" {
            found.sort();
            return found;
        }
        found.push(String::from_utf8(message.payload.to_vec()).expect("text"));
    }
}

pub(super) fn stop(mut daemon: Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit(PATIENCE).expect("it stops").code(), Some(0));
}

/// Changes a bit of one retained message, as a failing disk would.
fn flip_a_bit(store: &Path) {
    let sealed = {
        let database = redb::ReadOnlyDatabase::open(store).expect("a store");
        let reading = database.begin_read().expect("a store");
        let retained = reading.open_table(RETAINED).expect("a table");
        let (_, sealed) = retained.first().expect("a table").expect("a value");
        sealed.value().to_vec()
    };
    let mut file = std::fs::read(store).expect("a store");
    let places: Vec<usize> = file
        .windows(sealed.len())
        .enumerate()
        .filter_map(|(at, window)| (window == sealed).then_some(at))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        file[at + 20] ^= 1;
    }
    std::fs::write(store, file).expect("a store");
}

pub(super) fn store_of(daemon: &Daemon) -> PathBuf {
    daemon.home().data_dir().join("store.redb")
}

fn report(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).expect("JSON")
}

#[tokio::test]
async fn a_flipped_bit_is_named_by_verify_and_a_daemon_serves_the_rest() {
    let launch = Daemon::launch();
    let daemon = launch.clone().start();
    keep_words(&daemon).await;
    let finished = daemon.cli(&["store", "verify"]);
    finished.assert_code(0);
    assert!(finished.stdout.contains("everything can be read"), "{finished:?}");
    let store = store_of(&daemon);
    stop(daemon);
    let cli = |arguments: &[&str]| process::finish(&mut launch.home().command(arguments));
    cli(&["store", "verify"]).assert_code(0);

    flip_a_bit(&store);
    let finished = cli(&["store", "verify"]);
    finished.assert_code(1).assert_says(&["is damaged", "store.redb"]);
    assert!(finished.stdout.contains("damaged: retained "), "{finished:?}");

    let daemon = launch.clone().start();
    let served = words(&daemon).await;
    assert_eq!(served.len(), WORDS - 1);
    assert!(daemon.metric("clawdbot_store_damaged_total") >= Some(1.0));
    assert!(store.with_extension("redb.damaged-1").exists());
    let finished = daemon.cli(&["store", "verify", "--json", "--forget"]);
    finished.assert_code(1);
    let found = report(&finished);
    assert_eq!(found["set_aside"]["retained"], 1, "{found}");
    assert_eq!(found["damaged"], 0, "{found}");
    assert_eq!(found["sound"], false);
    let finished = daemon.cli(&["store", "verify", "--json"]);
    finished.assert_code(0);
    assert_eq!(report(&finished)["sound"], true);
}

#[tokio::test]
async fn a_store_file_that_is_cut_short_is_an_error_at_the_start_that_says_what_to_do() {
    let launch = Daemon::launch();
    let daemon = launch.clone().start();
    keep_words(&daemon).await;
    let store = store_of(&daemon);
    stop(daemon);
    let whole = std::fs::read(&store).expect("a store");
    for length in [100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&store, &whole[..length]).expect("a store");
        let finished = process::finish(&mut launch.home().command(&["serve"]));
        finished
            .assert_code(2)
            .assert_says(&["store.redb", "put a backup in its place"]);
    }
    std::fs::write(&store, &whole).expect("a store");
    let daemon = launch.clone().start();
    assert_eq!(words(&daemon).await.len(), WORDS);
}

#[test]
fn the_store_is_checked_now_and_then() {
    let daemon = Daemon::launch().set("store.check_interval_s", 1).start();
    wait_for("a check", || {
        daemon
            .metric("clawdbot_store_checks_total")
            .filter(|count| *count >= 1.0)
    });
    let checked_at = daemon.metric("clawdbot_store_checked_timestamp_seconds");
    assert!(checked_at > Some(1_700_000_000.0), "{checked_at:?}");
    assert_eq!(daemon.metric("clawdbot_store_damaged_total"), Some(0.0));
    assert_eq!(daemon.metric("clawdbot_store_orphans"), Some(0.0));
}

#[tokio::test]
async fn the_master_key_is_changed_under_traffic_and_the_old_one_opens_nothing_after_a_kill() {
    let launch = Daemon::launch();
    let mut daemon = launch.clone().start();
    keep_words(&daemon).await;
    let key = daemon.home().data_dir().join("keys/master.key");
    let old = std::fs::read(&key).expect("a key");
    for round in 0..3 {
        let mut client = Client::of(&daemon, "phone", "busy").await;
        let before = std::fs::read(&key).expect("a key");
        let mut command = daemon.command(&["keys", "rotate", "--master"]);
        let rotated = tokio::task::spawn_blocking(move || process::finish(&mut command));
        let mut acknowledged = 0;
        while !rotated.is_finished() {
            acknowledged += 1;
            let word = format!("{round} {acknowledged}");
            client.publish("clawdbot/phone/busy", 1, true, word).await;
        }
        rotated.await.expect("it ends").assert_code(0);
        assert_ne!(std::fs::read(&key).expect("a key"), before);
        daemon = kill_and_restart(daemon, &launch);
        let mut client = Client::of(&daemon, "phone", "looks").await;
        client.subscribe("clawdbot/phone/busy", 1).await;
        let found = client.message().await;
        assert_eq!(found.payload, format!("{round} {acknowledged}").into_bytes());
    }
    assert_eq!(words(&daemon).await.len(), WORDS);
    stop(daemon);
    // And without a daemon.
    let new = std::fs::read(&key).expect("a key");
    let finished = process::finish(&mut launch.home().command(&["keys", "rotate", "--master"]));
    finished.assert_code(0);
    for former in [old, new] {
        let current = std::fs::read(&key).expect("a key");
        std::fs::write(&key, former).expect("a key");
        let finished = process::finish(&mut launch.home().command(&["serve"]));
        finished.assert_code(2).assert_says(&["master key"]);
        std::fs::write(&key, current).expect("a key");
    }
    assert_eq!(words(&launch.clone().start()).await.len(), WORDS);
}

#[tokio::test]
async fn the_master_key_may_be_a_secret_of_the_environment() {
    let launch = Daemon::launch().set("store.master_key_variable", "HUB_KEY");
    let serve = |launch: &Launch| {
        let mut command = launch.home().command(&["serve"]);
        command.env("CLAWDBOT__STORE__MASTER_KEY_VARIABLE", "HUB_KEY");
        command
    };
    let finished = process::finish(&mut serve(&launch));
    finished
        .assert_code(2)
        .assert_says(&["store.master_key_variable = HUB_KEY", "openssl rand -hex 32"]);
    let mut command = serve(&launch);
    let finished = process::finish(command.env("HUB_KEY", "f".repeat(63)));
    finished.assert_code(2);
    assert!(!finished.stderr.contains("ffff"), "{finished:?}");
    let daemon = launch.clone().variable("HUB_KEY", &"f0".repeat(32)).start();
    keep_words(&daemon).await;
    assert!(!daemon.home().data_dir().join("keys/master.key").exists());
    let finished = process::finish(
        daemon
            .command(&["keys", "rotate", "--master"])
            .env("CLAWDBOT__STORE__MASTER_KEY_VARIABLE", "HUB_KEY"),
    );
    finished.assert_code(1).assert_says(&["HUB_KEY"]);
    let launch = launch.variable("HUB_KEY", &"f0".repeat(32));
    let daemon = kill_and_restart(daemon, &launch);
    assert_eq!(words(&daemon).await.len(), WORDS);
}
