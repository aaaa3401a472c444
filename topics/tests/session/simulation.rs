//! Clients and a tiny broker, joined in memory: random legal traffic, connections lost anywhere, and in
//! the end exactly what the qualities of service promise [MQTT5 4.3, 4.6].

#[path = "simulation/client.rs"]
mod client;
#[path = "simulation/world.rs"]
mod world;

use std::time::{SystemTime, UNIX_EPOCH};

use topics::packet::{ProtocolVersion, QoS};

use world::World;

const ROUNDS: u64 = 500;
const STEPS: usize = 600;

#[test]
fn random_traffic_over_breaking_connections_keeps_every_promise() {
    // Given by hand to see a failure again.
    let seeds: Vec<u64> = match std::env::var("SESSION_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => {
            let since_epoch = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("a clock after 1970");
            let first = since_epoch.as_nanos() as u64;
            (0..ROUNDS).map(|round| first.wrapping_add(round)).collect()
        }
    };
    for seed in seeds {
        println!("SESSION_SEED={seed}");
        let mut world = World::random(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.settle();
        world.check();
    }
}

#[test]
fn a_connection_lost_at_any_point_of_a_handshake_loses_and_repeats_nothing() {
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for lost in 0..2 {
                for after in 0..24 {
                    println!("{version:?} {qos:?}: client {lost} loses its connection after {after} packets");
                    let mut world = World::pair(version);
                    world.publish(0, "t/0", qos);
                    world.publish(0, "t/0", qos);
                    world.carry(after);
                    world.cut(lost);
                    world.publish(0, "t/0", qos);
                    world.settle();
                    world.check();
                }
            }
        }
    }
}
