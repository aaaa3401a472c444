//! PUBACK, PUBREC, PUBREL and PUBCOMP: the four steps that make a delivery sure share one shape
//! [MQTT5 3.4, 3.5, 3.6, 3.7].

use bytestring::ByteString;

use super::{ReasonCode, UserProperties};

/// The body of PUBACK, PUBREC, PUBREL and PUBCOMP [MQTT5 3.4 to 3.7].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Of the PUBLISH that is answered; never 0 [MQTT5 3.4.2].
    pub packet_id: u16,
    /// Always success before MQTT 5, where it is not written [MQTT5 3.4.2.1].
    pub reason: ReasonCode,
    /// [MQTT5 3.4.2.2.2]
    pub reason_string: Option<ByteString>,
    /// [MQTT5 3.4.2.2.3]
    pub user_properties: UserProperties,
}

impl Ack {
    /// An answer without properties, as nearly all are.
    pub fn new(packet_id: u16, reason: ReasonCode) -> Self {
        Ack {
            packet_id,
            reason,
            reason_string: None,
            user_properties: UserProperties::new(),
        }
    }
}
