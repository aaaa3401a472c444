//! CONNECT: a client introduces itself [MQTT5 3.1].

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use super::header::PacketType;
use super::properties::{Property, PropertyId, PropertyReader, PropertySink};
use super::wire::{Body, Reader, Sink};
use super::{DecodeError, ProtocolVersion, PublishProperties, QoS, UserProperties};

/// The first packet of a connection [MQTT5 3.1].
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// The protocol that the client speaks [MQTT5 3.1.2.2].
    pub protocol: ProtocolVersion,
    /// The client is another broker's bridge: what it published itself must not come back, and the retain
    /// flag stays as it was published. 5.0 asks for both with each subscription; before, Mosquitto's bridges
    /// and those that follow it set the highest bit of the protocol level, of which no specification speaks.
    pub is_bridge: bool,
    /// Begin a new session; before MQTT 5 "clean session", which also ends it with the connection
    /// [MQTT5 3.1.2.4].
    pub clean_start: bool,
    /// The longest silence the client promises to keep, in seconds; 0 turns it off [MQTT5 3.1.2.10].
    pub keep_alive_s: u16,
    /// Empty where the server is to choose one [MQTT5 3.1.3.1].
    pub client_id: ByteString,
    /// [MQTT5 3.1.3.5]
    pub username: Option<ByteString>,
    /// Here it carries the token. Never printed [MQTT5 3.1.3.6].
    pub password: Option<Bytes>,
    /// What the server is to publish if the client is lost [MQTT5 3.1.2.5].
    pub will: Option<Will>,
    /// All absent before MQTT 5 [MQTT5 3.1.2.11].
    pub properties: ConnectProperties,
}

/// The properties of a CONNECT [MQTT5 3.1.2.11].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnectProperties {
    /// How long the session outlives the connection; `u32::MAX` is for ever [MQTT5 3.1.2.11.2].
    pub session_expiry_interval_s: Option<u32>,
    /// How many QoS 1 and 2 publications the client takes at once; never 0 [MQTT5 3.1.2.11.3].
    pub receive_maximum: Option<u16>,
    /// The largest packet the client takes, in bytes; never 0 [MQTT5 3.1.2.11.4].
    pub maximum_packet_size: Option<u32>,
    /// The highest topic alias the client takes [MQTT5 3.1.2.11.5].
    pub topic_alias_maximum: Option<u16>,
    /// The client asks for response information in the CONNACK [MQTT5 3.1.2.11.6].
    pub request_response_information: Option<bool>,
    /// False: reason strings and user properties only where the specification demands [MQTT5 3.1.2.11.7].
    pub request_problem_information: Option<bool>,
    /// [MQTT5 3.1.2.11.8]
    pub user_properties: UserProperties,
    /// Names the extended authentication [MQTT5 3.1.2.11.9].
    pub authentication_method: Option<ByteString>,
    /// Never printed [MQTT5 3.1.2.11.10].
    pub authentication_data: Option<Bytes>,
}

/// The message that the server publishes when the client is lost [MQTT5 3.1.2.5].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// [MQTT5 3.1.3.3]
    pub topic: ByteString,
    /// [MQTT5 3.1.3.4]
    pub payload: Bytes,
    /// [MQTT5 3.1.2.6]
    pub qos: QoS,
    /// [MQTT5 3.1.2.7]
    pub retain: bool,
    /// How long the server waits before it publishes; 0 where the client said nothing [MQTT5 3.1.3.2.2].
    pub delay_interval_s: u32,
    /// Passed on with the message [MQTT5 3.1.3.2].
    pub properties: Option<Box<PublishProperties>>,
}

impl fmt::Debug for Connect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connect")
            .field("protocol", &self.protocol)
            .field("is_bridge", &self.is_bridge)
            .field("clean_start", &self.clean_start)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("password", &Redacted::of(&self.password))
            .field("will", &self.will)
            .field("properties", &self.properties)
            .finish()
    }
}

impl fmt::Debug for ConnectProperties {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConnectProperties")
            .field("session_expiry_interval_s", &self.session_expiry_interval_s)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("request_response_information", &self.request_response_information)
            .field("request_problem_information", &self.request_problem_information)
            .field("user_properties", &self.user_properties)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data", &Redacted::of(&self.authentication_data))
            .finish()
    }
}

/// Stands in logs where a secret is: whether there is one may be seen, not what it is nor how long.
pub(super) struct Redacted(bool);

impl Redacted {
    pub(super) fn of(secret: &Option<Bytes>) -> Self {
        Redacted(secret.is_some())
    }
}

impl fmt::Debug for Redacted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0 { "Some(redacted)" } else { "None" })
    }
}

