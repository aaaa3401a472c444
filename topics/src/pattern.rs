//! Topic patterns: how an actor says which topics it owns, and which instance of it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytestring::ByteString;
use thiserror::Error;

use crate::filter::{FilterError, TopicFilter};
use crate::name::{NameError, TopicName};

/// A topic with named levels, such as `clawdbot/{device_id}/command`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TopicPattern {
    segments: Arc<[Segment]>,
    filter: TopicFilter,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Segment {
    Literal(ByteString),
    Parameter(ByteString),
}

impl TopicPattern {
    /// Reads a pattern: levels are literal text or `{name}`, where a name is made of ASCII
    /// letters, digits and `_` and stands once.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let mut segments = Vec::new();
        for level in text.split('/') {
            let segment = parse_segment(level)?;
            if let Segment::Parameter(name) = &segment
                && segments.contains(&segment)
            {
                return Err(PatternError::Repeated { name: name.clone() });
            }
            segments.push(segment);
        }
        let filter = TopicFilter::parse(filter_text(&segments).into())?;
        if filter.share_group().is_some() {
            return Err(PatternError::Shared);
        }
        Ok(Self {
            segments: segments.into(),
            filter,
        })
    }

    /// The filter to subscribe with: every named level becomes `+`.
    ///
    /// It matches a little more than [`capture`](Self::capture) does, which leaves out topics with
    /// an empty text at a named level.
    pub fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    /// What stands at the named levels of `topic`, or `None` when the topic is not of this pattern
    /// or a named level is empty: an actor bound to nobody would be shared by everybody.
    pub fn capture(&self, topic: &TopicName) -> Option<Params> {
        if !self.filter.matches(topic) {
            return None;
        }
        let pairs = self
            .segments
            .iter()
            .zip(topic.levels())
            .filter_map(|(segment, value)| match segment {
                Segment::Literal(_) => None,
                // The value is copied because it outlives the packet that the topic was cut out of.
                Segment::Parameter(name) => Some((name.clone(), ByteString::from(value))),
            });
        let pairs: Arc<[_]> = pairs.collect();
        (!pairs.iter().any(|(_, value)| value.is_empty())).then_some(Params { pairs })
    }

    /// The topic with these values at the named levels, found by name. Values that the pattern
    /// does not name are passed over, so that one set can fill several patterns.
    pub fn expand(&self, params: &Params) -> Result<TopicName, ExpandError> {
        let mut text = String::new();
        for (index, segment) in self.segments.iter().enumerate() {
            if index > 0 {
                text.push('/');
            }
            match segment {
                Segment::Literal(literal) => text.push_str(literal),
                Segment::Parameter(name) => {
                    let value = params
                        .get(name)
                        .ok_or_else(|| ExpandError::Missing { name: name.clone() })?;
                    // A topic led by a `$` value would not be matched by this pattern's own filter.
                    if index == 0 && value.starts_with('$') {
                        return Err(ExpandError::LeadingDollar { name: name.clone() });
                    }
                    text.push_str(value);
                }
            }
        }
        Ok(TopicName::parse(text.into())?)
    }

    /// The names in braces, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Parameter(name) => Some(&**name),
        })
    }
}

/// Values for the named levels of a pattern, in the pattern's order.
///
/// Equal params mean the same bound actor; clones share one allocation.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub struct Params {
    pairs: Arc<[(ByteString, ByteString)]>,
}

impl Params {
    /// Params made by hand, for [`TopicPattern::expand`]. Each value must be a single level with
    /// something in it.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, ParamError> {
        let mut kept: Vec<(ByteString, ByteString)> = Vec::new();
        for (name, value) in pairs {
            if value.is_empty() || value.contains(['/', '+', '#', '\0']) {
                return Err(ParamError::Value {
                    name: name.into(),
                    value: value.into(),
                });
            }
            if kept.iter().any(|(other, _)| other == name) {
                return Err(ParamError::Repeated { name: name.into() });
            }
            kept.push((name.into(), value.into()));
        }
        Ok(Self { pairs: kept.into() })
    }

    /// The value of the level named `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(other, _)| *other == name)
            .map(|(_, value)| value)
    }

    /// Names and values in the pattern's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (&**name, &**value))
    }

    /// How many levels are named.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether the pattern names no levels.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// Braces that are not a whole level, or hold no proper name.
    #[error(
        "level '{level}' of a pattern is neither plain text nor {{name}}; a name has ASCII letters, digits and '_'"
    )]
    Braces {
        /// The level found.
        level: ByteString,
    },
    /// The same name twice: its two values could differ.
    #[error("a pattern names {{{name}}} twice; give each level a name of its own")]
    Repeated {
        /// The name.
        name: ByteString,
    },
    /// A wildcard where a name belongs.
    #[error("level '{level}' of a pattern holds a wildcard; name the level in braces instead")]
    Wildcard {
        /// The level found.
        level: ByteString,
    },
    /// A pattern owns topics, a share group only takes turns at them.
    #[error("a pattern cannot start with $share/{{group}}/; leave the group out")]
    Shared,
    /// What remains is no filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

/// Why a set of values is no set of params.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParamError {
    /// The value is not one level.
    #[error("value {value:?} of {{{name}}} must be one level: not empty, without '/', '+', '#' and U+0000")]
    Value {
        /// The name.
        name: ByteString,
        /// Its value.
        value: ByteString,
    },
    /// The same name twice.
    #[error("{{{name}}} has two values; give it one")]
    Repeated {
        /// The name.
        name: ByteString,
    },
}

