//! SUBACK: what became of each filter of a SUBSCRIBE [MQTT5 3.9].

use bytestring::ByteString;

use super::{ReasonCode, UserProperties};

/// What became of each filter of a SUBSCRIBE [MQTT5 3.9].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    /// Of the SUBSCRIBE that is answered; never 0 [MQTT5 3.9.2].
    pub packet_id: u16,
    /// [MQTT5 3.9.2.1.2]
    pub reason_string: Option<ByteString>,
    /// [MQTT5 3.9.2.1.3]
    pub user_properties: UserProperties,
    /// One for each filter, in the same order; before MQTT 5 every error is written as 0x80 and read as
    /// [`ReasonCode::UnspecifiedError`] [MQTT5 3.9.3].
    pub reasons: Vec<ReasonCode>,
}
