//! A session that outlives its connection: JSON, and its will behind it.

use std::time::{Duration, UNIX_EPOCH};

use actors::store::SessionRecord;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use topics::device::DeviceId;
use topics::filter::TopicFilter;
use topics::packet::{ProtocolVersion, SubscriptionOptions};
use topics::session::{Grant, KeptSession, KeptWill};

use super::message::{self, Moment, unix_ms};
use super::{RecordError, join_header, split_header};

#[derive(Serialize, Deserialize)]
struct Header {
    client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
    expiry_s: u32,
    /// By the clock on the wall; none while it is connected, and none where it never ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends_at_ms: Option<u64>,
    subscriptions: Vec<Subscription>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    will: Option<Will>,
}

#[derive(Serialize, Deserialize)]
struct Subscription {
    filter: String,
    /// As in a SUBSCRIBE of MQTT 5.
    options: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identifier: Option<u32>,
}

/// Its message stands behind the JSON.
#[derive(Serialize, Deserialize)]
struct Will {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiry_s: Option<u64>,
    delay_s: u64,
}

pub(super) fn encode(record: &SessionRecord, now: Moment) -> Result<Vec<u8>, RecordError> {
    let session = &record.session;
    let subscription = |(filter, grant): &(TopicFilter, Grant)| Subscription {
        filter: filter.as_str().to_owned(),
        options: grant.options.to_byte(ProtocolVersion::V5),
        identifier: grant.identifier,
    };
    let header = Header {
        client_id: record.client_id.to_string(),
        device_id: record.device_id.as_ref().map(|device| device.as_str().to_owned()),
        expiry_s: session.expiry_s,
        ends_at_ms: session
            .ends_at
            .map(|at| unix_ms(now.wall + at.saturating_duration_since(now.steady))),
        subscriptions: session.subscriptions.iter().map(subscription).collect(),
        will: session.will.as_ref().map(|will| Will {
            expiry_s: will.expiry.map(|expiry| expiry.as_secs()),
            delay_s: will.delay.as_secs(),
        }),
    };
    let will = session
        .will
        .as_ref()
        .map(|will| message::encode(&will.message, now));
    join_header(&header, &will.transpose()?.unwrap_or_default())
}

pub(super) fn decode(bytes: &[u8], now: Moment) -> Result<SessionRecord, RecordError> {
    let (header, will_message): (Header, _) = split_header(bytes)?;
    let device_id = header
        .device_id
        .map(|device| DeviceId::parse(ByteString::from(device)));
    let subscription = |it: Subscription| {
        let grant = Grant {
            options: SubscriptionOptions::from_byte(it.options, ProtocolVersion::V5)
                .map_err(RecordError::new)?,
            identifier: it.identifier,
        };
        Ok((
            TopicFilter::parse(it.filter.into()).map_err(RecordError::new)?,
            grant,
        ))
    };
    let will = match header.will {
        Some(will) => message::decode(will_message, now)?.map(|message| KeptWill {
            message,
            expiry: will.expiry_s.map(Duration::from_secs),
            // Whoever set the clock back, a delay has 32 bits of seconds.
            delay: Duration::from_secs(will.delay_s.min(u64::from(u32::MAX))),
        }),
        None => None,
    };
    let ends_at = header.ends_at_ms.map(|at_ms| {
        let left = (UNIX_EPOCH + Duration::from_millis(at_ms))
            .duration_since(now.wall)
            .unwrap_or_default();
        now.steady + left.min(Duration::from_secs(u64::from(header.expiry_s)))
    });
    Ok(SessionRecord {
        client_id: header.client_id.into(),
        device_id: device_id.transpose().map_err(RecordError::new)?,
        session: KeptSession {
            expiry_s: header.expiry_s,
            ends_at,
            subscriptions: header
                .subscriptions
                .into_iter()
                .map(subscription)
                .collect::<Result<_, RecordError>>()?,
            will,
        },
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use topics::message::Message;
    use topics::name::TopicName;
    use topics::packet::{QoS, RetainHandling};

    use super::*;

    #[test]
    fn a_session_comes_back_as_it_was_and_its_time_runs_on() {
        let now = Moment::now();
        let record = |ends_at, expiry_s| SessionRecord {
            client_id: "phone 1".into(),
            device_id: Some("phone".parse().unwrap()),
            session: KeptSession {
                expiry_s,
                ends_at,
                subscriptions: vec![(
                    TopicFilter::parse("a/+".into()).unwrap(),
                    Grant {
                        options: SubscriptionOptions {
                            qos: QoS::ExactlyOnce,
                            no_local: true,
                            retain_as_published: true,
                            retain_handling: RetainHandling::SendIfNew,
                        },
                        identifier: Some(5),
                    },
                )],
                will: Some(KeptWill {
                    message: Message::new(
                        TopicName::parse("gone".into()).unwrap(),
                        Bytes::from_static(b"bye"),
                        QoS::AtLeastOnce,
                    )
                    .retained(),
                    expiry: Some(Duration::from_secs(9)),
                    delay: Duration::from_secs(3),
                }),
            },
        };
        let connected = record(None, u32::MAX);
        let bytes = encode(&connected, now).unwrap();
        assert_eq!(decode(&bytes, now).unwrap(), connected);
        let away = record(Some(now.steady + Duration::from_secs(60)), 100);
        let later = Moment {
            steady: now.steady + Duration::from_secs(1000),
            wall: now.wall + Duration::from_secs(20),
        };
        let back = decode(&encode(&away, now).unwrap(), later).unwrap();
        let left = back.session.ends_at.unwrap() - later.steady;
        assert!((39..=41).contains(&left.as_secs()), "{left:?}");
    }
}
