//! Placeholders in rules: `${clientid}`, `${username}` and `${device_id}`.

use bytestring::ByteString;
use thiserror::Error;

use crate::device::{BRIDGE, DeviceId, is_forbidden};

/// What the placeholders of a client's rules stand for.
///
/// Client id and user name are the client's own choice. What is filled in is therefore checked:
/// it may fill a level and never become a wildcard, a further level, a `$` topic or the bridge's
/// own level.
#[derive(Debug, Clone, Copy)]
pub struct Substitutions<'a> {
    /// `${clientid}`.
    pub client_id: &'a str,
    /// `${username}`, if the client gave one.
    pub username: Option<&'a str>,
    /// `${device_id}`: the token's subject, the only one of the three that somebody vouches for.
    pub device_id: &'a DeviceId,
}

impl Substitutions<'_> {
    /// `text` with its placeholders filled in. What was filled in is not searched again.
    pub(super) fn fill_in(&self, text: &str) -> Result<String, SubstitutionError> {
        let mut filled = String::with_capacity(text.len());
        for (index, level) in text.split('/').enumerate() {
            if index > 0 {
                filled.push('/');
            }
            let start = filled.len();
            let found = self.fill_in_level(level, &mut filled)?;
            // Looked at when the level is complete: `bri${clientid}` can name the bridge too.
            if found && &filled[start..] == BRIDGE {
                return Err(SubstitutionError::Bridge { level: level.into() });
            }
        }
        Ok(filled)
    }

    /// Appends `level` to `filled` and says whether it held a placeholder.
    fn fill_in_level(&self, level: &str, filled: &mut String) -> Result<bool, SubstitutionError> {
        let mut rest = level;
        while let Some((before, placeholder)) = rest.split_once("${") {
            let unclosed = || SubstitutionError::Unclosed { level: level.into() };
            let (name, after) = placeholder.split_once('}').ok_or_else(unclosed)?;
            filled.push_str(before);
            filled.push_str(self.value(name)?);
            rest = after;
        }
        filled.push_str(rest);
        Ok(rest.len() < level.len())
    }

    fn value(&self, name: &str) -> Result<&str, SubstitutionError> {
        let value = match name {
            "clientid" => Some(self.client_id),
            "username" => self.username,
            "device_id" => Some(self.device_id.as_str()),
            _ => return Err(SubstitutionError::Unknown { name: name.into() }),
        };
        let value = value.ok_or_else(|| SubstitutionError::Missing { name: name.into() })?;
        if value.is_empty() || value.contains(is_forbidden) {
            return Err(SubstitutionError::Value {
                name: name.into(),
                value: value.into(),
            });
        }
        Ok(value)
    }
}

/// Why a placeholder cannot be filled in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubstitutionError {
    /// No such placeholder.
    #[error("there is no placeholder ${{{name}}}; use ${{clientid}}, ${{username}} or ${{device_id}}")]
    Unknown {
        /// The name found.
        name: ByteString,
    },
    /// `${` without `}` before the level ends.
    #[error("a placeholder in level '{level}' is not closed; add the '}}'")]
    Unclosed {
        /// The level found.
        level: ByteString,
    },
    /// The client gave no such value.
    #[error("the rule needs ${{{name}}} and the client gave none; connect with one")]
    Missing {
        /// The placeholder's name.
        name: ByteString,
    },
    /// The value would reach beyond one level.
    #[error(
        "{value:?} cannot stand for ${{{name}}}: use a value without '+', '#', '/', '$' and control characters"
    )]
    Value {
        /// The placeholder's name.
        name: ByteString,
        /// The value given.
        value: ByteString,
    },
    /// The level would become the bridge's.
    #[error("level '{level}' would become '{BRIDGE}', the hub's own; connect with another value")]
    Bridge {
        /// The level as written.
        level: ByteString,
    },
}