/// Why values do not make a topic of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExpandError {
    /// The pattern names a level that the params lack.
    #[error("the pattern needs a value for {{{name}}}; add it")]
    Missing {
        /// The name.
        name: ByteString,
    },
    /// The topic would be a `$` topic, which the pattern does not match [MQTT5 4.7.2].
    #[error("the value of {{{name}}} leads the topic and starts with '$'; use one that does not")]
    LeadingDollar {
        /// The name.
        name: ByteString,
    },
    /// Together they are no topic name.
    #[error(transparent)]
    Name(#[from] NameError),
}

fn parse_segment(level: &str) -> Result<Segment, PatternError> {
    if let Some(name) = level.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Ok(Segment::Parameter(name.into()));
        }
        return Err(PatternError::Braces { level: level.into() });
    }
    if level.contains(['{', '}']) {
        return Err(PatternError::Braces { level: level.into() });
    }
    if level.contains(['+', '#']) {
        return Err(PatternError::Wildcard { level: level.into() });
    }
    Ok(Segment::Literal(level.into()))
}

fn filter_text(segments: &[Segment]) -> String {
    let levels: Vec<&str> = segments
        .iter()
        .map(|segment| match segment {
            Segment::Literal(literal) => &**literal,
            Segment::Parameter(_) => "+",
        })
        .collect();
    levels.join("/")
}

impl FromStr for TopicPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.segments.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            match segment {
                Segment::Literal(literal) => f.write_str(literal)?,
                Segment::Parameter(name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> TopicPattern {
        text.parse().unwrap()
    }

    fn name(text: &str) -> TopicName {
        text.parse().unwrap()
    }

    #[test]
    fn a_named_level_is_captured_and_becomes_a_plus() {
        let command = pattern("clawdbot/{device_id}/command");
        assert_eq!(command.filter().as_str(), "clawdbot/+/command");
        let params = command.capture(&name("clawdbot/mobile/command")).unwrap();
        assert_eq!(params.get("device_id"), Some("mobile"));
        assert_eq!(params.get("device"), None);
        assert_eq!(command.to_string(), "clawdbot/{device_id}/command");
    }

    #[test]
    fn several_levels_keep_the_patterns_order() {
        let rpc = pattern("$mcp-rpc/{client}/{server_id}/{server_name}");
        let params = rpc.capture(&name("$mcp-rpc/c/s/n")).unwrap();
        assert_eq!(
            params.iter().collect::<Vec<_>>(),
            [("client", "c"), ("server_id", "s"), ("server_name", "n")]
        );
        assert_eq!(
            rpc.names().collect::<Vec<_>>(),
            ["client", "server_id", "server_name"]
        );
    }

    #[test]
    fn other_topics_and_empty_levels_are_not_captured() {
        let command = pattern("clawdbot/{device_id}/command");
        for topic in [
            "clawdbot/mobile",
            "clawdbot/mobile/reply",
            "clawdbot/a/b/command",
            "clawdbot//command",
        ] {
            assert_eq!(command.capture(&name(topic)), None, "{topic}");
        }
        assert_eq!(pattern("{root}/x").capture(&name("$SYS/x")), None);
    }

    #[test]
    fn equal_values_are_equal_params() {
        let (command, reply) = (
            pattern("clawdbot/{device_id}/command"),
            pattern("clawdbot/{device_id}/reply"),
        );
        let one = command.capture(&name("clawdbot/mobile/command")).unwrap();
        assert_eq!(reply.capture(&name("clawdbot/mobile/reply")).unwrap(), one);
        assert_eq!(Params::new([("device_id", "mobile")]).unwrap(), one);
        assert_ne!(Params::new([("device_id", "tablet")]).unwrap(), one);
    }

    #[test]
    fn a_captured_topic_expands_to_itself() {
        for (text, topic) in [
            ("clawdbot/{device_id}/command", "clawdbot/mobile/command"),
            ("/{a}//{b}/", "/x//y/"),
            ("plain/topic", "plain/topic"),
        ] {
            let pattern = pattern(text);
            let params = pattern.capture(&name(topic)).unwrap();
            assert_eq!(pattern.expand(&params), Ok(name(topic)));
        }
    }

    #[test]
    fn values_that_would_reach_other_levels_are_refused() {
        for value in ["", "a/b", "+", "#", "a#", "\0"] {
            assert!(
                matches!(Params::new([("x", value)]), Err(ParamError::Value { .. })),
                "{value:?}"
            );
        }
        assert!(matches!(
            Params::new([("x", "1"), ("x", "2")]),
            Err(ParamError::Repeated { .. })
        ));
        let sys = Params::new([("root", "$SYS")]).unwrap();
        assert!(matches!(
            pattern("{root}/x").expand(&sys),
            Err(ExpandError::LeadingDollar { .. })
        ));
        assert!(pattern("a/{root}").expand(&sys).is_ok());
    }

    #[test]
    fn a_missing_value_is_named() {
        let error = pattern("a/{b}").expand(&Params::new([]).unwrap()).unwrap_err();
        assert_eq!(error, ExpandError::Missing { name: "b".into() });
    }

    #[test]
    fn broken_patterns_are_refused() {
        for text in ["a/{}", "a/{b", "a/b}", "a/x{b}", "a/{b-c}", "a/{{b}}"] {
            assert!(
                matches!(TopicPattern::parse(text), Err(PatternError::Braces { .. })),
                "{text}"
            );
        }
        assert!(matches!(
            TopicPattern::parse("a/+"),
            Err(PatternError::Wildcard { .. })
        ));
        assert!(matches!(
            TopicPattern::parse("{a}/{a}"),
            Err(PatternError::Repeated { .. })
        ));
        assert!(matches!(
            TopicPattern::parse("$share/g/{a}"),
            Err(PatternError::Shared)
        ));
        assert!(matches!(
            TopicPattern::parse(""),
            Err(PatternError::Filter(FilterError::Empty))
        ));
    }
}
