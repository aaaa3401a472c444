//! What lies on the disk and what stands in the log.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::*;
use crate::support::daemon::Home;
use crate::support::process;

/// Words that can come from nowhere else.
const MARKER: &str = "marker-3f9c-of-a-private-matter";

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Says the marker in every way that there is, and returns the tokens that were shown.
fn say_it_all(daemon: &Daemon) -> Vec<String> {
    let token = daemon.token(VICTIM);
    let bad = jwt(&hs256(), &claims(VICTIM), b"another key");
    let will = format!("will-{MARKER}");
    let hello = Hello {
        client_id: "teller",
        username: Some("name"),
        token: Some(&token),
        will: Some(("clawdbot/phone/lwt", &will, true)),
        keeps: true,
    };
    let mut peer = Peer::connect(daemon, hello).expect("let in");
    assert_eq!(peer.subscribe("clawdbot/phone/heard"), 0);
    peer.publish("clawdbot/phone/heard", MARKER);
    assert_eq!(peer.message().1, MARKER.as_bytes());
    peer.retain("clawdbot/phone/kept", MARKER);
    // A request: its prompt, its correlation data and a user property are as private as a payload.
    let correlation = [&[0x09][..], &text(MARKER.as_bytes())].concat();
    let user = [&[0x26][..], &text(b"name"), &text(MARKER.as_bytes())].concat();
    peer.publish_with(
        "clawdbot/phone/command",
        &json!({"prompt": MARKER}).to_string(),
        false,
        &[correlation, user].concat(),
    );
    peer.publish("clawdbot/phone/command", &format!("{{\"prompt\": \"{MARKER}"));
    peer.publish("clawdbot/tablet/x", MARKER);
    peer.everything();
    let refused = Hello {
        client_id: "refused",
        token: Some(&bad),
        ..Hello::default()
    };
    assert!(Peer::connect(daemon, refused).is_err());
    // What is no packet, with the marker in it.
    let mut wire = RawClient::open(daemon.mqtt);
    wire.send(&[&[0x10, 0xFF, 0xFF, 0xFF, 0xFF][..], MARKER.as_bytes()].concat());
    wire.assert_closed();
    peer.wire.send(&packet(0x3F, MARKER.as_bytes()));
    // Its own words end with it: a DISCONNECT, and the will is told.
    while peer.wire.packet().is_some() {}
    // A session that keeps what comes while its client is away.
    let keepers = daemon.token(VICTIM);
    let keeper = Hello {
        client_id: "keeper",
        token: Some(&keepers),
        keeps: true,
        ..Hello::default()
    };
    let mut keeper = Peer::connect(daemon, keeper).expect("let in");
    let mut body = vec![0, 1, 0];
    body.extend(text(b"clawdbot/phone/later"));
    body.push(1);
    keeper.wire.send(&packet(0x82, &body));
    keeper.wait_for(0x90);
    keeper.wire.send(&[0xE0, 0]);
    keeper.wire.assert_closed();
    Peer::of(daemon, VICTIM, "other").publish("clawdbot/phone/later", MARKER);
    vec![token, bad, keepers]
}

#[test]
fn nothing_of_a_token_or_a_payload_is_in_the_log_even_at_trace_level() {
    let mut daemon = Daemon::launch().set("log.level", "trace").start();
    let key = key_of(&daemon);
    let tokens = say_it_all(&daemon);
    daemon.signal(Signal::TERM);
    assert!(daemon.exit(Duration::from_secs(30)).expect("it ends").success());
    let log = daemon.log();
    assert!(
        log.contains("\"TRACE\"") || log.contains("\"DEBUG\""),
        "the level is set"
    );
    assert!(log.contains("teller"), "it tells of the client");
    assert!(!log.contains(MARKER), "{log}");
    // The claims and the signature of each; all headers are the same.
    for part in tokens.iter().flat_map(|token| token.split('.').skip(1)) {
        assert!(!log.contains(part), "{part} of a token is in {log}");
    }
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let numbers = format!("{key:?}");
    for key in [hex, numbers, URL_SAFE_NO_PAD.encode(&key)] {
        assert!(!log.contains(&key), "the key is in the log");
    }
}

#[test]
fn nothing_of_a_token_or_a_payload_lies_readable_in_the_data_directory() {
    let mut daemon = Daemon::launch().start();
    let key = key_of(&daemon);
    let tokens = say_it_all(&daemon);
    let look = |when: &str| {
        for file in files_below(&daemon.home().data_dir()) {
            let metadata = fs::metadata(&file).expect("a file");
            assert_eq!(
                metadata.mode() & 0o077,
                0,
                "{} is not its owner's alone",
                file.display()
            );
            // A socket has nothing to read.
            let Ok(bytes) = fs::read(&file) else { continue };
            let name = format!("{} {when}", file.display());
            assert!(!holds(&bytes, MARKER.as_bytes()), "a payload lies in {name}");
            for part in tokens.iter().flat_map(|token| token.split('.').skip(1)) {
                assert!(!holds(&bytes, part.as_bytes()), "a token lies in {name}");
            }
            let is_the_key = file.ends_with("keys/token-signing.key");
            assert!(is_the_key || !holds(&bytes, &key), "the key lies in {name}");
        }
    };
    look("while it runs");
    daemon.signal(Signal::TERM);
    assert!(daemon.exit(Duration::from_secs(30)).expect("it ends").success());
    let look = |when: &str| {
        for file in files_below(&daemon.home().data_dir()) {
            let Ok(bytes) = fs::read(&file) else { continue };
            let name = format!("{} {when}", file.display());
            assert!(!holds(&bytes, MARKER.as_bytes()), "a payload lies in {name}");
        }
    };
    look("after its end");
}

#[test]
fn a_key_that_others_may_read_is_refused_at_the_start_and_signs_nothing() {
    let home = Home::new();
    drop(home.token_at("phone", std::time::SystemTime::now()));
    let key = home.data_dir().join("keys/token-signing.key");
    for mode in [0o644, 0o640, 0o604, 0o666] {
        fs::set_permissions(&key, Permissions::from_mode(mode)).expect("our own file");
        for command in [&["serve"][..], &["token", "phone"]] {
            let refused = process::finish(&mut home.command(command));
            assert!(!refused.status.success(), "{mode:o} {command:?}: {refused:#?}");
            refused.assert_says(&["chmod 600"]);
            assert!(refused.stdout.is_empty(), "{refused:#?}");
        }
        let refused = process::finish(&mut home.command(&["serve"]));
        refused.assert_code(2);
    }
}
