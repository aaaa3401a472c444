//! AUTH: a step of an extended authentication, MQTT 5 only [MQTT5 3.15].

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use super::connect::Redacted;
use super::{ReasonCode, UserProperties};

/// A step of an extended authentication [MQTT5 3.15].
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// Success, Continue authentication or Re-authenticate [MQTT5 3.15.2.1].
    pub reason: ReasonCode,
    /// Absent only in the shortest form of the packet; the session says whether it had to be there
    /// [MQTT5 3.15.2.2.2].
    pub authentication_method: Option<ByteString>,
    /// Never printed [MQTT5 3.15.2.2.3].
    pub authentication_data: Option<Bytes>,
    /// [MQTT5 3.15.2.2.4]
    pub reason_string: Option<ByteString>,
    /// [MQTT5 3.15.2.2.5]
    pub user_properties: UserProperties,
}

impl fmt::Debug for Auth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Auth")
            .field("reason", &self.reason)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data", &Redacted::of(&self.authentication_data))
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .finish()
    }
}
