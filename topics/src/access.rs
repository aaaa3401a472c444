//! Access rules: who may publish and subscribe to what, in the form of EMQX's `acl` claim.
//!
//! The rules are compiled once, when a client connects, and asked for each message. The first
//! rule that applies decides; where none does, the answer is no.

mod entry;
mod substitution;

use std::fmt;
use std::sync::Arc;

use bytestring::ByteString;
use thiserror::Error;

use crate::device::DeviceId;
use crate::filter::{FilterError, TopicFilter};
use crate::name::TopicName;

pub use entry::{AclEntry, Action, Permission};
pub use substitution::{SubstitutionError, Substitutions};

/// The most rules a client may bring: each message is held against them one by one.
pub const MAX_RULES: usize = 256;

/// A client's compiled rules, in order. Clones share them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRules {
    rules: Arc<[Rule]>,
}

impl AccessRules {
    /// Compiles a token's `acl` claim for the client that showed it.
    ///
    /// # Errors
    /// At the first entry that cannot be compiled. A list is taken as a whole or not at all: a
    /// deny rule left out would allow what it was there to prevent.
    pub fn compile(entries: &[AclEntry], substitutions: &Substitutions<'_>) -> Result<Self, AccessError> {
        if entries.len() > MAX_RULES {
            return Err(AccessError::TooManyRules { rules: entries.len() });
        }
        let rules = entries.iter().zip(1..).map(|(entry, number)| {
            let topic = || entry.topic.as_str().into();
            Rule::compile(entry, substitutions).map_err(|problem| AccessError::Entry {
                number,
                topic: topic(),
                problem,
            })
        });
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// What a device may do whose token says nothing else: everything under `clawdbot/{device}/`,
    /// and nothing besides.
    pub fn device_default(device: &DeviceId) -> Self {
        let filter = TopicFilter::parse(format!("clawdbot/{device}/#").into());
        // A device id always makes a filter; if ever it did not, no rule means no access.
        let rules = filter
            .into_iter()
            .map(|filter| Rule::allow_all(RuleFilter::Matching(filter)));
        Self {
            rules: rules.collect(),
        }
    }

    /// Publishing to what these filters match is allowed, and nothing besides.
    pub fn publish_only(filters: impl IntoIterator<Item = TopicFilter>) -> Self {
        let rules = filters.into_iter().map(|filter| Rule {
            action: Action::Publish,
            ..Rule::allow_all(RuleFilter::Matching(filter))
        });
        Self {
            rules: rules.collect(),
        }
    }

    /// Everything is allowed, `$` topics too: for a hub that asks nobody who they are.
    pub fn unrestricted() -> Self {
        Self {
            rules: Arc::new([Rule::allow_all(RuleFilter::Everything)]),
        }
    }

    /// Whether a message may be published to `topic` with this QoS and retain flag.
    pub fn may_publish(&self, topic: &TopicName, qos: u8, retain: bool) -> Decision<'_> {
        self.first(|rule| rule.applies_to_publish(topic, qos, retain))
    }

    /// Whether a client may subscribe with `filter`, asking for this QoS. As in EMQX, a rule's QoS
    /// levels are compared with the one asked for, not with those of the messages to come.
    ///
    /// An allow rule must cover the filter entirely, for what it lets in only in part would be
    /// delivered whole; a deny rule needs no more than to overlap it. Two allow rules that cover a
    /// filter only together do not allow it. Of a shared subscription the filter part counts.
    pub fn may_subscribe(&self, filter: &TopicFilter, qos: u8) -> Decision<'_> {
        self.first(|rule| rule.applies_to_subscribe(filter, qos))
    }

    /// The rules in the order in which they are asked.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    fn first(&self, applies: impl Fn(&Rule) -> bool) -> Decision<'_> {
        let mut numbered = (1..).zip(self.rules.iter());
        Decision {
            rule: numbered.find(|(_, rule)| applies(rule)),
        }
    }
}

/// An answer, with the rule that gave it, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Decision<'rules> {
    rule: Option<(usize, &'rules Rule)>,
}

impl<'rules> Decision<'rules> {
    /// Whether it is a yes.
    pub fn is_allowed(&self) -> bool {
        self.rule
            .is_some_and(|(_, rule)| rule.permission == Permission::Allow)
    }

    /// The rule that decided and its number, counted from 1; `None` when none applied.
    pub fn rule(&self) -> Option<(usize, &'rules Rule)> {
        self.rule
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            Some((number, rule)) => write!(f, "decided by rule {number}: {rule}"),
            None => f.write_str("denied: no rule applies"),
        }
    }
}

/// One compiled rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    permission: Permission,
    action: Action,
    filter: RuleFilter,
    qos: QosSet,
    /// Only messages with this retain flag; a rule about subscribing has no use for it.
    retain: Option<bool>,
}

/// Which topics a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum RuleFilter {
    /// All of them, `$` topics included, which no filter can say.
    Everything,
    Matching(TopicFilter),
    /// The text itself, wildcards or not, after `eq `: it is about the subscription `a/#` and
    /// not about `a/b`.
    Exactly(ByteString),
}