impl Connect {
    pub(super) fn decode(mut reader: Reader, header_flags: u8) -> Result<Self, DecodeError> {
        let (protocol, is_bridge) = decode_protocol(&mut reader)?;
        let flags = ConnectFlags(reader.u8()?);
        flags.judge(protocol)?;
        if header_flags != 0 && protocol > ProtocolVersion::V31 {
            return Err(DecodeError::Flags {
                packet: PacketType::Connect.name(),
                flags: header_flags,
            });
        }
        let keep_alive_s = reader.u16()?;
        let properties = match protocol {
            ProtocolVersion::V5 => ConnectProperties::decode(&mut reader)?,
            _ => ConnectProperties::default(),
        };
        let client_id = reader.name().map_err(|fault| match fault {
            DecodeError::Utf8 | DecodeError::ControlCharacter => DecodeError::ClientIdentifier,
            other => other,
        })?;
        let will = match flags.has(ConnectFlags::WILL) {
            true => Some(Will::decode(&mut reader, protocol, flags)?),
            false => None,
        };
        let username = match flags.has(ConnectFlags::USERNAME) {
            true => Some(reader.name().map_err(|_| DecodeError::Credentials)?),
            false => None,
        };
        let password = match flags.has(ConnectFlags::PASSWORD) {
            true => Some(reader.binary().map_err(|_| DecodeError::Credentials)?),
            false => None,
        };
        reader.finish()?;
        let clean_start = flags.has(ConnectFlags::CLEAN_START);
        Ok(Connect {
            protocol,
            is_bridge,
            clean_start,
            keep_alive_s,
            client_id,
            username,
            password,
            will,
            properties,
        })
    }
}

impl Connect {
    /// Older versions take a password only with a user name.
    pub(super) fn lacks_username(&self) -> bool {
        self.protocol < ProtocolVersion::V5 && self.password.is_some() && self.username.is_none()
    }
}

/// Set in the protocol level by a bridge.
const BRIDGE: u8 = 0x80;

/// Which version a client asks for [MQTT5 3.1.2.1, 3.1.2.2], and whether it says that it is a bridge.
fn decode_protocol(reader: &mut Reader) -> Result<(ProtocolVersion, bool), DecodeError> {
    let name = reader.binary()?;
    if !matches!(&name[..], b"MQTT" | b"MQIsdp") {
        return Err(DecodeError::ProtocolName);
    }
    let level = reader.u8()?;
    match (&name[..], level) {
        (b"MQIsdp", 3) => Ok((ProtocolVersion::V31, false)),
        (b"MQTT", 4) => Ok((ProtocolVersion::V311, false)),
        (b"MQTT", 5) => Ok((ProtocolVersion::V5, false)),
        (b"MQIsdp", 0x83) => Ok((ProtocolVersion::V31, true)),
        (b"MQTT", 0x84) => Ok((ProtocolVersion::V311, true)),
        // A level that exists, with the other name: its client reads the old CONNACK.
        (_, 3 | 4) => Err(DecodeError::UnsupportedProtocolVersion {
            level,
            answer_in: ProtocolVersion::V311,
        }),
        _ => Err(DecodeError::UnsupportedProtocolVersion {
            level,
            answer_in: ProtocolVersion::V5,
        }),
    }
}

/// The byte that says what else is in the packet [MQTT5 3.1.2.3].
#[derive(Clone, Copy)]
struct ConnectFlags(u8);

impl ConnectFlags {
    const RESERVED: u8 = 0b0000_0001;
    const CLEAN_START: u8 = 0b0000_0010;
    const WILL: u8 = 0b0000_0100;
    const WILL_QOS_SHIFT: u8 = 3;
    const WILL_RETAIN: u8 = 0b0010_0000;
    const PASSWORD: u8 = 0b0100_0000;
    const USERNAME: u8 = 0b1000_0000;

    fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    fn will_qos(self) -> u8 {
        self.0 >> Self::WILL_QOS_SHIFT & 0b11
    }

    fn judge(self, protocol: ProtocolVersion) -> Result<(), DecodeError> {
        let contradiction = Err(DecodeError::ConnectFlags { flags: self.0 });
        // MQTT 3.1 calls the lowest bit unused, not reserved.
        if self.has(Self::RESERVED) && protocol > ProtocolVersion::V31 {
            return contradiction;
        }
        if !self.has(Self::WILL) && (self.will_qos() != 0 || self.has(Self::WILL_RETAIN)) {
            return contradiction;
        }
        if self.has(Self::PASSWORD) && !self.has(Self::USERNAME) && protocol < ProtocolVersion::V5 {
            return Err(DecodeError::PasswordWithoutUsername);
        }
        Ok(())
    }
}

impl From<&Connect> for ConnectFlags {
    fn from(connect: &Connect) -> Self {
        let bit_if = |condition: bool, bit: u8| if condition { bit } else { 0 };
        let will = connect.will.as_ref().map_or(0, |will| {
            Self::WILL | (will.qos as u8) << Self::WILL_QOS_SHIFT | bit_if(will.retain, Self::WILL_RETAIN)
        });
        ConnectFlags(
            bit_if(connect.clean_start, Self::CLEAN_START)
                | will
                | bit_if(connect.password.is_some(), Self::PASSWORD)
                | bit_if(connect.username.is_some(), Self::USERNAME),
        )
    }
}

