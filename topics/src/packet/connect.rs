//! CONNECT: a client introduces itself [MQTT5 3.1].

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use super::{ProtocolVersion, PublishProperties, QoS, UserProperties};

/// The first packet of a connection [MQTT5 3.1].
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// The protocol that the client speaks [MQTT5 3.1.2.2].
    pub protocol: ProtocolVersion,
    /// Begin a new session; before MQTT 5 "clean session", which also ends it with the connection
    /// [MQTT5 3.1.2.4].
    pub clean_start: bool,
    /// The longest silence the client promises to keep, in seconds; 0 turns it off [MQTT5 3.1.2.10].
    pub keep_alive_s: u16,
    /// Empty where the server is to choose one [MQTT5 3.1.3.1].
    pub client_id: ByteString,
    /// [MQTT5 3.1.3.5]
    pub username: Option<ByteString>,
    /// Here it carries the token. Never printed [MQTT5 3.1.3.6].
    pub password: Option<Bytes>,
    /// What the server is to publish if the client is lost [MQTT5 3.1.2.5].
    pub will: Option<Will>,
    /// All absent before MQTT 5 [MQTT5 3.1.2.11].
    pub properties: ConnectProperties,
}

/// The properties of a CONNECT [MQTT5 3.1.2.11].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnectProperties {
    /// How long the session outlives the connection; `u32::MAX` is for ever [MQTT5 3.1.2.11.2].
    pub session_expiry_interval_s: Option<u32>,
    /// How many QoS 1 and 2 publications the client takes at once; never 0 [MQTT5 3.1.2.11.3].
    pub receive_maximum: Option<u16>,
    /// The largest packet the client takes, in bytes; never 0 [MQTT5 3.1.2.11.4].
    pub maximum_packet_size: Option<u32>,
    /// The highest topic alias the client takes [MQTT5 3.1.2.11.5].
    pub topic_alias_maximum: Option<u16>,
    /// The client asks for response information in the CONNACK [MQTT5 3.1.2.11.6].
    pub request_response_information: Option<bool>,
    /// False: reason strings and user properties only where the specification demands [MQTT5 3.1.2.11.7].
    pub request_problem_information: Option<bool>,
    /// [MQTT5 3.1.2.11.8]
    pub user_properties: UserProperties,
    /// Names the extended authentication [MQTT5 3.1.2.11.9].
    pub authentication_method: Option<ByteString>,
    /// Never printed [MQTT5 3.1.2.11.10].
    pub authentication_data: Option<Bytes>,
}

/// The message that the server publishes when the client is lost [MQTT5 3.1.2.5].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// [MQTT5 3.1.3.3]
    pub topic: ByteString,
    /// [MQTT5 3.1.3.4]
    pub payload: Bytes,
    /// [MQTT5 3.1.2.6]
    pub qos: QoS,
    /// [MQTT5 3.1.2.7]
    pub retain: bool,
    /// How long the server waits before it publishes; 0 where the client said nothing [MQTT5 3.1.3.2.2].
    pub delay_interval_s: u32,
    /// Passed on with the message [MQTT5 3.1.3.2].
    pub properties: Option<Box<PublishProperties>>,
}

impl fmt::Debug for Connect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connect")
            .field("protocol", &self.protocol)
            .field("clean_start", &self.clean_start)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("password", &Redacted::of(&self.password))
            .field("will", &self.will)
            .field("properties", &self.properties)
            .finish()
    }
}

impl fmt::Debug for ConnectProperties {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConnectProperties")
            .field("session_expiry_interval_s", &self.session_expiry_interval_s)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("request_response_information", &self.request_response_information)
            .field("request_problem_information", &self.request_problem_information)
            .field("user_properties", &self.user_properties)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data", &Redacted::of(&self.authentication_data))
            .finish()
    }
}

/// Stands in logs where a secret is: whether there is one may be seen, not what it is nor how long.
pub(super) struct Redacted(bool);

impl Redacted {
    pub(super) fn of(secret: &Option<Bytes>) -> Self {
        Redacted(secret.is_some())
    }
}

impl fmt::Debug for Redacted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0 { "Some(redacted)" } else { "None" })
    }
}
