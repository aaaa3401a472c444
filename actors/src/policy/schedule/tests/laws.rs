//! Whatever happens, in whatever order.

use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use super::world::{Ask, Is, World, ask, config};

#[derive(Clone, Debug)]
enum Act {
    Submit(Ask),
    Advance(Duration),
    Cancel(prop::sample::Index),
    End(prop::sample::Index, End),
    LoseWorker,
    SetSlots(usize),
    HoldBackground(bool),
    Drain,
}

fn asks() -> impl Strategy<Value = Ask> {
    let deadline = prop::option::weighted(0.3, 0u64..3000);
    let what = (0..3usize, 0..4u8, 0..200u32, 0..100u32, deadline);
    what.prop_map(|(class, device, prompt, answer, deadline)| Ask {
        priority: Priority::ALL[class],
        device: format!("device-{device}"),
        prompt,
        answer,
        deadline: deadline.map(Duration::from_millis),
    })
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        40 => asks().prop_map(Act::Submit),
        25 => (0..1500u64).prop_map(|ms| Act::Advance(Duration::from_millis(ms))),
        6 => any::<prop::sample::Index>().prop_map(Act::Cancel),
        3 => (any::<prop::sample::Index>(), prop::sample::select(End::ALL.to_vec()))
            .prop_map(|(which, end)| Act::End(which, end)),
        2 => Just(Act::LoseWorker),
        6 => (0..5usize).prop_map(Act::SetSlots),
        3 => any::<bool>().prop_map(Act::HoldBackground),
    ];
    let drains = prop::option::weighted(0.1, Just(Act::Drain));
    (prop::collection::vec(act, 0..150), drains, asks()).prop_map(|(mut acts, drain, late)| {
        acts.extend(
            drain
                .map(|drain| [drain, Act::Submit(late)])
                .into_iter()
                .flatten(),
        );
        acts
    })
}

