//! An application message as it travels between sessions and actors.

use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;

use crate::name::TopicName;
use crate::packet::{PublishProperties, QoS};

/// One application message [MQTT5 1.2]. Shared as `Arc<Message>`; nothing of it changes on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Where it was published to.
    pub topic: TopicName,
    /// What was published; a slice of the packet that brought it.
    pub payload: Bytes,
    /// The quality of service the publisher asked for.
    pub qos: QoS,
    /// Whether the publisher asked for it to be retained.
    pub retain: bool,
    /// When it is of no use any more [MQTT5 3.3.2.3.3].
    pub expires_at: Option<Instant>,
    /// What the publisher said beside: response topic, correlation data, user properties. Never
    /// a topic alias, a subscription identifier or an expiry interval: these belong to one hop.
    pub properties: Option<Box<PublishProperties>>,
}

impl Message {
    /// A message with no properties that never expires.
    pub fn new(topic: TopicName, payload: impl Into<Bytes>, qos: QoS) -> Self {
        Self {
            topic,
            payload: payload.into(),
            qos,
            retain: false,
            expires_at: None,
            properties: None,
        }
    }

    /// The same message, to be retained.
    pub fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    /// Takes over what the properties of a PUBLISH or a will say, turning the expiry interval into
    /// an instant.
    pub fn with_properties(mut self, properties: Option<Box<PublishProperties>>, now: Instant) -> Self {
        self.properties = properties.and_then(|mut p| {
            self.expires_at = p
                .message_expiry_interval_s
                .take()
                .map(|s| now + Duration::from_secs(u64::from(s)));
            p.topic_alias = None;
            p.subscription_identifiers.clear();
            (!p.is_empty()).then_some(p)
        });
        self
    }

    /// Whether its time is over.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Where the publisher wants the answer [MQTT5 3.3.2.3.5].
    pub fn response_topic(&self) -> Option<&ByteString> {
        self.properties.as_ref()?.response_topic.as_ref()
    }

    /// What the publisher wants echoed in the answer [MQTT5 3.3.2.3.6].
    pub fn correlation_data(&self) -> Option<&Bytes> {
        self.properties.as_ref()?.correlation_data.as_ref()
    }

    /// What it weighs in a queue: topic, payload and a fixed share for the rest.
    pub fn queued_bytes(&self) -> usize {
        const FIXED_BYTES: usize = 160;
        FIXED_BYTES + self.topic.as_str().len() + self.payload.len()
    }

    /// A copy that owns its bytes. A payload is a slice of the read buffer it came in; kept for
    /// long (retained, queued for somebody offline) it would hold the whole buffer with it.
    pub fn detached(&self) -> Self {
        let mut own = self.clone();
        own.payload = Bytes::copy_from_slice(&self.payload);
        own.topic = self.topic.detached();
        if let Some(p) = own.properties.as_mut() {
            let copy = |s: &ByteString| ByteString::from(s.to_string());
            p.response_topic = p.response_topic.as_ref().map(copy);
            p.content_type = p.content_type.as_ref().map(copy);
            p.correlation_data = p.correlation_data.as_ref().map(|b| Bytes::copy_from_slice(b));
            p.user_properties = p
                .user_properties
                .iter()
                .map(|(k, v)| (copy(k), copy(v)))
                .collect();
        }
        own
    }
}
