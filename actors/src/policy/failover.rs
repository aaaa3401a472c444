//! At which precision the worker is started again after it failed, and when it may rise again.
//!
//! What can be started is a ladder of rungs, the best first: the model's precisions, then perhaps a smaller model. OTP's
//! words: more than `intensity` failures within `period` at one rung, and that rung is given up for the next one. A
//! failure that may have come from a lack of memory gives it up at once. A model that cannot be loaded at all is no better
//! lower down. On the last rung there is nothing to give up: that is for the backoff, and for whoever waits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Why the worker failed, as far as it can be told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was killed, as the system does when memory runs short, or said itself that there was too little.
    Memory,
    /// Plainly something else: a panic, a fault, silence.
    Other,
    /// The model could not be loaded.
    Load,
}

/// When a rung is given up, and when a better one is tried again.
#[derive(Clone, Copy, Debug)]
pub struct FailoverConfig {
    /// Failures within the period that a rung may have.
    pub intensity: usize,
    /// The time in which failures count together.
    pub period: Duration,
    /// Time without a failure after which a better rung is tried. Doubled, up to eight times that, whenever the better one
    /// fails within a period.
    pub rise_after: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Failover {
    config: FailoverConfig,
    rungs: usize,
    rung: usize,
    /// At this rung, the latest last.
    failures: VecDeque<Instant>,
    /// When it last failed, or came to this rung.
    since: Option<Instant>,
    risen_at: Option<Instant>,
    patience: u32,
}

const MOST_PATIENCE: u32 = 8;

impl Failover {
    /// On the first of so many rungs, at least one.
    pub fn new(config: FailoverConfig, rungs: usize) -> Self {
        Self {
            config,
            rungs: rungs.max(1),
            rung: 0,
            failures: VecDeque::new(),
            since: None,
            risen_at: None,
            patience: 1,
        }
    }

    /// See [`FailoverConfig::rise_after`].
    pub fn rise_after(&self) -> Duration {
        self.config.rise_after
    }

    /// The rung to be on, 0 the best.
    pub fn rung(&self) -> usize {
        self.rung
    }

    /// The governor went to this rung by itself.
    pub fn moved(&mut self, now: Instant, rung: usize) {
        self.go_to(now, rung.min(self.rungs - 1));
    }

    /// The worker is on this rung, whatever it was to come to: a way there failed. That is no reason to try a better one
    /// sooner, and a rise that did not come about has not gone wrong either.
    pub fn is_on(&mut self, now: Instant, rung: usize) {
        let rung = rung.min(self.rungs - 1);
        if rung != self.rung {
            self.go_to(now, rung);
            self.risen_at = None;
        }
    }

    /// The worker failed. Says on which rung it is started again; `is_ready(rung)` says whether that one can be started
    /// without much ado, since a failure is no time to pack weights while everybody waits.
    pub fn failed(&mut self, now: Instant, cause: Cause, is_ready: impl Fn(usize) -> bool) -> usize {
        let within = |at: Instant| now.saturating_duration_since(at) <= self.config.period;
        self.patience = match self.risen_at.take() {
            Some(at) if within(at) => (self.patience * 2).min(MOST_PATIENCE),
            Some(_) => 1,
            None => self.patience,
        };
        self.since = Some(now);
        self.failures.retain(|at| within(*at));
        self.failures.push_back(now);
        let too_many = self.failures.len() > self.config.intensity;
        let lower = (self.rung + 1..self.rungs).find(|rung| too_many || is_ready(*rung));
        match (cause, lower) {
            (Cause::Memory, Some(lower)) => self.go_to(now, lower),
            (Cause::Other, Some(lower)) if too_many => self.go_to(now, lower),
            _ => {}
        }
        self.rung
    }

    /// The rung to rise to, if it is time; what the memory says of that is not known here.
    pub fn may_rise(&self, now: Instant) -> Option<usize> {
        let wait = self.config.rise_after.saturating_mul(self.patience);
        let quiet = |at: Instant| now.saturating_duration_since(at) >= wait;
        let better = self.rung.checked_sub(1)?;
        self.since.is_none_or(quiet).then_some(better)
    }

    /// It rose to what [`may_rise`](Self::may_rise) said.
    pub fn rose(&mut self, now: Instant, rung: usize) {
        self.go_to(now, rung.min(self.rungs - 1));
        self.risen_at = Some(now);
    }

