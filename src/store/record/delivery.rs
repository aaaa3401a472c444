//! A message on its way to a session's client, and how far it is.

use std::sync::Arc;

use actors::store::Keeping;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use topics::filter::TopicFilter;
use topics::packet::QoS;
use topics::session::{Delivery, Stage};

use super::message::{self, Moment};
use super::{RecordError, join_header, split_header};

#[derive(Serialize, Deserialize)]
struct Header {
    id: u64,
    client_id: String,
    qos: u8,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    retain: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    identifiers: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    share: Option<String>,
}

pub(super) fn encode(keeping: &Keeping, now: Moment) -> Result<Vec<u8>, RecordError> {
    let delivery = &keeping.delivery;
    let header = Header {
        id: keeping.id,
        client_id: keeping.client_id.to_string(),
        qos: delivery.qos as u8,
        retain: delivery.retain,
        identifiers: delivery.subscription_identifiers.clone(),
        share: delivery.share.as_ref().map(|share| share.as_str().to_owned()),
    };
    join_header(&header, &message::encode(&delivery.message, now)?)
}

/// Also of a message whose time is over: its client may hold half of a handshake.
pub(super) fn decode(bytes: &[u8], now: Moment) -> Result<Keeping, RecordError> {
    let (header, message): (Header, _) = split_header(bytes)?;
    let message = message::decode_expired(message, now)?;
    let share = header
        .share
        .map(|share| TopicFilter::parse(ByteString::from(share)));
    let delivery = Delivery {
        message: Arc::new(message),
        qos: QoS::try_from(header.qos).map_err(RecordError::new)?,
        retain: header.retain,
        subscription_identifiers: header.identifiers,
        share: share.transpose().map_err(RecordError::new)?.map(Arc::new),
        kept: None,
    };
    Ok(Keeping {
        id: header.id,
        client_id: header.client_id.into(),
        delivery,
    })
}

pub(super) fn encode_stage(id: u64, stage: Stage) -> Vec<u8> {
    let (kind, packet_id) = match stage {
        Stage::Waiting => (0, 0),
        Stage::Sent(packet_id) => (1, packet_id),
        Stage::TakenOver(packet_id) => (2, packet_id),
    };
    [&id.to_be_bytes()[..], &[kind], &u16::to_be_bytes(packet_id)].concat()
}

pub(super) fn decode_stage(bytes: &[u8]) -> Result<(u64, Stage), RecordError> {
    let (id, rest) = bytes
        .split_first_chunk::<8>()
        .ok_or_else(RecordError::cut_short)?;
    let &[kind, high, low] = rest else {
        return Err(RecordError::cut_short());
    };
    let packet_id = u16::from_be_bytes([high, low]);
    let stage = match kind {
        0 => Stage::Waiting,
        1 => Stage::Sent(packet_id),
        2 => Stage::TakenOver(packet_id),
        other => return Err(RecordError::new(format!("there is no stage {other}"))),
    };
    Ok((u64::from_be_bytes(*id), stage))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use topics::message::Message;
    use topics::name::TopicName;

    use super::*;

    #[test]
    fn a_delivery_comes_back_as_it_was() {
        let topic = TopicName::parse("a/b".into()).unwrap();
        let keeping = Keeping {
            id: 7,
            client_id: "phone".into(),
            delivery: Delivery {
                message: Arc::new(Message::new(topic, Bytes::from_static(b"x"), QoS::ExactlyOnce)),
                qos: QoS::AtLeastOnce,
                retain: true,
                subscription_identifiers: vec![1, 268_435_455],
                share: Some(Arc::new(TopicFilter::parse("$share/g/a/+".into()).unwrap())),
                kept: None,
            },
        };
        let now = Moment::now();
        let back = decode(&encode(&keeping, now).unwrap(), now).unwrap();
        assert_eq!(format!("{back:?}"), format!("{keeping:?}"));
    }

    #[test]
    fn a_stage_comes_back_as_it_was() {
        for stage in [Stage::Waiting, Stage::Sent(1), Stage::TakenOver(65_535)] {
            assert_eq!(decode_stage(&encode_stage(9, stage)), Ok((9, stage)));
        }
        assert!(decode_stage(&[0; 10]).is_err());
        assert!(decode_stage(&[9; 11]).is_err());
    }
}
