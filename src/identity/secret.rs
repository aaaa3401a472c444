//! A device's secret: 32 random bytes, given to the device once. What is kept is its HMAC under the device's name, so
//! that what is kept of one device is worth nothing under another's name. With so much chance in it, it needs no
//! slow hash.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use topics::device::DeviceId;

use crate::security::random;

const BYTES: usize = 32;

/// The secret as the device keeps it: 43 characters. There is no Debug.
pub(crate) struct DeviceSecret(String);

impl DeviceSecret {
    /// A new one; nothing where the system has no random numbers.
    pub(crate) fn random() -> Option<DeviceSecret> {
        random::bytes::<BYTES>().map(|bytes| DeviceSecret(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// For the device's eyes.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

/// What is kept of a secret. There is no Debug.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Verifier([u8; BYTES]);

impl Verifier {
    /// Of a device's secret.
    pub(crate) fn of(device: &DeviceId, secret: &DeviceSecret) -> Option<Verifier> {
        let tag = hmac::sign(&key(device), secret.0.as_bytes());
        tag.as_ref().try_into().ok().map(Verifier)
    }

    /// Whether this is the secret; in constant time.
    pub(crate) fn admits(&self, device: &DeviceId, secret: &[u8]) -> bool {
        hmac::verify(&key(device), secret, &self.0).is_ok()
    }

    /// As it is kept.
    pub(crate) fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// From what was kept.
    pub(crate) fn from_text(text: &str) -> Option<Verifier> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Verifier)
    }
}

fn key(device: &DeviceId) -> hmac::Key {
    hmac::Key::new(
        hmac::HMAC_SHA256,
        format!("clawdbot device secret: {device}").as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_again_by_what_is_kept_of_it_and_by_its_device_alone() {
        let (phone, tablet) = ("phone".parse().unwrap(), "tablet".parse().unwrap());
        let secret = DeviceSecret::random().unwrap();
        assert_eq!(secret.reveal().len(), 43);
        let kept = Verifier::of(&phone, &secret).unwrap().to_text();
        assert!(!kept.contains(secret.reveal()));
        let verifier = Verifier::from_text(&kept).unwrap();
        assert!(verifier.admits(&phone, secret.reveal().as_bytes()));
        assert!(!verifier.admits(&tablet, secret.reveal().as_bytes()));
        assert!(!verifier.admits(&phone, DeviceSecret::random().unwrap().reveal().as_bytes()));
        assert!(!verifier.admits(&phone, b""));
    }

    #[test]
    fn what_was_not_written_here_is_no_verifier() {
        for text in ["", "AAAA", "!", &"A".repeat(44)] {
            assert!(Verifier::from_text(text).is_none(), "{text:?}");
        }
    }
}
