//! The governor at work on a machine that is made up, with virtual time: whatever other programs and requests do.

use std::time::{Duration, Instant};

use models::Precision;
use platform::memory::{Limit, MachineMemory};
use proptest::prelude::*;

use super::{Action, Governor, GovernorSettings, ModelReading, Reading};

const MB: u64 = 1_000_000;
const GB: u64 = 1_000 * MB;
const INTERVAL: Duration = Duration::from_secs(2);
const LOWEST: Precision = Precision::Int4;

/// A machine, perhaps with a control group that the hub is in, and the hub.
#[derive(Clone, Debug)]
struct World {
    total_bytes: u64,
    group_bytes: Option<u64>,
    /// What the hub has beside weights, keys and values.
    overhead_bytes: u64,
    int4_bytes: u64,
    precision: Precision,
    step: Option<(Precision, u32)>,
    /// Readings that a step takes.
    step_readings: u32,
    running_bytes: u64,
    kept_bytes: u64,
    budget_bytes: u64,
    is_paused: bool,
}

/// What others want in the time between two readings.
#[derive(Clone, Copy, Debug)]
struct Load {
    other_programs_bytes: u64,
    interactive_bytes: u64,
    background_bytes: u64,
}

/// A decision and what it was made of.
#[derive(Clone, Debug)]
struct Step {
    at: Duration,
    reading: Reading,
    action: Action,
}

impl World {
    fn weights_bytes(&self, precision: Precision) -> u64 {
        match precision {
            Precision::Int4 => self.int4_bytes,
            Precision::Int8 => self.int4_bytes * 19 / 10,
            Precision::F16 | Precision::F32 => self.int4_bytes * 7 / 2,
        }
    }

    fn live(&mut self, load: Load) {
        if let Some((to, readings)) = self.step.take() {
            match readings.checked_sub(1) {
                None => self.precision = to,
                left => self.step = left.map(|left| (to, left)),
            }
        }
        let background_bytes = if self.is_paused { 0 } else { load.background_bytes };
        let running_bytes = (load.interactive_bytes + background_bytes).min(self.budget_bytes);
        self.kept_bytes += self.running_bytes.saturating_sub(running_bytes);
        self.running_bytes = running_bytes;
        self.kept_bytes = self.kept_bytes.min(self.budget_bytes - running_bytes);
    }

    fn reading(&self, load: Load) -> Reading {
        let own = self.overhead_bytes + self.running_bytes + self.kept_bytes;
        let weights_bytes = self.weights_bytes(self.precision);
        let memory = |total_bytes: u64, used_bytes: u64, limit| {
            let available_bytes = total_bytes.saturating_sub(used_bytes);
            MachineMemory {
                total_bytes,
                available_bytes,
                file_cache_bytes: weights_bytes.min(available_bytes),
                limit,
            }
        };
        let machine = memory(self.total_bytes, own + load.other_programs_bytes, Limit::Machine);
        let group = self
            .group_bytes
            .map(|bytes| memory(bytes, own, Limit::Group("/group".into())));
        let limits: Vec<_> = std::iter::once(machine).chain(group).collect();
        let resident_bytes = limits.iter().map(|memory| memory.file_cache_bytes).min();
        Reading {
            limits,
            pressure: None,
            refaulted_bytes: None,
            model: Some(ModelReading {
                precision: self.precision,
                packed: [Precision::F16, Precision::Int8, Precision::Int4]
                    .map(|precision| (precision, self.weights_bytes(precision)))
                    .into(),
                mapped_bytes: weights_bytes,
                resident_bytes,
                kv_running_bytes: self.running_bytes,
                kv_kept_bytes: self.kept_bytes,
                kv_budget_bytes: self.budget_bytes,
                is_background_paused: self.is_paused,
                is_stepping: self.step.is_some(),
            }),
        }
    }

    fn obey(&mut self, action: Action) {
        match action {
            Action::Rest => {}
            Action::FreeKept { bytes } => self.kept_bytes = self.kept_bytes.saturating_sub(bytes),
            Action::SetKvBudget { bytes } => self.budget_bytes = bytes,
            Action::PauseBackground => self.is_paused = true,
            Action::ResumeBackground => self.is_paused = false,
            Action::StepDown { to } | Action::StepUp { to } => self.step = Some((to, self.step_readings)),
        }
    }
}

/// A world and its governor.
#[derive(Debug)]
struct Simulation {
    world: World,
    governor: Governor,
    start: Instant,
    passed: Duration,
}

impl Simulation {
    fn new(world: World, settings: GovernorSettings) -> Self {
        Self {
            world,
            governor: Governor::new(settings),
            start: Instant::now(),
            passed: Duration::ZERO,
        }
    }

