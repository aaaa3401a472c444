//! When a certificate is renewed, and when somebody is warned that it ends.
//!
//! How long it lasts is asked of the wall clock at each look, and nothing is remembered by that clock, so
//! that it may jump; what must not happen too often is measured by the monotonic one.

use std::time::{Duration, Instant, SystemTime};

/// From when to when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Before this it does not hold yet.
    pub not_before: SystemTime,
    /// After this it does not hold any more.
    pub not_after: SystemTime,
}

/// How a certificate stands at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It begins in this time: where its maker was right, this machine's clock is wrong.
    NotYetValid(Duration),
    /// It holds for so long.
    Valid(Duration),
    /// It ended so long ago.
    Expired(Duration),
}

/// The numbers.
#[derive(Clone, Copy, Debug)]
pub struct ExpiryConfig {
    /// A certificate that lasts less is renewed, if it can be.
    pub renew_before: Duration,
    /// For one that lasts less somebody is warned.
    pub warn_before: Duration,
    /// Least time between two warnings of the same kind.
    pub warn_interval: Duration,
    /// Least time between two attempts to renew.
    pub retry_interval: Duration,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// Renew it.
    Renew,
    /// Warn.
    Warn(Standing),
}

/// See the module.
#[derive(Debug)]
pub struct ExpiryWatch {
    config: ExpiryConfig,
    last_attempt: Option<Instant>,
    last_warning: Option<(Instant, Kind)>,
}

/// A warning that is worse than the last one does not wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    NotYetValid,
    Ending,
    Expired,
}

impl Validity {
    /// How it stands at a time.
    pub fn standing(&self, wall: SystemTime) -> Standing {
        if let Ok(until_then) = self.not_before.duration_since(wall)
            && !until_then.is_zero()
        {
            return Standing::NotYetValid(until_then);
        }
        match self.not_after.duration_since(wall) {
            Ok(left) => Standing::Valid(left),
            Err(over) => Standing::Expired(over.duration()),
        }
    }

    /// Whether it holds at a time, and for so long after it.
    pub fn covers(&self, wall: SystemTime, margin: Duration) -> bool {
        matches!(self.standing(wall), Standing::Valid(left) if left >= margin)
    }
}

impl ExpiryWatch {
    /// Nothing tried or said yet.
    pub fn new(config: ExpiryConfig) -> Self {
        Self {
            config,
            last_attempt: None,
            last_warning: None,
        }
    }

    /// What to do about a certificate that could be renewed, or not. While it can be, only an attempt that
    /// did not help is worth a warning.
    pub fn look(&mut self, validity: &Validity, renewable: bool, wall: SystemTime, now: Instant) -> Step {
        if renewable {
            if validity.covers(wall, self.config.renew_before) {
                self.last_attempt = None;
                self.last_warning = None;
                return Step::Rest;
            }
            if is_due(self.last_attempt, self.config.retry_interval, now) {
                self.last_attempt = Some(now);
                return Step::Renew;
            }
        }
        self.warn(validity, wall, now)
    }

    fn warn(&mut self, validity: &Validity, wall: SystemTime, now: Instant) -> Step {
        let standing = validity.standing(wall);
        let kind = match standing {
            Standing::NotYetValid(_) => Kind::NotYetValid,
            Standing::Valid(left) if left < self.config.warn_before => Kind::Ending,
            Standing::Expired(_) => Kind::Expired,
            Standing::Valid(_) => {
                self.last_warning = None;
                return Step::Rest;
            }
        };
        let last = self.last_warning.filter(|(_, last)| *last == kind);
        if !is_due(last.map(|(at, _)| at), self.config.warn_interval, now) {
            return Step::Rest;
        }
        self.last_warning = Some((now, kind));
        Step::Warn(standing)
    }
}

