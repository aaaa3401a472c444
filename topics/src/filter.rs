//! Topic filters: what a client subscribes to [MQTT5 4.7.1, 4.8.2].

use std::fmt;
use std::str::FromStr;

use bytestring::ByteString;
use thiserror::Error;

use crate::name::{MAX_LEVELS, MAX_TOPIC_BYTES, NameError, TopicName, check_level_count, check_text};

const SHARE_PREFIX: &str = "$share/";

/// A topic filter: wildcards stand for whole levels, `#` comes last, and `$share/{group}/` in
/// front makes it a shared one [MQTT5 4.7.1, 4.8.2].
///
/// Two filters are equal when their texts are, share group included.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter {
    text: ByteString,
    /// Where the part that topics are matched with begins: 0 unless shared. A filter may be as
    /// long as 65,535 bytes, so that two bytes hold every position in it.
    filter_start: u16,
}

impl TopicFilter {
    /// Checks `text` and keeps it as it is, without copying.
    pub fn parse(text: ByteString) -> Result<Self, FilterError> {
        check_text(&text)?;
        let filter_start = check_share(&text)?;
        let filter = &text[filter_start..];
        check_level_count(filter)?;
        check_wildcards(filter)?;
        let bytes = text.len();
        let filter_start = u16::try_from(filter_start).map_err(|_| FilterError::TooLong { bytes })?;
        Ok(Self { text, filter_start })
    }

    /// Whether a message published to `topic` is meant for this filter.
    ///
    /// A leading wildcard does not match a topic that starts with `$` [MQTT-4.7.2-1]. For a shared
    /// filter only the part after the group counts [MQTT5 4.8.2].
    pub fn matches(&self, topic: &TopicName) -> bool {
        if topic.is_dollar() && self.starts_with_wildcard() {
            return false;
        }
        // Byte by byte and not by levels, because access rules ask it often and most often the answer is no.
        // What both begin with holds no wildcard, for a topic has none.
        let (mut filter, mut topic) = (self.filter().as_bytes(), topic.as_str().as_bytes());
        loop {
            let same = filter
                .iter()
                .zip(topic)
                .take_while(|(ours, its)| ours == its)
                .count();
            (filter, topic) = (&filter[same..], &topic[same..]);
            match (filter, topic) {
                // `#` stands for the parent level too: `sport/#` matches `sport`.
                ([b'#', ..], _) | (b"/#", []) | ([], []) => return true,
                ([b'+', rest @ ..], _) => {
                    let level = topic.iter().take_while(|byte| **byte != b'/').count();
                    (filter, topic) = (rest, &topic[level..]);
                }
                _ => return false,
            }
        }
    }

    /// Whether this filter matches every topic that `other` can match.
    ///
    /// Access rules rest on it: a subscription may reach no further than the rule that allows it.
    pub fn covers(&self, other: &TopicFilter) -> bool {
        if other.starts_with_dollar() && self.starts_with_wildcard() {
            return false;
        }
        let mut other_levels = other.levels_spelled_out();
        for level in self.levels_spelled_out() {
            match (level, other_levels.next()) {
                ("#", _) => return true,
                (_, None | Some("#")) => return false,
                ("+", Some(_)) => {}
                // A literal is never `+`, which some level other than this literal could fill.
                (literal, Some(other_level)) if literal == other_level => {}
                _ => return false,
            }
        }
        other_levels.next().is_none()
    }

    /// Whether some topic is matched by both filters.
    pub fn overlaps(&self, other: &TopicFilter) -> bool {
        if self.starts_with_wildcard() && other.starts_with_dollar()
            || other.starts_with_wildcard() && self.starts_with_dollar()
        {
            return false;
        }
        let mut ours = self.levels_spelled_out();
        let mut theirs = other.levels_spelled_out();
        loop {
            match (ours.next(), theirs.next()) {
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
                (Some(our_level), Some(their_level)) if our_level == their_level => {}
                _ => return false,
            }
        }
    }

    /// The group of a shared filter: `g` in `$share/g/a/b` [MQTT5 4.8.2].
    pub fn share_group(&self) -> Option<&str> {
        let start = usize::from(self.filter_start);
        (start > 0).then(|| &self.text[SHARE_PREFIX.len()..start - 1])
    }

    /// The part that topics are matched with: `a/b` in `$share/g/a/b`, else the whole text.
    pub fn filter(&self) -> &str {
        &self.text[usize::from(self.filter_start)..]
    }