    fn run(&mut self, loads: impl IntoIterator<Item = Load>) -> Vec<Step> {
        let one = |load| {
            self.world.live(load);
            let reading = self.world.reading(load);
            let at = self.passed;
            let action = self.governor.decide(self.start + at, &reading).action;
            self.world.obey(action);
            self.passed += INTERVAL;
            Step { at, reading, action }
        };
        loads.into_iter().map(one).collect()
    }

    fn settings(&self) -> &GovernorSettings {
        self.governor.settings()
    }

    /// Readings in which everything is given up: what was kept, the budget piece by piece, background requests, and the
    /// precision, after a step that may be under way.
    fn readings_to_give_up(&self) -> usize {
        3 * (readings(self.settings().dwell) + self.world.step_readings as usize + 1) + self.pieces() + 3
    }

    /// Readings in which everything comes back that there is room for, with the longest waits before steps.
    fn readings_to_take_back(&self) -> usize {
        let settings = self.settings();
        let a_step = readings(settings.dwell * 16 + settings.settle) + self.world.step_readings as usize + 3;
        2 * a_step + (self.pieces() + 4) * readings(settings.settle)
    }

    fn pieces(&self) -> usize {
        let all = self.settings().kv_bytes;
        all.div_ceil((all / 8).clamp(1, 256 << 20)) as usize
    }

    /// What other programs may have, so that threshold and margin stay free in this state with all of the budget used.
    /// None where they would not even without other programs.
    fn left_for_others(&self, precision: Precision, kv_bytes: u64) -> Option<u64> {
        let settings = self.settings();
        let used = self.world.overhead_bytes + kv_bytes + self.world.weights_bytes(precision) + MB;
        let percent = u64::from(settings.keep_free_percent + settings.recovery_margin_percent);
        let left = |total: u64| total.checked_sub(used + total * percent / 100);
        left(self.world.group_bytes.unwrap_or(u64::MAX / 100))?;
        left(self.world.total_bytes)
    }
}

fn readings(time: Duration) -> usize {
    time.as_secs().div_ceil(INTERVAL.as_secs()) as usize + 1
}

/// How much is free of each limit beyond what is to be kept, with that many bytes taken of it.
fn least_spare(reading: &Reading, taken_bytes: u64, keep_percent: u8) -> i64 {
    let spare = |memory: &MachineMemory| {
        let kept = memory.total_bytes * u64::from(keep_percent) / 100;
        memory.available_bytes as i64 - taken_bytes as i64 - kept as i64
    };
    reading.limits.iter().map(spare).min().unwrap()
}

fn precision_changes(steps: &[Step]) -> Vec<(Duration, Precision)> {
    let of = |step: &Step| (step.at, step.reading.model.as_ref().unwrap().precision);
    let pairs = steps.windows(2).map(|pair| [of(&pair[0]), of(&pair[1])]);
    pairs
        .filter(|[before, after]| before.1 != after.1)
        .map(|[_, after]| after)
        .collect()
}

/// Sizes go by hundredths of the machine, so that everything matters to everything.
fn a_simulation() -> impl Strategy<Value = Simulation> {
    let times = (4_u64..60, 0_u64..12, 10_u64..200, 0_u32..4);
    let percents = (5_u8..30, 1_u8..10);
    let precision = prop::sample::select(vec![Precision::F16, Precision::Int8, Precision::Int4]);
    let sizes = (
        4..64_u64,
        1..20_u64,
        1..50_u64,
        0..=8_u64,
        prop::option::of(30..100_u64),
    );
    (times, percents, precision, sizes).prop_map(|(times, percents, precision, sizes)| {
        let (dwell, settle, longest_pause, step_readings) = times;
        let (total, int4, kv, smallest, group) = sizes;
        let total_bytes = total * GB;
        let kv_bytes = total_bytes / 100 * kv;
        let world = World {
            total_bytes,
            group_bytes: group.map(|group| total_bytes / 100 * group),
            overhead_bytes: 200 * MB,
            int4_bytes: total_bytes / 100 * int4,
            precision,
            step: None,
            step_readings,
            running_bytes: 0,
            kept_bytes: 0,
            budget_bytes: kv_bytes,
            is_paused: false,
        };
        let settings = GovernorSettings {
            keep_free_percent: percents.0,
            recovery_margin_percent: percents.1,
            dwell: Duration::from_secs(dwell),
            settle: Duration::from_secs(settle),
            longest_pause: Duration::from_secs(longest_pause),
            precision,
            kv_bytes,
            smallest_kv_bytes: kv_bytes / 8 * smallest,
        };
        Simulation::new(world, settings)
    })
}

