use std::time::{Duration, Instant};

use models::Precision::{self, F16, Int4, Int8};
use platform::memory::{Limit, MachineMemory, MemoryPressure, PressureLevel};

use super::{Action, Decision, Governor, GovernorSettings, ModelReading, Reading};

const GB: u64 = 1_000_000_000;
const INTERVAL: Duration = Duration::from_secs(2);

fn settings() -> GovernorSettings {
    GovernorSettings {
        keep_free_percent: 20,
        recovery_margin_percent: 5,
        dwell: Duration::from_secs(30),
        settle: Duration::from_secs(4),
        longest_pause: Duration::from_secs(1_000),
        precision: F16,
        kv_bytes: 2 * GB,
        smallest_kv_bytes: GB / 2,
    }
}

fn machine(total_bytes: u64, available_bytes: u64) -> MachineMemory {
    MachineMemory {
        total_bytes,
        available_bytes,
        file_cache_bytes: available_bytes,
        limit: Limit::Machine,
    }
}

/// A machine of 20 GB with f16 weights of 6 GB, all mapped, and so much available.
fn reading(available_bytes: u64) -> Reading {
    Reading {
        limits: vec![machine(20 * GB, available_bytes)],
        pressure: None,
        refaulted_bytes: None,
        model: Some(ModelReading {
            precision: F16,
            packed: vec![(Int4, 2 * GB), (F16, 6 * GB), (Int8, 3 * GB)],
            mapped_bytes: 6 * GB,
            resident_bytes: Some(6 * GB),
            kv_running_bytes: GB,
            kv_kept_bytes: GB / 2,
            kv_budget_bytes: 2 * GB,
            is_background_paused: false,
            is_stepping: false,
        }),
    }
}

fn with(available_bytes: u64, change: impl FnOnce(&mut ModelReading)) -> Reading {
    let mut reading = reading(available_bytes);
    change(reading.model.as_mut().unwrap());
    reading
}

/// Shows the same reading, obeyed at once, until nothing has been done for so many of them.
fn until_rest(governor: &mut Governor, now: &mut Instant, reading: &mut Reading, rests: u32) -> Vec<Action> {
    let (mut actions, mut rested) = (Vec::new(), 0);
    while rested < rests {
        let action = governor.decide(*now, reading).action;
        *now += INTERVAL;
        let model = reading.model.as_mut().unwrap();
        match action {
            Action::Rest => rested += 1,
            Action::FreeKept { bytes } => model.kv_kept_bytes -= bytes,
            Action::SetKvBudget { bytes } => model.kv_budget_bytes = bytes,
            Action::PauseBackground => model.is_background_paused = true,
            Action::ResumeBackground => model.is_background_paused = false,
            Action::StepDown { to } | Action::StepUp { to } => {
                model.precision = to;
                model.mapped_bytes = model.weights_bytes(to).unwrap();
                model.resident_bytes = Some(model.mapped_bytes);
            }
        }
        if action != Action::Rest {
            actions.push(action);
            rested = 0;
        }
    }
    actions
}

#[test]
fn the_cheapest_goes_first_and_what_comes_back_leaves_room_for_the_precision() {
    let (mut governor, mut now) = (Governor::new(settings()), Instant::now());
    // Of 20 GB 7 are available, of which f16's weights need 6: 1 is free, and 4 are wanted. Nothing helps for long here,
    // as the other programs take what is given up.
    let mut reading = reading(7 * GB);
    let down = until_rest(&mut governor, &mut now, &mut reading, 2);
    let kept = GB / 2;
    assert_eq!(
        down,
        [
            Action::FreeKept { bytes: kept },
            Action::PauseBackground,
            Action::SetKvBudget { bytes: GB / 2 },
            Action::StepDown { to: Int8 },
        ]
    );
    let rest = governor.decide(now, &reading);
    assert_eq!(
        rest.action,
        Action::Rest,
        "7 GB less 3 leave 20 %: {}",
        rest.reason
    );

    // The others go. f16 fits, but has to wait for the dwell; nobody else is kept waiting, and nobody takes its place.
    for (available_bytes, budget_bytes) in [(16 * GB, 2 * GB), (11 * GB + GB / 5, GB + GB / 5)] {
        let mut reading = reading.clone();
        reading.limits = vec![machine(20 * GB, available_bytes)];
        let mut governor = Governor::new(settings());
        governor.pace.asked(now);
        let up = [
            Action::ResumeBackground,
            Action::SetKvBudget { bytes: budget_bytes },
            Action::StepUp { to: F16 },
        ];
        assert_eq!(until_rest(&mut governor, &mut now.clone(), &mut reading, 40), up);
    }
}

