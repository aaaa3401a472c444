//! Traffic at QoS 1 and 2, `kill -9` at random instants, and a count: nothing acknowledged is lost, nothing at QoS 2
//! comes twice.
//!
//! `CLAWDBOT_CRASH_ROUNDS` says how often it is killed, `CLAWDBOT_CRASH_SEED` repeats a run.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use topics::packet::QoS;

use crate::support::PATIENCE;
use crate::support::daemon::{Daemon, Launch};
use crate::support::random::{self, Random};

use super::peer::{Ended, Publisher, Subscriber};

/// How often it is killed where nobody says otherwise.
const ROUNDS: u64 = 200;

#[test]
fn nothing_acknowledged_is_lost_and_nothing_at_qos_2_comes_twice_over_many_kills() {
    let rounds = random::number("CLAWDBOT_CRASH_ROUNDS").unwrap_or(ROUNDS);
    survive(Daemon::launch(), rounds, |_| ());
}

/// Kills the daemon so often, and has `also` happen in each of its lives, which it lengthens.
pub(super) fn survive(launch: Launch, rounds: u64, mut also: impl FnMut(&mut Random)) {
    let seed = random::seed("CLAWDBOT_CRASH_SEED");
    println!("{rounds} kills, CLAWDBOT_CRASH_SEED={seed}");
    let mut chance = Random::new(seed);
    // Its clients come and go faster than a sound one, and are away for long.
    let launch = launch
        .set("flapping.max_disconnects", 0)
        .set("mqtt.max_queued_messages", 100_000)
        .set("mqtt.max_queued_bytes", 64 * 1024 * 1024);
    let mut daemon = launch.clone().start_unready();
    let mut publisher = Publisher::new("publisher", &daemon.token("phone"));
    let mut subscriber = Subscriber::new("subscriber", &daemon.token("phone"));
    subscriber.subscribe_and_leave(daemon.mqtt);
    for round in 0..rounds {
        let address = daemon.mqtt;
        // Sometimes the subscriber is away, and sometimes nobody comes in time.
        let away = chance.one_in(4);
        let life = Duration::from_millis(chance.below(60) as u64);
        std::thread::scope(|scope| {
            let ours = scope.spawn(|| publisher.run(address));
            let theirs = scope.spawn(|| {
                if away {
                    Ended::Lost
                } else {
                    subscriber.run(address)
                }
            });
            std::thread::sleep(life);
            also(&mut chance);
            daemon.signal(Signal::KILL);
            daemon.exit(PATIENCE).expect("it is dead");
            for ended in [ours.join(), theirs.join()] {
                let ended = ended.expect("a peer that keeps to the rules");
                assert_ne!(
                    ended,
                    Ended::SessionGone,
                    "round {round}: a session was forgotten"
                );
            }
        });
        daemon = launch.clone().start_unready();
    }
    finish(daemon.mqtt, &mut publisher, &mut subscriber);
    println!(
        "{} messages acknowledged at QoS 1, {} at QoS 2",
        publisher.acknowledged(QoS::AtLeastOnce).len(),
        publisher.acknowledged(QoS::ExactlyOnce).len(),
    );
    subscriber.assert_has_all(&publisher);
    subscriber.assert_once_and_in_order();
    assert!(daemon.metric("clawdbot_store_damaged_total").unwrap_or(0.0) == 0.0);
}

/// Lets both come to their ends.
fn finish(address: SocketAddr, publisher: &mut Publisher, subscriber: &mut Subscriber) {
    publisher.finish(address);
    let deadline = Instant::now() + PATIENCE;
    while !subscriber.has_all(publisher) && Instant::now() < deadline {
        subscriber.run_for(address, Duration::from_millis(200));
    }
}
