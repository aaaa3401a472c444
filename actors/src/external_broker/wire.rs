//! Between rumqttc's packets and our messages.

use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use rumqttc::v5::mqttbytes::QoS as WireQoS;
use rumqttc::v5::mqttbytes::v5::{Publish, PublishProperties as WireProperties};
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::{PublishProperties, QoS};

/// A message that came; nothing where its topic is none.
pub(super) fn message_of(publish: Publish, now: Instant) -> Option<Message> {
    let topic = TopicName::parse(ByteString::try_from(publish.topic).ok()?).ok()?;
    let qos = match publish.qos {
        WireQoS::AtMostOnce => QoS::AtMostOnce,
        WireQoS::AtLeastOnce => QoS::AtLeastOnce,
        WireQoS::ExactlyOnce => QoS::ExactlyOnce,
    };
    let properties = publish.properties.map(|p| {
        Box::new(PublishProperties {
            payload_format_is_utf8: p.payload_format_indicator.map(|indicator| indicator == 1),
            message_expiry_interval_s: p.message_expiry_interval,
            topic_alias: None,
            response_topic: p.response_topic.map(Into::into),
            correlation_data: p.correlation_data,
            subscription_identifiers: Vec::new(),
            user_properties: p
                .user_properties
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            content_type: p.content_type.map(Into::into),
        })
    });
    let mut message = Message::new(topic, publish.payload, qos).with_properties(properties, now);
    message.retain = publish.retain;
    // Requests wait for their turn: they must not hold the read buffer they came in.
    Some(message.detached())
}

/// A message as it goes out; nothing where its time is over. QoS 2 goes out as QoS 1: rumqttc
/// keeps no state between connections that could make it exactly once.
pub(super) fn publish_of(message: &Message, now: Instant) -> Option<Publish> {
    if message.is_expired(now) {
        return None;
    }
    let qos = match message.qos {
        QoS::AtMostOnce => WireQoS::AtMostOnce,
        QoS::AtLeastOnce | QoS::ExactlyOnce => WireQoS::AtLeastOnce,
    };
    let left_s = message.expires_at.map(|at| seconds_left(at, now));
    let properties = (left_s.is_some() || message.properties.is_some())
        .then(|| wire_properties(message.properties.as_deref(), left_s));
    let mut publish = Publish::new(message.topic.as_str(), qos, message.payload.clone(), properties);
    publish.retain = message.retain;
    Some(publish)
}

/// An acknowledgement as rumqttc wants it: it looks at the QoS and the packet identifier alone.
pub(super) fn to_acknowledge(packet_id: u16) -> Publish {
    let mut publish = Publish::new("", WireQoS::AtLeastOnce, Bytes::new(), None);
    publish.pkid = packet_id;
    publish
}

fn wire_properties(properties: Option<&PublishProperties>, left_s: Option<u32>) -> WireProperties {
    let mut wire = WireProperties {
        message_expiry_interval: left_s,
        ..WireProperties::default()
    };
    if let Some(p) = properties {
        wire.payload_format_indicator = p.payload_format_is_utf8.map(u8::from);
        wire.response_topic = p.response_topic.as_ref().map(ToString::to_string);
        wire.correlation_data.clone_from(&p.correlation_data);
        wire.content_type = p.content_type.as_ref().map(ToString::to_string);
        wire.user_properties = p
            .user_properties
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
    }
    wire
}

/// Rounded up: a message that has not expired here has not expired there.
fn seconds_left(at: Instant, now: Instant) -> u32 {
    let left = at.saturating_duration_since(now) + Duration::from_nanos(999_999_999);
    u32::try_from(left.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_goes_through_both_ways_but_for_what_belongs_to_one_hop() {
        let now = Instant::now();
        let wire = WireProperties {
            payload_format_indicator: Some(1),
            message_expiry_interval: Some(30),
            topic_alias: None,
            response_topic: Some("clawdbot/phone/here".into()),
            correlation_data: Some(Bytes::from_static(b"\x00\x01")),
            user_properties: vec![("traceparent".into(), "00-x".into())],
            subscription_identifiers: vec![7],
            content_type: Some("application/json".into()),
        };
        let mut publish = Publish::new(
            "clawdbot/phone/command",
            WireQoS::AtLeastOnce,
            "x",
            Some(wire.clone()),
        );
        publish.pkid = 9;
        let message = message_of(publish.clone(), now).unwrap();
        assert_eq!(message.expires_at, Some(now + Duration::from_secs(30)));
        let back = publish_of(&message, now + Duration::from_millis(10_500)).unwrap();
        let expected = WireProperties {
            message_expiry_interval: Some(20),
            subscription_identifiers: Vec::new(),
            ..wire
        };
        assert_eq!(back.properties, Some(expected));
        assert_eq!(
            (&back.topic, &back.payload, back.pkid),
            (&publish.topic, &publish.payload, 0)
        );
        assert!(publish_of(&message, now + Duration::from_secs(30)).is_none());
    }

    #[test]
    fn a_topic_that_is_none_is_no_message() {
        for topic in ["", "a/+/b", "a\0b"] {
            let publish = Publish::new(topic, WireQoS::AtMostOnce, "x", None);
            assert!(message_of(publish, Instant::now()).is_none(), "{topic:?}");
        }
    }
}
