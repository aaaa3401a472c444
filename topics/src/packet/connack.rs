//! CONNACK: the server's answer to a CONNECT [MQTT5 3.2].

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use super::connect::Redacted;
use super::header::PacketType;
use super::properties::{Property, PropertyId, PropertyReader, PropertySink};
use super::wire::{Body, Reader, Sink};
use super::{DecodeError, ProtocolVersion, QoS, ReasonCode, UserProperties};

/// The server's answer to a CONNECT [MQTT5 3.2].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// The server kept the session of an earlier connection; always false before MQTT 3.1.1
    /// [MQTT5 3.2.2.1.1].
    pub session_present: bool,
    /// Before MQTT 5 mapped to one of six return codes [MQTT5 3.2.2.2].
    pub reason: ReasonCode,
    /// Left off the wire before MQTT 5 [MQTT5 3.2.2.3].
    pub properties: ConnAckProperties,
}

/// The properties of a CONNACK [MQTT5 3.2.2.3].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnAckProperties {
    /// The server chose another expiry than the client asked for [MQTT5 3.2.2.3.2].
    pub session_expiry_interval_s: Option<u32>,
    /// How many QoS 1 and 2 publications the server takes at once; never 0 [MQTT5 3.2.2.3.3].
    pub receive_maximum: Option<u16>,
    /// Absent means QoS 2, which itself never stands on the wire [MQTT5 3.2.2.3.4].
    pub maximum_qos: Option<QoS>,
    /// [MQTT5 3.2.2.3.5]
    pub retain_available: Option<bool>,
    /// The largest packet the server takes, in bytes; never 0 [MQTT5 3.2.2.3.6].
    pub maximum_packet_size: Option<u32>,
    /// The client id that the server chose for a client that sent none [MQTT5 3.2.2.3.7].
    pub assigned_client_identifier: Option<ByteString>,
    /// The highest topic alias the server takes [MQTT5 3.2.2.3.8].
    pub topic_alias_maximum: Option<u16>,
    /// For people, not for programs [MQTT5 3.2.2.3.9].
    pub reason_string: Option<ByteString>,
    /// [MQTT5 3.2.2.3.10]
    pub user_properties: UserProperties,
    /// [MQTT5 3.2.2.3.11]
    pub wildcard_subscription_available: Option<bool>,
    /// [MQTT5 3.2.2.3.12]
    pub subscription_identifiers_available: Option<bool>,
    /// [MQTT5 3.2.2.3.13]
    pub shared_subscription_available: Option<bool>,
    /// Overrules the client's keep-alive, in seconds [MQTT5 3.2.2.3.14].
    pub server_keep_alive_s: Option<u16>,
    /// The basis for response topics [MQTT5 3.2.2.3.15].
    pub response_information: Option<ByteString>,
    /// Where to connect instead [MQTT5 3.2.2.3.16].
    pub server_reference: Option<ByteString>,
    /// [MQTT5 3.2.2.3.17]
    pub authentication_method: Option<ByteString>,
    /// Never printed [MQTT5 3.2.2.3.18].
    pub authentication_data: Option<Bytes>,
}

impl Default for ConnAck {
    fn default() -> Self {
        ConnAck {
            session_present: false,
            reason: ReasonCode::Success,
            properties: ConnAckProperties::default(),
        }
    }
}

impl fmt::Debug for ConnAckProperties {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConnAckProperties")
            .field("session_expiry_interval_s", &self.session_expiry_interval_s)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_qos", &self.maximum_qos)
            .field("retain_available", &self.retain_available)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("assigned_client_identifier", &self.assigned_client_identifier)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .field(
                "wildcard_subscription_available",
                &self.wildcard_subscription_available,
            )
            .field(
                "subscription_identifiers_available",
                &self.subscription_identifiers_available,
            )
            .field(
                "shared_subscription_available",
                &self.shared_subscription_available,
            )
            .field("server_keep_alive_s", &self.server_keep_alive_s)
            .field("response_information", &self.response_information)
            .field("server_reference", &self.server_reference)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data", &Redacted::of(&self.authentication_data))
            .finish()
    }
}

impl ConnAck {
    pub(super) fn decode(mut reader: Reader, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let flags = reader.u8()?;
        let reason = decode_reason(reader.u8()?, version)?;
        // MQTT 3.1 knows no sessions here and leaves the byte open.
        let session_present = flags & 1 != 0 && version > ProtocolVersion::V31;
        if flags > 1 || (session_present && reason.is_error()) {
            return Err(DecodeError::ConnAckFlags { flags });
        }
        let properties = match version {
            ProtocolVersion::V5 => ConnAckProperties::decode(&mut reader)?,
            _ => ConnAckProperties::default(),
        };
        reader.finish()?;
        Ok(ConnAck {
            session_present,
            reason,
            properties,
        })
    }
}