    fn go_to(&mut self, now: Instant, rung: usize) {
        self.rung = rung;
        self.failures.clear();
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: FailoverConfig = FailoverConfig {
        intensity: 1,
        period: Duration::from_secs(60),
        rise_after: Duration::from_secs(300),
    };

    fn always(_: usize) -> bool {
        true
    }

    #[test]
    fn a_kill_costs_a_rung_at_once_and_a_panic_at_the_second_time() {
        let (mut failover, now) = (Failover::new(CONFIG, 3), Instant::now());
        assert_eq!(failover.failed(now, Cause::Other, always), 0);
        assert_eq!(failover.failed(now + CONFIG.period, Cause::Other, always), 1);
        assert_eq!(failover.failed(now + CONFIG.period, Cause::Memory, always), 2);
        assert_eq!(failover.failed(now + CONFIG.period, Cause::Memory, always), 2);
        let mut slow = Failover::new(CONFIG, 3);
        for minutes in 0..9 {
            let now = now + Duration::from_secs(61 * minutes);
            assert_eq!(
                slow.failed(now, Cause::Other, always),
                0,
                "one in a period is allowed"
            );
        }
    }

    #[test]
    fn what_cannot_be_loaded_stays_where_it_is() {
        let (mut failover, now) = (Failover::new(CONFIG, 3), Instant::now());
        for _ in 0..9 {
            assert_eq!(failover.failed(now, Cause::Load, always), 0);
        }
    }

    #[test]
    fn a_rung_that_is_not_packed_is_passed_over_until_there_is_no_choice() {
        let (mut failover, now) = (Failover::new(CONFIG, 3), Instant::now());
        assert_eq!(failover.failed(now, Cause::Memory, |rung| rung == 2), 2);
        let mut failover = Failover::new(CONFIG, 3);
        assert_eq!(failover.failed(now, Cause::Memory, |_| false), 0);
        assert_eq!(failover.failed(now, Cause::Memory, |_| false), 1);
    }

    #[test]
    fn it_rises_when_it_was_quiet_for_long_and_waits_longer_where_that_went_wrong() {
        let (mut failover, mut now) = (Failover::new(CONFIG, 2), Instant::now());
        failover.failed(now, Cause::Memory, always);
        assert_eq!(failover.may_rise(now + Duration::from_secs(299)), None);
        for wait in [300, 600, 1200, 2400, 2400] {
            now += Duration::from_secs(wait);
            assert_eq!(failover.may_rise(now - Duration::from_secs(1)), None, "{wait}");
            assert_eq!(failover.may_rise(now), Some(0), "{wait}");
            failover.rose(now, 0);
            failover.failed(now, Cause::Memory, always);
        }
        assert_eq!(
            Failover::new(CONFIG, 2).may_rise(now),
            None,
            "there is nothing better"
        );
    }

    #[test]
    fn a_step_that_failed_leaves_it_on_the_rung_where_the_worker_is() {
        let (mut failover, now) = (Failover::new(CONFIG, 3), Instant::now());
        failover.moved(now, 1);
        failover.is_on(now, 0);
        assert_eq!(failover.rung(), 0);
        failover.failed(now, Cause::Memory, always);
        let later = now + CONFIG.rise_after;
        failover.rose(later, 0);
        failover.is_on(later, 1);
        assert_eq!((failover.rung(), failover.may_rise(later)), (1, None));
        // The rise did not come about, and is no sign that the better rung is a bad one.
        failover.failed(later, Cause::Other, always);
        assert_eq!(failover.may_rise(later + CONFIG.rise_after), Some(0));
    }

    proptest! {
        #[test]
        fn it_is_always_on_a_rung_and_under_failures_ends_on_the_last(
            rungs in 1..5_usize,
            what in prop::collection::vec((0..400_u64, 0..3_u8, any::<bool>()), 0..60),
        ) {
            let (mut failover, mut now) = (Failover::new(CONFIG, rungs), Instant::now());
            for (seconds, cause, rises) in what {
                now += Duration::from_secs(seconds);
                if let (true, Some(better)) = (rises, failover.may_rise(now)) {
                    prop_assert_eq!(better + 1, failover.rung());
                    failover.rose(now, better);
                }
                let before = failover.rung();
                let cause = [Cause::Memory, Cause::Other, Cause::Load][usize::from(cause)];
                let rung = failover.failed(now, cause, always);
                prop_assert!(rung < rungs && rung >= before && rung <= before + 1);
            }
            for _ in 0..rungs * 2 {
                failover.failed(now, Cause::Other, |_| false);
            }
            prop_assert_eq!(failover.rung(), rungs - 1);
        }
    }
}
