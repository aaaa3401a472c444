//! Codes by which devices are paired, as pure policy: time comes in, decisions go out. What is kept of a code is its
//! HMAC, under a key that lives as long as the daemon; so do the codes, and a restart voids them.

use std::time::{Duration, Instant};

use ring::hmac;
use topics::device::DeviceId;

use crate::security::random;

/// How long a code waits for its device.
pub(crate) const LIFETIME: Duration = Duration::from_secs(600);
/// Guesses after which a code is void. A wrong guess counts against every code that waits, because it may have been
/// meant for any: so codes cannot be sprayed, however many wait and from wherever the guesses come.
pub(crate) const TRIES: u8 = 5;
/// Devices that are waited for at the same time.
const MAX_OPEN: usize = 8;

/// Digits and capitals, without those that look like others (0 O, 1 I L) or make words (U).
const ALPHABET: &[u8; 30] = b"23456789ABCDEFGHJKMNPQRSTVWXYZ";
const SYMBOLS: usize = 8;
const GROUP: usize = 4;

/// A code. It is shown once, to the owner; there is no Debug.
pub(crate) struct Code(String);

impl Code {
    /// One in 656 thousand million; nothing where the system has no random numbers.
    pub(crate) fn random() -> Option<Code> {
        random::symbols(ALPHABET, SYMBOLS).map(Code)
    }

    /// As people write it: in small letters, with or without the hyphen.
    pub(crate) fn parse(text: &str) -> Option<Code> {
        let code: String = text
            .chars()
            .filter(|character| !matches!(character, '-' | ' '))
            .map(|character| character.to_ascii_uppercase())
            .take(SYMBOLS + 1)
            .collect();
        let right = code.len() == SYMBOLS && code.bytes().all(|byte| ALPHABET.contains(&byte));
        right.then_some(Code(code))
    }

    /// In two groups, for the owner's eyes.
    pub(crate) fn shown(&self) -> String {
        let (first, second) = self.0.split_at_checked(GROUP).unwrap_or((&self.0, ""));
        format!("{first}-{second}")
    }
}

/// The codes that wait.
pub(crate) struct Pairings {
    key: hmac::Key,
    open: Vec<Open>,
}

struct Open {
    device: DeviceId,
    tag: hmac::Tag,
    until: Instant,
    tries_left: u8,
}

/// Why a code lets nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WrongCode {
    /// None waits, or not any more.
    #[error(
        "no device is waited for; run `clawdbot device pair NAME` on the hub, and use its code within 10 minutes"
    )]
    NoneOpen,
    /// Another guess is left.
    #[error("this is not the code; {0} more tries are left")]
    Wrong(u8),
    /// That was the last.
    #[error(
        "this is not the code, and it was the last try; run `clawdbot device pair NAME` on the hub for a new one"
    )]
    Void,
}

/// Too many devices are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_OPEN} devices are waited for already; pair those first, or wait until their codes have ended")]
pub(crate) struct TooManyOpen;

impl Pairings {
    /// None yet; the key is for this process alone.
    pub(crate) fn new(key: &[u8; 32]) -> Pairings {
        Pairings {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            open: Vec::new(),
        }
    }

    /// Waits for a device with a code; an earlier code of the device is void.
    pub(crate) fn open(&mut self, device: DeviceId, code: &Code, now: Instant) -> Result<(), TooManyOpen> {
        self.close(&device);
        self.forget_ended(now);
        if self.open.len() >= MAX_OPEN {
            return Err(TooManyOpen);
        }
        self.open.push(Open {
            device,
            tag: hmac::sign(&self.key, code.0.as_bytes()),
            until: now + LIFETIME,
            tries_left: TRIES,
        });
        Ok(())
    }

    /// Until when a device is waited for.
    pub(crate) fn until(&self, now: Instant) -> Option<Instant> {
        self.open
            .iter()
            .map(|open| open.until)
            .filter(|until| *until > now)
            .max()
    }

    /// Which device a code is for. It goes on waiting until [`close`](Self::close): what follows may fail.
    pub(crate) fn guess(&mut self, code: &Code, now: Instant) -> Result<DeviceId, WrongCode> {
        self.forget_ended(now);
        if self.open.is_empty() {
            return Err(WrongCode::NoneOpen);
        }
        let mut found = None;
        // Each in constant time, and all of them, so that the time tells nothing.
        for open in &self.open {
            if hmac::verify(&self.key, code.0.as_bytes(), open.tag.as_ref()).is_ok() {
                found = Some(open.device.clone());
            }
        }
        if let Some(device) = found {
            return Ok(device);
        }
        for open in &mut self.open {
            open.tries_left = open.tries_left.saturating_sub(1);
        }
        self.open.retain(|open| open.tries_left > 0);
        match self.open.iter().map(|open| open.tries_left).max() {
            Some(left) => Err(WrongCode::Wrong(left)),
            None => Err(WrongCode::Void),
        }
    }

    /// The device is waited for no more.
    pub(crate) fn close(&mut self, device: &DeviceId) {
        self.open.retain(|open| open.device != *device);
    }

