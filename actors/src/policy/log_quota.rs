//! How many lines about one speaker the log takes in a while: what somebody does wrong all the time is said a few
//! times and then only counted. Bounded in speakers, too: when too many speak, those who come later are not heard
//! until the next interval.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The numbers.
#[derive(Clone, Copy, Debug)]
pub struct LogQuotaConfig {
    /// Lines about one speaker within an interval.
    pub lines: u32,
    /// The interval. All speakers' begin together, with the first line after the last one's end.
    pub interval: Duration,
    /// Speakers within an interval.
    pub max_speakers: usize,
}

/// See the module. `K` says who a speaker is.
#[derive(Debug)]
pub struct LogQuota<K> {
    config: LogQuotaConfig,
    ends: Option<Instant>,
    lines: HashMap<K, u32>,
}

/// Whether a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It is.
    Written,
    /// It is, and it is the last one about this speaker for this long.
    Last(Duration),
    /// It is not.
    LeftOut,
}

impl<K: Eq + Hash> LogQuota<K> {
    /// Nobody has spoken yet.
    pub fn new(config: LogQuotaConfig) -> Self {
        Self {
            config,
            ends: None,
            lines: HashMap::new(),
        }
    }

    /// Something is to be said about a speaker.
    pub fn speak(&mut self, now: Instant, who: K) -> Line {
        let ends = match self.ends {
            Some(ends) if now < ends => ends,
            _ => {
                // What it held is given back: a storm is over at some time.
                self.lines = HashMap::new();
                *self.ends.insert(now + self.config.interval)
            }
        };
        if self.lines.len() >= self.config.max_speakers && !self.lines.contains_key(&who) {
            return Line::LeftOut;
        }
        let written = self.lines.entry(who).or_insert(0);
        if *written >= self.config.lines {
            return Line::LeftOut;
        }
        *written += 1;
        if *written == self.config.lines {
            Line::Last(ends - now)
        } else {
            Line::Written
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota() -> LogQuota<u32> {
        LogQuota::new(LogQuotaConfig {
            lines: 2,
            interval: Duration::from_secs(60),
            max_speakers: 3,
        })
    }

    #[test]
    fn each_speaker_has_its_lines_and_the_last_one_says_so() {
        let (mut quota, start) = (quota(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(quota.speak(at(0), 1), Line::Written);
        assert_eq!(quota.speak(at(10), 1), Line::Last(Duration::from_secs(50)));
        for s in 10..60 {
            assert_eq!(quota.speak(at(s), 1), Line::LeftOut);
        }
        assert_eq!(quota.speak(at(59), 2), Line::Written);
        assert_eq!(quota.speak(at(60), 1), Line::Written);
    }

    #[test]
    fn more_speakers_than_there_is_room_for_wait_for_the_next_interval() {
        let (mut quota, start) = (quota(), Instant::now());
        let heard = (0..1_000).filter(|who| quota.speak(start, *who) != Line::LeftOut);
        assert_eq!(heard.count(), 3);
        assert_eq!(quota.speak(start, 2), Line::Last(Duration::from_secs(60)));
        assert_eq!(quota.speak(start + Duration::from_secs(61), 999), Line::Written);
    }
}
