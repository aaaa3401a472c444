//! UNSUBSCRIBE: a client no longer wants topics [MQTT5 3.10].

use bytestring::ByteString;

use super::UserProperties;

/// A client no longer wants topics [MQTT5 3.10].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Never 0 [MQTT5 3.10.2].
    pub packet_id: u16,
    /// [MQTT5 3.10.2.1.2]
    pub user_properties: UserProperties,
    /// At least one [MQTT5 3.10.3].
    pub filters: Vec<ByteString>,
}
