//! One compiled rule: what it is about, and whether it applies.

use std::fmt;

use bytestring::ByteString;
use thiserror::Error;

use super::{AclEntry, Action, Permission, SubstitutionError, Substitutions};
use crate::filter::{FilterError, TopicFilter};
use crate::name::TopicName;

/// One compiled rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    source: Source,
    permission: Permission,
    action: Action,
    filter: RuleFilter,
    qos: QosSet,
    /// Only messages with this retain flag; a rule about subscribing has no use for it.
    retain: Option<bool>,
}

/// Who made a rule, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// This program: what a device, or everybody, may do where nothing else is said.
    BuiltIn,
    /// The `acl` claim, its entry of this number, counted from 1.
    Token(usize),
    /// The configuration, its entry of this number, counted from 1.
    Configuration(usize),
}

/// Which topics a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RuleFilter {
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
    pub(super) fn compile(
        entry: &AclEntry,
        substitutions: &Substitutions<'_>,
        source: Source,
    ) -> Result<Self, RuleError> {
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
            source,
            permission: entry.permission,
            action: entry.action,
            filter,
            qos: qos_set(entry.qos.as_deref())?,
            retain: entry.retain,
        })
    }

    pub(super) fn allow_all(filter: RuleFilter) -> Self {
        Self {
            source: Source::BuiltIn,
            permission: Permission::Allow,
            action: Action::All,
            filter,
            qos: QosSet::ALL,
            retain: None,
        }
    }

    pub(super) fn publish_only(filter: TopicFilter) -> Self {
        Self {
            action: Action::Publish,
            ..Self::allow_all(RuleFilter::Matching(filter))
        }
    }

    /// Who made it.
    pub fn source(&self) -> Source {
        self.source
    }

    /// What the rule says when it applies.
    pub fn permission(&self) -> Permission {
        self.permission
    }

    pub(super) fn applies_to_publish(&self, topic: &TopicName, qos: u8, retain: bool) -> bool {
        self.action != Action::Subscribe
            && self.qos.contains(qos)
            && self.retain.is_none_or(|flag| flag == retain)
            && match &self.filter {
                RuleFilter::Everything => true,
                RuleFilter::Matching(filter) => filter.matches(topic),
                RuleFilter::Exactly(text) => *text == *topic.as_str(),
            }
    }

    pub(super) fn applies_to_subscribe(&self, wanted: &TopicFilter, qos: u8) -> bool {
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

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("the built-in rule"),
            Self::Token(number) => write!(f, "rule {number} of the token"),
            Self::Configuration(number) => write!(f, "[[access]] entry {number} of the configuration"),
        }
    }
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
