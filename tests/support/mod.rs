//! What the tests share: a daemon of their own on free ports and in a directory of its own, clients
//! to talk to it, and a loud way to say what could not be tested.

pub(crate) mod answer;
pub(crate) mod applications;
pub(crate) mod broker;
pub(crate) mod client;
pub(crate) mod collector;
pub(crate) mod conservation;
pub(crate) mod daemon;
pub(crate) mod data;
pub(crate) mod foreign;
#[cfg(target_os = "linux")]
pub(crate) mod group;
pub(crate) mod hub;
pub(crate) mod mosquitto;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod prometheus;
pub(crate) mod random;
pub(crate) mod raw;
pub(crate) mod shape;

use std::io::Write;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up. Long, because the machine may be busy; a
/// test that passes never waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until `look` finds something. Blocks the thread: in asynchronous tests see [`eventually`].
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(LOOK);
    }
}

/// Waits until `look` finds something, and lets the clients of this test go on meanwhile.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether this is a run in which nothing may be left out.
pub(crate) fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// Says aloud that something is not tested, and why. Under CI that is a failure.
pub(crate) fn skip(why: &str) {
    assert!(!is_ci(), "CI is set, and so nothing may be skipped: {why}");
    say(&format!("SKIPPED: {}: {why}", test_name()));
}

/// Tells whoever runs the tests something, also when the test passes.
pub(crate) fn say(line: &str) {
    // Straight to the standard error: what `eprintln` says is shown for failed tests only.
    let _unheard = writeln!(std::io::stderr(), "{line}");
}

fn test_name() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

/// A port for a program that opens it only later: from below those that the system gives to whoever asks
/// for any.
pub(crate) fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + u16::try_from(std::process::id() % 16_000).expect("a small number");
    loop {
        let port = first + TAKEN.fetch_add(1, Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
