//! Nothing waits for ever.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::*;
use super::world::{Ask, Is, World, ask, boundless, config};

/// No request runs longer.
const LONGEST: Duration = Duration::from_millis(500);

/// More than can be done: new devices without end, a device with many requests, background ones, and urgent ones in all
/// places but one.
#[derive(Clone, Debug)]
struct Flood {
    slots: usize,
    /// What comes in each step of a tenth of a second: class, device, tokens of the answer.
    steps: Vec<Vec<(Priority, u8, u32)>>,
}

fn floods() -> impl Strategy<Value = Flood> {
    let class = prop_oneof![
        1 => Just(Priority::Urgent),
        4 => Just(Priority::Interactive),
        2 => Just(Priority::Background),
    ];
    let step = prop::collection::vec((class, 0..6u8, 1..50u32), 0..6);
    (1..4usize, prop::collection::vec(step, 600)).prop_map(|(slots, steps)| Flood { slots, steps })
}

/// How long a request may wait that is the first of its line: until it is old; then for all that is here already, one by
/// one in the one place that urgent requests leave.
fn longest_wait(config: &ScheduleConfig, slots: usize) -> Duration {
    let here = config.max_queued + 3 * slots + 1;
    config.ageing.oldest_first_after + LONGEST * here as u32
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn each_request_begins_and_each_paused_one_goes_on_within_a_bound(flood in floods()) {
        let config = ScheduleConfig {
            max_queued: 14,
            max_queued_of_class: PerPriority { urgent: 3, interactive: 7, background: 4 },
            max_queued_of_device: 2,
            ..config()
        };
        let bound = longest_wait(&config, flood.slots);
        let mut world = World::new(config, flood.slots);
        // When one of each line last began.
        let mut served: BTreeMap<(Priority, String), Instant> = BTreeMap::new();
        let mut visitors = 0;
        for step in flood.steps {
            for (priority, device, answer) in step {
                let urgent = world.count(|known| {
                    known.priority == Priority::Urgent && !matches!(known.is, Is::Ended(_))
                });
                if priority == Priority::Urgent && urgent + 1 >= flood.slots {
                    continue;
                }
                visitors += 1;
                let device = if device < 3 { format!("visitor-{visitors}") } else { format!("{device}") };
                let _ = world.submit(&ask(priority, &device, answer));
            }
            world.advance(Duration::from_millis(100));
            for known in world.requests.values() {
                let line = (known.priority, known.device.clone());
                match (known.is, known.began) {
                    (Is::Waiting, _) => {
                        let since = served.get(&line).map_or(known.came, |at| known.came.max(*at));
                        prop_assert!(world.now - since <= bound, "{known:?}");
                    }
                    (_, Some(began)) => {
                        let at = served.entry(line).or_insert(began);
                        *at = began.max(*at);
                    }
                    _ => {}
                }
                let paused = known.paused.map_or(Duration::ZERO, |at| world.now - at);
                prop_assert!(paused <= bound, "{known:?}");
            }
            world.put_away();
        }
    }
}

/// The same flood of visitors with and without ageing.
fn background_ones_begun(ageing: Ageing) -> usize {
    let mut world = World::new(
        ScheduleConfig {
            ageing,
            ..boundless()
        },
        1,
    );
    for _ in 0..3 {
        world.submit(&ask(Priority::Background, "patient", 50)).unwrap();
    }
    for visitor in 0..200 {
        let visitor = format!("visitor-{visitor}");
        world.submit(&ask(Priority::Interactive, &visitor, 60)).unwrap();
        world.advance(Duration::from_millis(100));
    }
    let begun = |known: &super::world::Known| known.priority == Priority::Background && known.began.is_some();
    world.count(begun) - 1
}

#[test]
fn it_is_ageing_that_keeps_background_requests_from_starving() {
    assert_eq!(background_ones_begun(boundless().ageing), 0);
    assert_eq!(background_ones_begun(config().ageing), 2);
}

#[test]
fn a_paused_background_request_goes_on_though_interactive_ones_never_end() {
    let goes_on_after = |ageing| {
        let mut world = World::new(
            ScheduleConfig {
                ageing,
                ..boundless()
            },
            1,
        );
        let paused = world.submit(&ask(Priority::Background, "patient", 1000)).unwrap();
        world.submit(&ask(Priority::Urgent, "a", 10)).unwrap();
        let since = world.now;
        for visitor in 0..100 {
            let visitor = format!("visitor-{visitor}");
            world.submit(&ask(Priority::Interactive, &visitor, 20)).unwrap();
            world.advance(Duration::from_millis(100));
            if world.requests[&paused].is == Is::Running {
                return Some(world.now - since);
            }
        }
        None
    };
    assert_eq!(goes_on_after(boundless().ageing), None);
    let aged = config().ageing.background_after;
    let waited = goes_on_after(config().ageing).unwrap();
    assert!(aged <= waited && waited <= aged + LONGEST, "{waited:?}");
}

/// A device that has just had much is owed nothing while new devices come, each with a first turn: only age helps it.
#[test]
fn new_devices_without_end_do_not_starve_one_that_had_much() {
    let begins = |oldest_first_after| {
        let config = boundless();
        let ageing = Ageing {
            oldest_first_after,
            ..config.ageing
        };
        let mut world = World::new(ScheduleConfig { ageing, ..config }, 1);
        for _ in 0..2 {
            world.submit(&ask(Priority::Interactive, "much", 100)).unwrap();
        }
        for visitor in 0..100 {
            let visitor = format!("visitor-{visitor}");
            world.submit(&ask(Priority::Interactive, &visitor, 10)).unwrap();
            world.advance(Duration::from_millis(80));
        }
        let begun = |known: &super::world::Known| known.device == "much" && known.began.is_some();
        world.count(begun)
    };
    assert_eq!(begins(boundless().ageing.oldest_first_after), 1);
    assert_eq!(begins(Duration::from_secs(5)), 2);
}

#[test]
fn ageing_makes_nothing_urgent() {
    let mut world = World::new(config(), 1);
    let old = world.submit(&ask(Priority::Interactive, "a", 100)).unwrap();
    let older = world.submit(&ask(Priority::Background, "b", 100)).unwrap();
    let mut urgent = Vec::new();
    for _ in 0..40 {
        let ask = Ask {
            answer: 50,
            ..ask(Priority::Urgent, "c", 0)
        };
        urgent.push(world.submit(&ask).unwrap());
        world.advance(Duration::from_millis(480));
    }
    assert_eq!(world.requests[&old].is, Is::Paused);
    assert_eq!(world.requests[&older].is, Is::Waiting);
    world.run_out();
    assert_eq!(world.requests[&older].is, Is::Ended(End::Completed));
}
