//! The log in a file: for whom, what comes after it was taken away, the last words, and a disk that takes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::support::daemon::{Daemon, Home, Launch};
use crate::support::process;
use crate::support::{PATIENCE, wait_for};

/// One whose log file is where its stderr is looked for, by which it is known to listen.
fn launch() -> (Launch, PathBuf) {
    let launch = Daemon::launch();
    let path = launch.home().path().join("log");
    let launch = launch.set("log.file", path.display());
    (launch, path)
}

/// Something that the log tells.
fn wait_for_device(daemon: &Daemon, name: &str) {
    daemon.cli(&["device", "pair", name, "--no-qr"]);
}

#[test]
fn lines_go_to_a_file_for_its_owner_alone_and_the_last_ones_too() {
    let (launch, path) = launch();
    let mut daemon = launch.start();
    let mode = fs::metadata(&path).expect("a log").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    wait_for_device(&daemon, "kitchen");
    wait_for("its line", || daemon.log().contains("kitchen").then_some(()));

    fs::remove_file(&path).expect("it is there");
    wait_for_device(&daemon, "cellar");
    wait_for("a new file", || daemon.log().contains("cellar").then_some(()));
    assert!(!daemon.log().contains("kitchen"));

    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit(PATIENCE).expect("it exits").code(), Some(0));
    let log = daemon.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("\"stopped\""), "{log}");
}

#[test]
fn a_place_that_cannot_be_is_a_wrong_configuration() {
    let home = Home::new();
    let finished = process::finish(&mut home.command(&["serve", "--set", "log.file=/dev/null"]));
    finished
        .assert_code(2)
        .assert_says(&["log.file", "/dev/null", "no regular file"]);
    process::finish(&mut home.command(&["check", "--set", "log.file=/dev/null"]))
        .assert_code(2)
        .assert_says(&["log.file", "/dev/null", "no regular file"]);
}

#[test]
fn a_disk_that_is_not_there_yet_is_worth_another_start() {
    let home = Home::new();
    // What stands where a disk would be: nobody may write there, not even root.
    let finished =
        process::finish(&mut home.command(&["serve", "--set", "log.file=/proc/disk/clawdbot.log"]));
    finished
        .assert_code(1)
        .assert_says(&["log.file", "/proc/disk/clawdbot.log"]);
}

// Only there can one process limit what another writes.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_takes_nothing_stops_nobody_and_lines_come_again_when_it_does() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};

    let (launch, path) = launch();
    // So that a write beyond the limit is an error, as on a full disk, and no signal.
    let daemon = launch.after("trap '' XFSZ").start();
    let may_write = |bytes| {
        let pid = Pid::from_raw(daemon.pid().try_into().expect("a pid"));
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(pid, Resource::Fsize, limit).expect("a limit");
    };
    may_write(Some(0));
    let before = fs::metadata(&path).expect("a log").len();
    wait_for_device(&daemon, "attic");
    let (code, _) = daemon.get("/health");
    assert!(code == 200 || code == 503, "{code}");
    assert_eq!(daemon.status()["pid"], daemon.pid());
    assert_eq!(fs::metadata(&path).expect("a log").len(), before);

    may_write(None);
    // Codes can only be kept when the store can be written, too.
    wait_for("lines again", || {
        wait_for_device(&daemon, "garden");
        daemon.log().contains("garden").then_some(())
    });
}