fn decode_reason(value: u8, version: ProtocolVersion) -> Result<ReasonCode, DecodeError> {
    let refused = DecodeError::ReasonCode {
        packet: PacketType::ConnAck.name(),
        value,
    };
    if version < ProtocolVersion::V5 {
        return ReasonCode::from_connack_v311(value).ok_or(refused);
    }
    let Ok(reason) = ReasonCode::try_from(value) else {
        return Err(refused);
    };
    match reason {
        ReasonCode::Success
        | ReasonCode::UnspecifiedError
        | ReasonCode::MalformedPacket
        | ReasonCode::ProtocolError
        | ReasonCode::ImplementationSpecificError
        | ReasonCode::UnsupportedProtocolVersion
        | ReasonCode::ClientIdentifierNotValid
        | ReasonCode::BadUserNameOrPassword
        | ReasonCode::NotAuthorized
        | ReasonCode::ServerUnavailable
        | ReasonCode::ServerBusy
        | ReasonCode::Banned
        | ReasonCode::BadAuthenticationMethod
        | ReasonCode::TopicNameInvalid
        | ReasonCode::PacketTooLarge
        | ReasonCode::QuotaExceeded
        | ReasonCode::PayloadFormatInvalid
        | ReasonCode::RetainNotSupported
        | ReasonCode::QoSNotSupported
        | ReasonCode::UseAnotherServer
        | ReasonCode::ServerMoved
        | ReasonCode::ConnectionRateExceeded => Ok(reason),
        _ => Err(refused),
    }
}

impl ConnAckProperties {
    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let mut found = ConnAckProperties::default();
        let mut properties = PropertyReader::new(reader, PacketType::ConnAck.name())?;
        while let Some(property) = properties.next()? {
            match property {
                Property::SessionExpiryInterval(value) => found.session_expiry_interval_s = Some(value),
                Property::ReceiveMaximum(value) => found.receive_maximum = Some(value.get()),
                Property::MaximumQoS(value) => found.maximum_qos = Some(value),
                Property::RetainAvailable(value) => found.retain_available = Some(value),
                Property::MaximumPacketSize(value) => found.maximum_packet_size = Some(value.get()),
                Property::AssignedClientIdentifier(value) => found.assigned_client_identifier = Some(value),
                Property::TopicAliasMaximum(value) => found.topic_alias_maximum = Some(value),
                Property::ReasonString(value) => found.reason_string = Some(value),
                Property::UserProperty(value) => found.user_properties.push(value),
                Property::WildcardSubscriptionAvailable(value) => {
                    found.wildcard_subscription_available = Some(value);
                }
                Property::SubscriptionIdentifiersAvailable(value) => {
                    found.subscription_identifiers_available = Some(value);
                }
                Property::SharedSubscriptionAvailable(value) => {
                    found.shared_subscription_available = Some(value);
                }
                Property::ServerKeepAlive(value) => found.server_keep_alive_s = Some(value),
                Property::ResponseInformation(value) => found.response_information = Some(value),
                Property::ServerReference(value) => found.server_reference = Some(value),
                Property::AuthenticationMethod(value) => found.authentication_method = Some(value),
                Property::AuthenticationData(value) => found.authentication_data = Some(value),
                other => return Err(properties.refuse(&other)),
            }
        }
        if found.authentication_data.is_some() && found.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationDataWithoutMethod);
        }
        Ok(found)
    }
}

impl Body for ConnAck {
    fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.u8(u8::from(self.session_present && version > ProtocolVersion::V31));
        if version < ProtocolVersion::V5 {
            sink.u8(self.reason.connack_v311());
        } else {
            sink.u8(self.reason as u8);
            sink.section(&self.properties, version);
        }
    }
}

impl Body for ConnAckProperties {
    fn write<S: Sink>(&self, _version: ProtocolVersion, sink: &mut S) {
        // The order is free; the first three stand as Mosquitto writes them, so that its recorded packets
        // come out byte for byte.
        sink.property_u16(PropertyId::TopicAliasMaximum, self.topic_alias_maximum);
        sink.property_u32(PropertyId::MaximumPacketSize, self.maximum_packet_size);
        sink.property_u16(PropertyId::ReceiveMaximum, self.receive_maximum);
        sink.property_u32(PropertyId::SessionExpiryInterval, self.session_expiry_interval_s);
        if let Some(qos @ (QoS::AtMostOnce | QoS::AtLeastOnce)) = self.maximum_qos {
            sink.u8(PropertyId::MaximumQoS as u8);
            sink.u8(qos as u8);
        }
        sink.property_bool(PropertyId::RetainAvailable, self.retain_available);
        sink.property_text(
            PropertyId::AssignedClientIdentifier,
            &self.assigned_client_identifier,
        );
        sink.property_text(PropertyId::ReasonString, &self.reason_string);
        sink.property_bool(
            PropertyId::WildcardSubscriptionAvailable,
            self.wildcard_subscription_available,
        );
        sink.property_bool(
            PropertyId::SubscriptionIdentifiersAvailable,
            self.subscription_identifiers_available,
        );
        sink.property_bool(
            PropertyId::SharedSubscriptionAvailable,
            self.shared_subscription_available,
        );
        sink.property_u16(PropertyId::ServerKeepAlive, self.server_keep_alive_s);
        sink.property_text(PropertyId::ResponseInformation, &self.response_information);
        sink.property_text(PropertyId::ServerReference, &self.server_reference);
        sink.property_text(PropertyId::AuthenticationMethod, &self.authentication_method);
        sink.property_binary(PropertyId::AuthenticationData, &self.authentication_data);
        sink.user_properties(&self.user_properties);
    }
}
