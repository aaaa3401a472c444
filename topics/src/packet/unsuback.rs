//! UNSUBACK: what became of each filter of an UNSUBSCRIBE [MQTT5 3.11].

use bytestring::ByteString;

use super::{ReasonCode, UserProperties};

/// What became of each filter of an UNSUBSCRIBE [MQTT5 3.11].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubAck {
    /// Of the UNSUBSCRIBE that is answered; never 0 [MQTT5 3.11.2].
    pub packet_id: u16,
    /// [MQTT5 3.11.2.1.2]
    pub reason_string: Option<ByteString>,
    /// [MQTT5 3.11.2.1.3]
    pub user_properties: UserProperties,
    /// One for each filter, in the same order; none are written before MQTT 5 [MQTT5 3.11.3].
    pub reasons: Vec<ReasonCode>,
}
