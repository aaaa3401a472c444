//! Fairness between devices.

use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use super::world::{Is, World, ask, boundless, config};

/// What was begun for a device: how often, and for how much.
fn begun(world: &World, device: &str) -> (u64, u64) {
    let begun = world.requests.values().filter(|known| known.device == device);
    let costs: Vec<_> = begun
        .filter(|known| known.began.is_some())
        .map(|known| known.tokens.cost())
        .collect();
    (costs.len() as u64, costs.iter().sum())
}

fn waits(world: &World, device: &str) -> bool {
    world.count(|known| known.device == device && known.is == Is::Waiting) > 0
}

#[test]
fn a_hundred_requests_of_one_device_do_not_hold_up_anothers_first() {
    let mut world = World::new(boundless(), 2);
    for _ in 0..100 {
        world.submit(&ask(Priority::Interactive, "many", 50)).unwrap();
    }
    world.advance(Duration::from_secs(10));
    let (before, _) = begun(&world, "many");
    let first = world.submit(&ask(Priority::Interactive, "one", 50)).unwrap();
    while world.requests[&first].is == Is::Waiting {
        world.advance(Duration::from_millis(10));
    }
    assert!(begun(&world, "many").0 <= before + 1);
}

/// Two devices whose requests are as given, all there from the start, a third between them, and the schedule's whole
/// course: after each step in which both wait, what was begun for each.
fn course(slots: usize, answers: [&[u32]; 3]) -> Vec<((u64, u64), (u64, u64))> {
    let mut world = World::new(boundless(), 0);
    let names = ["a", "b", "c"];
    let longest = answers.iter().map(|answers| answers.len()).max().unwrap_or(0);
    for (name, answers) in names.iter().zip(answers) {
        for answer in answers {
            world.submit(&ask(Priority::Interactive, name, *answer)).unwrap();
        }
    }
    world.set_slots(slots);
    let mut course = Vec::new();
    for _ in 0..longest * 200 {
        if !waits(&world, "a") || !waits(&world, "b") {
            break;
        }
        course.push((begun(&world, "a"), begun(&world, "b")));
        world.advance(Duration::from_millis(50));
    }
    course
}

fn answers(most: u32) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(1..=most, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn of_requests_alike_no_device_is_ahead_by_more_than_one(
        slots in 1..5usize, a in 1..25usize, b in 1..25usize, c in answers(60),
    ) {
        let course = course(slots, [&vec![20; a], &vec![20; b], &c]);
        for ((a, _), (b, _)) in course {
            prop_assert!(a.abs_diff(b) <= 1, "{a} and {b}");
        }
    }

    /// The bound of start-time fair queueing: the largest request of each.
    #[test]
    fn by_what_was_begun_no_device_is_ahead_by_more_than_a_request_of_each(
        slots in 1..5usize, a in answers(100), b in answers(10), c in answers(60),
    ) {
        let largest = |answers: &[u32]| {
            let most = answers.iter().copied().max().unwrap_or(0);
            Tokens { prompt: 1, answer: most }.cost()
        };
        let bound = largest(&a) + largest(&b);
        for ((_, a), (_, b)) in course(slots, [&a, &b, &c]) {
            prop_assert!(a.abs_diff(b) <= bound, "{a} and {b}, {bound}");
        }
    }
}

#[test]
fn a_device_is_charged_what_its_answers_had_and_not_what_they_might_have_had() {
    let mut world = World::new(boundless(), 1);
    let device: std::sync::Arc<str> = "brief".into();
    // Four thousand were asked for, and each answer has one.
    let mut schedule = Schedule::new(boundless());
    schedule.set_slots(1);
    let mut order = Vec::new();
    for id in 0..20 {
        let (device, answer) = if id % 2 == 0 {
            (device.clone(), 4000)
        } else {
            ("exact".into(), 2)
        };
        let tokens = Tokens { prompt: 1, answer };
        let entry = Entry {
            id,
            priority: Priority::Interactive,
            device,
            deadline: None,
            tokens,
            payload: (),
        };
        schedule.submit(world.now, entry).unwrap();
    }
    for _ in 0..20 {
        for decision in schedule.decide(world.now) {
            let Decision::Start(entry) = decision else {
                panic!("{decision:?}")
            };
            order.push(entry.id);
            world.now += Duration::from_secs(1);
            let used = Tokens { prompt: 1, answer: 2 };
            assert!(schedule.finished(entry.id, world.now, End::Completed, Some(used)));
        }
    }
    assert_eq!(order, (0..20).collect::<Vec<_>>());
}

#[test]
fn what_a_device_had_while_nobody_else_asked_is_not_held_against_it() {
    let mut world = World::new(boundless(), 1);
    world.submit(&ask(Priority::Interactive, "a", 500)).unwrap();
    world.run_out();
    world.set_slots(0);
    let [first, second] = ["a", "b"].map(|device| {
        let ask = ask(Priority::Interactive, device, 10);
        world.submit(&ask).unwrap()
    });
    world.set_slots(1);
    assert_eq!(
        [first, second].map(|id| world.requests[&id].is),
        [Is::Running, Is::Waiting]
    );
}

#[test]
fn old_background_requests_come_forward_one_by_one_and_not_all_at_once() {
    let mut world = World::new(config(), 1);
    let ageing = world.config.ageing.background_after;
    let mut background = 0;
    for second in 0..120 {
        for (priority, device) in [(Priority::Background, "a"), (Priority::Interactive, "b")] {
            while world.submit(&ask(priority, device, 50)).is_ok() {}
        }
        world.advance(Duration::from_secs(1));
        let (now, _) = begun(&world, "a");
        // Each begins no sooner than one wait after the one before it; it takes half a second until a place is free.
        let most = Duration::from_secs(second + 1).as_secs_f64() / ageing.as_secs_f64();
        assert!(now as f64 <= most.ceil(), "{now} after {second} s");
        background = now;
    }
    // And each begins no later than that and a turn.
    assert!(background >= 120 * 2 / 5, "{background}");
}
