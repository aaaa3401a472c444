//! Sessions, the subscription tree, the groups of shared subscriptions and the retained store as one broker in
//! memory, with queues that are nearly always full: whatever happens, every message copy that a session accepted
//! is accounted for. It was sent and taken over by the client, or it waits, or it was dropped and the reason was
//! said, or it went to another member of its share. What clients had is in order, what waited for a session that
//! ended comes to no other client, and at QoS 2 no copy comes twice, to whichever member.
//!
//!   `CONSERVATION_SEED`    plays this seed alone
//!   `CONSERVATION_ROUNDS`  plays so many seeds instead of a thousand

#[path = "conservation/groups.rs"]
mod groups;
#[path = "conservation/ledger.rs"]
mod ledger;
#[path = "conservation/place.rs"]
mod place;
#[path = "conservation/plane.rs"]
mod plane;

use std::time::{SystemTime, UNIX_EPOCH};

use plane::Plane;

const ROUNDS: u64 = 1000;
const STEPS: usize = 500;

/// Reasons to drop a copy, what becomes of copies for a group, and that a member that is away keeps one.
const COMES_UP: [&str; 10] = [
    "OutboxFull",
    "Expired",
    "QueueFull",
    "Offline",
    "SessionEnded",
    "HandedOn",
    "Bequeathed",
    "GroupFull",
    "NobodyThere",
    "Kept",
];

#[test]
fn every_copy_of_a_message_is_delivered_waits_or_was_dropped_for_a_reason() {
    let seeds: Vec<u64> = match std::env::var("CONSERVATION_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => {
            let since_epoch = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("a clock after 1970");
            let first = since_epoch.as_nanos() as u64;
            let rounds = std::env::var("CONSERVATION_ROUNDS");
            let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
            (0..rounds).map(|round| first.wrapping_add(round)).collect()
        }
    };
    let mut saw = std::collections::BTreeSet::new();
    for seed in seeds {
        println!("CONSERVATION_SEED={seed}");
        let mut plane = Plane::new(seed);
        for _ in 0..STEPS {
            plane.step();
            plane.check();
        }
        plane.settle();
        plane.check();
        plane.check_received();
        saw.extend(plane.saw());
    }
    // A broker in which nothing is ever dropped or handed on would prove little.
    if std::env::var_os("CONSERVATION_SEED").is_none() {
        for what in COMES_UP {
            assert!(saw.contains(what), "{what} never came up: {saw:?}");
        }
    }
}
