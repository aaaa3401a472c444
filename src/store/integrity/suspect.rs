//! Values that are worth something only beside another one.

use bytestring::ByteString;

use super::super::backend::Reading;
use super::super::database::{DatabaseError, Name};
use super::super::record::{DELIVERIES, RECEIVED, SESSIONS, STAGES, Value};
use super::super::vault::Vault;
use super::Report;

/// A value, by what it needs.
pub(super) enum Suspect {
    /// A message needs the session it is for.
    Delivery(u64, ByteString),
    /// How far a message is needs the message.
    Stage(u64),
    /// An identifier needs the session that received it.
    Received(ByteString, u16),
}

/// Where to look.
pub(super) struct References<'a> {
    pub(super) vault: &'a Vault,
    pub(super) reading: &'a dyn Reading,
}

impl References<'_> {
    fn has(&self, table: &'static str, name: &Name) -> Result<bool, DatabaseError> {
        let name = name.in_table(table, self.vault);
        Ok(self.reading.get(table, &name)?.is_some())
    }

    fn has_session(&self, client_id: &ByteString) -> Result<bool, DatabaseError> {
        let name = Name::Hidden(client_id.as_bytes().to_vec());
        self.has(SESSIONS, &name)
    }

    fn has_delivery(&self, id: u64) -> Result<bool, DatabaseError> {
        self.has(DELIVERIES, &Name::Number(id))
    }
}

impl Suspect {
    /// None of a value that needs no other.
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Delivery(keeping) => Some(Self::Delivery(keeping.id, keeping.client_id.clone())),
            Value::Stage(id, _) => Some(Self::Stage(*id)),
            Value::Received(client_id, packet_id) => Some(Self::Received(client_id.clone(), *packet_id)),
            Value::Retained(_) | Value::Session(_) | Value::Accepted(_) | Value::Record(_) => None,
        }
    }

    /// Whether it is there, and what it needs is not.
    pub(super) fn is_alone(&self, tables: &References<'_>) -> Result<bool, DatabaseError> {
        match self {
            Self::Delivery(id, client_id) => Ok(!tables.has_session(client_id)? && tables.has_delivery(*id)?),
            Self::Stage(id) => Ok(!tables.has_delivery(*id)? && tables.has(STAGES, &Name::Number(*id))?),
            Self::Received(client_id, packet_id) => {
                let name = Name::received(client_id, *packet_id);
                Ok(!tables.has_session(client_id)? && tables.has(RECEIVED, &name)?)
            }
        }
    }

    /// Adds it to what was found.
    pub(super) fn count(&self, report: &mut Report) {
        match self {
            Self::Delivery(..) => report.orphans.deliveries += 1,
            Self::Stage(_) => report.orphans.stages += 1,
            Self::Received(..) => report.orphans.received += 1,
        }
    }
}