impl ConnectProperties {
    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let mut found = ConnectProperties::default();
        let mut properties = PropertyReader::new(reader, PacketType::Connect.name())?;
        while let Some(property) = properties.next()? {
            match property {
                Property::SessionExpiryInterval(value) => found.session_expiry_interval_s = Some(value),
                Property::ReceiveMaximum(value) => found.receive_maximum = Some(value.get()),
                Property::MaximumPacketSize(value) => found.maximum_packet_size = Some(value.get()),
                Property::TopicAliasMaximum(value) => found.topic_alias_maximum = Some(value),
                Property::RequestResponseInformation(value) => {
                    found.request_response_information = Some(value);
                }
                Property::RequestProblemInformation(value) => found.request_problem_information = Some(value),
                Property::UserProperty(value) => found.user_properties.push(value),
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

impl Will {
    fn decode(
        reader: &mut Reader,
        protocol: ProtocolVersion,
        flags: ConnectFlags,
    ) -> Result<Self, DecodeError> {
        let mut delay_interval_s = 0;
        let mut properties = None;
        if protocol == ProtocolVersion::V5 {
            (delay_interval_s, properties) = Self::decode_properties(reader)?;
        }
        Ok(Will {
            topic: reader.topic_name()?,
            payload: reader.binary()?,
            qos: QoS::try_from(flags.will_qos())?,
            retain: flags.has(ConnectFlags::WILL_RETAIN),
            delay_interval_s,
            properties,
        })
    }

    fn decode_properties(reader: &mut Reader) -> Result<(u32, Option<Box<PublishProperties>>), DecodeError> {
        let mut delay_interval_s = 0;
        let mut found: Option<Box<PublishProperties>> = None;
        let mut properties = PropertyReader::new(reader, "will")?;
        while let Some(property) = properties.next()? {
            match property {
                Property::WillDelayInterval(value) => delay_interval_s = value,
                other => found.get_or_insert_default().take(other, &properties)?,
            }
        }
        Ok((delay_interval_s, found))
    }
}

impl Body for Connect {
    fn write<S: Sink>(&self, _version: ProtocolVersion, sink: &mut S) {
        let protocol = self.protocol;
        let (name, level) = match protocol {
            ProtocolVersion::V31 => ("MQIsdp", 3),
            ProtocolVersion::V311 => ("MQTT", 4),
            ProtocolVersion::V5 => ("MQTT", 5),
        };
        sink.sized(name.as_bytes());
        sink.u8(if self.is_bridge { level | BRIDGE } else { level });
        sink.u8(ConnectFlags::from(self).0);
        sink.u16(self.keep_alive_s);
        if protocol == ProtocolVersion::V5 {
            sink.section(&self.properties, protocol);
        }
        sink.sized(self.client_id.as_bytes());
        if let Some(will) = &self.will {
            if protocol == ProtocolVersion::V5 {
                sink.section(&WillProperties(will), protocol);
            }
            sink.sized(will.topic.as_bytes());
            sink.sized(&will.payload);
        }
        if let Some(username) = &self.username {
            sink.sized(username.as_bytes());
        }
        if let Some(password) = &self.password {
            sink.sized(password);
        }
    }
}

impl Body for ConnectProperties {
    fn write<S: Sink>(&self, _version: ProtocolVersion, sink: &mut S) {
        sink.property_u32(PropertyId::SessionExpiryInterval, self.session_expiry_interval_s);
        sink.property_u16(PropertyId::ReceiveMaximum, self.receive_maximum);
        sink.property_u32(PropertyId::MaximumPacketSize, self.maximum_packet_size);
        sink.property_u16(PropertyId::TopicAliasMaximum, self.topic_alias_maximum);
        sink.property_bool(
            PropertyId::RequestResponseInformation,
            self.request_response_information,
        );
        sink.property_bool(
            PropertyId::RequestProblemInformation,
            self.request_problem_information,
        );
        sink.property_text(PropertyId::AuthenticationMethod, &self.authentication_method);
        sink.property_binary(PropertyId::AuthenticationData, &self.authentication_data);
        sink.user_properties(&self.user_properties);
    }
}

struct WillProperties<'a>(&'a Will);

impl Body for WillProperties<'_> {
    fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        let will = self.0;
        // Absent and 0 mean the same [MQTT5 3.1.3.2.2].
        let delay_interval_s = Some(will.delay_interval_s).filter(|&seconds| seconds > 0);
        sink.property_u32(PropertyId::WillDelayInterval, delay_interval_s);
        if let Some(properties) = &will.properties {
            properties.write(version, sink);
        }
    }
}
