//! What actors take from outside themselves: what time it is, and chance. A simulation makes both up, so that one seed is one
//! course of events.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant, SystemTime};

/// What a simulation has in the place of the system's.
#[derive(Clone, Copy)]
struct Simulated {
    began: Instant,
    epoch: SystemTime,
    chance: u64,
}

thread_local! {
    static SIMULATED: Cell<Option<Simulated>> = const { Cell::new(None) };
}

/// From now on this thread has its chance from the seed, and its calendar goes on from `epoch` by [`now`], which is tokio's
/// clock: where that is paused, no time passes but what the timers wait for.
pub fn simulate(seed: u64, epoch: SystemTime) {
    let simulated = Simulated {
        began: now(),
        epoch,
        chance: seed,
    };
    SIMULATED.set(Some(simulated));
}

/// The steady clock, that of the timers.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How long ago that was by [`now`].
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// The calendar, which may jump.
pub fn calendar() -> SystemTime {
    match SIMULATED.get() {
        Some(simulated) => simulated.epoch + since(simulated.began),
        None => SystemTime::now(),
    }
}

/// The calendar in whole seconds since 1970.
pub fn unix_s() -> u64 {
    let since_1970 = calendar().duration_since(SystemTime::UNIX_EPOCH);
    since_1970.map_or(0, |since| since.as_secs())
}

/// Chance that nobody outside can foretell, though not for secrets: from the keys of a hasher, which the system seeds.
pub fn random() -> u64 {
    let Some(mut simulated) = SIMULATED.get() else {
        return RandomState::new().build_hasher().finish();
    };
    let drawn = split_mix(&mut simulated.chance);
    SIMULATED.set(Some(simulated));
    drawn
}

/// The next number of a seed: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). The same
/// ones whatever version of a library is at hand.
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Chance in 0..1.
pub fn random_part() -> f64 {
    (random() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_thread_has_its_chance_from_the_seed_and_others_have_the_systems() {
        let simulated = |seed| {
            std::thread::spawn(move || {
                simulate(seed, SystemTime::UNIX_EPOCH);
                [random(), random(), random()]
            })
        };
        let (one, again, other) = (simulated(1).join(), simulated(1).join(), simulated(2).join());
        let (one, again, other) = (one.unwrap(), again.unwrap(), other.unwrap());
        assert_eq!(one, again);
        assert_ne!(one, other);
        assert_ne!([random(), random(), random()], one);
        assert!(
            (0..1000)
                .map(|_| random_part())
                .all(|part| (0.0..1.0).contains(&part))
        );
    }
}
