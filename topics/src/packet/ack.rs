//! PUBACK, PUBREC, PUBREL and PUBCOMP: the four steps that make a delivery sure share one shape
//! [MQTT5 3.4, 3.5, 3.6, 3.7].

use bytes::BytesMut;
use bytestring::ByteString;

use super::header::PacketType;
use super::properties::{Explanation, ExplanationOf};
use super::wire::{self, Body, Reader, Sink};
use super::{DecodeError, EncodeError, ProtocolVersion, ReasonCode, UserProperties};

/// The body of PUBACK, PUBREC, PUBREL and PUBCOMP [MQTT5 3.4 to 3.7].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Of the PUBLISH that is answered; never 0 [MQTT5 3.4.2].
    pub packet_id: u16,
    /// Always success before MQTT 5, where it is not written [MQTT5 3.4.2.1].
    pub reason: ReasonCode,
    /// [MQTT5 3.4.2.2.2]
    pub reason_string: Option<ByteString>,
    /// [MQTT5 3.4.2.2.3]
    pub user_properties: UserProperties,
}

impl Ack {
    /// An answer without properties, as nearly all are.
    pub fn new(packet_id: u16, reason: ReasonCode) -> Self {
        Ack {
            packet_id,
            reason,
            reason_string: None,
            user_properties: UserProperties::new(),
        }
    }
}

impl Ack {
    pub(super) fn encode(
        &self,
        first_byte: u8,
        version: ProtocolVersion,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        if self.is_plain(version) {
            let [high, low] = self.packet_id.to_be_bytes();
            out.extend_from_slice(&[first_byte, 2, high, low]);
            return Ok(());
        }
        wire::encode(first_byte, self, version, out)
    }

    /// Whether nothing but the packet identifier is written.
    fn is_plain(&self, version: ProtocolVersion) -> bool {
        version < ProtocolVersion::V5 || (self.reason == ReasonCode::Success && self.explanation().is_empty())
    }

    pub(super) fn decode(
        mut reader: Reader,
        version: ProtocolVersion,
        packet_type: PacketType,
    ) -> Result<Self, DecodeError> {
        let packet = packet_type.name();
        let mut ack = Ack::new(reader.packet_id(packet)?, ReasonCode::Success);
        // The reason may be left out, and then the properties too [MQTT5 3.4.2.1].
        if version == ProtocolVersion::V5 && !reader.is_empty() {
            ack.reason = decode_reason(reader.u8()?, packet_type)?;
            if !reader.is_empty() {
                let explanation = Explanation::read(&mut reader, packet)?;
                ack.reason_string = explanation.reason_string;
                ack.user_properties = explanation.user_properties;
            }
        }
        reader.finish()?;
        Ok(ack)
    }

    fn explanation(&self) -> ExplanationOf<'_> {
        ExplanationOf {
            reason_string: &self.reason_string,
            user_properties: &self.user_properties,
        }
    }
}

fn decode_reason(value: u8, packet_type: PacketType) -> Result<ReasonCode, DecodeError> {
    let refused = DecodeError::ReasonCode {
        packet: packet_type.name(),
        value,
    };
    let Ok(reason) = ReasonCode::try_from(value) else {
        return Err(refused);
    };
    let answers_publish = matches!(packet_type, PacketType::PubAck | PacketType::PubRec);
    match reason {
        ReasonCode::Success => Ok(reason),
        ReasonCode::NoMatchingSubscribers
        | ReasonCode::UnspecifiedError
        | ReasonCode::ImplementationSpecificError
        | ReasonCode::NotAuthorized
        | ReasonCode::TopicNameInvalid
        | ReasonCode::PacketIdentifierInUse
        | ReasonCode::QuotaExceeded
        | ReasonCode::PayloadFormatInvalid
            if answers_publish =>
        {
            Ok(reason)
        }
        ReasonCode::PacketIdentifierNotFound if !answers_publish => Ok(reason),
        _ => Err(refused),
    }
}

impl Body for Ack {
    fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.u16(self.packet_id);
        if self.is_plain(version) {
            return;
        }
        let explanation = self.explanation();
        sink.u8(self.reason as u8);
        if !explanation.is_empty() {
            sink.section(&explanation, version);
        }
    }
}
