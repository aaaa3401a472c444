//! A message as bytes that are kept: the wall clock's time at which it expires, and the PUBLISH of MQTT 5 that would
//! bring it. The parser is the one that strangers' packets go through.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actors::outside;
use bytes::BytesMut;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::{Packet, ProtocolVersion, Publish, QoS, decode_from_client};

use super::RecordError;

const EXPIRY_BYTES: usize = 8;

/// One moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Moment {
    /// The one that only goes on.
    pub(in crate::store) steady: Instant,
    /// The one on the wall.
    pub(in crate::store) wall: SystemTime,
}

impl Moment {
    /// The present one.
    pub(in crate::store) fn now() -> Self {
        Self {
            steady: outside::now(),
            wall: outside::calendar(),
        }
    }
}

/// The message as it is kept.
pub(super) fn encode(message: &Message, now: Moment) -> Result<Vec<u8>, RecordError> {
    // 0 stands for never.
    let expires_ms = message.expires_at.map_or(0, |at| {
        let left = at.saturating_duration_since(now.steady);
        unix_ms(now.wall + left).max(1)
    });
    let packet = Packet::Publish(Publish {
        dup: false,
        qos: message.qos,
        retain: message.retain,
        topic: message.topic.as_byte_string().clone(),
        // Means nothing here, and may not be left out.
        packet_id: u16::from(message.qos != QoS::AtMostOnce),
        properties: message.properties.clone(),
        payload: message.payload.clone(),
    });
    let mut bytes = BytesMut::new();
    bytes.extend_from_slice(&expires_ms.to_be_bytes());
    packet
        .encode(ProtocolVersion::V5, &mut bytes)
        .map_err(RecordError::new)?;
    Ok(bytes.to_vec())
}

/// The message again, None where its time is over.
pub(super) fn decode(bytes: &[u8], now: Moment) -> Result<Option<Message>, RecordError> {
    let message = decode_expired(bytes, now)?;
    Ok((!message.is_expired(now.steady)).then_some(message))
}

/// The same with a message whose time is over.
pub(super) fn decode_expired(bytes: &[u8], now: Moment) -> Result<Message, RecordError> {
    let (expiry, packet) = bytes
        .split_first_chunk::<EXPIRY_BYTES>()
        .ok_or_else(RecordError::cut_short)?;
    let mut rest = BytesMut::from(packet);
    let packet =
        decode_from_client(&mut rest, Some(ProtocolVersion::V5), usize::MAX).map_err(RecordError::new)?;
    let Some(Packet::Publish(publish)) = packet else {
        return Err(RecordError::new("it is not a whole PUBLISH"));
    };
    if !rest.is_empty() {
        return Err(RecordError::new("more than a PUBLISH"));
    }
    let topic = TopicName::parse(publish.topic).map_err(RecordError::new)?;
    let mut message = Message::new(topic, publish.payload, publish.qos);
    message.retain = publish.retain;
    let mut message = message.with_properties(publish.properties, now.steady);
    let expires_ms = u64::from_be_bytes(*expiry);
    if expires_ms > 0 {
        let left_ms = expires_ms.saturating_sub(unix_ms(now.wall));
        // Expiry intervals have 32 bits of seconds: whatever a clock says, no message outlives that.
        let left = Duration::from_millis(left_ms).min(Duration::from_secs(u64::from(u32::MAX)));
        message.expires_at = Some(now.steady + left);
    }
    Ok(message.detached())
}

pub(super) fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use topics::packet::PublishProperties;

    use super::*;

    fn message() -> Message {
        let topic = TopicName::parse("clawdbot/kitchen/lamp".into()).unwrap();
        let mut message = Message::new(topic, Bytes::from_static(b"on"), QoS::AtLeastOnce).retained();
        message.properties = Some(Box::new(PublishProperties {
            content_type: Some("text/plain".into()),
            user_properties: vec![("a".into(), "b".into()), ("a".into(), "c".into())],
            ..PublishProperties::default()
        }));
        message
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        let now = Moment::now();
        let bytes = encode(&message(), now).unwrap();
        assert_eq!(decode(&bytes, now).unwrap(), Some(message()));
    }

    #[test]
    fn its_time_runs_on_while_nobody_looks() {
        let now = Moment::now();
        let mut message = message();
        message.expires_at = Some(now.steady + Duration::from_secs(60));
        let bytes = encode(&message, now).unwrap();
        // The next process has another steady clock.
        let later = |seconds| Moment {
            steady: now.steady + Duration::from_secs(1000),
            wall: now.wall + Duration::from_secs(seconds),
        };
        let after = decode(&bytes, later(20)).unwrap().unwrap();
        let left = after.expires_at.unwrap() - later(20).steady;
        assert!((39..=41).contains(&left.as_secs()), "{left:?}");
        assert_eq!(decode(&bytes, later(61)).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, Moment::now());
        }

        #[test]
        fn a_changed_message_is_a_message_or_an_error(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let now = Moment::now();
            let mut bytes = encode(&message(), now).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&bytes, now);
        }
    }
}