/// The QoS levels 0, 1 and 2 that a rule is about, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct QosSet(u8);

impl QosSet {
    const ALL: Self = Self(0b111);

    fn contains(self, qos: u8) -> bool {
        qos <= 2 && self.0 & (1 << qos) != 0
    }
}

impl Rule {
    fn compile(entry: &AclEntry, substitutions: &Substitutions<'_>) -> Result<Self, RuleError> {
        let filter = match entry.topic.strip_prefix("eq ") {
            // As in EMQX, a literal text is not searched for placeholders either.
            Some(literal) => {
                // The text is held against filters and names, so it has to be able to be one.
                without_share(TopicFilter::parse(literal.into())?)?;
                RuleFilter::Exactly(literal.into())
            }
            None => {
                let text = substitutions.fill_in(&entry.topic)?;
                RuleFilter::Matching(without_share(TopicFilter::parse(text.into())?)?)
            }
        };
        Ok(Self {
            permission: entry.permission,
            action: entry.action,
            filter,
            qos: qos_set(entry.qos.as_deref())?,
            retain: entry.retain,
        })
    }

    fn allow_all(filter: RuleFilter) -> Self {
        Self {
            permission: Permission::Allow,
            action: Action::All,
            filter,
            qos: QosSet::ALL,
            retain: None,
        }
    }

    /// What the rule says when it applies.
    pub fn permission(&self) -> Permission {
        self.permission
    }

    fn applies_to_publish(&self, topic: &TopicName, qos: u8, retain: bool) -> bool {
        self.action != Action::Subscribe
            && self.qos.contains(qos)
            && self.retain.is_none_or(|flag| flag == retain)
            && match &self.filter {
                RuleFilter::Everything => true,
                RuleFilter::Matching(filter) => filter.matches(topic),
                RuleFilter::Exactly(text) => *text == *topic.as_str(),
            }
    }

    fn applies_to_subscribe(&self, wanted: &TopicFilter, qos: u8) -> bool {
        self.action != Action::Publish
            && self.qos.contains(qos)
            && match (&self.filter, self.permission) {
                (RuleFilter::Everything, _) => true,
                (RuleFilter::Matching(filter), Permission::Allow) => filter.covers(wanted),
                (RuleFilter::Matching(filter), Permission::Deny) => filter.overlaps(wanted),
                (RuleFilter::Exactly(text), _) => *text == *wanted.filter(),
            }
    }
}

fn without_share(filter: TopicFilter) -> Result<TopicFilter, RuleError> {
    // Requests are held against rules without their group, so such a rule would never apply, and
    // a deny rule that never applies is worse than an error.
    if filter.share_group().is_some() {
        Err(RuleError::Shared)
    } else {
        Ok(filter)
    }
}

fn qos_set(levels: Option<&[u8]>) -> Result<QosSet, RuleError> {
    let Some(levels) = levels else {
        return Ok(QosSet::ALL);
    };
    if levels.is_empty() {
        return Err(RuleError::NoQos);
    }
    levels.iter().try_fold(QosSet(0), |QosSet(bits), &qos| match qos {
        0..=2 => Ok(QosSet(bits | 1 << qos)),
        _ => Err(RuleError::Qos { qos }),
    })
}

/// Written as it would be said: `allow publish clawdbot/mobile/# qos 0,1 retain true`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.permission, self.action)?;
        match &self.filter {
            RuleFilter::Everything => f.write_str("everything")?,
            RuleFilter::Matching(filter) => write!(f, "{filter}")?,
            RuleFilter::Exactly(text) => write!(f, "eq {text}")?,
        }
        if self.qos != QosSet::ALL {
            let levels: Vec<String> = (0..=2)
                .filter(|&qos| self.qos.contains(qos))
                .map(|qos| qos.to_string())
                .collect();
            write!(f, " qos {}", levels.join(","))?;
        }
        if let Some(retain) = self.retain {
            write!(f, " retain {retain}")?;
        }
        Ok(())
    }
}

/// Why an `acl` claim cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccessError {
    /// More than a client may bring.
    #[error("the acl has {rules} entries; use {MAX_RULES} or fewer")]
    TooManyRules {
        /// The number found.
        rules: usize,
    },
    /// One entry is wrong.
    #[error("acl entry {number} ({topic:?}): {problem}")]
    Entry {
        /// Which one, counted from 1.
        number: usize,
        /// Its topic as written.
        topic: ByteString,
        /// What is wrong with it.
        problem: RuleError,
    },
}

/// Why an entry makes no rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RuleError {
    /// A placeholder cannot be filled in.
    #[error(transparent)]
    Substitution(#[from] SubstitutionError),
    /// The topic is no filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The topic names a share group.
    #[error("rules are about topics, not about share groups; leave $share/{{group}}/ out")]
    Shared,
    /// The rule is about no QoS at all.
    #[error("the list of QoS levels is empty, so that the rule never applies; leave 'qos' out for all")]
    NoQos,
    /// There is no such QoS [MQTT5 4.3].
    #[error("there is no QoS {qos}; use 0, 1 and 2")]
    Qos {
        /// The number found.
        qos: u8,
    },
}

#[cfg(test)]
mod tests;
