//! What is kept, as bytes: a file for each kind.

mod accepted;
mod delivery;
mod message;
mod session;

use actors::store::{Accepted, Keeping, Record, SessionRecord, Table};
use bytes::{Buf, Bytes};
use bytestring::ByteString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use topics::message::Message;
use topics::session::Stage;

pub(super) use message::Moment;

/// The tables beside those of [`Table`].
pub(super) const RETAINED: &str = "retained";
pub(super) const SESSIONS: &str = "sessions";
pub(super) const DELIVERIES: &str = "deliveries";
pub(super) const STAGES: &str = "stages";
pub(super) const RECEIVED: &str = "received";
pub(super) const ACCEPTED: &str = "accepted";

/// Every table of sealed values.
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    [RETAINED, SESSIONS, DELIVERIES, STAGES, RECEIVED, ACCEPTED]
        .into_iter()
        .chain(Table::ALL.map(Table::name))
}

/// Why bytes are not what they should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value is not what was written: {0}")]
pub struct RecordError(String);

impl RecordError {
    fn new(what: impl ToString) -> Self {
        Self(what.to_string())
    }

    fn cut_short() -> Self {
        Self::new("it is cut short")
    }
}

/// A value that was opened.
pub(super) enum Value {
    Retained(Message),
    Session(SessionRecord),
    Delivery(Keeping),
    Stage(u64, Stage),
    Received(ByteString, u16),
    Accepted(Accepted),
    Record(Record),
}

/// The value of a table, None where its time is over.
pub(super) fn decode(table: &str, bytes: Vec<u8>, now: Moment) -> Result<Option<Value>, RecordError> {
    Ok(match table {
        RETAINED => message::decode(&bytes, now)?.map(Value::Retained),
        SESSIONS => Some(Value::Session(session::decode(&bytes, now)?)),
        DELIVERIES => Some(Value::Delivery(delivery::decode(&bytes, now)?)),
        STAGES => {
            let (id, stage) = delivery::decode_stage(&bytes)?;
            Some(Value::Stage(id, stage))
        }
        RECEIVED => {
            let (client_id, rest) = split_name(bytes)?;
            let packet_id = <[u8; 2]>::try_from(&rest[..]).map_err(|_| RecordError::cut_short())?;
            Some(Value::Received(client_id, u16::from_be_bytes(packet_id)))
        }
        ACCEPTED => Some(Value::Accepted(accepted::decode(&bytes, now)?)),
        other => {
            let table = Table::ALL
                .into_iter()
                .find(|known| known.name() == other)
                .ok_or_else(|| RecordError::new("its table is not known"))?;
            let (name, value) = split_name(bytes)?;
            Some(Value::Record(Record { table, name, value }))
        }
    })
}

pub(super) fn encode_retained(message: &Message, now: Moment) -> Result<Vec<u8>, RecordError> {
    message::encode(message, now)
}

pub(super) fn encode_session(record: &SessionRecord, now: Moment) -> Result<Vec<u8>, RecordError> {
    session::encode(record, now)
}

pub(super) fn encode_delivery(keeping: &Keeping, now: Moment) -> Result<Vec<u8>, RecordError> {
    delivery::encode(keeping, now)
}

pub(super) fn encode_stage(id: u64, stage: Stage) -> Vec<u8> {
    delivery::encode_stage(id, stage)
}

pub(super) fn encode_accepted(accepted: &Accepted, now: Moment) -> Result<Vec<u8>, RecordError> {
    accepted::encode(accepted, now)
}

pub(super) fn encode_received(client_id: &ByteString, packet_id: u16) -> Result<Vec<u8>, RecordError> {
    join_name(client_id, &packet_id.to_be_bytes())
}

pub(super) fn encode_record(record: &Record) -> Result<Vec<u8>, RecordError> {
    join_name(&record.name, &record.value)
}

/// A name, and a value behind it.
fn join_name(name: &str, value: &[u8]) -> Result<Vec<u8>, RecordError> {
    let length = u16::try_from(name.len()).map_err(|_| RecordError::new("its name is too long"))?;
    Ok([&length.to_be_bytes()[..], name.as_bytes(), value].concat())
}

fn split_name(bytes: Vec<u8>) -> Result<(ByteString, Bytes), RecordError> {
    let mut value = Bytes::from(bytes);
    let (length, _) = value
        .split_first_chunk::<2>()
        .ok_or_else(RecordError::cut_short)?;
    let length = usize::from(u16::from_be_bytes(*length));
    value.advance(2);
    if value.len() < length {
        return Err(RecordError::cut_short());
    }
    let name =
        ByteString::try_from(value.split_to(length)).map_err(|_| RecordError::new("its name is no text"))?;
    Ok((name, value))
}

/// JSON, and a message behind it.
fn join_header(header: &impl Serialize, message: &[u8]) -> Result<Vec<u8>, RecordError> {
    let header = serde_json::to_vec(header).map_err(RecordError::new)?;
    let length = u32::try_from(header.len()).map_err(RecordError::new)?;
    Ok([&length.to_be_bytes()[..], &header, message].concat())
}

fn split_header<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), RecordError> {
    let (length, rest) = bytes
        .split_first_chunk::<4>()
        .ok_or_else(RecordError::cut_short)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(RecordError::new)?;
    let (header, message) = rest.split_at_checked(length).ok_or_else(RecordError::cut_short)?;
    Ok((serde_json::from_slice(header).map_err(RecordError::new)?, message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was() {
        let record = |name: &str| Record {
            table: Table::Devices,
            name: name.to_owned().into(),
            value: Bytes::from_static(b"\0 any bytes"),
        };
        for name in ["", "phone", "電話"] {
            let bytes = encode_record(&record(name)).unwrap();
            let back = decode(Table::Devices.name(), bytes, Moment::now()).unwrap();
            assert!(
                matches!(back, Some(Value::Record(back)) if back == record(name)),
                "{name}"
            );
        }
        assert!(encode_record(&record(&"x".repeat(70_000))).is_err());
        for short in [&b""[..], b"\0", b"\0\x05four"] {
            assert!(split_name(short.to_vec()).is_err(), "{short:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for table in tables() {
                let _ = decode(table, bytes.clone(), Moment::now());
            }
        }
    }
}
