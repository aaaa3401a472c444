//! A message for an actor.

use std::sync::Arc;

use actors::store::Accepted;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use topics::device::DeviceId;

use super::message::{self, Moment};
use super::{RecordError, join_header, split_header};

#[derive(Serialize, Deserialize)]
struct Header {
    id: u64,
    client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    may_answer: bool,
    attempt: u32,
}

pub(super) fn encode(accepted: &Accepted, now: Moment) -> Result<Vec<u8>, RecordError> {
    let header = Header {
        id: accepted.id,
        client_id: accepted.client_id.to_string(),
        device_id: accepted
            .device_id
            .as_ref()
            .map(|device| device.as_str().to_owned()),
        may_answer: accepted.may_answer,
        attempt: accepted.attempt,
    };
    join_header(&header, &message::encode(&accepted.message, now)?)
}

/// Also of a message whose time is over: its publisher hears that from the actor.
pub(super) fn decode(bytes: &[u8], now: Moment) -> Result<Accepted, RecordError> {
    let (header, message): (Header, _) = split_header(bytes)?;
    let device_id = header
        .device_id
        .map(|device| DeviceId::parse(ByteString::from(device)));
    Ok(Accepted {
        id: header.id,
        message: Arc::new(message::decode_expired(message, now)?),
        client_id: header.client_id.into(),
        device_id: device_id.transpose().map_err(RecordError::new)?,
        may_answer: header.may_answer,
        attempt: header.attempt,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use topics::message::Message;
    use topics::name::TopicName;
    use topics::packet::QoS;

    use super::*;

    #[test]
    fn an_accepted_message_comes_back_as_it_was() {
        let topic = TopicName::parse("clawdbot/phone/command".into()).unwrap();
        let accepted = Accepted {
            id: 3,
            message: Arc::new(Message::new(
                topic,
                Bytes::from_static(b"hello"),
                QoS::AtLeastOnce,
            )),
            client_id: "mobile_123".into(),
            device_id: Some("phone".parse().unwrap()),
            may_answer: true,
            attempt: 2,
        };
        let now = Moment::now();
        let back = decode(&encode(&accepted, now).unwrap(), now).unwrap();
        assert_eq!(format!("{back:?}"), format!("{accepted:?}"));
    }
}