    /// The whole text, a share group included.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The levels of [`filter`](Self::filter), without a share group.
    pub fn levels(&self) -> std::str::Split<'_, char> {
        self.filter().split('/')
    }

    /// Whether any level is a wildcard. Without one, the filter matches one topic: itself.
    pub fn has_wildcards(&self) -> bool {
        self.filter().contains(['+', '#'])
    }

    /// Whether the first level is a wildcard, which never matches a `$` topic [MQTT5 4.7.2].
    pub fn starts_with_wildcard(&self) -> bool {
        self.filter().starts_with(['+', '#'])
    }

    /// The levels, with what a topic's not being empty implies said aloud: `#` matches no topic of
    /// zero levels, and `/#` none whose only level is empty. So `#` says the same as `+/#`, while
    /// `a/#` says more than `a/+/#`, because it matches `a`.
    fn levels_spelled_out(&self) -> std::str::Split<'_, char> {
        let spelled_out = match self.filter() {
            "#" => "+/#",
            "/#" => "/+/#",
            filter => filter,
        };
        spelled_out.split('/')
    }

    fn starts_with_dollar(&self) -> bool {
        self.filter().starts_with('$')
    }

    /// A copy with memory of its own; see [`TopicName::detached`].
    pub fn detached(&self) -> Self {
        Self {
            text: ByteString::from(self.as_str()),
            filter_start: self.filter_start,
        }
    }
}

/// Why a text is no topic filter.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FilterError {
    /// No characters at all [MQTT-4.7.3-1].
    #[error("a topic filter is empty; give it at least one character")]
    Empty,
    /// Longer than the wire can carry [MQTT-4.7.3-3].
    #[error("a topic filter has {bytes} bytes; shorten it to {MAX_TOPIC_BYTES} or fewer")]
    TooLong {
        /// The length found.
        bytes: usize,
    },
    /// Contains U+0000 [MQTT-4.7.3-2].
    #[error("a topic filter contains the character U+0000; remove it")]
    Nul,
    /// More levels than this broker accepts.
    #[error("a topic filter has {levels} levels; use {MAX_LEVELS} or fewer")]
    TooManyLevels {
        /// The number of levels found.
        levels: usize,
    },
    /// A wildcard shares its level with other characters [MQTT-4.7.1-1, MQTT-4.7.1-2].
    #[error(
        "level {level} of a topic filter mixes a wildcard with other characters; let '+' or '#' stand alone between slashes"
    )]
    WildcardInsideLevel {
        /// Which level, counted from 1.
        level: usize,
    },
    /// `#` is followed by more levels [MQTT-4.7.1-1].
    #[error("'#' at level {level} of a topic filter is not the last level; end the filter there or use '+'")]
    HashNotLast {
        /// Which level, counted from 1.
        level: usize,
    },
    /// `$share/` without a usable group name [MQTT-4.8.2-1, MQTT-4.8.2-2].
    #[error("a shared subscription needs a group name without '+' and '#': $share/{{group}}/{{filter}}")]
    ShareGroup,
    /// Nothing after the group [MQTT-4.8.2-2].
    #[error("a shared subscription needs a filter after its group: $share/{{group}}/{{filter}}")]
    ShareWithoutFilter,
    /// A shared filter in a shared filter: nothing could ever be delivered to it sensibly.
    #[error("a shared subscription holds another one; use $share/{{group}}/ once")]
    ShareInsideShare,
}

impl From<NameError> for FilterError {
    fn from(error: NameError) -> Self {
        match error {
            NameError::Empty => Self::Empty,
            NameError::TooLong { bytes } => Self::TooLong { bytes },
            NameError::Nul => Self::Nul,
            NameError::TooManyLevels { levels } => Self::TooManyLevels { levels },
            // Only names refuse wildcards as such; the checks shared with filters never say so.
            NameError::Wildcard { .. } => Self::WildcardInsideLevel { level: 1 },
        }
    }
}

/// Where the filter part begins, after `$share/{group}/` has been checked [MQTT5 4.8.2].
fn check_share(text: &str) -> Result<usize, FilterError> {
    let Some(shared) = text.strip_prefix(SHARE_PREFIX) else {
        return Ok(0);
    };
    let (group, filter) = shared.split_once('/').ok_or(FilterError::ShareWithoutFilter)?;
    if group.is_empty() || group.contains(['+', '#']) {
        return Err(FilterError::ShareGroup);
    }
    if filter.is_empty() {
        return Err(FilterError::ShareWithoutFilter);
    }
    if filter.starts_with(SHARE_PREFIX) {
        return Err(FilterError::ShareInsideShare);
    }
    Ok(text.len() - filter.len())
}

