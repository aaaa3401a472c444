//! Topic names: what a message is published to [MQTT5 4.7].

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use bytestring::ByteString;
use thiserror::Error;

/// The longest topic name or filter in bytes: its length travels as two bytes [MQTT5 4.7.3].
pub const MAX_TOPIC_BYTES: usize = 65_535;

/// The most levels a topic name or filter may have.
///
/// The specification names no bound, but every level costs a node of the subscription tree, and a
/// name of 65,535 slashes would be a cheap way to ask for 65,536 of them.
pub const MAX_LEVELS: usize = 200;

/// A topic name fit to publish to: not empty, no wildcards, no U+0000, within the bounds
/// [MQTT5 4.7.1, 4.7.3].
// The field is open to the crate for the retained store alone, whose search positions lie
// between names and are never handed out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(pub(crate) ByteString);

impl TopicName {
    /// Checks `text` and keeps it as it is, without copying.
    pub fn parse(text: ByteString) -> Result<Self, NameError> {
        check_text(&text)?;
        if let Some(wildcard) = text.chars().find(|c| matches!(c, '+' | '#')) {
            return Err(NameError::Wildcard { wildcard });
        }
        check_level_count(&text)?;
        Ok(Self(text))
    }

    /// The name's bytes, to be shared without a copy.
    pub fn as_byte_string(&self) -> &ByteString {
        &self.0
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels between the slashes; a leading or trailing slash adds an empty one [MQTT5 4.7.1.1].
    pub fn levels(&self) -> std::str::Split<'_, char> {
        self.0.split('/')
    }

    /// Whether the name starts with `$`, so that no leading wildcard matches it [MQTT5 4.7.2].
    pub fn is_dollar(&self) -> bool {
        self.0.starts_with('$')
    }

    /// A copy with memory of its own.
    ///
    /// A name cut out of a packet keeps the whole packet's buffer alive; what outlives the packet
    /// should hold a detached copy.
    pub fn detached(&self) -> Self {
        Self(ByteString::from(self.as_str()))
    }
}

/// Why a text is no topic name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// No characters at all [MQTT-4.7.3-1].
    #[error("a topic name is empty; give it at least one character")]
    Empty,
    /// Longer than the wire can carry [MQTT-4.7.3-3].
    #[error("a topic name has {bytes} bytes; shorten it to {MAX_TOPIC_BYTES} or fewer")]
    TooLong {
        /// The length found.
        bytes: usize,
    },
    /// Contains U+0000 [MQTT-4.7.3-2].
    #[error("a topic name contains the character U+0000; remove it")]
    Nul,
    /// Contains `+` or `#`, which only filters may [MQTT-4.7.1-1].
    #[error(
        "a topic name contains the wildcard '{wildcard}'; publish to one topic, wildcards are for filters"
    )]
    Wildcard {
        /// The first wildcard found.
        wildcard: char,
    },
    /// More levels than this broker accepts.
    #[error("a topic name has {levels} levels; use {MAX_LEVELS} or fewer")]
    TooManyLevels {
        /// The number of levels found.
        levels: usize,
    },
}

/// The checks that names and filters share [MQTT5 4.7.3].
pub(crate) fn check_text(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_TOPIC_BYTES {
        return Err(NameError::TooLong { bytes: text.len() });
    }
    if text.contains('\0') {
        return Err(NameError::Nul);
    }
    Ok(())
}

pub(crate) fn check_level_count(text: &str) -> Result<(), NameError> {
    let levels = text.split('/').count();
    if levels > MAX_LEVELS {
        return Err(NameError::TooManyLevels { levels });
    }
    Ok(())
}

impl FromStr for TopicName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text.into())
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl From<TopicName> for ByteString {
    fn from(name: TopicName) -> Self {
        name.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashMap};

    #[test]
    fn names_of_the_specification_are_accepted() {
        for text in [
            "sport/tennis/player1",
            "/finance",
            "finance/",
            "/",
            "ACCOUNTS",
            "Accounts payable",
            "$SYS/uptime",
            "Ā/ü/日本",
        ] {
            assert_eq!(text.parse::<TopicName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn each_broken_rule_is_named() {
        let cases: [(String, NameError); 6] = [
            (String::new(), NameError::Empty),
            ("a\0b".into(), NameError::Nul),
            ("sport/+".into(), NameError::Wildcard { wildcard: '+' }),
            ("sport/#".into(), NameError::Wildcard { wildcard: '#' }),
            ("x".repeat(65_536), NameError::TooLong { bytes: 65_536 }),
            ("/".repeat(200), NameError::TooManyLevels { levels: 201 }),
        ];
        for (text, error) in cases {
            assert_eq!(TopicName::parse(text.into()), Err(error));
        }
    }

    #[test]
    fn the_bounds_themselves_are_accepted() {
        assert!(TopicName::parse("x".repeat(65_535).into()).is_ok());
        assert!(TopicName::parse("/".repeat(199).into()).is_ok());
    }

    #[test]
    fn a_slash_at_an_end_adds_an_empty_level() {
        let name: TopicName = "/finance/".parse().unwrap();
        assert_eq!(name.levels().collect::<Vec<_>>(), ["", "finance", ""]);
    }

    #[test]
    fn only_a_leading_dollar_counts() {
        assert!("$SYS/x".parse::<TopicName>().unwrap().is_dollar());
        assert!(!"a/$SYS".parse::<TopicName>().unwrap().is_dollar());
    }

    #[test]
    fn maps_are_searched_by_text() {
        let name: TopicName = "a/b".parse().unwrap();
        assert_eq!(HashMap::from([(name.clone(), 1)]).get("a/b"), Some(&1));
        assert_eq!(BTreeMap::from([(name, 1)]).get("a/b"), Some(&1));
    }

    #[test]
    fn a_detached_name_is_equal_but_elsewhere() {
        let name: TopicName = "a/b".parse().unwrap();
        let copy = name.detached();
        assert_eq!(name, copy);
        assert_ne!(name.as_str().as_ptr(), copy.as_str().as_ptr());
    }
}
