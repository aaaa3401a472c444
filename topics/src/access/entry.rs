//! The `acl` claim as a token carries it, before anything is checked.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One entry of EMQX's `acl` claim:
/// `{"permission": "allow", "action": "publish", "topic": "clawdbot/${clientid}/#", "qos": [0, 1]}`.
///
/// A field of another name is an error: it may be a condition, and a rule without its condition
/// would allow more than was meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AclEntry {
    /// What the rule says when it applies.
    pub permission: Permission,
    /// What it is about.
    pub action: Action,
    /// A topic filter with placeholders, or `eq ` and a text to be taken literally.
    pub topic: String,
    /// Only these QoS levels; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<Vec<u8>>,
    /// Only publications with this retain flag; both when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// Yes.
    Allow,
    /// No.
    Deny,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Publishing.
    Publish,
    /// Subscribing.
    Subscribe,
    /// Both.
    All,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::All => "all",
        })
    }
}
