//! What can be wrong with a packet, and the reason code to answer with.

use super::{ProtocolVersion, ReasonCode};

/// Why bytes are no packet. The connection cannot go on after one: what follows has no known beginning.
///
/// Where the specification leaves open whether a fault is a Malformed Packet or a Protocol Error,
/// [`DecodeError::reason`] answers as Eclipse Mosquitto's broker tests expect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Packet type 0, or 15 (AUTH) before MQTT 5 [MQTT5 2.1.2].
    #[error("packet type {packet_type} is reserved in this version of MQTT")]
    ReservedPacketType {
        /// The upper half of the first byte.
        packet_type: u8,
    },
    /// The first packet of a connection has to be a CONNECT [MQTT-3.1.0-1].
    #[error("the connection begins with a {packet}, and has to begin with a CONNECT")]
    ConnectExpected {
        /// What came instead.
        packet: &'static str,
    },
    /// A client sent what only a server may send [MQTT5 2.1.2].
    #[error("a client may not send a {packet}")]
    ServerOnly {
        /// The packet's name.
        packet: &'static str,
    },
    /// Bits of the first byte are set that have to be clear, or the other way round [MQTT5 2.1.3].
    #[error("the flags 0x{flags:X} are not those of a {packet}")]
    Flags {
        /// The packet's name.
        packet: &'static str,
        /// The lower half of the first byte.
        flags: u8,
    },
    /// The packet's length has more than four bytes, or in MQTT 5 more than it needs [MQTT5 2.1.4], or it is
    /// not the 0 that a ping has [MQTT5 3.12.1].
    #[error("the packet's length is not one that it may have")]
    RemainingLength,
    /// A variable byte integer of more than four bytes, or of more than its value needs [MQTT5 1.5.5].
    #[error("a variable byte integer has more bytes than it may have")]
    VariableByteInteger,
    /// Told from the header alone, before the body is awaited or given room [MQTT5 3.1.2.11.4].
    #[error("the packet has {packet_bytes} bytes, and at most {max_packet_bytes} are accepted")]
    PacketTooLarge {
        /// With its header.
        packet_bytes: usize,
        /// The limit given to [`decode`](super::decode).
        max_packet_bytes: usize,
    },
    /// A field reaches beyond the end of the packet, or a property beyond the end of the properties.
    #[error("the packet ends within a field")]
    Truncated,
    /// Bytes are left after the last field.
    #[error("{bytes} bytes are left after the packet's last field")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
    /// A string is not well-formed UTF-8, or contains U+0000 [MQTT5 1.5.4].
    #[error("a string is not well-formed UTF-8 without U+0000")]
    Utf8,
    /// A name contains a control character or a non-character. The specification lets a receiver refuse
    /// them [MQTT5 1.5.4]; in a name they only serve to deceive whoever reads it in a log.
    #[error("a name contains a control character or a non-character")]
    ControlCharacter,
    /// The protocol name is neither `MQTT` nor `MQIsdp` [MQTT5 3.1.2.1].
    #[error("the protocol name is neither MQTT nor MQIsdp")]
    ProtocolName,
    /// The protocol is MQTT, of a version not spoken here; the client still deserves an answer
    /// [MQTT5 3.1.2.2].
    #[error("protocol level {level} is not one that goes with its name here; use MQTT 3.1, 3.1.1 or 5.0")]
    UnsupportedProtocolVersion {
        /// The level that the client asked for.
        level: u8,
        /// The version in whose shape the client is most likely to understand the CONNACK.
        answer_in: ProtocolVersion,
    },
    /// The reserved bit is set, or the will's bits contradict each other [MQTT5 3.1.2.3].
    #[error("the CONNECT flags 0x{flags:02X} contradict each other")]
    ConnectFlags {
        /// The whole byte.
        flags: u8,
    },
    /// Allowed only since MQTT 5 [MQTT-3.1.2-22 of 3.1.1].
    #[error("a password without a user name needs MQTT 5")]
    PasswordWithoutUsername,
    /// User name or password are missing or no valid strings [MQTT5 3.1.3.5].
    #[error("the user name or the password is missing, or not a valid string")]
    Credentials,
    /// The client identifier's text is not acceptable [MQTT5 3.1.3.1].
    #[error("the client identifier is not a valid string")]
    ClientIdentifier,
    /// A QoS of 3 [MQTT5 3.3.1.2].
    #[error("QoS {value} does not exist")]
    QoS {
        /// What stood there.
        value: u8,
    },
    /// DUP on a message that is never sent twice [MQTT-3.3.1-2].
    #[error("a QoS 0 message is marked as sent before")]
    DupAtQoS0,
    /// Packet identifiers begin at 1 [MQTT5 2.2.1].
    #[error("the packet identifier of a {packet} is 0")]
    PacketIdZero {
        /// The packet's name.
        packet: &'static str,
    },
    /// A topic name is empty without an alias, or contains a wildcard [MQTT5 3.3.2.1].
    #[error("a topic name is empty or contains a wildcard")]
    TopicName,
    /// A response topic is empty or contains a wildcard [MQTT5 3.3.2.3.5].
    #[error("a response topic is empty or contains a wildcard")]
    ResponseTopic,
    /// Topic aliases begin at 1 [MQTT5 3.3.2.3.4].
    #[error("the topic alias is 0")]
    TopicAliasZero,
    /// No property has this number [MQTT5 2.2.2.2].
    #[error("property 0x{id:02X} does not exist")]
    UnknownProperty {
        /// The number.
        id: u32,
    },
    /// The property exists, but not in this packet [MQTT5 2.2.2.2].
    #[error("the property {property} may not stand in a {packet}")]
    PropertyNotAllowed {
        /// The property's name.
        property: &'static str,
        /// The packet's name.
        packet: &'static str,
    },
    /// A property that may stand once stands twice [MQTT5 2.2.2.2].
    #[error("the property {property} stands twice")]
    DuplicateProperty {
        /// The property's name.
        property: &'static str,
    },
    /// The property may not have this value: a 0, or a flag that is neither 0 nor 1.
    #[error("the property {property} may not have this value")]
    PropertyValue {
        /// The property's name.
        property: &'static str,
    },
    /// There is nothing to authenticate with the data [MQTT5 3.1.2.11.10].
    #[error("authentication data without an authentication method")]
    AuthenticationDataWithoutMethod,
    /// The code does not exist, or not for this packet [MQTT5 2.4].
    #[error("0x{value:02X} is not a reason code of a {packet}")]
    ReasonCode {
        /// The packet's name.
        packet: &'static str,
        /// What stood there.
        value: u8,
    },
    /// The CONNACK flags have a reserved bit set, or promise a session with a refusal [MQTT5 3.2.2.1].
    #[error("the CONNACK flags 0x{flags:02X} are not valid with its reason code")]
    ConnAckFlags {
        /// The whole byte.
        flags: u8,
    },
    /// A reserved bit is set, or the retain handling is 3 [MQTT5 3.8.3.1].
    #[error("0x{options:02X} are not valid subscription options")]
    SubscriptionOptions {
        /// The whole byte.
        options: u8,
    },
    /// [MQTT-3.8.3-4]
    #[error("a shared subscription asks for no-local")]
    NoLocalOnShared,
    /// A topic filter has at least one character [MQTT5 4.7.3].
    #[error("a topic filter is empty")]
    EmptyTopicFilter,
    /// SUBSCRIBE, UNSUBSCRIBE and their answers name at least one thing [MQTT-3.8.3-2].
    #[error("a {packet} without anything in its payload")]
    EmptyPayload {
        /// The packet's name.
        packet: &'static str,
    },
}