    fn forget_ended(&mut self, now: Instant) {
        self.open.retain(|open| open.until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> DeviceId {
        name.parse().unwrap()
    }

    fn code(text: &str) -> Code {
        Code::parse(text).unwrap()
    }

    fn waiting_for(device_and_code: &[(&str, &str)], now: Instant) -> Pairings {
        let mut pairings = Pairings::new(&[7; 32]);
        for (name, text) in device_and_code {
            pairings.open(device(name), &code(text), now).unwrap();
        }
        pairings
    }

    #[test]
    fn a_code_is_eight_symbols_that_nobody_confuses_and_no_two_are_alike() {
        let codes: Vec<String> = (0..100).map(|_| Code::random().unwrap().shown()).collect();
        for shown in &codes {
            assert_eq!((shown.len(), &shown[4..5]), (9, "-"), "{shown}");
            assert!(!shown.contains(['0', 'O', '1', 'I', 'L', 'U']), "{shown}");
            assert_eq!(Code::parse(shown).unwrap().shown(), *shown);
        }
        let distinct: std::collections::HashSet<_> = codes.iter().collect();
        assert_eq!(distinct.len(), codes.len());
    }

    #[test]
    fn people_write_codes_as_they_like() {
        for text in ["ABCD-2345", "abcd2345", " abcd 2345 "] {
            assert_eq!(code(text).shown(), "ABCD-2345");
        }
        for text in ["", "ABCD-234", "ABCD-23456", "ABCD-0345", "ÄBCD-2345"] {
            assert!(Code::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn the_right_code_names_its_device_until_it_was_used() {
        let now = Instant::now();
        let mut pairings = waiting_for(&[("phone", "AAAA-2222"), ("tablet", "BBBB-3333")], now);
        assert_eq!(pairings.guess(&code("BBBB-3333"), now), Ok(device("tablet")));
        assert_eq!(
            pairings.guess(&code("BBBB-3333"), now),
            Ok(device("tablet")),
            "not closed yet"
        );
        pairings.close(&device("tablet"));
        assert_eq!(pairings.guess(&code("BBBB-3333"), now), Err(WrongCode::Wrong(4)));
        assert_eq!(pairings.guess(&code("AAAA-2222"), now), Ok(device("phone")));
    }

    #[test]
    fn the_fifth_wrong_guess_voids_every_code_that_waited() {
        let now = Instant::now();
        let mut pairings = waiting_for(&[("phone", "AAAA-2222"), ("tablet", "BBBB-3333")], now);
        for left in [4, 3, 2] {
            assert_eq!(
                pairings.guess(&code("CCCC-4444"), now),
                Err(WrongCode::Wrong(left))
            );
        }
        // One that is opened now has all of its tries.
        pairings.open(device("late"), &code("DDDD-5555"), now).unwrap();
        assert_eq!(pairings.guess(&code("CCCC-4444"), now), Err(WrongCode::Wrong(4)));
        assert_eq!(pairings.guess(&code("CCCC-4444"), now), Err(WrongCode::Wrong(3)));
        assert_eq!(pairings.guess(&code("AAAA-2222"), now), Err(WrongCode::Wrong(2)));
        assert_eq!(pairings.guess(&code("DDDD-5555"), now), Ok(device("late")));
        for expected in [WrongCode::Wrong(1), WrongCode::Void, WrongCode::NoneOpen] {
            assert_eq!(pairings.guess(&code("CCCC-4444"), now), Err(expected));
        }
        assert_eq!(pairings.until(now), None);
    }

    #[test]
    fn a_code_ends_after_ten_minutes_and_a_new_one_voids_it() {
        let now = Instant::now();
        let mut pairings = waiting_for(&[("phone", "AAAA-2222")], now);
        let last = now + LIFETIME - Duration::from_millis(1);
        assert_eq!(pairings.until(now), Some(now + LIFETIME));
        assert_eq!(pairings.guess(&code("AAAA-2222"), last), Ok(device("phone")));
        pairings.open(device("phone"), &code("BBBB-3333"), last).unwrap();
        assert_eq!(pairings.guess(&code("AAAA-2222"), last), Err(WrongCode::Wrong(4)));
        let end = last + LIFETIME;
        assert_eq!(pairings.until(end), None);
        assert_eq!(pairings.guess(&code("BBBB-3333"), end), Err(WrongCode::NoneOpen));
    }

    #[test]
    fn no_more_than_a_few_devices_are_waited_for_at_once() {
        let now = Instant::now();
        let mut pairings = waiting_for(&[], now);
        for number in 0..MAX_OPEN {
            pairings
                .open(device(&format!("d{number}")), &Code::random().unwrap(), now)
                .unwrap();
        }
        assert_eq!(
            pairings.open(device("more"), &code("AAAA-2222"), now),
            Err(TooManyOpen)
        );
        pairings.open(device("d0"), &code("AAAA-2222"), now).unwrap();
        pairings
            .open(device("more"), &code("AAAA-2222"), now + LIFETIME)
            .unwrap();
    }
}
