//! Retained messages: the last word on each topic, kept for whoever subscribes later
//! [MQTT5 3.3.1.3].

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytestring::ByteString;
use thiserror::Error;

use crate::filter::TopicFilter;
use crate::name::TopicName;

/// One message per topic, within bounds, found by filter.
///
/// A sorted map rather than a tree: it costs one entry per message, and a search leaps over
/// everything that shares a wrong level (see `step`), so that `clawdbot/+/status` looks at about
/// one entry per device. When a message expires is the caller's business.
#[derive(Debug, Clone)]
pub struct RetainedStore<M> {
    messages: BTreeMap<Key, Entry<M>>,
    bounds: RetainedBounds,
    bytes: usize,
}

/// How much a [`RetainedStore`] may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetainedBounds {
    /// The most messages.
    pub max_messages: usize,
    /// The most bytes, as the caller counts them.
    pub max_bytes: usize,
}

#[derive(Debug, Clone)]
struct Entry<M> {
    message: M,
    bytes: usize,
}

impl<M> RetainedStore<M> {
    /// An empty store.
    pub fn new(bounds: RetainedBounds) -> Self {
        Self {
            messages: BTreeMap::new(),
            bounds,
            bytes: 0,
        }
    }

    /// Keeps `message` as the topic's last word and returns the one before it [MQTT-3.3.1-5].
    /// `bytes` is what the message counts against the bound, its name and overhead included.
    ///
    /// The name is copied, so that no packet's buffer stays alive with it.
    ///
    /// # Errors
    /// When a bound would be passed; the store is then as it was. The former message of the topic
    /// is still in it, and a caller for whom an outdated word is worse than none removes it.
    pub fn insert(&mut self, name: &TopicName, message: M, bytes: usize) -> Result<Option<M>, RetainedFull> {
        let RetainedBounds {
            max_messages,
            max_bytes,
        } = self.bounds;
        let full = self.messages.len() >= max_messages;
        let present = self.messages.get_mut(&Key(name.clone()));
        let freed_bytes = present.as_ref().map_or(0, |entry| entry.bytes);
        let needed_bytes = (self.bytes - freed_bytes).saturating_add(bytes);
        if needed_bytes > max_bytes {
            return Err(RetainedFull::Bytes {
                max_bytes,
                needed_bytes,
            });
        }
        let entry = Entry { message, bytes };
        let replaced = match present {
            Some(present) => Some(std::mem::replace(present, entry).message),
            None if full => {
                return Err(RetainedFull::Messages { max_messages });
            }
            None => {
                self.messages.insert(Key(name.detached()), entry);
                None
            }
        };
        self.bytes = needed_bytes;
        Ok(replaced)
    }

    /// Forgets the topic's message, as an empty payload asks for [MQTT-3.3.1-6].
    pub fn remove(&mut self, name: &TopicName) -> Option<M> {
        let entry = self.messages.remove(&Key(name.clone()))?;
        self.bytes -= entry.bytes;
        Some(entry.message)
    }

    /// The topic's message.
    pub fn get(&self, name: &TopicName) -> Option<&M> {
        self.messages.get(&Key(name.clone())).map(|entry| &entry.message)
    }

    /// The messages whose topics `filter` matches, level by level in order.
    ///
    /// A shared filter is taken by its filter part; that a shared subscription gets no retained
    /// messages [MQTT5 4.8.2] is for the caller to know.
    pub fn matching(&self, filter: &TopicFilter) -> Vec<(TopicName, M)>
    where
        M: Clone,
    {
        let mut found = Vec::new();
        self.visit_matching(filter, &mut |name, message| {
            found.push((name.clone(), message.clone()))
        });
        found
    }

    /// Calls `visit` for each message that [`matching`](Self::matching) would return, without
    /// copying any.
    pub fn visit_matching<'a>(&'a self, filter: &TopicFilter, visit: &mut impl FnMut(&'a TopicName, &'a M)) {
        let mut rest = self.messages.range(literal_prefix(filter)..);
        while let Some((Key(name), entry)) = rest.next() {
            match step(filter, name) {
                Step::Match => visit(name, &entry.message),
                Step::Next => {}
                Step::LeapTo(text) => rest = self.messages.range(Key::position(text)..),
                Step::Done => break,
            }
        }
    }

    /// Forgets every message that `keep` answers `false` for, the expired ones say.
    pub fn retain(&mut self, mut keep: impl FnMut(&TopicName, &M) -> bool) {
        let bytes = &mut self.bytes;
        self.messages.retain(|Key(name), entry| {
            let kept = keep(name, &entry.message);
            if !kept {
                *bytes -= entry.bytes;
            }
            kept
        });
    }

    /// All messages, level by level in order.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicName, &M)> {
        self.messages
            .iter()
            .map(|(Key(name), entry)| (name, &entry.message))
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The sum of the bytes given with the messages that are here.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A message that found no room, and which bound it met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RetainedFull {
    /// As many messages as allowed are here already.
    #[error("{max_messages} messages are retained, as many as allowed; clear one or raise max_messages")]
    Messages {
        /// The bound.
        max_messages: usize,
    },
    /// The bytes would pass their bound.
    #[error(
        "retained messages would take {needed_bytes} of {max_bytes} bytes; clear some or raise max_bytes"
    )]
    Bytes {
        /// The bound.
        max_bytes: usize,
        /// What all messages would have taken together with this one.
        needed_bytes: usize,
    },
}