/// What other programs have, in thousandths of the machine: a random walk, a sawtooth, or steps.
fn a_trace() -> impl Strategy<Value = Vec<u64>> {
    let walk = (0..1_000_i64, prop::collection::vec(-60..60_i64, 1..400)).prop_map(|(start, steps)| {
        let mut level = start;
        let mut next = |step: i64| {
            level = (level + step).clamp(0, 1_000);
            level as u64
        };
        steps.into_iter().map(&mut next).collect::<Vec<_>>()
    });
    let sawtooth =
        (0..1_000_u64, 0..1_000_u64, 2..120_u64, 1..400_u64).prop_map(|(low, high, period, length)| {
            let level = move |at: u64| low + high.saturating_sub(low) * (at % period) / period;
            (0..length).map(level).collect()
        });
    let steps = prop::collection::vec((0..1_000_u64, 1..120_usize), 1..8).prop_map(|steps| {
        let step = |(level, length)| std::iter::repeat_n(level, length);
        steps.into_iter().flat_map(step).collect()
    });
    prop_oneof![walk, sawtooth, steps]
}

/// What requests want, interactive and background ones, in thousandths of the machine, over and over.
type Demand = Vec<(u64, u64)>;

fn a_demand() -> impl Strategy<Value = Demand> {
    prop_oneof![
        prop::collection::vec((0..400_u64, 0..400_u64), 1..40),
        // Seldom anything.
        prop::collection::vec((0..20_u64, 0..20_u64), 1..40),
        (1..60_usize, 0..400_u64, 0..400_u64).prop_map(|(quiet, interactive, background)| {
            let mut demand = vec![(0, 0); quiet];
            demand.extend(std::iter::repeat_n((interactive, background), quiet));
            demand
        }),
    ]
}

/// Each reading's load.
fn loads(world: &World, others: impl IntoIterator<Item = u64>, demand: &Demand) -> Vec<Load> {
    let thousandth = world.total_bytes / 1_000;
    let load = |(other_programs_bytes, (interactive, background)): (u64, &(u64, u64))| Load {
        other_programs_bytes,
        interactive_bytes: interactive * thousandth,
        background_bytes: background * thousandth,
    };
    let others = others.into_iter();
    others.zip(demand.iter().cycle()).map(load).collect()
}

impl Simulation {
    /// Other programs go by a trace.
    fn run_trace(&mut self, trace: &[u64], demand: &Demand) -> Vec<Step> {
        let bytes = trace.iter().map(|level| self.world.total_bytes / 1_000 * level);
        self.run(loads(&self.world, bytes, demand))
    }

