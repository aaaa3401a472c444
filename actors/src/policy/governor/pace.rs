//! How often the precision may change: at most once in a dwell, whoever changes it. And a step up that had to be taken back
//! soon makes the next one wait twice as long, so that a load that comes and goes does not take the model along each time.

use std::time::{Duration, Instant};

use models::Precision;

/// The longest wait before a step up, in dwells.
const LONGEST_CLIMB: u32 = 16;
/// A step up that held for so many times the wait before it is no reason for a longer one.
const HELD: u32 = 4;

#[derive(Debug)]
pub(super) struct Pace {
    dwell: Duration,
    seen: Option<Precision>,
    changed_at: Option<Instant>,
    climbed_at: Option<Instant>,
    climb_wait: Duration,
}

impl Pace {
    pub(super) fn new(dwell: Duration) -> Self {
        Self {
            dwell,
            seen: None,
            changed_at: None,
            climbed_at: None,
            climb_wait: dwell,
        }
    }

    /// The precision of now, which the governor may have asked for, or a restart have brought.
    pub(super) fn see(&mut self, now: Instant, precision: Precision) {
        let Some(before) = self.seen.replace(precision) else {
            return;
        };
        if before == precision {
            return;
        }
        self.changed_at = Some(now);
        if precision < before {
            self.climbed_at = Some(now);
        } else if let Some(climbed_at) = self.climbed_at.take() {
            let held = now.saturating_duration_since(climbed_at);
            self.climb_wait = if held < self.climb_wait.saturating_mul(HELD) {
                (self.climb_wait.saturating_mul(2)).min(self.dwell.saturating_mul(LONGEST_CLIMB))
            } else {
                self.dwell
            };
        }
    }

    /// A step was asked for. It counts even if nothing comes of it, so that what fails is not tried all the time.
    pub(super) fn asked(&mut self, now: Instant) {
        self.changed_at = Some(now);
    }

    /// How long a step down has to wait.
    pub(super) fn until_down(&self, now: Instant) -> Duration {
        self.until(now, self.dwell)
    }

    /// How long a step up has to wait.
    pub(super) fn until_up(&self, now: Instant) -> Duration {
        self.until(now, self.climb_wait)
    }

    fn until(&self, now: Instant, wait: Duration) -> Duration {
        let since = self.changed_at.map(|at| now.saturating_duration_since(at));
        since.map_or(Duration::ZERO, |since| wait.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DWELL: Duration = Duration::from_secs(60);

    #[test]
    fn a_change_by_anybody_makes_the_next_one_wait() {
        let (mut pace, start) = (Pace::new(DWELL), Instant::now());
        pace.see(start, Precision::F16);
        assert_eq!(pace.until_down(start), Duration::ZERO);
        pace.see(start + DWELL, Precision::Int8);
        assert_eq!(pace.until_down(start + DWELL), DWELL);
        assert_eq!(pace.until_up(start + DWELL + DWELL / 4), DWELL / 4 * 3);
        assert_eq!(pace.until_up(start + 2 * DWELL), Duration::ZERO);
        pace.asked(start + 3 * DWELL);
        assert_eq!(pace.until_down(start + 3 * DWELL), DWELL);
    }

    #[test]
    fn a_step_up_that_does_not_hold_makes_the_next_wait_twice_as_long() {
        let (mut pace, mut now) = (Pace::new(DWELL), Instant::now());
        pace.see(now, Precision::Int8);
        let mut waits = Vec::new();
        for _ in 0..6 {
            pace.see(now, Precision::Int4);
            waits.push(pace.until_up(now) / 60);
            now += pace.until_up(now);
            pace.see(now, Precision::Int8);
            now += DWELL;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 16].map(Duration::from_secs));
        // This one holds.
        now += 64 * DWELL;
        pace.see(now, Precision::Int4);
        assert_eq!(pace.until_up(now), DWELL);
        assert_eq!(pace.until_down(now), DWELL);
    }
}