#[test]
fn what_would_suffice_is_tried_before_more_is_given_up() {
    let (mut governor, mut now) = (Governor::new(settings()), Instant::now());
    // 100 MB are missing of threshold and margin, and the margin is always asked for.
    let mut short = reading(9 * GB + 900_000_000);
    let decision = governor.decide(now, &short);
    assert_eq!(decision.action, Action::FreeKept { bytes: GB / 2 });
    let free = "19 % free (3.9 GB of 20.0 GB), under 20 %: 500 MB that ended requests left are let go of";
    assert_eq!(decision.reason, free);
    // The budget of what runs is bounded before anything is paused, and only as far as needed.
    short.model.as_mut().unwrap().kv_kept_bytes = 0;
    short.model.as_mut().unwrap().kv_budget_bytes = 2 * GB;
    short.model.as_mut().unwrap().kv_running_bytes = 1_900_000_000;
    short.limits = vec![machine(20 * GB, 9_950_000_000)];
    now += INTERVAL;
    assert_eq!(governor.decide(now, &short).action, Action::PauseBackground);
    short.model.as_mut().unwrap().is_background_paused = true;
    now += INTERVAL;
    let decision = governor.decide(now, &short);
    assert_eq!(decision.action, Action::SetKvBudget { bytes: 850_000_000 });
}

#[test]
fn reading_the_weights_for_the_first_time_changes_nothing() {
    let free = |resident: u64| {
        let reading = with(9 * GB, |model| model.resident_bytes = Some(resident));
        (
            reading.room(20).unwrap().free_bytes,
            reading.room_at(F16, 20).unwrap().free_bytes,
        )
    };
    // The account of now follows what is in memory; what is built up goes by the whole from the beginning.
    assert_eq!(free(0), (9 * GB, 3 * GB));
    assert_eq!(free(2 * GB), (7 * GB, 3 * GB));
    assert_eq!(free(6 * GB), (3 * GB, 3 * GB));
    let unknown = with(9 * GB, |model| model.resident_bytes = None);
    assert_eq!(unknown.room(20).unwrap().free_bytes, 3 * GB);
    let room = unknown.room(20).unwrap();
    assert_eq!((room.free_percent(), room.spare(), room.missing()), (15, 0, GB));
}

#[test]
fn pages_that_another_group_pays_for_are_not_taken_off() {
    let mut reading = reading(15 * GB);
    let group = MachineMemory {
        total_bytes: 4 * GB,
        available_bytes: 2 * GB,
        file_cache_bytes: GB / 10,
        limit: Limit::Group("/sys/fs/cgroup/hub".into()),
    };
    reading.limits.push(group);
    let room = reading.room(20).unwrap();
    assert_eq!(
        (room.free_bytes, room.spare_bytes),
        (1_900_000_000, 1_100_000_000)
    );
    assert_eq!(
        room.to_string(),
        "47 % free (1.9 GB of 4.0 GB in /sys/fs/cgroup/hub)"
    );
    // Once they are dropped and read again, this group pays.
    assert_eq!(reading.room_at(F16, 20).unwrap().free_bytes, 0);
}

#[test]
fn weights_in_the_process_own_memory_are_taken_off_once() {
    let reading = with(5 * GB, |model| {
        (model.mapped_bytes, model.resident_bytes) = (0, Some(0))
    });
    let free = |precision| reading.room_at(precision, 20).unwrap().free_bytes;
    assert_eq!(reading.room(20).unwrap().free_bytes, 5 * GB);
    assert_eq!((free(F16), free(Int8), free(Int4)), (5 * GB, 8 * GB, 9 * GB));
}

#[test]
fn only_what_is_packed_and_smaller_is_stepped_to() {
    let lowest = |packed: Vec<(Precision, u64)>| {
        let (mut governor, mut now) = (Governor::new(settings()), Instant::now());
        let mut reading = with(6 * GB, |model| model.packed = packed);
        let actions = until_rest(&mut governor, &mut now, &mut reading, 40);
        let stepped = |action: &Action| match action {
            Action::StepDown { to } => Some(*to),
            _ => None,
        };
        actions.iter().filter_map(stepped).collect::<Vec<_>>()
    };
    assert_eq!(
        lowest(vec![(F16, 6 * GB), (Int8, 3 * GB), (Int4, 2 * GB)]),
        [Int8, Int4]
    );
    assert_eq!(lowest(vec![(F16, 6 * GB), (Int4, 2 * GB)]), [Int4]);
    assert_eq!(
        lowest(vec![(F16, 6 * GB), (Int8, 6 * GB), (Int4, 2 * GB)]),
        [Int4]
    );
    assert_eq!(lowest(vec![(F16, 6 * GB)]), []);
    assert_eq!(
        lowest(vec![(Int8, 3 * GB)]),
        [],
        "what the present one takes is not known"
    );
}

