//! What is kept, as bytes. A message is the wall clock's time at which it expires, and the PUBLISH of MQTT 5 that would
//! bring it; the parser is the one that strangers' packets go through. A record is its name and its value.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actors::store::{Record, Table};
use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::{Packet, ProtocolVersion, Publish, QoS, decode_from_client};

const EXPIRY_BYTES: usize = 8;

/// Why bytes are no message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no message: {0}")]
pub struct RecordError(String);

/// One moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The one that only goes on.
    pub(super) steady: Instant,
    /// The one on the wall.
    pub(super) wall: SystemTime,
}

impl Moment {
    /// The present one.
    pub(super) fn now() -> Self {
        Self {
            steady: Instant::now(),
            wall: SystemTime::now(),
        }
    }
}

/// A value that was opened.
pub(super) enum Value {
    Retained(Message),
    Record(Record),
}

/// The value of a table, None where its time is over.
pub(super) fn decode(table: &str, bytes: Vec<u8>, now: Moment) -> Result<Option<Value>, RecordError> {
    match Table::ALL.into_iter().find(|known| known.name() == table) {
        Some(table) => decode_record(table, bytes).map(|record| Some(Value::Record(record))),
        None => Ok(decode_message(&bytes, now)?.map(Value::Retained)),
    }
}

/// The record as it is kept.
pub(super) fn encode_record(record: &Record) -> Result<Vec<u8>, RecordError> {
    let length = u16::try_from(record.name.len()).map_err(|_| RecordError("its name is too long".into()))?;
    Ok([&length.to_be_bytes()[..], record.name.as_bytes(), &record.value].concat())
}

fn decode_record(table: Table, bytes: Vec<u8>) -> Result<Record, RecordError> {
    let mut value = Bytes::from(bytes);
    let cut_short = || RecordError("it is cut short".into());
    let (length, _) = value.split_first_chunk::<2>().ok_or_else(cut_short)?;
    let length = usize::from(u16::from_be_bytes(*length));
    value.advance(2);
    if value.len() < length {
        return Err(cut_short());
    }
    let name = ByteString::try_from(value.split_to(length))
        .map_err(|_| RecordError("its name is no text".into()))?;
    Ok(Record { table, name, value })
}

/// The message as it is kept.
pub(super) fn encode_message(message: &Message, now: Moment) -> Result<Vec<u8>, RecordError> {
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
        .map_err(|error| RecordError(error.to_string()))?;
    Ok(bytes.to_vec())
}

/// The message again, None where its time is over.
pub(super) fn decode_message(bytes: &[u8], now: Moment) -> Result<Option<Message>, RecordError> {
    let (expiry, packet) = bytes
        .split_first_chunk::<EXPIRY_BYTES>()
        .ok_or_else(|| RecordError("it is cut short".into()))?;
    let mut rest = BytesMut::from(packet);
    let packet = decode_from_client(&mut rest, Some(ProtocolVersion::V5), usize::MAX)
        .map_err(|error| RecordError(error.to_string()))?;
    let Some(Packet::Publish(publish)) = packet else {
        return Err(RecordError("it is not a whole PUBLISH".into()));
    };
    if !rest.is_empty() {
        return Err(RecordError("more than a PUBLISH".into()));
    }
    let topic = TopicName::parse(publish.topic).map_err(|error| RecordError(error.to_string()))?;
    let mut message = Message::new(topic, publish.payload, publish.qos);
    message.retain = publish.retain;
    let mut message = message.with_properties(publish.properties, now.steady);
    let expires_ms = u64::from_be_bytes(*expiry);
    if expires_ms > 0 {
        let left_ms = expires_ms.saturating_sub(unix_ms(now.wall));
        if left_ms == 0 {
            return Ok(None);
        }
        // Expiry intervals have 32 bits of seconds: whatever a clock says, no message outlives that.
        let left = Duration::from_millis(left_ms).min(Duration::from_secs(u64::from(u32::MAX)));
        message.expires_at = Some(now.steady + left);
    }
    Ok(Some(message.detached()))
}

fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
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
        let bytes = encode_message(&message(), now).unwrap();
        assert_eq!(decode_message(&bytes, now).unwrap(), Some(message()));
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let record = |name: &str| Record {
            table: Table::Devices,
            name: name.to_owned().into(),
            value: Bytes::from_static(b"\0 any bytes"),
        };
        for name in ["", "phone", "電話"] {
            let bytes = encode_record(&record(name)).unwrap();
            assert!(
                decode_record(Table::Devices, bytes).unwrap() == record(name),
                "{name}"
            );
        }
        assert!(encode_record(&record(&"x".repeat(70_000))).is_err());
        for short in [&b""[..], b"\0", b"\0\x05four"] {
            assert!(
                decode_record(Table::Devices, short.to_vec()).is_err(),
                "{short:?}"
            );
        }
    }

    #[test]
    fn its_time_runs_on_while_nobody_looks() {
        let now = Moment::now();
        let mut message = message();
        message.expires_at = Some(now.steady + Duration::from_secs(60));
        let bytes = encode_message(&message, now).unwrap();
        // The next process has another steady clock.
        let later = |seconds| Moment {
            steady: now.steady + Duration::from_secs(1000),
            wall: now.wall + Duration::from_secs(seconds),
        };
        let after = decode_message(&bytes, later(20)).unwrap().unwrap();
        let left = after.expires_at.unwrap() - later(20).steady;
        assert!((39..=41).contains(&left.as_secs()), "{left:?}");
        assert_eq!(decode_message(&bytes, later(61)).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_message(&bytes, Moment::now());
            let _ = decode_record(Table::Devices, bytes);
        }

        #[test]
        fn a_changed_message_is_a_message_or_an_error(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let now = Moment::now();
            let mut bytes = encode_message(&message(), now).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode_message(&bytes, now);
        }
    }
}
