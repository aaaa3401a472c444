//! CONNACK: the server's answer to a CONNECT [MQTT5 3.2].

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use super::connect::Redacted;
use super::{QoS, ReasonCode, UserProperties};

/// The server's answer to a CONNECT [MQTT5 3.2].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// The server kept the session of an earlier connection; always false before MQTT 3.1.1
    /// [MQTT5 3.2.2.1.1].
    pub session_present: bool,
    /// Before MQTT 5 mapped to one of six return codes [MQTT5 3.2.2.2].
    pub reason: ReasonCode,
    /// Left off the wire before MQTT 5 [MQTT5 3.2.2.3].
    pub properties: ConnAckProperties,
}

/// The properties of a CONNACK [MQTT5 3.2.2.3].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnAckProperties {
    /// The server chose another expiry than the client asked for [MQTT5 3.2.2.3.2].
    pub session_expiry_interval_s: Option<u32>,
    /// How many QoS 1 and 2 publications the server takes at once; never 0 [MQTT5 3.2.2.3.3].
    pub receive_maximum: Option<u16>,
    /// Absent means QoS 2, which itself never stands on the wire [MQTT5 3.2.2.3.4].
    pub maximum_qos: Option<QoS>,
    /// [MQTT5 3.2.2.3.5]
    pub retain_available: Option<bool>,
    /// The largest packet the server takes, in bytes; never 0 [MQTT5 3.2.2.3.6].
    pub maximum_packet_size: Option<u32>,
    /// The client id that the server chose for a client that sent none [MQTT5 3.2.2.3.7].
    pub assigned_client_identifier: Option<ByteString>,
    /// The highest topic alias the server takes [MQTT5 3.2.2.3.8].
    pub topic_alias_maximum: Option<u16>,
    /// For people, not for programs [MQTT5 3.2.2.3.9].
    pub reason_string: Option<ByteString>,
    /// [MQTT5 3.2.2.3.10]
    pub user_properties: UserProperties,
    /// [MQTT5 3.2.2.3.11]
    pub wildcard_subscription_available: Option<bool>,
    /// [MQTT5 3.2.2.3.12]
    pub subscription_identifiers_available: Option<bool>,
    /// [MQTT5 3.2.2.3.13]
    pub shared_subscription_available: Option<bool>,
    /// Overrules the client's keep-alive, in seconds [MQTT5 3.2.2.3.14].
    pub server_keep_alive_s: Option<u16>,
    /// The basis for response topics [MQTT5 3.2.2.3.15].
    pub response_information: Option<ByteString>,
    /// Where to connect instead [MQTT5 3.2.2.3.16].
    pub server_reference: Option<ByteString>,
    /// [MQTT5 3.2.2.3.17]
    pub authentication_method: Option<ByteString>,
    /// Never printed [MQTT5 3.2.2.3.18].
    pub authentication_data: Option<Bytes>,
}

impl Default for ConnAck {
    fn default() -> Self {
        ConnAck {
            session_present: false,
            reason: ReasonCode::Success,
            properties: ConnAckProperties::default(),
        }
    }
}

impl fmt::Debug for ConnAckProperties {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConnAckProperties")
            .field("session_expiry_interval_s", &self.session_expiry_interval_s)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_qos", &self.maximum_qos)
            .field("retain_available", &self.retain_available)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("assigned_client_identifier", &self.assigned_client_identifier)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .field(
                "wildcard_subscription_available",
                &self.wildcard_subscription_available,
            )
            .field(
                "subscription_identifiers_available",
                &self.subscription_identifiers_available,
            )
            .field(
                "shared_subscription_available",
                &self.shared_subscription_available,
            )
            .field("server_keep_alive_s", &self.server_keep_alive_s)
            .field("response_information", &self.response_information)
            .field("server_reference", &self.server_reference)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data", &Redacted::of(&self.authentication_data))
            .finish()
    }
}
