//! Access rules: who may publish and subscribe to what, in the form of EMQX's `acl` claim.
//!
//! The rules are compiled once, when a client connects, and asked for each message. They are two
//! lists, what the configuration says of the client and what its token says, and last what a device
//! may do by default. In each list the first rule that applies decides; a no of either list is a no,
//! and otherwise a yes of one is enough. Where no rule applies, the answer is no.
//!
//! EMQX asks the token first, and what the token allows its configuration cannot forbid. Here whoever
//! owns the hub can: a deny rule of the configuration holds whatever a token that was signed before,
//! or elsewhere with the same key, allows. The other way round a token may give up what the
//! configuration grants, so that a token for one purpose can be as narrow as its purpose.

mod entry;
mod judgements;
mod policy;
mod rule;
mod substitution;
mod who;

use std::fmt;
use std::sync::Arc;

use bytestring::ByteString;
use thiserror::Error;

use crate::device::DeviceId;
use crate::filter::TopicFilter;
use crate::name::TopicName;

use rule::RuleFilter;

pub use entry::{AclEntry, Action, Permission};
pub use judgements::Judgements;
pub use policy::{AccessPolicy, PolicyEntry, check_topic};
pub use rule::{Rule, RuleError, Source};
pub use substitution::{SubstitutionError, Substitutions};
pub use who::{NamePattern, Who};

/// The most rules a token may bring, and the most of the configuration: each message is held against
/// them one by one.
pub const MAX_RULES: usize = 256;

/// A client's compiled rules, in order. Clones share them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRules {
    configured: Arc<[Rule]>,
    /// Of the token, then those built in.
    own: Arc<[Rule]>,
}

impl AccessRules {
    /// What a client may do: by the configuration, by its token's `acl` claim, and by default.
    ///
    /// # Errors
    /// At the first entry of the claim that cannot be compiled, and at a deny rule of the
    /// configuration that cannot be for this client. A list is taken as a whole or not at all: a
    /// deny rule left out would allow what it was there to prevent.
    pub fn for_client(
        policy: &AccessPolicy,
        acl: &[AclEntry],
        substitutions: &Substitutions<'_>,
    ) -> Result<Self, AccessError> {
        let configured = policy.rules_for(substitutions)?;
        let mut own = compile(acl, substitutions)?;
        own.extend(default_rule(substitutions.device_id));
        Ok(Self {
            configured: configured.into(),
            own: own.into(),
        })
    }

    /// Compiles a token's `acl` claim for the client that showed it, and nothing besides.
    ///
    /// # Errors
    /// As [`AccessRules::for_client`].
    pub fn compile(acl: &[AclEntry], substitutions: &Substitutions<'_>) -> Result<Self, AccessError> {
        compile(acl, substitutions).map(Self::own)
    }

    /// What a device may do whose token says nothing else: everything under `clawdbot/{device}/`,
    /// and nothing besides.
    pub fn device_default(device: &DeviceId) -> Self {
        Self::own(default_rule(device))
    }

    /// Publishing to what these filters match is allowed, and nothing besides.
    pub fn publish_only(filters: impl IntoIterator<Item = TopicFilter>) -> Self {
        Self::own(filters.into_iter().map(Rule::publish_only))
    }

    /// Everything is allowed, `$` topics too: for a hub that asks nobody who they are.
    pub fn unrestricted() -> Self {
        Self::own([Rule::allow_all(RuleFilter::Everything)])
    }

    fn own(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self {
            configured: Arc::new([]),
            own: rules.into_iter().collect(),
        }
    }

    /// Whether a message may be published to `topic` with this QoS and retain flag.
    pub fn may_publish(&self, topic: &TopicName, qos: u8, retain: bool) -> Decision<'_> {
        self.decide(|rule| rule.applies_to_publish(topic, qos, retain))
    }

    /// Whether a client may subscribe with `filter`, asking for this QoS. As in EMQX, a rule's QoS
    /// levels are compared with the one asked for, not with those of the messages to come.
    ///
    /// An allow rule must cover the filter entirely, for what it lets in only in part would be
    /// delivered whole; a deny rule needs no more than to overlap it. Two allow rules that cover a
    /// filter only together do not allow it. Of a shared subscription the filter part counts.
    pub fn may_subscribe(&self, filter: &TopicFilter, qos: u8) -> Decision<'_> {
        self.decide(|rule| rule.applies_to_subscribe(filter, qos))
    }

    /// How many rules there are to be asked.
    pub fn count(&self) -> usize {
        self.configured.len() + self.own.len()
    }

    fn decide(&self, applies: impl Fn(&Rule) -> bool) -> Decision<'_> {
        let configured = self.configured.iter().find(|rule| applies(rule));
        let rule = match configured {
            Some(rule) if rule.permission() == Permission::Deny => configured,
            _ => self.own.iter().find(|rule| applies(rule)).or(configured),
        };
        Decision { rule }
    }
}

fn compile(acl: &[AclEntry], substitutions: &Substitutions<'_>) -> Result<Vec<Rule>, AccessError> {
    if acl.len() > MAX_RULES {
        return Err(AccessError::TooManyRules { rules: acl.len() });
    }
    let rules = acl.iter().zip(1..).map(|(entry, number)| {
        Rule::compile(entry, substitutions, Source::Token(number)).map_err(|problem| AccessError::Entry {
            number,
            topic: entry.topic.as_str().into(),
            problem,
        })
    });
    rules.collect()
}

fn default_rule(device: &DeviceId) -> Option<Rule> {
    // A device id always makes a filter; if ever it did not, no rule means no access.
    let filter = TopicFilter::parse(format!("clawdbot/{device}/#").into()).ok()?;
    Some(Rule::allow_all(RuleFilter::Matching(filter)))
}

/// An answer, with the rule that gave it, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Decision<'rules> {
    rule: Option<&'rules Rule>,
}

impl<'rules> Decision<'rules> {
    /// Whether it is a yes.
    pub fn is_allowed(&self) -> bool {
        self.rule
            .is_some_and(|rule| rule.permission() == Permission::Allow)
    }

    /// The rule that decided; `None` when none applied.
    pub fn rule(&self) -> Option<&'rules Rule> {
        self.rule
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            Some(rule) => write!(f, "decided by {}: {rule}", rule.source()),
            None => f.write_str("denied: no rule applies"),
        }
    }
}

/// Why a client's rules cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccessError {
    /// More than a client may bring.
    #[error("the token's acl claim has {rules} entries; use {MAX_RULES} or fewer")]
    TooManyRules {
        /// The number found.
        rules: usize,
    },
    /// One entry is wrong.
    #[error("the token's acl claim: entry {number} ({topic:?}): {problem}")]
    Entry {
        /// Which one, counted from 1.
        number: usize,
        /// Its topic as written.
        topic: ByteString,
        /// What is wrong with it.
        problem: RuleError,
    },
    /// A deny rule of the configuration cannot be for this client.
    #[error(
        "[[access]] entry {number} of the configuration ({topic:?}) denies and cannot be left out: {problem}"
    )]
    Configured {
        /// Which one, counted from 1.
        number: usize,
        /// Its topic as written.
        topic: ByteString,
        /// Why not.
        problem: RuleError,
    },
}

#[cfg(test)]
mod tests;
