//! The same traffic to a real Mosquitto and to the real daemon: random, legal, from a printed seed, a step
//! at a time. Each client must see the same of both: what its session knew, what was granted, and every
//! message with its QoS, flags, identifiers and properties, in the order of its topic.
//!
//!   `BROKER_SEED`    plays this seed alone
//!   `BROKER_ROUNDS`  plays so many seeds instead of a few

mod client;
mod player;
mod steps;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::daemon::Daemon;
use crate::support::mosquitto::Mosquitto;
use crate::support::{foreign, random, say};
use player::{Player, Seen};
use steps::Step;

const ROUNDS: u64 = 40;
const STEPS: usize = 300;

/// Its limits out of the way, and no waiting for more to send.
const OPTIONS: &str = "allow_duplicate_messages true\nmax_queued_messages 0\nmax_inflight_messages 100\n\
                       set_tcp_nodelay true";

/// How long a failing round may be made shorter.
const SHORTENING: Duration = Duration::from_secs(60);

#[test]
fn every_client_sees_what_it_would_see_of_mosquitto() {
    if foreign::mosquitto("mosquitto").is_none() {
        return;
    }
    for seed in seeds() {
        println!("BROKER_SEED={seed}");
        let steps = steps::steps(seed, STEPS);
        if let Err(difference) = compare(&steps) {
            say(&format!("BROKER_SEED={seed} fails and is made short"));
            let steps = shortened(steps);
            let again = compare(&steps).err();
            panic!(
                "BROKER_SEED={seed}: {}",
                again.unwrap_or(format!("not seen again with fewer steps: {difference}"))
            );
        }
    }
}

fn seeds() -> Vec<u64> {
    let rounds = match random::number("BROKER_SEED") {
        Some(_) => 1,
        None => random::number("BROKER_ROUNDS").unwrap_or(ROUNDS),
    };
    let first = random::seed("BROKER_SEED");
    (first..first + rounds).collect()
}

/// Plays the steps to both brokers, each new; the error tells the first difference.
fn compare(steps: &[Step]) -> Result<(), String> {
    let theirs = Mosquitto::start(OPTIONS).expect("it was there at the beginning");
    let ours = Daemon::launch()
        .set("auth.mode", "none")
        .set("mqtt.max_queued_messages", 100_000)
        .start();
    let (theirs, ours) = thread::scope(|scope| {
        let theirs = scope.spawn(|| transcript(theirs.address, steps));
        let ours = scope.spawn(|| transcript(ours.mqtt, steps));
        (theirs.join(), ours.join())
    });
    let told = |seen: thread::Result<Vec<Seen>>| seen.map_err(|panic| describe(&*panic));
    let theirs =
        told(theirs).map_err(|panic| format!("a client of Mosquitto: {panic}\n{}", listed(steps)))?;
    let ours = told(ours).map_err(|panic| format!("a client of ours: {panic}\n{}", listed(steps)))?;
    for (at, (theirs, ours)) in theirs.iter().zip(&ours).enumerate() {
        if theirs != ours {
            return Err(format!(
                "at step {}\n{}--- Mosquitto: {theirs:#?}\n--- Clawdbot: {ours:#?}",
                at + 1,
                listed(&steps[..=at])
            ));
        }
    }
    Ok(())
}

fn transcript(broker: SocketAddr, steps: &[Step]) -> Vec<Seen> {
    let mut player = Player::new(broker);
    steps.iter().map(|step| player.play(step)).collect()
}

/// Leaves out steps, many at a time first, as long as there is a difference left.
fn shortened(mut steps: Vec<Step>) -> Vec<Step> {
    let mut left_out = steps.len() / 2;
    let deadline = Instant::now() + SHORTENING;
    while left_out > 0 {
        let mut at = 0;
        while at < steps.len() && Instant::now() < deadline {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + left_out).min(steps.len()));
            if compare(&fewer).is_err() {
                steps = fewer;
            } else {
                at += left_out;
            }
        }
        left_out /= 2;
    }
    steps
}

fn listed(steps: &[Step]) -> String {
    let lines = steps.iter().enumerate();
    lines
        .map(|(at, step)| format!("{:4} {step:?}\n", at + 1))
        .collect()
}

fn describe(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic".to_owned())
}