/// A name in level order: `/` sorts before every other character, as if it were the U+0000 that
/// no name contains. So `a`, then all of `a/…`, then `a-b`; in plain text order `a-b` would come
/// between, and a topic and what lies below it would not be neighbours.
///
/// Beside the names in the map, keys are positions in this order that a search leaps to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key(TopicName);

impl Key {
    fn position(text: String) -> Self {
        Self(TopicName(ByteString::from(text)))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        level_order(self.0.as_str()).cmp(level_order(other.0.as_str()))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn level_order(text: &str) -> impl Iterator<Item = u8> {
    text.bytes().map(|byte| if byte == b'/' { 0 } else { byte })
}

/// The first position that a topic matched by `filter` can have: its literal levels, up to the
/// first wildcard. `a/#` begins at `a`, which it matches too.
fn literal_prefix(filter: &TopicFilter) -> Key {
    let literals: Vec<&str> = filter
        .levels()
        .take_while(|level| !matches!(*level, "+" | "#"))
        .collect();
    Key::position(literals.join("/"))
}

/// Where a search goes from a topic it came to.
enum Step {
    /// The topic matches; go on with the next.
    Match,
    /// The topic is too short, and what lies below it may match.
    Next,
    /// Nothing before this position matches.
    LeapTo(String),
    /// Nothing further on matches.
    Done,
}

/// Compares level by level and, at the first difference, leaps as far as it allows. Every leap
/// leads past `name` in level order, so a search always ends.
fn step(filter: &TopicFilter, name: &TopicName) -> Step {
    let text = name.as_str();
    if name.is_dollar() && filter.starts_with_wildcard() {
        // `%` is the character after `$`: past every `$` topic at once.
        return Step::LeapTo("%".into());
    }
    let mut topic_levels = name.levels();
    // Where in `text` the level under comparison begins.
    let mut start = 0;
    for level in filter.levels() {
        if level == "#" {
            return Step::Match;
        }
        let Some(topic_level) = topic_levels.next() else {
            return Step::Next;
        };
        if level != "+" {
            match topic_level.cmp(level) {
                Ordering::Equal => {}
                Ordering::Less => return Step::LeapTo(format!("{}{level}", &text[..start])),
                Ordering::Greater if start == 0 => return Step::Done,
                Ordering::Greater => return past(&text[..start - 1]),
            }
        }
        start += topic_level.len() + 1;
    }
    match topic_levels.next() {
        None => Step::Match,
        Some(_) => past(&text[..start - 1]),
    }
}

/// Past `parent` and everything below it: U+0001 is the first character that sorts after `/`.
fn past(parent: &str) -> Step {
    Step::LeapTo(format!("{parent}\u{1}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOMY: RetainedBounds = RetainedBounds {
        max_messages: 1_000,
        max_bytes: 1_000_000,
    };

    fn name(text: &str) -> TopicName {
        text.parse().unwrap()
    }

    fn store(topics: &[&str]) -> RetainedStore<u32> {
        let mut store = RetainedStore::new(ROOMY);
        for (message, topic) in (0..).zip(topics) {
            store.insert(&name(topic), message, 1).unwrap();
        }
        store
    }

    fn found(store: &RetainedStore<u32>, filter: &str) -> Vec<String> {
        let matching = store.matching(&filter.parse().unwrap());
        matching.into_iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn a_filter_finds_its_topics_in_level_order() {
        let store = store(&[
            "a-b", "a/x/c", "a", "a/x", "a/x-y/c", "$SYS/c", "b/x/c", "a/", "a/y/c/d",
        ]);
        assert_eq!(
            found(&store, "a/#"),
            ["a", "a/", "a/x", "a/x/c", "a/x-y/c", "a/y/c/d"]
        );
        assert_eq!(found(&store, "a/+/c"), ["a/x/c", "a/x-y/c"]);
        assert_eq!(found(&store, "+/x/#"), ["a/x", "a/x/c", "b/x/c"]);
        assert_eq!(found(&store, "a-b"), ["a-b"]);
        assert_eq!(found(&store, "a/+"), ["a/", "a/x"]);
        assert_eq!(found(&store, "c/#"), [""; 0]);
    }

    #[test]
    fn dollar_topics_hide_from_leading_wildcards() {
        let store = store(&["!x/c", "$SYS/c", "$other", "b/c"]);
        assert_eq!(found(&store, "#"), ["!x/c", "b/c"]);
        assert_eq!(found(&store, "+/c"), ["!x/c", "b/c"]);
        assert_eq!(found(&store, "$SYS/#"), ["$SYS/c"]);
        assert_eq!(found(&store, "$share/g/$SYS/+"), ["$SYS/c"]);
    }

    #[test]
    fn a_new_message_replaces_the_old_and_its_bytes() {
        let mut store = RetainedStore::new(ROOMY);
        assert_eq!(store.insert(&name("a"), "old", 10), Ok(None));
        assert_eq!(store.insert(&name("a"), "new", 3), Ok(Some("old")));
        assert_eq!((store.len(), store.bytes()), (1, 3));
        assert_eq!(store.get(&name("a")), Some(&"new"));
        assert_eq!(store.remove(&name("a")), Some("new"));
        assert_eq!(store.remove(&name("a")), None);
        assert_eq!((store.len(), store.bytes()), (0, 0));
    }

    #[test]
    fn the_bound_that_was_met_is_named() {
        let mut store = RetainedStore::new(RetainedBounds {
            max_messages: 2,
            max_bytes: 10,
        });
        store.insert(&name("a"), 1, 4).unwrap();
        assert_eq!(
            store.insert(&name("b"), 2, 7),
            Err(RetainedFull::Bytes {
                max_bytes: 10,
                needed_bytes: 11
            })
        );
        store.insert(&name("b"), 2, 6).unwrap();
        assert_eq!(
            store.insert(&name("c"), 3, 0),
            Err(RetainedFull::Messages { max_messages: 2 })
        );
        assert!(store.insert(&name("b"), 2, usize::MAX).is_err());
        assert_eq!((store.len(), store.bytes()), (2, 10));
    }

    #[test]
    fn a_full_store_still_replaces() {
        let mut store = RetainedStore::new(RetainedBounds {
            max_messages: 1,
            max_bytes: 10,
        });
        store.insert(&name("a"), 1, 10).unwrap();
        assert_eq!(store.insert(&name("a"), 2, 9), Ok(Some(1)));
        let refusal = store.insert(&name("a"), 3, 11).unwrap_err();
        assert!(refusal.to_string().contains("11 of 10 bytes"));
        assert_eq!(store.get(&name("a")), Some(&2));
    }

    #[test]
    fn what_is_not_kept_gives_its_bytes_back() {
        let mut store = store(&["a", "b", "c"]);
        store.retain(|_, message| *message == 1);
        assert_eq!((store.len(), store.bytes()), (1, 1));
        assert_eq!(
            store.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["b"]
        );
    }

    #[test]
    fn a_search_by_level_leaps_over_what_cannot_match() {
        let mut store = RetainedStore::new(RetainedBounds {
            max_messages: 100_000,
            max_bytes: 100_000,
        });
        for device in 0..100 {
            for topic in 0..500 {
                store
                    .insert(&name(&format!("clawdbot/d{device}/log/{topic}")), (), 1)
                    .unwrap();
            }
            store
                .insert(&name(&format!("clawdbot/d{device}/status")), (), 1)
                .unwrap();
        }
        let filter: TopicFilter = "clawdbot/+/status".parse().unwrap();
        let mut looked_at = 0;
        let mut rest = store.messages.range(literal_prefix(&filter)..);
        while let Some((Key(name), _)) = rest.next() {
            looked_at += 1;
            match step(&filter, name) {
                Step::LeapTo(text) => rest = store.messages.range(Key::position(text)..),
                Step::Done => break,
                Step::Match | Step::Next => {}
            }
        }
        assert!(looked_at <= 201, "{looked_at} of {}", store.len());
        assert_eq!(store.matching(&filter).len(), 100);
    }

    fn levels() -> impl Strategy<Value = String> {
        prop::sample::select(vec![
            "", "a", "b", "a-b", "a\u{1}", "ab", "$", "$c", "%", "!", "ü",
        ])
        .prop_map(String::from)
    }

    fn topics() -> impl Strategy<Value = TopicName> {
        prop::collection::vec(levels(), 1..=4)
            .prop_map(|levels| levels.join("/").parse().unwrap_or_else(|_| name("a")))
    }

    fn filters() -> impl Strategy<Value = TopicFilter> {
        let level = prop_oneof![2 => levels(), 1 => Just("+".to_owned())];
        (prop::collection::vec(level, 0..=4), any::<bool>())
            .prop_map(|(mut levels, hash)| {
                if hash {
                    levels.push("#".into());
                }
                levels.join("/")
            })
            .prop_map(|text| text.parse().unwrap_or_else(|_| "a".parse().unwrap()))
    }

    proptest! {
        #[test]
        fn the_store_finds_what_a_look_at_every_topic_finds(
            topics in prop::collection::btree_set(topics(), 0..80),
            filters in prop::collection::vec(filters(), 1..20),
        ) {
            let texts: Vec<&str> = topics.iter().map(TopicName::as_str).collect();
            let store = store(&texts);
            for filter in filters {
                let expected: Vec<&str> =
                    store.iter().map(|(name, _)| name).filter(|name| filter.matches(name)).map(TopicName::as_str).collect();
                prop_assert_eq!(found(&store, filter.as_str()), expected, "{}", filter);
            }
        }
    }
}
