//! Deadlines, and when asking again helps.

use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use super::world::{Ask, Is, World, ask, boundless, config};

const CLASS: Priority = Priority::Interactive;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// It has seen one request, and knows what a token takes.
fn taught(config: ScheduleConfig, slots: usize) -> World {
    let mut world = World::new(config, slots);
    let ask = Ask {
        prompt: 100,
        ..ask(CLASS, "teacher", 100)
    };
    world.submit(&ask).unwrap();
    world.advance(ms(1200));
    assert_eq!(world.count(|known| known.is == Is::Ended(End::Completed)), 1);
    world
}

fn by(deadline: u64, answer: u32) -> Ask {
    Ask {
        deadline: Some(ms(deadline)),
        ..ask(CLASS, "hurried", answer)
    }
}

fn near(left: Duration, right: Duration) -> bool {
    left.abs_diff(right) <= ms(25).max(right / 20)
}

#[test]
fn before_anything_was_learnt_nothing_is_refused_for_its_deadline() {
    let mut world = World::new(config(), 1);
    let id = world.submit(&by(1, 10_000)).unwrap();
    assert_eq!(world.requests[&id].is, Is::Running);
    let waits = world.submit(&by(50, 10_000)).unwrap();
    assert_eq!(world.schedule.next_expiry(world.now), Some(ms(50)));
    world.advance(ms(49));
    assert_eq!(world.requests[&waits].is, Is::Waiting);
    world.advance(ms(1));
    assert_eq!(world.requests[&waits].is, Is::Ended(End::Expired));
    assert!(world.trace.last().is_some_and(|line| line.contains("Passed")));
}

#[test]
fn what_takes_too_long_by_itself_is_refused_with_the_estimate_and_without_hope() {
    let mut world = taught(boundless(), 1);
    let (why, retry_after) = world.submit(&by(900, 100)).unwrap_err();
    let Why::TooLate { ends_in, left } = why else {
        panic!("{why:?}")
    };
    assert!(near(ends_in, ms(1000)) && left == ms(900), "{ends_in:?}");
    assert_eq!(retry_after, None);
    world.submit(&by(1100, 100)).unwrap();
}

#[test]
fn what_would_wait_too_long_is_refused_and_hears_when_it_would_not() {
    let mut world = taught(boundless(), 1);
    for _ in 0..4 {
        world.submit(&ask(CLASS, "many", 100)).unwrap();
    }
    world.submit(&ask(CLASS, "hurried", 100)).unwrap();
    // After the one that runs, its own first one and one of the others have their turns.
    let (why, retry_after) = world.submit(&by(3000, 100)).unwrap_err();
    let Why::TooLate { ends_in, .. } = why else {
        panic!("{why:?}")
    };
    assert!(near(ends_in, ms(4000)), "{ends_in:?}");
    let retry_after = retry_after.unwrap();
    assert!(near(retry_after, ms(1000)), "{retry_after:?}");
    world.advance(retry_after + ms(50));
    world.submit(&by(3000, 100)).unwrap();
}

#[test]
fn an_urgent_request_is_foreseen_to_wait_for_urgent_ones_alone() {
    let mut world = taught(boundless(), 1);
    for _ in 0..4 {
        world.submit(&ask(CLASS, "many", 100)).unwrap();
    }
    world
        .submit(&Ask {
            priority: Priority::Urgent,
            ..by(1100, 100)
        })
        .unwrap();
    world
        .submit(&Ask {
            priority: Priority::Urgent,
            ..by(2200, 100)
        })
        .unwrap();
    let refused = world.submit(&Ask {
        priority: Priority::Urgent,
        ..by(2800, 100)
    });
    assert!(
        matches!(refused, Err((Why::TooLate { .. }, Some(_)))),
        "{refused:?}"
    );
}

