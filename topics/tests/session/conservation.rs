//! Sessions, the subscription tree and the retained store as one broker in memory, with queues that are
//! nearly always full: whatever happens, every message copy that a session accepted is accounted for. It
//! was sent and taken over by the client, or it waits, or it was dropped and the reason was said. What
//! clients had is in order, and at QoS 2 no copy comes twice.
//!
//!   `CONSERVATION_SEED`  plays this seed alone

#[path = "conservation/ledger.rs"]
mod ledger;
#[path = "conservation/plane.rs"]
mod plane;

use std::time::{SystemTime, UNIX_EPOCH};

use plane::Plane;

const ROUNDS: u64 = 1000;
const STEPS: usize = 500;

#[test]
fn every_copy_of_a_message_is_delivered_waits_or_was_dropped_for_a_reason() {
    let seeds: Vec<u64> = match std::env::var("CONSERVATION_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => {
            let since_epoch = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("a clock after 1970");
            let first = since_epoch.as_nanos() as u64;
            (0..ROUNDS).map(|round| first.wrapping_add(round)).collect()
        }
    };
    let mut reasons = std::collections::BTreeSet::new();
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
        reasons.extend(plane.drop_reasons());
    }
    // A broker in which nothing is ever dropped would prove little.
    if std::env::var_os("CONSERVATION_SEED").is_none() {
        for reason in ["Expired", "QueueFull", "Offline", "SessionEnded"] {
            assert!(reasons.contains(reason), "{reason} never came up: {reasons:?}");
        }
    }
}