fn play(acts: &[Act], slots: usize) -> World {
    let mut world = World::new(config(), slots);
    for act in acts {
        match act {
            Act::Submit(ask) => {
                let _ = world.submit(ask);
            }
            Act::Advance(by) => world.advance(*by),
            Act::Cancel(which) => world.cancel(which.index(world.requests.len() + 1) as u64),
            Act::End(which, end) if !world.requests.is_empty() => {
                world.end(which.index(world.requests.len()) as u64, *end);
            }
            Act::End(..) => {}
            Act::LoseWorker => {
                world.lose_worker();
            }
            Act::SetSlots(slots) => world.set_slots(*slots),
            Act::HoldBackground(is_held) => world.hold_background(*is_held),
            Act::Drain => world.drain(),
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// The world checks each decision, and the law after each.
    #[test]
    fn the_law_and_the_promises_hold_after_every_act(acts in acts(), slots in 0..5usize) {
        let mut world = play(&acts, slots);
        // What is paused, lost or waiting comes to its end if nothing stands in the way.
        world.hold_background(false);
        world.set_slots(2);
        world.run_out();
        for priority in Priority::ALL {
            let counts = world.schedule.account().of(priority);
            prop_assert_eq!((counts.running, counts.queued), (0, 0));
        }
        prop_assert!(world.schedule.is_drained());
    }

    #[test]
    fn the_same_acts_bring_the_same_decisions(acts in acts(), slots in 0..5usize) {
        // Instants differ between two runs; deadlines are told by them.
        let trace = |world: World| {
            world.trace.into_iter().map(|line| {
                let cut = line.find("deadline").map_or(line.len(), |at| at);
                line[..cut].to_owned()
            }).collect::<Vec<_>>()
        };
        prop_assert_eq!(trace(play(&acts, slots)), trace(play(&acts, slots)));
    }
}

#[test]
fn an_urgent_request_takes_the_place_of_the_youngest_background_one_which_then_goes_on() {
    let mut world = World::new(config(), 3);
    let submit = |world: &mut World, priority, device: &str, answer| {
        world.submit(&ask(priority, device, answer)).unwrap()
    };
    let old = submit(&mut world, Priority::Background, "a", 500);
    let young = submit(&mut world, Priority::Background, "b", 500);
    let interactive = submit(&mut world, Priority::Interactive, "c", 500);
    let urgent = submit(&mut world, Priority::Urgent, "d", 10);
    let is = |world: &World, id: u64| world.requests[&id].is;
    let states = |world: &World| [old, young, interactive, urgent].map(|id| is(world, id));
    assert_eq!(
        states(&world),
        [Is::Running, Is::Paused, Is::Running, Is::Running]
    );
    // Nothing of its class begins before it, and an interactive one does.
    let later = submit(&mut world, Priority::Background, "e", 10);
    world.advance(Duration::from_millis(200));
    assert_eq!(is(&world, urgent), Is::Ended(End::Completed));
    assert_eq!(
        [young, later].map(|id| is(&world, id)),
        [Is::Running, Is::Waiting]
    );
}

#[test]
fn what_is_paused_grows_old_from_then_on_and_not_from_when_it_began() {
    let mut world = World::new(config(), 1);
    let background = world.submit(&ask(Priority::Background, "a", 1000)).unwrap();
    world.advance(Duration::from_secs(4));
    world.submit(&ask(Priority::Urgent, "b", 10)).unwrap();
    let interactive = world.submit(&ask(Priority::Interactive, "c", 100)).unwrap();
    world.advance(Duration::from_millis(200));
    let states = |world: &World| [background, interactive].map(|id| world.requests[&id].is);
    assert_eq!(states(&world), [Is::Paused, Is::Running]);
}

#[test]
fn what_lost_its_worker_is_begun_anew_in_its_order_and_before_anything_else_of_its_class() {
    let mut world = World::new(config(), 2);
    let ids: Vec<_> = (0..5)
        .map(|number| {
            let priority = if number == 4 {
                Priority::Urgent
            } else {
                Priority::Interactive
            };
            world.submit(&ask(priority, &format!("d{number}"), 100)).unwrap()
        })
        .collect();
    world.lose_worker();
    world.trace.clear();
    world.set_slots(1);
    world.run_out();
    let begun = |line: &String| line.starts_with("Start") || line.starts_with("Re");
    let order: Vec<_> = world.trace.iter().filter(|line| begun(line)).collect();
    let expected = [
        format!("Restart {{ id: {} }}", ids[4]),
        format!("Restart {{ id: {} }}", ids[0]),
        format!("Restart {{ id: {} }}", ids[1]),
    ];
    assert_eq!(&order[..3], &expected.iter().collect::<Vec<_>>());
    assert_eq!(order.len(), 5);
}

#[test]
fn what_lost_its_worker_twice_keeps_its_place_before_what_grew_older_waiting() {
    let mut world = World::new(config(), 2);
    let [first, second] = ["a", "b"].map(|device| {
        let ask = ask(Priority::Background, device, 1000);
        world.submit(&ask).unwrap()
    });
    world.lose_worker();
    world.set_slots(1);
    world.advance(Duration::from_millis(1900));
    world.lose_worker();
    world.advance(Duration::from_millis(200));
    world.set_slots(1);
    assert_eq!(
        [first, second].map(|id| world.requests[&id].is),
        [Is::Running, Is::Lost]
    );
}

#[test]
fn background_work_pauses_while_memory_is_short_though_places_are_free() {
    let mut world = World::new(config(), 4);
    let running = world.submit(&ask(Priority::Background, "a", 100)).unwrap();
    world.hold_background(true);
    let waiting = world.submit(&ask(Priority::Background, "b", 100)).unwrap();
    world.advance(Duration::from_secs(60));
    let states = |world: &World| [running, waiting].map(|id| world.requests[&id].is);
    assert_eq!(states(&world), [Is::Paused, Is::Waiting]);
    world.hold_background(false);
    assert_eq!(states(&world), [Is::Running, Is::Running]);
}

#[test]
fn a_name_is_taken_once() {
    let mut schedule = Schedule::new(config());
    let entry = Entry {
        id: 1,
        priority: Priority::Interactive,
        device: "a".into(),
        deadline: None,
        tokens: Tokens::default(),
        payload: (),
    };
    let now = std::time::Instant::now();
    assert_eq!(schedule.submit(now, entry.clone()), Ok(()));
    assert_eq!(
        schedule.submit(now, entry.clone()).unwrap_err().why,
        Why::NameTaken
    );
    schedule.set_slots(1);
    schedule.decide(now);
    assert_eq!(schedule.submit(now, entry).unwrap_err().why, Why::NameTaken);
    assert_eq!(schedule.check(), Ok(()));
}
