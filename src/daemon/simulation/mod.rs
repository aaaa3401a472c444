//! The whole daemon in a made-up world: its own actors, with a clock, chance, a network, a disk, memory and inference
//! processes of which every step comes from a seed. Processes die, hang and cannot be started, memory comes and goes, the disk
//! stands still, connections break, and the daemon is killed; whatever happens, what was promised is held.
//!
//! One seed is one course of events. `CLAWDBOT_SIMULATION_SEEDS` says how many seeds there are, `CLAWDBOT_SIMULATION_SEED`
//! repeats one and prints what happened.

mod answers;
mod device;
mod engine;
mod wire;
mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::{Arbiter, System};
use actors::auth_checker::Admittance;
use actors::policy::failover::Cause;
use actors::stats::Stats;
use actors::store::{Store as _, Table};
use models::Precision;

use super::beside::Assistant;
use super::core::{Core, Surroundings};
use crate::settings::{AuthMode, Settings};
use crate::store::KEY_BYTES;
use crate::store::simulated::SimulatedDisk;
use device::{Device, PATIENCE};
use engine::{ASSISTANT, FALLBACK, MODEL, Machine, Sizes};
use world::World;

/// Seeds where nobody says otherwise.
const SEEDS: u64 = 1000;
const DEVICES: usize = 5;
const MASTER_KEY: [u8; KEY_BYTES] = [7; KEY_BYTES];

/// What came of a seed.
struct Outcome {
    trace: Vec<String>,
    faults: Vec<String>,
    ends: BTreeMap<String, usize>,
}

fn settings(seed: u64) -> Settings {
    let mut settings = Settings::default_for_tests(Path::new("/simulated"));
    settings.auth.mode = AuthMode::None;
    settings.model.path = Some(MODEL.into());
    settings.model.fallback = seed.is_multiple_of(3).then(|| FALLBACK.into());
    settings.model.precision = Some(Precision::F16);
    settings.model.max_sequences = 3;
    settings.scheduler.max_queued = 4;
    settings.scheduler.max_queued_background = 3;
    settings.conversation.max_queued = 6;
    settings.memory.dwell = Duration::from_secs(20);
    settings.supervisor.step_up_after = Duration::from_secs(30);
    settings
}

fn run(seed: u64) -> Outcome {
    let world = World::new(seed);
    let disk = SimulatedDisk::default();
    let devices: Vec<_> = (0..DEVICES)
        .map(|number| Device::new(format!("device{number}"), number == 0, &world))
        .collect();
    let lives = 1 + world.chance().below(3);
    for life in 1..=lives {
        let system = System::with_tokio_rt(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build();
            runtime.unwrap_or_else(|error| panic!("no runtime: {error}"))
        });
        system.block_on(live(seed, &world, &disk, &devices, life == lives));
    }
    let mut ends = BTreeMap::new();
    for end in devices.iter().flat_map(Device::ends) {
        *ends.entry(end).or_default() += 1;
    }
    let (trace, faults) = world.outcome();
    Outcome { trace, faults, ends }
}

/// One daemon from its start to its end, which is a kill unless it is the last.
async fn live(seed: u64, world: &World, disk: &SimulatedDisk, devices: &[Device], is_last: bool) {
    world.begin_life();
    world.note(format!("daemon {} begins", world.life()));
    let settings = settings(seed);
    let machine = Machine::new(world);
    let (store, restored) = match disk.open(&MASTER_KEY) {
        Ok(opened) => opened,
        Err(error) => return world.fault(format!("the store cannot be opened: {error}")),
    };
    let surroundings = Surroundings {
        host: Arc::new(machine.clone()),
        packer: None,
        meter: Arc::new(machine.clone()),
        stats: Arc::<Stats>::default(),
        // One world in two has the assistant beside the model.
        assistant: seed.is_multiple_of(2).then(|| Assistant {
            path: ASSISTANT.into(),
            sizes: Arc::new(Sizes::of_the_assistant()),
        }),
        store: Some((store.clone(), restored.retained)),
        conversations: restored
            .records
            .into_iter()
            .filter(|record| record.table == Table::Conversations)
            .collect(),
        link: None,
    };
    let sizes = Arc::new(Sizes::default());
    let instruments = opentelemetry::global::meter("simulation");
    let core = match Core::start(&settings, Some(sizes), surroundings, &instruments).await {
        Ok(core) => core,
        Err(error) => return world.fault(format!("the daemon does not start: {error}")),
    };
    let (mut chance, stalls) = (world.chance(), world.clone());
    let mut of_disk = world.chance();
    actix_rt::spawn(store.clone().write(move || {
        let stall = stalls.take_disk_stall();
        stall.unwrap_or_else(|| of_disk.pause(0, 20))
    }));
    let rooms = core.rooms(&settings, &Admittance::Everybody, &[Arbiter::current()]);
    core.restore(restored.sessions, &rooms).await;
    core.resume(restored.accepted).await;
    if let Some(room) = rooms.first() {
        for device in devices {
            actix_rt::spawn(device.clone().live(world.clone(), room.reception.clone()));
        }
    }
    let acts = 10 + chance.below(30);
    for _ in 0..acts {
        tokio::time::sleep(chance.pause(100, 3000)).await;
        act(world, &machine, &mut chance);
    }
    if is_last {
        world.note("calm");
        world.calm();
        let missing = || devices.iter().flat_map(Device::missing).collect::<Vec<_>>();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while (!missing().is_empty() || core.gauge.running() + core.gauge.waiting() > 0)
            && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        for id in missing() {
            world.fault(format!("{id} was accepted and has not ended"));
        }
    }
    check_account(world, &core);
    world.note(format!("daemon {} ends", world.life()));
    store.close();
    world.end_life();
}

