//! Everything that is kept goes from one data directory to another, whole or not at all; and the file is made small.

use std::path::{Path, PathBuf};

use crate::support::client::{Client, Login, Version};
use crate::support::daemon::{Daemon, Home, Launch};
use crate::support::process::{self, Finished};

use super::upkeep::{WORDS, keep_words, stop, store_of, words};

fn private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).expect("a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("a file");
}

fn cli(home: &Home, arguments: &[&str]) -> Finished {
    process::finish(&mut home.command(arguments))
}

async fn phone(daemon: &Daemon) -> Client {
    let login = Login::new(Version::V5, daemon, "phone", "phone").persistent();
    Client::connect(daemon.mqtt, login).await.expect("admitted")
}

/// A daemon with retained messages, and a session for which a message waits.
async fn filled(launch: &Launch) -> Daemon {
    let daemon = launch.clone().start();
    keep_words(&daemon).await;
    let mut away = phone(&daemon).await;
    away.subscribe("clawdbot/phone/news", 1).await;
    away.disconnect().await;
    let mut other = Client::of(&daemon, "phone", "other").await;
    other.publish("clawdbot/phone/news", 1, false, "it waits").await;
    daemon
}

async fn assert_has_all(launch: &Launch) {
    let daemon = launch.clone().start();
    assert_eq!(words(&daemon).await.len(), WORDS);
    let mut back = phone(&daemon).await;
    assert!(back.session_present);
    assert_eq!(back.message().await.payload, b"it waits");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the tests")
}

#[tokio::test]
async fn an_archive_of_a_running_daemon_is_served_in_another_data_directory() {
    let from = Daemon::launch();
    let daemon = filled(&from).await;
    let (archive, key) = (from.home().path().join("archive"), from.home().path().join("key"));
    let finished = daemon.cli(&["store", "export", text(&archive)]);
    finished.assert_code(0);
    let shown = finished.stdout.lines().last().expect("a key").to_owned();
    let again = daemon.cli(&["store", "export", text(&archive)]);
    again.assert_code(1).assert_says(&["is there already"]);
    let bytes = std::fs::read(&archive).expect("an archive");
    assert!(
        !bytes.windows(7).any(|window| window == b"word 01"),
        "it can be read"
    );

    private(&key, &format!("{shown}\n"));
    let to = Daemon::launch();
    let import = |archive: &Path| {
        cli(
            to.home(),
            &["store", "import", text(archive), "--key-file", text(&key)],
        )
    };
    // What is cut short or changed makes no store.
    let broken: PathBuf = from.home().path().join("broken");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    for (bytes, said) in [
        (&bytes[..bytes.len() - 1], "cut short"),
        (&bytes[..bytes.len() / 2], "cut short"),
        (&flipped[..], "use another copy"),
        (&b"no archive"[..], "no archive"),
    ] {
        std::fs::write(&broken, bytes).expect("a file");
        let finished = import(&broken);
        finished.assert_code(2).assert_says(&[said]);
        assert!(!to.home().data_dir().join("store.redb").exists(), "{said}");
    }
    import(&archive).assert_code(0);
    assert_has_all(&to).await;
    // Nothing is put over what is there.
    let finished = import(&archive);
    finished.assert_code(2).assert_says(&["not empty"]);
}

#[tokio::test]
async fn an_archive_under_a_passphrase_is_opened_by_it_and_by_no_other() {
    let from = Daemon::launch();
    stop(filled(&from).await);
    let at = |name: &str| from.home().path().join(name);
    let (archive, right, wrong) = (at("archive"), at("right"), at("wrong"));
    private(&right, "correct horse battery staple\n");
    private(&wrong, "correct horse battery stable\n");
    let export = [
        "store",
        "export",
        text(&archive),
        "--passphrase-file",
        text(&right),
    ];
    let finished = cli(from.home(), &export);
    finished.assert_code(0);
    assert!(!finished.stdout.contains("key"), "{finished:?}");

    let to = Daemon::launch();
    let import = |flag: &str, secret: &Path| {
        cli(
            to.home(),
            &["store", "import", text(&archive), flag, text(secret)],
        )
    };
    let finished = import("--passphrase-file", &wrong);
    finished.assert_code(2).assert_says(&["does not open it"]);
    private(&wrong, &"ab".repeat(32));
    let finished = import("--key-file", &wrong);
    finished
        .assert_code(2)
        .assert_says(&["sealed under a passphrase"]);
    import("--passphrase-file", &right).assert_code(0);
    assert_has_all(&to).await;
}

#[tokio::test]
async fn a_store_is_compacted_while_no_daemon_runs() {
    let launch = Daemon::launch().set("mqtt.max_packet_bytes", 1 << 20);
    let daemon = launch.clone().start();
    keep_words(&daemon).await;
    let mut client = Client::of(&daemon, "phone", "large").await;
    for number in 0..8 {
        let topic = format!("clawdbot/phone/large/{number}");
        client.publish(&topic, 1, true, vec![b'x'; 500_000]).await;
    }
    for number in 0..8 {
        let topic = format!("clawdbot/phone/large/{number}");
        client.publish(&topic, 1, true, "").await;
    }
    let finished = daemon.cli(&["store", "compact"]);
    finished.assert_code(1).assert_says(&["already runs"]);
    let store = store_of(&daemon);
    stop(daemon);
    let before = std::fs::metadata(&store).expect("a store").len();
    cli(launch.home(), &["store", "compact"]).assert_code(0);
    let after = std::fs::metadata(&store).expect("a store").len();
    assert!(after < before, "{before} bytes before, {after} after");
    cli(launch.home(), &["store", "verify"]).assert_code(0);
    assert_eq!(words(&launch.clone().start()).await.len(), WORDS);
}
