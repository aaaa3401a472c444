//! A disk that takes nothing more: what is acknowledged is there, what cannot be kept is not acknowledged, and what need
//! not be kept goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use super::kill_and_restart;
use crate::support::client::Client;
use crate::support::daemon::Daemon;
use crate::support::wait_for;

/// The system refuses to let a file grow beyond some megabytes, and sends no signal about it.
const SMALL_DISK: &str = "trap '' XFSZ; ulimit -S -f 8192";

const WORD_BYTES: usize = 9_000;

/// More than there is room for.
const MANY: usize = 2_000;

#[tokio::test]
async fn a_full_disk_costs_nothing_that_was_acknowledged_and_stops_only_what_must_be_kept() {
    let launch = Daemon::launch();
    let daemon = launch.clone().after(SMALL_DISK).start();
    let mut keeper = Client::of(&daemon, "phone", "keeper").await;
    let mut kept = 0;
    while kept < MANY {
        let topic = format!("clawdbot/phone/kept/{kept:04}");
        let publish = keeper.publish(&topic, 1, true, vec![b'x'; WORD_BYTES]);
        if tokio::time::timeout(Duration::from_secs(2), publish)
            .await
            .is_err()
        {
            break;
        }
        kept += 1;
    }
    assert!((1..MANY).contains(&kept), "{kept} were acknowledged");
    wait_for("failures to be counted", || {
        daemon
            .metric("clawdbot_store_failures_total")
            .filter(|count| *count > 0.0)
    });
    assert!(daemon.log().contains("the store cannot be written"), "it says so");
    let mut other = Client::of(&daemon, "tablet", "other").await;
    other.subscribe("clawdbot/tablet/now", 0).await;
    other.publish("clawdbot/tablet/now", 0, false, "still here").await;
    assert_eq!(other.message().await.payload, b"still here");
    drop((keeper, other));

    // There is room again.
    let daemon = kill_and_restart(daemon, &launch);
    let mut reader = Client::of(&daemon, "phone", "reader").await;
    reader.subscribe("clawdbot/phone/kept/+", 1).await;
    let expected: Vec<String> = (0..kept)
        .map(|number| format!("clawdbot/phone/kept/{number:04}"))
        .collect();
    let mut found = BTreeSet::new();
    // One that was under way at the end may be there, too: it was not acknowledged, and was not refused.
    while expected.iter().any(|topic| !found.contains(topic)) {
        let word = reader.message().await;
        assert_eq!(word.payload.len(), WORD_BYTES);
        found.insert(word.topic);
    }
}
