//! How fast a client may publish: two limits, in messages and in bytes for each second.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A): each message takes time off a budget of one second,
//! so a client may send a second's worth at once, and from then on at its rate.

use std::time::{Duration, Instant};

/// What may be saved up.
const BURST: Duration = Duration::from_secs(1);

/// The limits; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// PUBLISH packets for each second.
    pub messages_per_s: u32,
    /// Bytes of their topics and payloads for each second.
    pub bytes_per_s: u64,
}

/// What a client has used up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    messages_paid_until: Option<Instant>,
    bytes_paid_until: Option<Instant>,
}

impl Rate {
    /// Takes one message off the budget. Where it is overdrawn, the client has to wait until the instant
    /// returned.
    pub(super) fn take(&mut self, now: Instant, bytes: usize, limit: RateLimit) -> Option<Instant> {
        let messages = pay(
            &mut self.messages_paid_until,
            now,
            1,
            u64::from(limit.messages_per_s),
        );
        let bytes = pay(&mut self.bytes_paid_until, now, bytes as u64, limit.bytes_per_s);
        messages.max(bytes)
    }
}

fn pay(paid_until: &mut Option<Instant>, now: Instant, amount: u64, per_s: u64) -> Option<Instant> {
    if per_s == 0 {
        return None;
    }
    let nanoseconds = u128::from(amount) * 1_000_000_000 / u128::from(per_s);
    let price = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
    let paid = paid_until.map_or(now, |at| at.max(now)) + price;
    *paid_until = Some(paid);
    paid.checked_sub(BURST).filter(|until| *until > now)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: RateLimit = RateLimit {
        messages_per_s: 100,
        bytes_per_s: 10_000,
    };

    #[test]
    fn a_second_s_worth_goes_at_once_and_the_next_message_waits() {
        let (now, mut rate) = (Instant::now(), Rate::default());
        assert!((0..100).all(|_| rate.take(now, 1, LIMIT).is_none()));
        let until = rate.take(now, 1, LIMIT).expect("a wait");
        assert_eq!(until - now, Duration::from_millis(10));
        assert_eq!(rate.take(until + BURST, 1, LIMIT), None);
    }

    #[test]
    fn large_messages_are_held_to_the_bytes() {
        let (now, mut rate) = (Instant::now(), Rate::default());
        assert_eq!(rate.take(now, 10_000, LIMIT), None);
        let until = rate.take(now, 10_000, LIMIT).expect("a wait");
        assert_eq!(until - now, BURST);
    }

    #[test]
    fn no_limit_is_no_wait() {
        let (now, mut rate) = (Instant::now(), Rate::default());
        assert!((0..1000).all(|_| rate.take(now, usize::MAX, RateLimit::default()).is_none()));
    }

    proptest! {
        #[test]
        fn who_waits_as_told_never_sends_more_than_a_burst_beyond_the_rate(
            steps in prop::collection::vec((0..2000_u64, 0..5000_usize), 1..200),
        ) {
            let begin = Instant::now();
            let (mut now, mut rate, mut messages, mut bytes) = (begin, Rate::default(), 0_u64, 0_u64);
            for (pause_ms, size) in steps {
                now += Duration::from_millis(pause_ms);
                messages += 1;
                bytes += size as u64;
                if let Some(until) = rate.take(now, size, LIMIT) {
                    now = until;
                }
                let seconds = (now - begin + BURST).as_secs_f64();
                // One nanosecond is lost at most for each message.
                prop_assert!(messages as f64 <= seconds * 100.0 + 1.0);
                prop_assert!(bytes as f64 <= seconds * 10_000.0 + 1.0);
            }
        }
    }
}
