//! DISCONNECT: the last packet of a connection [MQTT5 3.14].

use bytestring::ByteString;

use super::header::PacketType;
use super::properties::{Property, PropertyId, PropertyReader, PropertySink};
use super::wire::{Body, Reader, Sink};
use super::{DecodeError, ProtocolVersion, ReasonCode, UserProperties};

/// The last packet of a connection; before MQTT 5 only a client sends it [MQTT5 3.14].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Always success before MQTT 5, where it is not written [MQTT5 3.14.2.1].
    pub reason: ReasonCode,
    /// A client changes its mind about its session; a server never sends it [MQTT5 3.14.2.2.2].
    pub session_expiry_interval_s: Option<u32>,
    /// [MQTT5 3.14.2.2.3]
    pub reason_string: Option<ByteString>,
    /// [MQTT5 3.14.2.2.4]
    pub user_properties: UserProperties,
    /// Where to connect instead; only a server sends it [MQTT5 3.14.2.2.5].
    pub server_reference: Option<ByteString>,
}

impl Disconnect {
    /// A disconnect without properties, as nearly all are.
    pub fn new(reason: ReasonCode) -> Self {
        Disconnect {
            reason,
            session_expiry_interval_s: None,
            reason_string: None,
            user_properties: UserProperties::new(),
            server_reference: None,
        }
    }
}

impl Disconnect {
    pub(super) fn decode(mut reader: Reader, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut disconnect = Disconnect::new(ReasonCode::Success);
        // The reason may be left out, and then the properties too [MQTT5 3.14.2.1].
        if version == ProtocolVersion::V5 && !reader.is_empty() {
            disconnect.reason = decode_reason(reader.u8()?)?;
            if !reader.is_empty() {
                disconnect.decode_properties(&mut reader)?;
            }
        }
        reader.finish()?;
        Ok(disconnect)
    }

    fn decode_properties(&mut self, reader: &mut Reader) -> Result<(), DecodeError> {
        let mut properties = PropertyReader::new(reader, PacketType::Disconnect.name())?;
        while let Some(property) = properties.next()? {
            match property {
                Property::SessionExpiryInterval(value) => self.session_expiry_interval_s = Some(value),
                Property::ReasonString(value) => self.reason_string = Some(value),
                Property::UserProperty(value) => self.user_properties.push(value),
                Property::ServerReference(value) => self.server_reference = Some(value),
                other => return Err(properties.refuse(&other)),
            }
        }
        Ok(())
    }

    fn has_properties(&self) -> bool {
        self.session_expiry_interval_s.is_some()
            || self.reason_string.is_some()
            || self.server_reference.is_some()
            || !self.user_properties.is_empty()
    }
}

fn decode_reason(value: u8) -> Result<ReasonCode, DecodeError> {
    let refused = DecodeError::ReasonCode {
        packet: PacketType::Disconnect.name(),
        value,
    };
    let Ok(reason) = ReasonCode::try_from(value) else {
        return Err(refused);
    };
    // From 0x80 on it is shorter to say which reasons a DISCONNECT cannot have.
    match reason {
        ReasonCode::Success | ReasonCode::DisconnectWithWill => Ok(reason),
        ReasonCode::UnsupportedProtocolVersion
        | ReasonCode::ClientIdentifierNotValid
        | ReasonCode::BadUserNameOrPassword
        | ReasonCode::ServerUnavailable
        | ReasonCode::Banned
        | ReasonCode::PacketIdentifierInUse
        | ReasonCode::PacketIdentifierNotFound => Err(refused),
        _ if reason.is_error() => Ok(reason),
        _ => Err(refused),
    }
}

impl Body for Disconnect {
    fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        let has_properties = self.has_properties();
        if version < ProtocolVersion::V5 || (self.reason == ReasonCode::Success && !has_properties) {
            return;
        }
        sink.u8(self.reason as u8);
        if has_properties {
            sink.section(&DisconnectProperties(self), version);
        }
    }
}

struct DisconnectProperties<'a>(&'a Disconnect);

impl Body for DisconnectProperties<'_> {
    fn write<S: Sink>(&self, _version: ProtocolVersion, sink: &mut S) {
        let disconnect = self.0;
        sink.property_u32(
            PropertyId::SessionExpiryInterval,
            disconnect.session_expiry_interval_s,
        );
        sink.property_text(PropertyId::ReasonString, &disconnect.reason_string);
        sink.property_text(PropertyId::ServerReference, &disconnect.server_reference);
        sink.user_properties(&disconnect.user_properties);
    }
}