#[test]
fn what_waits_expires_as_soon_as_it_cannot_be_in_time() {
    let mut world = taught(boundless(), 1);
    let hurried = world.submit(&by(1500, 100)).unwrap();
    assert_eq!(world.requests[&hurried].is, Is::Running);
    let waits = world.submit(&by(2200, 100)).unwrap();
    let expires = world.schedule.next_expiry(world.now).unwrap();
    assert!(near(expires, ms(1200)), "{expires:?}");
    // Somebody more important comes.
    world
        .submit(&Ask {
            priority: Priority::Urgent,
            ..ask(CLASS, "a", 300)
        })
        .unwrap();
    world.advance(ms(1100));
    assert_eq!(world.requests[&waits].is, Is::Waiting);
    world.advance(ms(200));
    assert_eq!(world.requests[&waits].is, Is::Ended(End::Expired));
    assert!(world.trace.iter().any(|line| line.contains("CannotBeMet")));
}

#[test]
fn nothing_is_taken_while_it_drains_and_what_has_begun_ends() {
    let mut world = World::new(config(), 1);
    let running = world.submit(&ask(CLASS, "a", 100)).unwrap();
    let waiting = world.submit(&ask(CLASS, "b", 100)).unwrap();
    world.drain();
    assert_eq!(world.submit(&ask(CLASS, "c", 1)), Err((Why::Draining, None)));
    world.run_out();
    assert_eq!(world.requests[&running].is, Is::Ended(End::Completed));
    assert_eq!(world.requests[&waiting].is, Is::Ended(End::Refused));
    assert!(world.schedule.is_drained());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Where nothing else comes, a request begins when it was foreseen to.
    #[test]
    fn what_is_foreseen_comes_about(
        slots in 1..4usize,
        before in prop::collection::vec((0..3usize, 0..4u8, 1..100u32), 0..25),
        class in 0..3usize,
    ) {
        let mut world = taught(boundless(), slots);
        for (class, device, answer) in before {
            world.submit(&ask(Priority::ALL[class], &device.to_string(), answer)).unwrap();
        }
        // Refused, and told when it would end.
        let hopeless = Ask { priority: Priority::ALL[class], ..by(1, 50) };
        let (why, _) = world.submit(&hopeless).unwrap_err();
        let Why::TooLate { ends_in, .. } = why else { panic!("{why:?}") };
        let id = world.submit(&Ask { deadline: None, ..hopeless }).unwrap();
        let asked = world.now;
        while world.requests[&id].began.is_none() {
            world.advance(ms(10));
        }
        let begins_in = world.requests[&id].began.unwrap() - asked;
        prop_assert!(near(ends_in, begins_in + ms(500)), "{:?} foreseen, {:?}", ends_in, begins_in + ms(500));
    }

    #[test]
    fn who_finds_it_full_gets_in_when_told_to_ask_again(
        slots in 1..4usize,
        answers in prop::collection::vec((0..8u8, 10..200u32), 80),
        bound in 0..3usize,
    ) {
        let mut config = boundless();
        match bound {
            0 => config.max_queued = 12,
            1 => config.max_queued_of_class.interactive = 12,
            _ => config.max_queued_of_device = 4,
        }
        let mut world = taught(config, slots);
        let mut refusals = 0;
        for (device, answer) in answers {
            let ask = ask(CLASS, &device.to_string(), answer);
            let Err((why, retry_after)) = world.submit(&ask) else { continue };
            prop_assert!(matches!(why, Why::Full { .. }), "{why:?}");
            refusals += 1;
            let retry_after = retry_after.unwrap();
            world.advance(retry_after + (retry_after / 20).max(ms(25)));
            prop_assert!(world.submit(&ask).is_ok(), "told {retry_after:?}");
        }
        prop_assert!(refusals > 5);
    }
}

#[test]
fn before_anything_was_learnt_who_finds_it_full_hears_the_configured_wait() {
    let mut world = World::new(
        ScheduleConfig {
            max_queued_of_device: 1,
            ..config()
        },
        1,
    );
    for _ in 0..2 {
        world.submit(&ask(CLASS, "a", 10)).unwrap();
    }
    let full = Why::Full {
        bound: Bound::Device,
        most: 1,
    };
    assert_eq!(
        world.submit(&ask(CLASS, "a", 10)),
        Err((full, Some(Duration::from_secs(1))))
    );
    // Another class of the same device has room of its own.
    world.submit(&ask(Priority::Background, "a", 10)).unwrap();
}
