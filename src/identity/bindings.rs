//! To which client each token belongs, as pure policy: it is the client's that showed it first, and worth nothing in
//! the hands of another. Kept until the token ends, as hashes, so that an entry has one size.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use topics::device::DeviceId;

/// What stands for a token or a client here: the first half of its SHA-256.
pub(crate) type Mark = [u8; 16];

/// Tokens remembered in all: some 10 MB.
const MAX_TOKENS: usize = 65_536;
/// Tokens of one device, so that none can take the others' room.
const MAX_OF_A_DEVICE: usize = 1_024;

/// See the module.
#[derive(Default)]
pub(crate) struct Bindings {
    bound: HashMap<Mark, Binding>,
    of_device: HashMap<DeviceId, usize>,
}

struct Binding {
    client: Mark,
    device: DeviceId,
    until: SystemTime,
}

/// What is to be kept or let go of, so that a binding outlives the daemon.
#[derive(Default)]
pub(crate) struct Notes {
    /// A new one.
    pub(crate) bound: Option<Vec<u8>>,
    /// Tokens that ended.
    pub(crate) ended: Vec<Mark>,
}

/// As it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    client: Mark,
    device: String,
    until_s: u64,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unbound {
    /// Another client showed it first.
    #[error(
        "the token was used by a client with another client identifier before, and is that client's alone; get one for \
         each client, and give each client an identifier of its own that it keeps"
    )]
    OthersToken,
    /// No room; the policy is to refuse the newest, since whoever is forgotten could be impersonated.
    #[error(
        "too many tokens are in use that have not ended; come back when some have, or use this device's older ones"
    )]
    Full,
}

impl Bindings {
    /// With those that were kept, by the marks of their tokens; also what is to be let go of.
    pub(crate) fn new(
        kept: impl IntoIterator<Item = (Mark, Vec<u8>)>,
        now: SystemTime,
    ) -> (Bindings, Vec<Mark>) {
        let (mut bindings, mut ended) = (Bindings::default(), Vec::new());
        for (token, bytes) in kept {
            match Binding::from_bytes(&bytes).filter(|binding| binding.until > now) {
                Some(binding) => drop(bindings.bound.insert(token, binding)),
                None => ended.push(token),
            }
        }
        bindings.count();
        (bindings, ended)
    }

    /// Whether a token is this client's, from now on if it was nobody's.
    pub(crate) fn bind(
        &mut self,
        token: Mark,
        client: Mark,
        device: &DeviceId,
        until: SystemTime,
        now: SystemTime,
    ) -> Result<Notes, Unbound> {
        let mut notes = Notes::default();
        if let Some(binding) = self.bound.get(&token) {
            return if binding.client == client {
                Ok(notes)
            } else {
                Err(Unbound::OthersToken)
            };
        }
        if self.is_full(device) {
            notes.ended = self.forget_ended(now);
            if self.is_full(device) {
                return Err(Unbound::Full);
            }
        }
        let device = device.detached();
        *self.of_device.entry(device.clone()).or_default() += 1;
        let binding = Binding {
            client,
            device,
            until,
        };
        notes.bound = binding.to_bytes();
        self.bound.insert(token, binding);
        Ok(notes)
    }

    fn is_full(&self, device: &DeviceId) -> bool {
        self.bound.len() >= MAX_TOKENS
            || self
                .of_device
                .get(device)
                .is_some_and(|count| *count >= MAX_OF_A_DEVICE)
    }

    fn forget_ended(&mut self, now: SystemTime) -> Vec<Mark> {
        let ended = self.bound.extract_if(|_, binding| binding.until <= now);
        let ended = ended.map(|(token, _)| token).collect();
        self.count();
        ended
    }

    fn count(&mut self) {
        self.of_device.clear();
        for binding in self.bound.values() {
            *self.of_device.entry(binding.device.clone()).or_default() += 1;
        }
    }
}

