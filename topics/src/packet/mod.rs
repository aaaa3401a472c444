//! MQTT's packets as they stand on the wire, for versions 3.1, 3.1.1 and 5.0: bytes in, packets out, and
//! back. One file a packet; `wire` reads and writes the basic types, `properties` what MQTT 5 added.
//!
//! The codec knows a packet, not a connection: it rejects what is wrong by itself (a reserved bit, a
//! property where it may not stand), and leaves to the session what is wrong only now (a second CONNECT,
//! an unknown packet identifier, an alias that was never set).
//!
//! Decoded strings and payloads are slices of the packet's own buffer. Who keeps one for long (a retained
//! message) keeps that buffer alive, and should copy it.

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod publish;
mod reason;
mod suback;
mod subscribe;
mod unsuback;
mod unsubscribe;

pub use ack::Ack;
pub use auth::Auth;
pub use connack::{ConnAck, ConnAckProperties};
pub use connect::{Connect, ConnectProperties, Will};
pub use disconnect::Disconnect;
pub use publish::{Publish, PublishProperties};
pub use reason::{ReasonCode, UnknownReasonCode};
pub use suback::SubAck;
pub use subscribe::{RetainHandling, Subscribe, SubscribeFilter, SubscriptionOptions};
pub use unsuback::UnsubAck;
pub use unsubscribe::Unsubscribe;

use bytes::BytesMut;
use bytestring::ByteString;

/// Name and value pairs that applications pass along, in order, repeated names allowed [MQTT5 3.1.2.11.8].
pub type UserProperties = Vec<(ByteString, ByteString)>;

/// Any packet of any version [MQTT5 2.1.2].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Client to server; boxed, since it is by far the largest and comes once a connection.
    Connect(Box<Connect>),
    /// Server to client.
    ConnAck(ConnAck),
    /// Both ways.
    Publish(Publish),
    /// Both ways: ends QoS 1.
    PubAck(Ack),
    /// Both ways: QoS 2, the receiver has it.
    PubRec(Ack),
    /// Both ways: QoS 2, the sender forgets it.
    PubRel(Ack),
    /// Both ways: ends QoS 2.
    PubComp(Ack),
    /// Client to server.
    Subscribe(Subscribe),
    /// Server to client.
    SubAck(SubAck),
    /// Client to server.
    Unsubscribe(Unsubscribe),
    /// Server to client.
    UnsubAck(UnsubAck),
    /// Client to server: still there [MQTT5 3.12].
    PingReq,
    /// Server to client [MQTT5 3.13].
    PingResp,
    /// Both ways; before MQTT 5 client to server only.
    Disconnect(Disconnect),
    /// Both ways, MQTT 5 only.
    Auth(Auth),
}

/// The protocol that a connection speaks, oldest first, so that versions compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// `MQIsdp`, level 3.
    V31,
    /// `MQTT`, level 4.
    V311,
    /// `MQTT`, level 5.
    V5,
}

/// How surely a message arrives [MQTT5 4.3].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// Sent and forgotten.
    #[default]
    AtMostOnce = 0,
    /// Acknowledged, perhaps repeated.
    AtLeastOnce = 1,
    /// Acknowledged twice, never repeated.
    ExactlyOnce = 2,
}

impl Packet {
    /// The specification's name of the packet's type, for logs and errors.
    pub fn packet_type_name(&self) -> &'static str {
        match self {
            Packet::Connect(_) => "CONNECT",
            Packet::ConnAck(_) => "CONNACK",
            Packet::Publish(_) => "PUBLISH",
            Packet::PubAck(_) => "PUBACK",
            Packet::PubRec(_) => "PUBREC",
            Packet::PubRel(_) => "PUBREL",
            Packet::PubComp(_) => "PUBCOMP",
            Packet::Subscribe(_) => "SUBSCRIBE",
            Packet::SubAck(_) => "SUBACK",
            Packet::Unsubscribe(_) => "UNSUBSCRIBE",
            Packet::UnsubAck(_) => "UNSUBACK",
            Packet::PingReq => "PINGREQ",
            Packet::PingResp => "PINGRESP",
            Packet::Disconnect(_) => "DISCONNECT",
            Packet::Auth(_) => "AUTH",
        }
    }
}

/// Takes one whole packet off the front of `buf`; None when more bytes are needed.
pub fn decode(
    _buf: &mut BytesMut,
    _version: Option<ProtocolVersion>,
    _max_packet_bytes: usize,
) -> Result<Option<Packet>, DecodeError> {
    Ok(None)
}

impl Packet {
    /// Writes the packet as `version` has it.
    pub fn encode(&self, _version: ProtocolVersion, _out: &mut BytesMut) -> Result<(), EncodeError> {
        Ok(())
    }
    /// How many bytes `encode` writes.
    pub fn encoded_len(&self, _version: ProtocolVersion) -> usize {
        0
    }
}
impl Publish {
    /// Writes the packet as `version` has it.
    pub fn encode(&self, _version: ProtocolVersion, _out: &mut BytesMut) -> Result<(), EncodeError> {
        Ok(())
    }
    /// How many bytes `encode` writes.
    pub fn encoded_len(&self, _version: ProtocolVersion) -> usize {
        0
    }
}
impl TryFrom<u8> for QoS {
    type Error = DecodeError;
    fn try_from(value: u8) -> Result<Self, DecodeError> {
        match value {
            0 => Ok(QoS::AtMostOnce),
            1 => Ok(QoS::AtLeastOnce),
            2 => Ok(QoS::ExactlyOnce),
            _ => Err(DecodeError::QoS { value }),
        }
    }
}

/// Placeholder until the codec lands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A QoS of 3.
    #[error("QoS {value} does not exist")]
    QoS {
        /// What stood there.
        value: u8,
    },
}
impl DecodeError {
    /// The reason to answer with.
    pub fn reason(&self) -> ReasonCode {
        ReasonCode::MalformedPacket
    }
}
/// Placeholder until the codec lands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Too long.
    #[error("the packet is too long for MQTT")]
    PacketTooLong,
}