impl DecodeError {
    /// The reason code to refuse or to disconnect with [MQTT5 4.13].
    pub fn reason(&self) -> ReasonCode {
        match self {
            DecodeError::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            DecodeError::UnsupportedProtocolVersion { .. } => ReasonCode::UnsupportedProtocolVersion,
            DecodeError::ClientIdentifier => ReasonCode::ClientIdentifierNotValid,
            DecodeError::TopicAliasZero => ReasonCode::TopicAliasInvalid,

            DecodeError::ReservedPacketType { .. }
            | DecodeError::ConnectExpected { .. }
            | DecodeError::ServerOnly { .. }
            | DecodeError::ResponseTopic
            | DecodeError::DuplicateProperty { .. }
            | DecodeError::PropertyValue { .. }
            | DecodeError::AuthenticationDataWithoutMethod
            | DecodeError::ReasonCode { .. }
            | DecodeError::ConnAckFlags { .. }
            | DecodeError::NoLocalOnShared => ReasonCode::ProtocolError,

            // The specification calls wrong flags malformed and the other two protocol errors; Mosquitto's
            // tests have it the other way round for these packets.
            DecodeError::Flags {
                packet: "CONNACK" | "PUBREL" | "DISCONNECT" | "AUTH",
                ..
            } => ReasonCode::ProtocolError,
            DecodeError::PacketIdZero {
                packet: "SUBSCRIBE" | "UNSUBSCRIBE",
            }
            | DecodeError::PropertyNotAllowed {
                packet: "SUBSCRIBE" | "UNSUBSCRIBE",
                ..
            } => ReasonCode::MalformedPacket,
            DecodeError::PacketIdZero { .. } | DecodeError::PropertyNotAllowed { .. } => {
                ReasonCode::ProtocolError
            }

            DecodeError::Flags { .. }
            | DecodeError::RemainingLength
            | DecodeError::VariableByteInteger
            | DecodeError::Truncated
            | DecodeError::TrailingBytes { .. }
            | DecodeError::Utf8
            | DecodeError::ControlCharacter
            | DecodeError::ProtocolName
            | DecodeError::ConnectFlags { .. }
            | DecodeError::PasswordWithoutUsername
            | DecodeError::Credentials
            | DecodeError::QoS { .. }
            | DecodeError::DupAtQoS0
            | DecodeError::TopicName
            | DecodeError::UnknownProperty { .. }
            | DecodeError::SubscriptionOptions { .. }
            | DecodeError::EmptyTopicFilter
            | DecodeError::EmptyPayload { .. } => ReasonCode::MalformedPacket,
        }
    }
}

/// Why a packet cannot be written. Nothing was written then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The longest string or binary field has 65,535 bytes [MQTT5 1.5.4].
    #[error("a string or binary field is longer than 65,535 bytes")]
    FieldTooLong,
    /// The longest packet has 268,435,455 bytes after its header [MQTT5 2.1.4].
    #[error("the packet has {remaining_bytes} bytes after its header, and may have at most 268,435,455")]
    PacketTooLong {
        /// What the header would have had to say.
        remaining_bytes: usize,
    },
    /// Packet identifiers begin at 1 [MQTT5 2.2.1].
    #[error("the packet identifier is 0")]
    PacketIdZero,
    /// A SUBSCRIBE, UNSUBSCRIBE or an answer to them that says nothing [MQTT-3.8.3-2].
    #[error("the packet needs at least one entry in its payload")]
    EmptyPayload,
    /// The version has no such packet, or no such combination of fields.
    #[error("{what} needs a newer version of MQTT")]
    NotInVersion {
        /// What the version lacks.
        what: &'static str,
    },
}