impl Binding {
    fn to_bytes(&self) -> Option<Vec<u8>> {
        let kept = Kept {
            client: self.client,
            device: self.device.as_str().to_owned(),
            // A part of a second more is no harm.
            until_s: self.until.duration_since(UNIX_EPOCH).ok()?.as_secs() + 1,
        };
        serde_json::to_vec(&kept).ok()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Binding> {
        let kept: Kept = serde_json::from_slice(bytes).ok()?;
        Some(Binding {
            client: kept.client,
            device: kept.device.parse().ok()?,
            until: UNIX_EPOCH.checked_add(Duration::from_secs(kept.until_s))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        EPOCH + Duration::from_secs(seconds)
    }

    fn mark(number: usize) -> Mark {
        (number as u128).to_be_bytes()
    }

    #[test]
    fn a_token_is_the_client_s_that_showed_it_first() {
        let (mut bindings, device) = (Bindings::default(), "phone".parse().unwrap());
        let mut bind = |token, client| {
            let bound = bindings.bind(mark(token), mark(client), &device, at(900), at(0));
            bound.map(|notes| notes.bound.is_some())
        };
        assert_eq!(bind(1, 1), Ok(true));
        assert_eq!(bind(1, 1), Ok(false));
        assert_eq!(bind(1, 2), Err(Unbound::OthersToken));
        assert_eq!(bind(2, 2), Ok(true));
    }

    #[test]
    fn a_binding_that_was_kept_holds_until_its_token_ends() {
        let device = "phone".parse().unwrap();
        let bind = |bindings: &mut Bindings, client, now| {
            bindings.bind(mark(1), mark(client), &device, at(900), now)
        };
        let kept = bind(&mut Bindings::default(), 1, at(0)).unwrap().bound.unwrap();
        let others = [(mark(2), b"nonsense".to_vec()), (mark(1), kept.clone())];
        let (mut bindings, ended) = Bindings::new(others, at(899));
        assert_eq!(ended, [mark(2)]);
        assert_eq!(bind(&mut bindings, 2, at(899)).err(), Some(Unbound::OthersToken));
        assert!(bind(&mut bindings, 1, at(899)).is_ok());
        let (_, ended) = Bindings::new([(mark(1), kept)], at(901));
        assert_eq!(ended, [mark(1)]);
    }

    #[test]
    fn a_device_fills_its_own_room_and_tokens_that_ended_make_room() {
        let mut bindings = Bindings::default();
        let (greedy, other) = ("greedy".parse().unwrap(), "other".parse().unwrap());
        for number in 0..MAX_OF_A_DEVICE {
            bindings
                .bind(mark(number), mark(0), &greedy, at(900), at(0))
                .unwrap();
        }
        let next = mark(MAX_TOKENS);
        let too_early = bindings.bind(next, mark(0), &greedy, at(1800), at(899));
        assert_eq!(too_early.err(), Some(Unbound::Full));
        let old = bindings.bind(mark(0), mark(0), &greedy, at(900), at(899));
        assert!(old.is_ok(), "an old one goes on");
        bindings
            .bind(mark(MAX_TOKENS + 1), mark(0), &other, at(900), at(0))
            .unwrap();
        let notes = bindings.bind(next, mark(0), &greedy, at(1800), at(900)).unwrap();
        assert_eq!(notes.ended.len(), MAX_OF_A_DEVICE + 1);
        assert_eq!(bindings.bound.len(), 1);
    }

    #[test]
    fn all_devices_together_have_a_bound_too() {
        let mut bindings = Bindings::default();
        for number in 0..MAX_TOKENS {
            let device = format!("d{}", number / MAX_OF_A_DEVICE).parse().unwrap();
            bindings
                .bind(mark(number), mark(0), &device, at(900), at(0))
                .unwrap();
        }
        let device = "one more".parse().unwrap();
        let one_more = bindings.bind(mark(MAX_TOKENS), mark(0), &device, at(900), at(0));
        assert_eq!(one_more.err(), Some(Unbound::Full));
    }
}