#[test]
fn a_step_that_comes_to_nothing_is_tried_again_after_the_dwell() {
    let (mut governor, start) = (Governor::new(settings()), Instant::now());
    let short = with(7 * GB, |model| {
        (
            model.kv_kept_bytes,
            model.kv_budget_bytes,
            model.is_background_paused,
        ) = (0, GB / 2, true);
    });
    let asked = |second: &u64| {
        let decision = governor.decide(start + Duration::from_secs(*second), &short);
        decision.action == Action::StepDown { to: Int8 }
    };
    assert_eq!((0..100).filter(asked).collect::<Vec<_>>(), [0, 30, 60, 90]);
}

#[test]
fn a_restart_at_a_lower_precision_is_a_change_like_any_other() {
    let (mut governor, start) = (Governor::new(settings()), Instant::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    let plenty = 18 * GB;
    governor.decide(start, &reading(plenty));
    let restarted = with(plenty, |model| {
        (model.precision, model.mapped_bytes) = (Int4, 2 * GB)
    });
    let up: Vec<_> = (1..60)
        .filter(|second| governor.decide(at(*second), &restarted).action == Action::StepUp { to: Int8 })
        .collect();
    assert_eq!(up, [31], "it was seen after a second");
}

#[test]
fn nothing_is_decided_during_a_step_nor_without_a_model_or_a_measurement() {
    let (mut governor, now) = (Governor::new(settings()), Instant::now());
    let stepping = with(GB, |model| model.is_stepping = true);
    let mut unloaded = reading(GB);
    unloaded.model = None;
    let mut unmeasured = reading(GB);
    unmeasured.limits.clear();
    for reading in [stepping, unloaded, unmeasured] {
        assert_eq!(governor.decide(now, &reading).action, Action::Rest);
    }
}

#[test]
fn the_kernel_s_word_stands_against_the_account() {
    let (mut governor, start) = (Governor::new(settings()), Instant::now());
    let mut said = |level, available_bytes, from: u64, to: u64| {
        let mut reading = with(available_bytes, |model| model.is_background_paused = true);
        reading.pressure = Some(MemoryPressure::Level(level));
        let at = |second| start + Duration::from_secs(second);
        let actions = (from..to).map(|second| governor.decide(at(second), &reading).action);
        actions
            .filter(|action| *action != Action::Rest)
            .collect::<Vec<_>>()
    };
    let plenty = 18 * GB;
    assert_eq!(
        said(PressureLevel::Warning, plenty, 0, 100),
        [],
        "nothing is taken back"
    );
    // After the time to settle, what was kept goes, and then of the budget as much as the margin.
    let critical = said(PressureLevel::Critical, plenty, 100, 106);
    assert_eq!(
        critical,
        [
            Action::FreeKept { bytes: GB / 2 },
            Action::SetKvBudget { bytes: GB / 2 }
        ]
    );
    assert_eq!(
        said(PressureLevel::Normal, plenty, 200, 210),
        [Action::ResumeBackground; 2]
    );
}

#[test]
fn a_budget_beyond_the_settings_is_put_right() {
    let (mut governor, now) = (Governor::new(settings()), Instant::now());
    let unbounded = with(18 * GB, |model| model.kv_budget_bytes = u64::MAX);
    assert_eq!(
        governor.decide(now, &unbounded).action,
        Action::SetKvBudget { bytes: 2 * GB }
    );
    let bounded = with(12 * GB, |model| model.kv_budget_bytes = u64::MAX);
    let room = Action::SetKvBudget { bytes: 2 * GB };
    assert_eq!(
        governor.decide(now, &bounded).action,
        room,
        "5 GB are to stay free"
    );
    let tight = with(11 * GB, |model| model.kv_budget_bytes = u64::MAX);
    let room = Action::SetKvBudget { bytes: GB + GB / 2 };
    assert_eq!(governor.decide(now, &tight).action, room, "what there is");
    let tiny = with(18 * GB, |model| model.kv_budget_bytes = 1);
    assert_eq!(
        governor.decide(now, &tiny).action,
        Action::SetKvBudget { bytes: GB / 2 }
    );
}

#[test]
fn a_decision_is_written_as_an_action_with_its_reason() {
    let decision = Decision {
        action: Action::StepDown { to: Int8 },
        reason: "because".to_owned(),
    };
    let json = serde_json::to_string(&decision).unwrap();
    assert_eq!(json, r#"{"action":"step_down","to":"int8","reason":"because"}"#);
    assert_eq!(serde_json::from_str::<Decision>(&json).unwrap(), decision);
}
