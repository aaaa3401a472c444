//! SUBACK: what became of each filter of a SUBSCRIBE [MQTT5 3.9].

use bytestring::ByteString;

use super::header::PacketType;
use super::properties::{Explanation, ExplanationOf};
use super::wire::{Body, Reader, Sink};
use super::{DecodeError, ProtocolVersion, ReasonCode, UserProperties};

/// What became of each filter of a SUBSCRIBE [MQTT5 3.9].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    /// Of the SUBSCRIBE that is answered; never 0 [MQTT5 3.9.2].
    pub packet_id: u16,
    /// [MQTT5 3.9.2.1.2]
    pub reason_string: Option<ByteString>,
    /// [MQTT5 3.9.2.1.3]
    pub user_properties: UserProperties,
    /// One for each filter, in the same order; before MQTT 5 every error is written as 0x80 and read as
    /// [`ReasonCode::UnspecifiedError`] [MQTT5 3.9.3].
    pub reasons: Vec<ReasonCode>,
}

impl SubAck {
    pub(super) fn decode(mut reader: Reader, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let packet = PacketType::SubAck.name();
        let packet_id = reader.packet_id(packet)?;
        let explanation = match version {
            ProtocolVersion::V5 => Explanation::read(&mut reader, packet)?,
            _ => Explanation::default(),
        };
        let mut reasons = Vec::new();
        while !reader.is_empty() {
            reasons.push(decode_reason(reader.u8()?, version)?);
        }
        if reasons.is_empty() {
            return Err(DecodeError::EmptyPayload { packet });
        }
        let Explanation {
            reason_string,
            user_properties,
        } = explanation;
        Ok(SubAck {
            packet_id,
            reason_string,
            user_properties,
            reasons,
        })
    }
}

fn decode_reason(value: u8, version: ProtocolVersion) -> Result<ReasonCode, DecodeError> {
    let refused = DecodeError::ReasonCode {
        packet: PacketType::SubAck.name(),
        value,
    };
    let Ok(reason) = ReasonCode::try_from(value) else {
        return Err(refused);
    };
    match reason {
        ReasonCode::Success
        | ReasonCode::GrantedQoS1
        | ReasonCode::GrantedQoS2
        | ReasonCode::UnspecifiedError => Ok(reason),
        ReasonCode::ImplementationSpecificError
        | ReasonCode::NotAuthorized
        | ReasonCode::TopicFilterInvalid
        | ReasonCode::PacketIdentifierInUse
        | ReasonCode::QuotaExceeded
        | ReasonCode::SharedSubscriptionsNotSupported
        | ReasonCode::SubscriptionIdentifiersNotSupported
        | ReasonCode::WildcardSubscriptionsNotSupported
            if version == ProtocolVersion::V5 =>
        {
            Ok(reason)
        }
        _ => Err(refused),
    }
}

impl Body for SubAck {
    fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        let SubAck {
            packet_id,
            reason_string,
            user_properties,
            reasons,
        } = self;
        sink.u16(*packet_id);
        if version == ProtocolVersion::V5 {
            sink.section(
                &ExplanationOf {
                    reason_string,
                    user_properties,
                },
                version,
            );
        }
        for reason in reasons {
            sink.u8(if version == ProtocolVersion::V5 {
                *reason as u8
            } else {
                reason.suback_v311()
            });
        }
    }
}