fn act(world: &World, machine: &Machine, chance: &mut world::Chance) {
    match chance.below(14) {
        0 => {
            world.note("a process is killed");
            machine.kill(Cause::Memory);
        }
        1 => {
            world.note("a process faults");
            machine.kill(Cause::Other);
        }
        2 => {
            world.note("a process hangs");
            machine.hang();
        }
        3..6 => {
            let bytes = chance.below(7) << 30;
            world.note(format!("other programs take {} GiB", bytes >> 30));
            world.set_hog_bytes(bytes);
        }
        6 => {
            let stall = chance.pause(1000, 8000);
            world.note(format!("the disk stands still for {} ms", stall.as_millis()));
            world.stall_disk(stall);
        }
        7 | 8 => {
            let hangs = chance.one_in(3);
            world.note(format!(
                "the assistant is in trouble: {}",
                if hangs { "hangs" } else { "ends" }
            ));
            machine.trouble_the_assistant(hangs);
        }
        _ => {}
    }
}

/// Every request that the scheduler was given is somewhere.
fn check_account(world: &World, core: &Core) {
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (priority, term, count) in core.gauge.account() {
        let (accepted, others) = sums.entry(format!("{priority:?}")).or_default();
        if term == "accepted" {
            *accepted += count;
        } else {
            *others += count;
        }
    }
    for (priority, (accepted, others)) in sums {
        if accepted != others {
            world.fault(format!(
                "{priority}: {accepted} were accepted, and {others} are somewhere"
            ));
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={value} is no number")),
    )
}

#[test]
fn whatever_happens_in_a_made_up_world_every_accepted_request_ends_and_its_answer_is_whole() {
    let (first, count) = match number("CLAWDBOT_SIMULATION_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("CLAWDBOT_SIMULATION_SEEDS").unwrap_or(SEEDS)),
    };
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for seed in first..first + count {
        let outcome = run(seed);
        if count == 1 {
            println!("{}", outcome.trace.join("\n"));
        }
        assert!(
            outcome.faults.is_empty(),
            "CLAWDBOT_SIMULATION_SEED={seed} repeats it\n{}",
            outcome.faults.join("\n")
        );
        for (how, count) in outcome.ends {
            *ends.entry(how).or_default() += count;
        }
    }
    println!("{count} seeds: {ends:?}");
    if count >= 100 {
        for how in ["stop", "length", "cancelled", "dead_lettered", "expired"] {
            assert!(ends.contains_key(how), "no request ended so: {how}; {ends:?}");
        }
    }
}

#[test]
fn one_seed_is_one_course_of_events() {
    for seed in 0..100 {
        let (one, other) = (run(seed), run(seed));
        let differs = one
            .trace
            .iter()
            .zip(&other.trace)
            .position(|(one, other)| one != other);
        if let Some(at) = differs {
            let from = at.saturating_sub(5);
            panic!(
                "seed {seed} took two courses:\n{}\n--- or ---\n{}",
                one.trace[from..=at].join("\n"),
                other.trace[from..=at].join("\n")
            );
        }
        assert_eq!(one.trace.len(), other.trace.len(), "seed {seed}");
        assert!(one.trace.len() > 100, "seed {seed}: {} events", one.trace.len());
    }
}
