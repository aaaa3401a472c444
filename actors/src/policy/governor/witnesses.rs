//! Witnesses beside the account of free memory: what the kernel says of itself. They are believed when they agree and keep to
//! it, since each alone has innocent reasons: tasks wait for memory while a file is read for the first time, and pages
//! come back when somebody who needed memory has gone.

use std::time::{Duration, Instant};

use platform::memory::{MemoryPressure, PressureLevel};

use super::reading::Reading;

/// Tasks that wait for memory so many percent of the time are stalled by the lack of it.
const STALLED_PERCENT: f32 = 10.0;
/// So many bytes a second read again are no accident: a hundredth of what a disk of today reads.
const REFAULTS_BYTES_PER_S: f64 = 32e6;

/// What they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Testimony {
    /// Nothing.
    Quiet,
    /// Memory is hard to get now: not the time to take more.
    Stalled,
    /// There is too little, and that for a while.
    Short,
}

#[derive(Debug, Default)]
pub(super) struct Witnesses {
    /// The last reading of the counter.
    refaulted: Option<(Instant, u64)>,
    agree_since: Option<Instant>,
}

impl Witnesses {
    /// Hears them. What they say for `believed_after` is believed.
    pub(super) fn hear(&mut self, now: Instant, reading: &Reading, believed_after: Duration) -> Testimony {
        let rate = self.refaults_per_s(now, reading.refaulted_bytes);
        let (stalled, agree) = match reading.pressure {
            None => (false, false),
            Some(MemoryPressure::Level(level)) => {
                (level >= PressureLevel::Warning, level >= PressureLevel::Critical)
            }
            Some(MemoryPressure::Stalls { some, full }) => {
                let stalled = some.avg10_percent >= STALLED_PERCENT;
                // Where nobody counts what is read again, it takes more waiting to be sure.
                let agree = match reading.refaulted_bytes {
                    Some(_) => rate >= REFAULTS_BYTES_PER_S,
                    None => full.avg10_percent >= STALLED_PERCENT,
                };
                (stalled, stalled && agree)
            }
        };
        self.agree_since = agree.then(|| self.agree_since.unwrap_or(now));
        match self.agree_since {
            Some(since) if now.saturating_duration_since(since) >= believed_after => Testimony::Short,
            _ if stalled => Testimony::Stalled,
            _ => Testimony::Quiet,
        }
    }

    fn refaults_per_s(&mut self, now: Instant, counter: Option<u64>) -> f64 {
        let last = self.refaulted;
        self.refaulted = counter.map(|counter| (now, counter));
        let (Some((then, before)), Some(counter)) = (last, counter) else {
            return 0.0;
        };
        let seconds = now.saturating_duration_since(then).as_secs_f64();
        // A counter that goes back is another one.
        let bytes = counter.saturating_sub(before) as f64;
        if seconds > 0.0 { bytes / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use platform::memory::Stall;

    use super::*;

    const BELIEVED_AFTER: Duration = Duration::from_secs(10);

    fn reading(pressure: Option<MemoryPressure>, refaulted_bytes: Option<u64>) -> Reading {
        Reading {
            limits: Vec::new(),
            pressure,
            refaulted_bytes,
            model: None,
        }
    }

    fn stalls(some: f32, full: f32) -> Option<MemoryPressure> {
        let stall = |avg10_percent| Stall {
            avg10_percent,
            total: Duration::ZERO,
        };
        Some(MemoryPressure::Stalls {
            some: stall(some),
            full: stall(full),
        })
    }

    /// What is said at readings two seconds apart.
    fn heard(readings: &[Reading]) -> Vec<Testimony> {
        let (mut witnesses, start) = (Witnesses::default(), Instant::now());
        let at = |index: usize| start + Duration::from_secs(2) * u32::try_from(index).unwrap();
        let each = readings.iter().enumerate();
        each.map(|(index, reading)| witnesses.hear(at(index), reading, BELIEVED_AFTER))
            .collect()
    }

    #[test]
    fn stalls_and_refaults_are_believed_when_both_last() {
        use Testimony::{Quiet, Short, Stalled};
        let both: Vec<_> = (0..9)
            .map(|index| reading(stalls(15.0, 1.0), Some(index << 30)))
            .collect();
        // The first reading has no rate yet, and from the second on it takes ten seconds.
        let expected = [
            Stalled, Stalled, Stalled, Stalled, Stalled, Stalled, Short, Short, Short,
        ];
        assert_eq!(heard(&both), expected);
        let only_stalls: Vec<_> = (0..9).map(|_| reading(stalls(90.0, 50.0), Some(7))).collect();
        assert_eq!(heard(&only_stalls), [Stalled; 9]);
        let only_refaults: Vec<_> = (0..9)
            .map(|index| reading(stalls(1.0, 0.0), Some(index << 30)))
            .collect();
        assert_eq!(heard(&only_refaults), [Quiet; 9]);
        let mut broken = both;
        broken[4] = reading(stalls(0.0, 0.0), Some(4 << 30));
        assert_eq!(heard(&broken)[8], Stalled, "it began anew");
    }

    #[test]
    fn without_a_counter_everybody_must_wait() {
        let some: Vec<_> = (0..9).map(|_| reading(stalls(90.0, 1.0), None)).collect();
        assert_eq!(heard(&some).last(), Some(&Testimony::Stalled));
        let full: Vec<_> = (0..9).map(|_| reading(stalls(90.0, 20.0), None)).collect();
        assert_eq!(heard(&full).last(), Some(&Testimony::Short));
    }

    #[test]
    fn macos_is_believed_at_critical_and_no_more_is_taken_at_a_warning() {
        for (level, expected) in [
            (PressureLevel::Normal, Testimony::Quiet),
            (PressureLevel::Warning, Testimony::Stalled),
            (PressureLevel::Critical, Testimony::Short),
        ] {
            let readings: Vec<_> = (0..9)
                .map(|_| reading(Some(MemoryPressure::Level(level)), None))
                .collect();
            assert_eq!(heard(&readings).last(), Some(&expected));
        }
        assert_eq!(heard(&[reading(None, None)]), [Testimony::Quiet]);
    }

    #[test]
    fn a_counter_that_goes_back_is_no_rate() {
        let mut readings: Vec<_> = (0..9)
            .map(|_| reading(stalls(15.0, 1.0), Some(1 << 40)))
            .collect();
        readings[3] = reading(stalls(15.0, 1.0), Some(0));
        assert!(
            heard(&readings[..4])
                .iter()
                .all(|said| *said == Testimony::Stalled)
        );
    }
}
