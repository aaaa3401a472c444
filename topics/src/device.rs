//! Device ids: the level under `clawdbot/` that says whose topics these are.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use bytestring::ByteString;
use thiserror::Error;

/// The longest device id in bytes.
pub const MAX_DEVICE_ID_BYTES: usize = 64;

/// The level under `clawdbot/` where the hub itself answers; no device may take its place.
pub const BRIDGE: &str = "bridge";

/// A device's id: exactly one topic level, safe to put into names, filters and access rules.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(ByteString);

impl DeviceId {
    /// Checks `text` and keeps it as it is, without copying.
    pub fn parse(text: ByteString) -> Result<Self, DeviceIdError> {
        if text.is_empty() {
            return Err(DeviceIdError::Empty);
        }
        if text.len() > MAX_DEVICE_ID_BYTES {
            return Err(DeviceIdError::TooLong { bytes: text.len() });
        }
        if let Some(character) = text.chars().find(|c| is_forbidden(*c)) {
            return Err(DeviceIdError::Forbidden { character });
        }
        if text == BRIDGE {
            return Err(DeviceIdError::Bridge);
        }
        Ok(Self(text))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A copy with memory of its own; see [`TopicName::detached`](crate::name::TopicName::detached).
    pub fn detached(&self) -> Self {
        Self(ByteString::from(self.as_str()))
    }
}

/// Why a text is no device id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeviceIdError {
    /// No characters at all.
    #[error("a device id is empty; give it at least one character")]
    Empty,
    /// Too long to be worth keeping in every topic of the device.
    #[error("a device id has {bytes} bytes; shorten it to {MAX_DEVICE_ID_BYTES} or fewer")]
    TooLong {
        /// The length found.
        bytes: usize,
    },
    /// A character that topics give a meaning, or a control character.
    #[error("a device id contains {character:?}; use none of '+', '#', '/', '$' and no control characters")]
    Forbidden {
        /// The first such character.
        character: char,
    },
    /// The hub's own level.
    #[error("'{BRIDGE}' is the hub's own name; choose another device id")]
    Bridge,
}

/// Characters that would let one level mean more than itself.
pub(crate) fn is_forbidden(character: char) -> bool {
    matches!(character, '+' | '#' | '/' | '$') || character.is_control()
}

impl FromStr for DeviceId {
    type Err = DeviceIdError;

    fn from_str(text: &str) -> Result<Self, DeviceIdError> {
        Self::parse(text.into())
    }
}

impl Borrow<str> for DeviceId {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for DeviceId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_ids_are_accepted() {
        for text in [
            "mobile",
            "mobile_123",
            "kitchen.tablet-2",
            "büro",
            "Bridge",
            "bridge2",
            &"x".repeat(64),
        ] {
            assert_eq!(text.parse::<DeviceId>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn each_broken_rule_is_named() {
        let cases = [
            ("", DeviceIdError::Empty),
            (&"x".repeat(65), DeviceIdError::TooLong { bytes: 65 }),
            ("a/b", DeviceIdError::Forbidden { character: '/' }),
            ("+", DeviceIdError::Forbidden { character: '+' }),
            ("a#", DeviceIdError::Forbidden { character: '#' }),
            ("$SYS", DeviceIdError::Forbidden { character: '$' }),
            ("a\0", DeviceIdError::Forbidden { character: '\0' }),
            ("a\nb", DeviceIdError::Forbidden { character: '\n' }),
            ("a\u{85}b", DeviceIdError::Forbidden { character: '\u{85}' }),
            ("bridge", DeviceIdError::Bridge),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<DeviceId>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_error_shows_a_control_character_escaped() {
        assert!(
            "a\nb"
                .parse::<DeviceId>()
                .unwrap_err()
                .to_string()
                .contains(r"'\n'")
        );
    }
}
