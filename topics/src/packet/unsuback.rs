//! UNSUBACK: what became of each filter of an UNSUBSCRIBE [MQTT5 3.11].

use bytestring::ByteString;

use super::header::PacketType;
use super::properties::{Explanation, ExplanationOf};
use super::wire::{Body, Reader, Sink};
use super::{DecodeError, ProtocolVersion, ReasonCode, UserProperties};

/// What became of each filter of an UNSUBSCRIBE [MQTT5 3.11].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubAck {
    /// Of the UNSUBSCRIBE that is answered; never 0 [MQTT5 3.11.2].
    pub packet_id: u16,
    /// [MQTT5 3.11.2.1.2]
    pub reason_string: Option<ByteString>,
    /// [MQTT5 3.11.2.1.3]
    pub user_properties: UserProperties,
    /// One for each filter, in the same order; none are written before MQTT 5 [MQTT5 3.11.3].
    pub reasons: Vec<ReasonCode>,
}

impl UnsubAck {
    pub(super) fn decode(mut reader: Reader, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let packet = PacketType::UnsubAck.name();
        let packet_id = reader.packet_id(packet)?;
        let mut reasons = Vec::new();
        let mut explanation = Explanation::default();
        if version == ProtocolVersion::V5 {
            explanation = Explanation::read(&mut reader, packet)?;
            while !reader.is_empty() {
                reasons.push(decode_reason(reader.u8()?)?);
            }
            if reasons.is_empty() {
                return Err(DecodeError::EmptyPayload { packet });
            }
        }
        reader.finish()?;
        let Explanation {
            reason_string,
            user_properties,
        } = explanation;
        Ok(UnsubAck {
            packet_id,
            reason_string,
            user_properties,
            reasons,
        })
    }
}

fn decode_reason(value: u8) -> Result<ReasonCode, DecodeError> {
    let refused = DecodeError::ReasonCode {
        packet: PacketType::UnsubAck.name(),
        value,
    };
    let Ok(reason) = ReasonCode::try_from(value) else {
        return Err(refused);
    };
    match reason {
        ReasonCode::Success
        | ReasonCode::NoSubscriptionExisted
        | ReasonCode::UnspecifiedError
        | ReasonCode::ImplementationSpecificError
        | ReasonCode::NotAuthorized
        | ReasonCode::TopicFilterInvalid
        | ReasonCode::PacketIdentifierInUse => Ok(reason),
        _ => Err(refused),
    }
}

impl Body for UnsubAck {
    fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        let UnsubAck {
            packet_id,
            reason_string,
            user_properties,
            reasons,
        } = self;
        sink.u16(*packet_id);
        if version < ProtocolVersion::V5 {
            return;
        }
        sink.section(
            &ExplanationOf {
                reason_string,
                user_properties,
            },
            version,
        );
        for reason in reasons {
            sink.u8(*reason as u8);
        }
    }
}