fn check_wildcards(filter: &str) -> Result<(), FilterError> {
    let mut levels = filter.split('/').zip(1..).peekable();
    while let Some((text, level)) = levels.next() {
        if text.len() > 1 && text.contains(['+', '#']) {
            return Err(FilterError::WildcardInsideLevel { level });
        }
        if text == "#" && levels.peek().is_some() {
            return Err(FilterError::HashNotLast { level });
        }
    }
    Ok(())
}

/// A name is the filter that matches it alone. (A name under `$share/` is not: such a filter
/// would be a shared one.)
impl TryFrom<&TopicName> for TopicFilter {
    type Error = FilterError;

    fn try_from(name: &TopicName) -> Result<Self, FilterError> {
        Self::parse(name.0.clone())
    }
}

impl FromStr for TopicFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text.into())
    }
}

impl AsRef<str> for TopicFilter {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    fn filter(text: &str) -> TopicFilter {
        text.parse().unwrap()
    }

    fn name(text: &str) -> TopicName {
        text.parse().unwrap()
    }

    #[test]
    fn the_specifications_examples_match() {
        for (text, topic) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("#", "sport/tennis/player1"),
            ("#", "/"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("+/tennis/#", "sport/tennis"),
            ("sport/+/player1", "sport/tennis/player1"),
            ("$SYS/#", "$SYS/monitor/Clients"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
            ("$share/consumer1/sport/tennis/+", "sport/tennis/player1"),
            ("$share/consumer2//finance", "/finance"),
        ] {
            assert!(filter(text).matches(&name(topic)), "{text} {topic}");
        }
    }

    #[test]
    fn the_specifications_counterexamples_do_not_match() {
        for (text, topic) in [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/monitor/Clients"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("$share/g/#", "$SYS/monitor/Clients"),
            ("ACCOUNTS", "Accounts"),
            ("/finance", "finance"),
            ("sport/tennis", "sport/tennis/player1"),
            ("sport/tennis/player1", "sport/tennis"),
            ("$share/g/a", "$share/g/a"),
        ] {
            assert!(!filter(text).matches(&name(topic)), "{text} {topic}");
        }
    }

    #[test]
    fn each_broken_rule_is_named() {
        let cases: [(&str, FilterError); 14] = [
            ("", FilterError::Empty),
            ("a\0", FilterError::Nul),
            (&"x".repeat(65_536), FilterError::TooLong { bytes: 65_536 }),
            (&"/".repeat(200), FilterError::TooManyLevels { levels: 201 }),
            ("sport/tennis#", FilterError::WildcardInsideLevel { level: 2 }),
            ("sport+", FilterError::WildcardInsideLevel { level: 1 }),
            ("++", FilterError::WildcardInsideLevel { level: 1 }),
            ("sport/tennis/#/ranking", FilterError::HashNotLast { level: 3 }),
            ("$share/g", FilterError::ShareWithoutFilter),
            ("$share/g/", FilterError::ShareWithoutFilter),
            ("$share//a", FilterError::ShareGroup),
            ("$share/+/a", FilterError::ShareGroup),
            ("$share/g#/a", FilterError::ShareGroup),
            ("$share/g/$share/h/a", FilterError::ShareInsideShare),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<TopicFilter>(), Err(error), "{text:.40}");
        }
    }

    #[test]
    fn a_shared_filter_shows_its_parts() {
        let shared = filter("$share/consumer1/sport/tennis/+");
        assert_eq!(shared.share_group(), Some("consumer1"));
        assert_eq!(shared.filter(), "sport/tennis/+");
        assert_eq!(shared.as_str(), "$share/consumer1/sport/tennis/+");
        assert_eq!(shared.levels().next(), Some("sport"));
        assert_eq!(filter("$share").share_group(), None);
        assert_eq!(filter("$shared/a/b").share_group(), None);
    }

