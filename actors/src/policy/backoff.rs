//! How long to wait before a failed child is started again: Akka's words and shape
//! (`min_backoff · 2ⁿ`, at most `max_backoff`, plus up to `random_factor` of it).

use std::time::{Duration, Instant};

/// The four numbers.
#[derive(Clone, Copy, Debug)]
pub struct BackoffConfig {
    /// After the first failure.
    pub min_backoff: Duration,
    /// The longest wait, before the random part.
    pub max_backoff: Duration,
    /// Adds up to this share, so that machines that failed together do not return together.
    pub random_factor: f64,
    /// A child that lived this long is forgiven its earlier failures.
    pub reset_backoff_after: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Backoff {
    config: BackoffConfig,
    failures: u32,
    started_at: Option<Instant>,
}

impl Backoff {
    /// With no failures yet.
    pub fn new(config: BackoffConfig) -> Self {
        Self {
            config,
            failures: 0,
            started_at: None,
        }
    }

    /// The child works.
    pub fn started(&mut self, now: Instant) {
        self.started_at = Some(now);
    }

    /// The child failed; `random` in 0..1 is the dice. Gives the wait before the next start.
    pub fn failed(&mut self, now: Instant, random: f64) -> Duration {
        let lived = self.started_at.take().map(|at| now.saturating_duration_since(at));
        if lived.is_some_and(|lived| lived >= self.config.reset_backoff_after) {
            self.failures = 0;
        }
        let doubled = self
            .config
            .min_backoff
            .saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        let base = doubled.min(self.config.max_backoff);
        base + base.mul_f64(self.config.random_factor.clamp(0.0, 1.0) * random.clamp(0.0, 1.0))
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BackoffConfig = BackoffConfig {
        min_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        random_factor: 0.5,
        reset_backoff_after: Duration::from_secs(60),
    };

    #[test]
    fn waits_double_up_to_the_longest() {
        let (mut backoff, now) = (Backoff::new(CONFIG), Instant::now());
        let waits: Vec<_> = (0..7).map(|_| backoff.failed(now, 0.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000]);
        for _ in 0..100 {
            assert_eq!(backoff.failed(now, 1.0), Duration::from_secs(3));
        }
    }

    #[test]
    fn a_long_life_forgives_and_a_short_one_does_not() {
        let (mut backoff, now) = (Backoff::new(CONFIG), Instant::now());
        backoff.failed(now, 0.0);
        backoff.failed(now, 0.0);
        backoff.started(now);
        assert_eq!(
            backoff.failed(now + Duration::from_secs(59), 0.0).as_millis(),
            400
        );
        backoff.started(now);
        assert_eq!(
            backoff.failed(now + Duration::from_secs(60), 0.0).as_millis(),
            100
        );
    }
}
