//! DISCONNECT: the last packet of a connection [MQTT5 3.14].

use bytestring::ByteString;

use super::{ReasonCode, UserProperties};

/// The last packet of a connection; before MQTT 5 only a client sends it [MQTT5 3.14].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Always success before MQTT 5, where it is not written [MQTT5 3.14.2.1].
    pub reason: ReasonCode,
    /// A client changes its mind about its session; a server never sends it [MQTT5 3.14.2.2.2].
    pub session_expiry_interval_s: Option<u32>,
    /// [MQTT5 3.14.2.2.3]
    pub reason_string: Option<ByteString>,
    /// [MQTT5 3.14.2.2.4]
    pub user_properties: UserProperties,
    /// Where to connect instead; only a server sends it [MQTT5 3.14.2.2.5].
    pub server_reference: Option<ByteString>,
}

impl Disconnect {
    /// A disconnect without properties, as nearly all are.
    pub fn new(reason: ReasonCode) -> Self {
        Disconnect {
            reason,
            session_expiry_interval_s: None,
            reason_string: None,
            user_properties: UserProperties::new(),
            server_reference: None,
        }
    }
}
