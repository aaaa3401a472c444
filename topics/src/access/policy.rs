//! Rules of the configuration: for whom they are, and what of them is left for one client.

use std::sync::Arc;

use super::{AccessError, AclEntry, Action, Permission, Rule, RuleError, Source, Substitutions, Who};
use crate::device::DeviceId;

/// What the configuration says, in its order. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct AccessPolicy {
    entries: Arc<[PolicyEntry]>,
}

/// One entry of the configuration: a rule for each of its topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyEntry {
    /// Whom it is about.
    pub who: Who,
    /// What it says.
    pub permission: Permission,
    /// About what.
    pub action: Action,
    /// Filters with placeholders, or `eq ` and a text, as in an [`AclEntry`].
    pub topics: Vec<String>,
    /// Only these QoS levels; all when absent.
    pub qos: Option<Vec<u8>>,
    /// Only publications with this retain flag; both when absent.
    pub retain: Option<bool>,
}

impl AccessPolicy {
    /// These entries, the first first.
    pub fn new(entries: Vec<PolicyEntry>) -> Self {
        Self {
            entries: entries.into(),
        }
    }

    /// The rules that are about this client.
    ///
    /// A placeholder for which the client has no value, or one that a topic cannot hold, makes an
    /// allow rule one of nothing, and a deny rule an error: nobody escapes it by an odd name.
    pub(super) fn rules_for(&self, client: &Substitutions<'_>) -> Result<Vec<Rule>, AccessError> {
        let mut rules = Vec::new();
        for (entry, number) in self.entries.iter().zip(1..) {
            if !entry.who.is(client) {
                continue;
            }
            for topic in &entry.topics {
                match Rule::compile(&entry.acl_entry(topic), client, Source::Configuration(number)) {
                    Ok(rule) => rules.push(rule),
                    Err(_) if entry.permission == Permission::Allow => {}
                    Err(problem) => {
                        return Err(AccessError::Configured {
                            number,
                            topic: topic.as_str().into(),
                            problem,
                        });
                    }
                }
            }
        }
        Ok(rules)
    }
}

impl PolicyEntry {
    fn acl_entry(&self, topic: &str) -> AclEntry {
        AclEntry {
            permission: self.permission,
            action: self.action,
            topic: topic.to_owned(),
            qos: self.qos.clone(),
            retain: self.retain,
        }
    }
}

/// Whether a text can be a rule's topic, for some client.
///
/// # Errors
/// When it can be none for any.
pub fn check_topic(topic: &str) -> Result<(), RuleError> {
    // One letter, so that a placeholder takes up as little room as it ever can.
    let Ok(device_id) = DeviceId::parse("a".into()) else {
        return Ok(());
    };
    let anybody = Substitutions {
        client_id: "a",
        username: Some("a"),
        device_id: &device_id,
    };
    let entry = AclEntry {
        permission: Permission::Allow,
        action: Action::All,
        topic: topic.to_owned(),
        qos: None,
        retain: None,
    };
    Rule::compile(&entry, &anybody, Source::BuiltIn).map(|_| ())
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
