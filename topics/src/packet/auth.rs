//! AUTH: a step of an extended authentication, MQTT 5 only [MQTT5 3.15].

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use super::connect::Redacted;
use super::header::PacketType;
use super::properties::{Property, PropertyId, PropertyReader, PropertySink};
use super::wire::{Body, Reader, Sink};
use super::{DecodeError, ProtocolVersion, ReasonCode, UserProperties};

/// A step of an extended authentication [MQTT5 3.15].
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// Success, Continue authentication or Re-authenticate [MQTT5 3.15.2.1].
    pub reason: ReasonCode,
    /// Absent only in the shortest form of the packet; the session says whether it had to be there
    /// [MQTT5 3.15.2.2.2].
    pub authentication_method: Option<ByteString>,
    /// Never printed [MQTT5 3.15.2.2.3].
    pub authentication_data: Option<Bytes>,
    /// [MQTT5 3.15.2.2.4]
    pub reason_string: Option<ByteString>,
    /// [MQTT5 3.15.2.2.5]
    pub user_properties: UserProperties,
}

impl fmt::Debug for Auth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Auth")
            .field("reason", &self.reason)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data", &Redacted::of(&self.authentication_data))
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .finish()
    }
}

impl Auth {
    pub(super) fn decode(mut reader: Reader) -> Result<Self, DecodeError> {
        let mut auth = Auth {
            reason: ReasonCode::Success,
            authentication_method: None,
            authentication_data: None,
            reason_string: None,
            user_properties: UserProperties::new(),
        };
        // Success may be left out together with the properties [MQTT5 3.15.2.1].
        if !reader.is_empty() {
            auth.reason = decode_reason(reader.u8()?)?;
            // As with the acknowledgements; the specification does not say whether it may be so here.
            if !reader.is_empty() {
                auth.decode_properties(&mut reader)?;
            }
        }
        reader.finish()?;
        Ok(auth)
    }

    fn decode_properties(&mut self, reader: &mut Reader) -> Result<(), DecodeError> {
        let mut properties = PropertyReader::new(reader, PacketType::Auth.name())?;
        while let Some(property) = properties.next()? {
            match property {
                Property::AuthenticationMethod(value) => self.authentication_method = Some(value),
                Property::AuthenticationData(value) => self.authentication_data = Some(value),
                Property::ReasonString(value) => self.reason_string = Some(value),
                Property::UserProperty(value) => self.user_properties.push(value),
                other => return Err(properties.refuse(&other)),
            }
        }
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationDataWithoutMethod);
        }
        Ok(())
    }

    fn is_shortest(&self) -> bool {
        self.reason == ReasonCode::Success
            && self.authentication_method.is_none()
            && self.authentication_data.is_none()
            && self.reason_string.is_none()
            && self.user_properties.is_empty()
    }
}

fn decode_reason(value: u8) -> Result<ReasonCode, DecodeError> {
    match ReasonCode::try_from(value) {
        Ok(
            reason @ (ReasonCode::Success | ReasonCode::ContinueAuthentication | ReasonCode::ReAuthenticate),
        ) => Ok(reason),
        _ => Err(DecodeError::ReasonCode {
            packet: PacketType::Auth.name(),
            value,
        }),
    }
}

impl Body for Auth {
    fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        if !self.is_shortest() {
            sink.u8(self.reason as u8);
            sink.section(&AuthProperties(self), version);
        }
    }
}

struct AuthProperties<'a>(&'a Auth);

impl Body for AuthProperties<'_> {
    fn write<S: Sink>(&self, _version: ProtocolVersion, sink: &mut S) {
        let auth = self.0;
        sink.property_text(PropertyId::AuthenticationMethod, &auth.authentication_method);
        sink.property_binary(PropertyId::AuthenticationData, &auth.authentication_data);
        sink.property_text(PropertyId::ReasonString, &auth.reason_string);
        sink.user_properties(&auth.user_properties);
    }
}
