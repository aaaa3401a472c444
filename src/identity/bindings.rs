//! To which client each token belongs, as pure policy: it is the client's that showed it first, and worth nothing in
//! the hands of another. Kept in memory until the token ends, as hashes, so that an entry has one size.

use std::collections::HashMap;
use std::time::SystemTime;

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
    /// Whether a token is this client's, from now on if it was nobody's.
    pub(crate) fn bind(
        &mut self,
        token: Mark,
        client: Mark,
        device: &DeviceId,
        until: SystemTime,
        now: SystemTime,
    ) -> Result<(), Unbound> {
        if let Some(binding) = self.bound.get(&token) {
            return if binding.client == client {
                Ok(())
            } else {
                Err(Unbound::OthersToken)
            };
        }
        if self.is_full(device) {
            self.forget_ended(now);
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
        self.bound.insert(token, binding);
        Ok(())
    }

    fn is_full(&self, device: &DeviceId) -> bool {
        self.bound.len() >= MAX_TOKENS
            || self
                .of_device
                .get(device)
                .is_some_and(|count| *count >= MAX_OF_A_DEVICE)
    }

    fn forget_ended(&mut self, now: SystemTime) {
        self.bound.retain(|_, binding| binding.until > now);
        self.of_device.clear();
        for binding in self.bound.values() {
            *self.of_device.entry(binding.device.clone()).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let mut bind = |token, client| bindings.bind(mark(token), mark(client), &device, at(900), at(0));
        assert_eq!(bind(1, 1), Ok(()));
        assert_eq!(bind(1, 1), Ok(()));
        assert_eq!(bind(1, 2), Err(Unbound::OthersToken));
        assert_eq!(bind(2, 2), Ok(()));
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
        assert_eq!(
            bindings.bind(next, mark(0), &greedy, at(1800), at(899)),
            Err(Unbound::Full)
        );
        assert_eq!(
            bindings.bind(mark(0), mark(0), &greedy, at(900), at(899)),
            Ok(()),
            "an old one goes on"
        );
        bindings
            .bind(mark(MAX_TOKENS + 1), mark(0), &other, at(900), at(0))
            .unwrap();
        bindings.bind(next, mark(0), &greedy, at(1800), at(900)).unwrap();
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
        assert_eq!(one_more, Err(Unbound::Full));
    }
}