    /// Other programs keep still.
    fn run_still(&mut self, other_programs_bytes: u64, readings: usize, demand: &Demand) -> Vec<Step> {
        let bytes = std::iter::repeat_n(other_programs_bytes, readings);
        self.run(loads(&self.world, bytes, demand))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 100_000, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn the_precision_changes_at_most_once_a_dwell_whatever_others_do(
        mut simulation in a_simulation(), trace in a_trace(), demand in a_demand(),
    ) {
        let steps = simulation.run_trace(&trace, &demand);
        let changes = precision_changes(&steps);
        for pair in changes.windows(2) {
            prop_assert!(pair[1].0 - pair[0].0 >= simulation.settings().dwell, "{:?}", changes);
        }
    }

    #[test]
    fn every_decision_keeps_to_the_settings(
        mut simulation in a_simulation(), trace in a_trace(), demand in a_demand(),
    ) {
        let steps = simulation.run_trace(&trace, &demand);
        let settings = simulation.settings();
        for Step { reading, action, .. } in &steps {
            let model = reading.model.as_ref().unwrap();
            match *action {
                Action::Rest => {}
                Action::FreeKept { bytes } => prop_assert!(0 < bytes && bytes <= model.kv_kept_bytes),
                Action::SetKvBudget { bytes } => {
                    prop_assert!(settings.smallest_kv_bytes <= bytes && bytes <= settings.kv_bytes);
                    prop_assert_ne!(bytes, model.kv_budget_bytes);
                }
                Action::PauseBackground => prop_assert!(!model.is_background_paused),
                Action::ResumeBackground => prop_assert!(model.is_background_paused),
                Action::StepDown { to } => {
                    prop_assert!(to > model.precision && !model.is_stepping);
                    prop_assert_eq!(model.kv_budget_bytes, settings.smallest_kv_bytes, "keys and values go first");
                }
                Action::StepUp { to } => {
                    prop_assert!(settings.precision <= to && to < model.precision && !model.is_stepping);
                }
            }
        }
    }

    #[test]
    fn nothing_is_taken_back_that_could_bring_memory_below_the_threshold(
        mut simulation in a_simulation(), trace in a_trace(), demand in a_demand(),
    ) {
        let steps = simulation.run_trace(&trace, &demand);
        let settings = simulation.settings();
        for Step { reading, action, .. } in &steps {
            let model = reading.model.as_ref().unwrap();
            let kv_bytes = model.kv_running_bytes + model.kv_kept_bytes;
            let (precision, budget) = match *action {
                Action::StepUp { to } => (to, model.kv_budget_bytes),
                Action::SetKvBudget { bytes } if bytes > model.kv_budget_bytes => (model.precision, bytes),
                _ => continue,
            };
            let taken = simulation.world.weights_bytes(precision) + budget.saturating_sub(kv_bytes);
            let goal = settings.keep_free_percent + settings.recovery_margin_percent;
            prop_assert!(least_spare(reading, taken, goal) >= 0, "{:?} {:?}", action, reading);
        }
    }

    #[test]
    fn under_pressure_that_lasts_everything_is_given_up_in_bounded_time(
        mut simulation in a_simulation(), trace in a_trace(), demand in a_demand(),
    ) {
        simulation.run_trace(&trace, &demand);
        let everything = simulation.world.total_bytes;
        let in_time = simulation.readings_to_give_up();
        simulation.run_still(everything, in_time, &demand);
        let world = &simulation.world;
        prop_assert_eq!(world.precision, LOWEST);
        prop_assert_eq!(world.budget_bytes, simulation.settings().smallest_kv_bytes);
        prop_assert!(world.running_bytes + world.kept_bytes <= world.budget_bytes);
        // And stays so; nobody is paused for ever.
        let until_then = readings(simulation.settings().longest_pause);
        simulation.run_still(everything, until_then, &demand);
        prop_assert!(!simulation.world.is_paused);
        let steps = simulation.run_still(everything, 200, &demand);
        // What ended requests leave only then is let go of once.
        let others: Vec<_> = steps.iter().filter(|step| step.action != Action::Rest).collect();
        prop_assert!(others.len() <= 1, "{:?}", others);
        prop_assert!(others.iter().all(|step| matches!(step.action, Action::FreeKept { .. })), "{:?}", others);
    }

    #[test]
    fn when_the_pressure_is_over_everything_comes_back_in_bounded_time(
        mut simulation in a_simulation(), trace in a_trace(), demand in a_demand(), low in 0..=64_u64,
    ) {
        simulation.run_trace(&trace, &demand);
        let (precision, kv_bytes) = (simulation.settings().precision, simulation.settings().kv_bytes);
        let Some(left) = simulation.left_for_others(precision, kv_bytes) else {
            return Err(TestCaseError::reject("the settings do not fit the machine"));
        };
        let other = left / 64 * low;
        let in_time = simulation.readings_to_take_back();
        simulation.run_still(other, in_time, &demand);
        let world = &simulation.world;
        prop_assert_eq!((world.precision, world.budget_bytes, world.is_paused), (precision, kv_bytes, false));
        let steps = simulation.run_still(other, 100, &demand);
        prop_assert!(steps.iter().all(|step| step.action == Action::Rest), "{:?}", steps);
    }

    #[test]
    fn while_others_keep_still_it_never_trips_again(
        mut simulation in a_simulation(), trace in a_trace(), demand in a_demand(), level in 0..=64_u64,
    ) {
        simulation.run_trace(&trace, &demand);
        let Some(left) = simulation.left_for_others(LOWEST, simulation.settings().smallest_kv_bytes) else {
            return Err(TestCaseError::reject("nothing fits the machine"));
        };
        let other = left / 64 * level;
        let in_time = simulation.readings_to_give_up() + simulation.readings_to_take_back();
        // What was promised before is asked for once a round, or once a pause is over; either may take a precision.
        let until_then = 3 * (demand.len() + readings(simulation.settings().longest_pause));
        simulation.run_still(other, in_time + until_then + in_time, &demand);
        let steps = simulation.run_still(other, in_time, &demand);
        for step in &steps {
            let weights_bytes = simulation.world.weights_bytes(step.reading.model.as_ref().unwrap().precision);
            let keep = simulation.settings().keep_free_percent;
            prop_assert!(least_spare(&step.reading, weights_bytes, keep) >= 0, "{:?}", step);
            prop_assert!(!matches!(step.action, Action::StepDown { .. } | Action::PauseBackground), "{:?}", step);
        }
    }
}
