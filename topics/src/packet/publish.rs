//! PUBLISH: a message on its way [MQTT5 3.3].

use bytes::Bytes;
use bytestring::ByteString;

use super::{QoS, UserProperties};

/// A message on its way, in either direction [MQTT5 3.3].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Possibly sent before; never with QoS 0 [MQTT5 3.3.1.1].
    pub dup: bool,
    /// [MQTT5 3.3.1.2]
    pub qos: QoS,
    /// [MQTT5 3.3.1.3]
    pub retain: bool,
    /// Without wildcards; empty only where `topic_alias` stands for it [MQTT5 3.3.2.1].
    pub topic: ByteString,
    /// 0 at QoS 0, otherwise never 0 [MQTT5 3.3.2.2].
    pub packet_id: u16,
    /// None where there are none, and always before MQTT 5: most messages pay one word for them.
    pub properties: Option<Box<PublishProperties>>,
    /// [MQTT5 3.3.3]
    pub payload: Bytes,
}

/// The properties of a PUBLISH, and of a will but for its delay [MQTT5 3.3.2.3].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties {
    /// True promises a payload of UTF-8 text [MQTT5 3.3.2.3.2].
    pub payload_format_is_utf8: Option<bool>,
    /// The message's lifetime in seconds; here also a request's deadline [MQTT5 3.3.2.3.3].
    pub message_expiry_interval_s: Option<u32>,
    /// A number in the topic's place, for this connection only; never 0, never in a will [MQTT5 3.3.2.3.4].
    pub topic_alias: Option<u16>,
    /// Where an answer is awaited; without wildcards [MQTT5 3.3.2.3.5].
    pub response_topic: Option<ByteString>,
    /// Tells the asker which request an answer belongs to [MQTT5 3.3.2.3.6].
    pub correlation_data: Option<Bytes>,
    /// Only from server to client, one for each subscription that matched; never in a will
    /// [MQTT5 3.3.2.3.8].
    pub subscription_identifiers: Vec<u32>,
    /// [MQTT5 3.3.2.3.7]
    pub user_properties: UserProperties,
    /// [MQTT5 3.3.2.3.9]
    pub content_type: Option<ByteString>,
}

impl PublishProperties {
    /// Whether nothing would be written for these properties.
    pub fn is_empty(&self) -> bool {
        let PublishProperties {
            payload_format_is_utf8,
            message_expiry_interval_s,
            topic_alias,
            response_topic,
            correlation_data,
            subscription_identifiers,
            user_properties,
            content_type,
        } = self;
        payload_format_is_utf8.is_none()
            && message_expiry_interval_s.is_none()
            && topic_alias.is_none()
            && response_topic.is_none()
            && correlation_data.is_none()
            && subscription_identifiers.is_empty()
            && user_properties.is_empty()
            && content_type.is_none()
    }
}