    #[test]
    fn covering_follows_the_wildcards() {
        for (wide, narrow, covered) in [
            ("#", "a/b", true),
            ("#", "+/#", true),
            ("+/#", "#", true),
            ("+/+/#", "#", false),
            ("a/+/#", "a/#", false),
            ("/+/#", "/#", true),
            ("a/#", "a/+/#", true),
            ("a/#", "a", true),
            ("a/#", "#", false),
            ("a/+", "a/#", false),
            ("a/+", "a/b", true),
            ("a/b", "a/+", false),
            ("+", "+", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("$SYS/#", "#", false),
            ("clawdbot/mobile/#", "clawdbot/+/command", false),
            ("clawdbot/mobile/#", "$share/g/clawdbot/mobile/reply", true),
        ] {
            assert_eq!(
                filter(wide).covers(&filter(narrow)),
                covered,
                "{wide} over {narrow}"
            );
        }
    }

    #[test]
    fn overlapping_follows_the_wildcards() {
        for (one, other, overlap) in [
            ("a/+", "+/b", true),
            ("a/#", "a", true),
            ("a/#", "a/+/#", true),
            ("#", "$SYS/x", false),
            ("#", "$SYS/#", false),
            ("+/x", "$SYS/+", false),
            ("a/b", "a/c", false),
            ("a/+", "a", false),
            ("a/+/c", "a/#", true),
            ("+", "/#", false),
        ] {
            assert_eq!(filter(one).overlaps(&filter(other)), overlap, "{one} and {other}");
            assert_eq!(filter(other).overlaps(&filter(one)), overlap, "{other} and {one}");
        }
    }

    /// The specification's rules, word by word, on lists of levels.
    fn naive_match(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            ([], []) | (["#"], _) => true,
            (["+", filter @ ..], [_, topic @ ..]) => naive_match(filter, topic),
            ([level, filter @ ..], [topic_level, topic @ ..]) => {
                level == topic_level && naive_match(filter, topic)
            }
            _ => false,
        }
    }

    static SMALL_TOPICS: LazyLock<Vec<TopicName>> = LazyLock::new(small_topics);

    /// Every topic of up to four levels over an alphabet with one letter (`z`) that no filter of
    /// [`filters`] uses: it stands for all the texts a wildcard may meet.
    fn small_topics() -> Vec<TopicName> {
        let mut levels: Vec<String> = vec![];
        let mut last: Vec<String> = ["", "a", "b", "$c", "z"].map(String::from).into();
        for _ in 0..4 {
            let next = last
                .iter()
                .flat_map(|t| ["", "a", "b", "$c", "z"].map(|level| format!("{t}/{level}")));
            let next = next.collect();
            levels.append(&mut last);
            last = next;
        }
        levels
            .into_iter()
            .filter(|text| !text.is_empty())
            .map(|text| name(&text))
            .collect()
    }

    fn filters() -> impl Strategy<Value = TopicFilter> {
        let level = prop::sample::select(vec!["", "a", "b", "+", "+", "$c"]);
        (prop::collection::vec(level, 0..=3), any::<bool>(), any::<bool>())
            .prop_map(|(mut levels, hash, shared)| {
                if hash {
                    levels.push("#");
                }
                format!("{}{}", if shared { "$share/g/" } else { "" }, levels.join("/"))
            })
            .prop_map(|text| text.parse().unwrap_or_else(|_| filter("a")))
    }

    fn topics() -> impl Strategy<Value = TopicName> {
        prop::collection::vec(prop::sample::select(vec!["", "a", "b", "$c", "z"]), 1..=4)
            .prop_map(|levels| levels.join("/").parse().unwrap_or_else(|_| name("a")))
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_rules_word_by_word(filter in filters(), topic in topics()) {
            let levels: Vec<_> = filter.filter().split('/').collect();
            let topic_levels: Vec<_> = topic.as_str().split('/').collect();
            let hidden = topic.as_str().starts_with('$') && matches!(levels[0], "+" | "#");
            prop_assert_eq!(filter.matches(&topic), !hidden && naive_match(&levels, &topic_levels));
        }

        #[test]
        fn a_filter_covers_exactly_when_it_matches_all_topics_of_the_other(a in filters(), b in filters()) {
            // Three levels and a `#` in the filters, four in the topics: a topic that tells the
            // two apart, if there is any, is among them.
            let subset = SMALL_TOPICS.iter().filter(|topic| b.matches(topic)).all(|topic| a.matches(topic));
            prop_assert_eq!(a.covers(&b), subset);
        }

        #[test]
        fn filters_overlap_exactly_when_they_share_a_topic(a in filters(), b in filters()) {
            let shared = SMALL_TOPICS.iter().any(|topic| a.matches(topic) && b.matches(topic));
            prop_assert_eq!(a.overlaps(&b), shared);
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(text in "[a$/+#\\PC]{0,12}") {
            let _ = TopicName::parse(text.clone().into());
            if let Ok(filter) = TopicFilter::parse(text.clone().into()) {
                prop_assert_eq!(filter.as_str(), text);
            }
        }
    }
}
