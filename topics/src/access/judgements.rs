//! What a client was allowed to publish before, so that the same is not judged again and again.
//!
//! Only what was allowed is kept: a refusal is told with its rule each time, and costs its client
//! more than us.

use super::AccessRules;
use crate::name::TopicName;

/// Places for topics, two each; see [`Judgements::remember`].
const PLACES: usize = 64;

/// So many rules are asked about as fast as a topic is found again in the table, see `benches/README.md`.
const FEW_RULES: usize = 8;

/// See the module. To be made anew whenever the rules are.
#[derive(Debug, Default)]
pub struct Judgements {
    last: Option<Publication>,
    /// Empty until there is use for it.
    table: Vec<[Option<Publication>; 2]>,
}

/// What rules judge of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Publication {
    topic: TopicName,
    qos: u8,
    retain: bool,
}

impl Publication {
    fn is(&self, topic: &TopicName, qos: u8, retain: bool) -> bool {
        self.qos == qos && self.retain == retain && self.topic == *topic
    }
}

impl Judgements {
    /// Whether such a publication is known to be allowed.
    pub fn know(&self, topic: &TopicName, qos: u8, retain: bool) -> bool {
        let is_like =
            |kept: &Option<Publication>| kept.as_ref().is_some_and(|kept| kept.is(topic, qos, retain));
        if is_like(&self.last) {
            return true;
        }
        !self.table.is_empty()
            && self
                .table
                .get(place(topic))
                .is_some_and(|two| two.iter().any(is_like))
    }

    /// These rules have allowed it.
    ///
    /// The table has one place for each topic, by its hash, where the newest two stay: so it is
    /// bounded. Who finds topics that share a place slows down itself.
    pub fn remember(&mut self, rules: &AccessRules, topic: &TopicName, qos: u8, retain: bool) {
        let publication = |topic| Publication { topic, qos, retain };
        if rules.count() > FEW_RULES && self.last.is_some() {
            if self.table.is_empty() {
                self.table.resize(PLACES, [None, None]);
            }
            if let Some([newest, before]) = self.table.get_mut(place(topic)) {
                // A copy, or each place would hold the read buffer that its topic came in.
                *before = newest.replace(publication(topic.detached()));
            }
        }
        self.last = Some(publication(topic.clone()));
    }
}

/// Eight bytes at a time, multiplied and turned: as good as a table of this size needs it.
fn place(topic: &TopicName) -> usize {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(ODD);
    let bytes = topic.as_str().as_bytes();
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(bytes.len() as u64, |hash, word| {
        mix(hash, u64::from_le_bytes(*word))
    });
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    (mix(hash, u64::from_le_bytes(last)) >> (64 - PLACES.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::super::{AccessPolicy, AclEntry, Substitutions};
    use super::*;
    use proptest::prelude::*;

    fn rules(topics: &[String]) -> AccessRules {
        let entries = topics.iter().map(|topic| AclEntry {
            permission: super::super::Permission::Allow,
            action: super::super::Action::All,
            topic: topic.clone(),
            qos: Some(vec![0, 1]),
            retain: Some(false),
        });
        let client = Substitutions {
            client_id: "c",
            username: None,
            device_id: &"d".parse().unwrap(),
        };
        AccessRules::for_client(&AccessPolicy::default(), &entries.collect::<Vec<_>>(), &client).unwrap()
    }

    #[test]
    fn what_was_allowed_lately_is_known_and_nothing_like_it_is() {
        let rules = rules(&(0..20).map(|n| format!("room/{n}/+")).collect::<Vec<_>>());
        let topic = |n: u32| -> TopicName { format!("room/{n}/lamp").parse().unwrap() };
        let mut judgements = Judgements::default();
        for n in 0..20 {
            judgements.remember(&rules, &topic(n), 1, false);
        }
        let known = (0..20).filter(|n| judgements.know(&topic(*n), 1, false)).count();
        assert!(known >= 18, "{known} of 20: only three of one place are too many");
        assert!(judgements.know(&topic(19), 1, false));
        for (n, qos, retain) in [(19, 0, false), (19, 1, true), (20, 1, false)] {
            assert!(!judgements.know(&topic(n), qos, retain), "{n} {qos} {retain}");
        }
    }

    #[test]
    fn with_few_rules_only_the_last_is_kept_and_a_table_never_grows() {
        let few = rules(&[]);
        let (first, second) = ("clawdbot/d/a".parse().unwrap(), "clawdbot/d/b".parse().unwrap());
        let mut judgements = Judgements::default();
        judgements.remember(&few, &first, 0, false);
        judgements.remember(&few, &second, 0, false);
        assert!(!judgements.know(&first, 0, false) && judgements.know(&second, 0, false));
        assert!(judgements.table.is_empty());
        let many = rules(&vec!["a/#".to_owned(); 200]);
        for n in 0..10_000 {
            judgements.remember(&many, &format!("a/{n}").parse().unwrap(), 0, false);
        }
        assert_eq!(judgements.table.len(), PLACES);
    }

    proptest! {
        #[test]
        fn what_is_known_the_rules_would_allow(
            allowed in prop::collection::vec("[ab]/(\\+|#|[ab])", 9..12),
            asked in prop::collection::vec(("[abc]/[abc]", 0u8..3, any::<bool>()), 1..200),
        ) {
            let rules = rules(&allowed);
            let mut judgements = Judgements::default();
            for (topic, qos, retain) in asked {
                let topic: TopicName = topic.parse().unwrap();
                let allows = rules.may_publish(&topic, qos, retain).is_allowed();
                prop_assert!(allows || !judgements.know(&topic, qos, retain), "{}", topic);
                if allows {
                    judgements.remember(&rules, &topic, qos, retain);
                }
            }
        }
    }
}
