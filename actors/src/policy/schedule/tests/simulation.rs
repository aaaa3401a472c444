//! Ten thousand requests of a day that is too full.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::*;
use super::world::{Ask, Is, Known, World, config};

/// Marsaglia's xorshift: the same seed, the same day.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Of the requests of one class.
#[derive(Default)]
struct Tally {
    ended: BTreeMap<&'static str, u64>,
    began: u32,
    waited: Duration,
    longest: Duration,
}

impl Tally {
    fn add(&mut self, known: &Known) {
        let Is::Ended(end) = known.is else { return };
        *self.ended.entry(end.as_str()).or_default() += 1;
        if let Some(began) = known.began {
            let waited = began - known.came;
            self.began += 1;
            self.waited += waited;
            self.longest = self.longest.max(waited);
        }
    }

    fn mean(&self) -> Duration {
        self.waited / self.began
    }
}

/// Four places, almost as much work as they can do, and all that can go wrong.
fn day(seed: u64) -> PerPriority<Tally> {
    let mut dice = Dice(seed);
    let config = ScheduleConfig {
        max_queued_of_class: PerPriority {
            urgent: 10,
            interactive: 15,
            background: 15,
        },
        ageing: Ageing {
            background_after: Duration::from_secs(30),
            oldest_first_after: Duration::from_secs(120),
        },
        ..config()
    };
    let mut world = World::new(config, 4);
    let mut totals: PerPriority<Tally> = PerPriority::default();
    for number in 1..=10_000u32 {
        let priority = match dice.throw(100) {
            0..8 => Priority::Urgent,
            8..70 => Priority::Interactive,
            _ => Priority::Background,
        };
        let ask = Ask {
            priority,
            device: dice.throw(12).to_string(),
            prompt: dice.throw(200) as u32,
            answer: 1 + dice.throw(100) as u32,
            deadline: (dice.throw(10) == 0).then(|| Duration::from_millis(dice.throw(5000))),
        };
        let _ = world.submit(&ask);
        let any = |dice: &mut Dice, world: &World| {
            let which = dice.throw(world.requests.len() as u64) as usize;
            world.requests.keys().nth(which).copied().unwrap_or_default()
        };
        match dice.throw(2000) {
            0..4 => {
                // One in every few of those that ran is to blame.
                for blamed in world.lose_worker().ran.into_iter().take(dice.throw(2) as usize) {
                    world.end(blamed, End::DeadLettered);
                }
                world.advance(Duration::from_millis(1500));
                world.set_slots(4);
            }
            4 => world.set_slots(1 + dice.throw(6) as usize),
            5..25 => world.set_slots(4),
            25..35 => world.hold_background(true),
            35..135 => world.hold_background(false),
            135..150 => {
                let failing = any(&mut dice, &world);
                world.end(failing, End::Failed);
            }
            150..230 => {
                let unwanted = any(&mut dice, &world);
                world.cancel(unwanted);
            }
            _ => {}
        }
        world.advance(Duration::from_millis(dice.throw(270)));
        if number % 50 == 0 {
            for known in world.put_away() {
                totals[known.priority].add(&known);
            }
        }
    }
    world.hold_background(false);
    world.set_slots(4);
    world.run_out();
    for known in world.put_away() {
        totals[known.priority].add(&known);
    }
    totals
}

#[test]
fn ten_thousand_requests_end_each_in_a_named_way_and_who_matters_more_waits_less() {
    let totals = day(0x5eed);
    for (priority, tally) in totals.iter() {
        println!(
            "{}: {:?}, {} began after {:?} on average, {:?} at most",
            priority.as_str(),
            tally.ended,
            tally.began,
            tally.mean(),
            tally.longest
        );
    }
    let all = || totals.iter().map(|(_, tally)| tally);
    assert_eq!(all().flat_map(|tally| tally.ended.values()).sum::<u64>(), 10_000);
    for end in End::ALL {
        assert!(
            all().any(|tally| tally.ended.contains_key(end.as_str())),
            "{end:?}"
        );
    }
    let [urgent, interactive, background] = Priority::ALL.map(|priority| totals[priority].mean());
    assert!(urgent * 10 < interactive, "{urgent:?}, {interactive:?}");
    assert!(interactive * 2 < background, "{interactive:?}, {background:?}");
}