fn is_due(last: Option<Instant>, interval: Duration, now: Instant) -> bool {
    last.is_none_or(|last| now.saturating_duration_since(last) >= interval)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const CONFIG: ExpiryConfig = ExpiryConfig {
        renew_before: Duration::from_secs(30 * 24 * 3600),
        warn_before: Duration::from_secs(30 * 24 * 3600),
        warn_interval: DAY,
        retry_interval: HOUR,
    };

    fn a_year() -> (SystemTime, Validity) {
        let begin = SystemTime::UNIX_EPOCH + 20_000 * DAY;
        let validity = Validity {
            not_before: begin,
            not_after: begin + 365 * DAY,
        };
        (begin, validity)
    }

    #[test]
    fn somebody_is_warned_from_thirty_days_on_once_a_day_and_at_once_when_it_has_ended() {
        let (begin, validity) = a_year();
        let (mut watch, start) = (ExpiryWatch::new(CONFIG), Instant::now());
        let mut warnings = Vec::new();
        for hours in 0..367 * 24 {
            let passed = hours * HOUR;
            if let Step::Warn(standing) = watch.look(&validity, false, begin + passed, start + passed) {
                warnings.push((hours, standing));
            }
        }
        let (first, last) = (warnings[0], warnings[warnings.len() - 1]);
        assert_eq!(
            first,
            (
                335 * 24 + 1,
                Standing::Valid(Duration::from_secs(30 * 24 * 3600) - HOUR)
            )
        );
        assert!(matches!(last.1, Standing::Expired(_)), "{last:?}");
        let ended = warnings
            .iter()
            .find(|(_, standing)| matches!(standing, Standing::Expired(_)));
        assert_eq!(ended, Some(&(365 * 24 + 1, Standing::Expired(HOUR))));
        assert_eq!(warnings.len(), 30 + 2, "{warnings:?}");
    }

    #[test]
    fn what_can_be_renewed_is_renewed_in_time_and_nobody_is_warned_while_that_works() {
        let (begin, mut validity) = a_year();
        let (mut watch, start) = (ExpiryWatch::new(CONFIG), Instant::now());
        let mut renewed_after_days = Vec::new();
        for days in 0..1000 {
            let passed = days * DAY;
            let wall = begin + passed;
            match watch.look(&validity, true, wall, start + passed) {
                Step::Rest => {}
                Step::Renew => {
                    renewed_after_days.push(days);
                    validity = Validity {
                        not_before: wall,
                        not_after: wall + 365 * DAY,
                    };
                }
                Step::Warn(standing) => panic!("warned of {standing:?} after {days} days"),
            }
        }
        assert_eq!(renewed_after_days, [336, 672]);
    }

    #[test]
    fn a_renewal_that_does_not_help_is_tried_again_each_hour_and_warned_of_each_day() {
        let (begin, validity) = a_year();
        let (mut watch, start) = (ExpiryWatch::new(CONFIG), Instant::now());
        let (mut attempts, mut warnings) = (0, 0);
        for minutes in 0..3 * 24 * 60 {
            let passed = Duration::from_secs(minutes * 60);
            match watch.look(&validity, true, begin + 340 * DAY + passed, start + passed) {
                Step::Rest => {}
                Step::Renew => attempts += 1,
                Step::Warn(_) => warnings += 1,
            }
        }
        assert_eq!((attempts, warnings), (3 * 24, 3));
    }

    #[test]
    fn one_that_begins_in_the_future_is_renewed_or_warned_of() {
        let (begin, validity) = a_year();
        let early = begin - 400 * DAY;
        let now = Instant::now();
        assert_eq!(
            ExpiryWatch::new(CONFIG).look(&validity, true, early, now),
            Step::Renew
        );
        assert_eq!(
            ExpiryWatch::new(CONFIG).look(&validity, false, early, now),
            Step::Warn(Standing::NotYetValid(400 * DAY))
        );
    }

    proptest! {
        /// However the wall clock jumps, warnings and attempts keep their distance, and a certificate that
        /// holds by the clock of the moment is left alone.
        #[test]
        fn a_clock_that_jumps_makes_nothing_frequent(
            jumps in prop::collection::vec((0u64..800, 0u64..7200, any::<bool>()), 1..200),
        ) {
            let (begin, validity) = a_year();
            let mut watch = ExpiryWatch::new(CONFIG);
            let (mut now, mut last_attempt) = (Instant::now(), None::<Instant>);
            for (wall_days, passed_s, renewable) in jumps {
                now += Duration::from_secs(passed_s);
                let wall = begin - 200 * DAY + u32::try_from(wall_days).unwrap() * DAY;
                let step = watch.look(&validity, renewable, wall, now);
                if validity.covers(wall, CONFIG.renew_before) {
                    prop_assert_eq!(step, Step::Rest);
                    if renewable { last_attempt = None; }
                }
                if step == Step::Renew {
                    prop_assert!(renewable);
                    prop_assert!(last_attempt.is_none_or(|last| now - last >= HOUR));
                    last_attempt = Some(now);
                }
            }
        }
    }
}
