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
mod decoder;
mod disconnect;
mod error;
mod header;
mod properties;
mod publish;
mod reason;
mod suback;
mod subscribe;
mod unsuback;
mod unsubscribe;
mod wire;

pub use ack::Ack;
pub use auth::Auth;
pub use connack::{ConnAck, ConnAckProperties};
pub use connect::{Connect, ConnectProperties, Will};
pub use decoder::ClientDecoder;
pub use disconnect::Disconnect;
pub use error::{DecodeError, EncodeError};
pub(crate) use publish::Plain;
pub use publish::{Publish, PublishProperties};
pub use reason::{ReasonCode, UnknownReasonCode};
pub use suback::SubAck;
pub use subscribe::{RetainHandling, Subscribe, SubscribeFilter, SubscriptionOptions};
pub use unsuback::UnsubAck;
pub use unsubscribe::Unsubscribe;

use bytes::{Buf, BytesMut};
use bytestring::ByteString;

use header::{FixedHeader, PacketType};
use wire::{Nothing, Reader};

/// Takes one whole packet off the front of `buf`; None when more bytes are needed.
///
/// `version` is None until a CONNECT said which one is spoken: only a CONNECT is accepted then. A packet
/// larger than `max_packet_bytes`, header included, is refused as soon as its header says so; no room is
/// made for it. After an error the contents of `buf` mean nothing any more.
pub fn decode(
    buf: &mut BytesMut,
    version: Option<ProtocolVersion>,
    max_packet_bytes: usize,
) -> Result<Option<Packet>, DecodeError> {
    decode_from(buf, version, max_packet_bytes, false, &ByteString::new())
}

/// [`decode`] for a server, which is owed no CONNACK, SUBACK, UNSUBACK or PINGRESP: they are refused by
/// their first byte, whatever may follow it.
pub fn decode_from_client(
    buf: &mut BytesMut,
    version: Option<ProtocolVersion>,
    max_packet_bytes: usize,
) -> Result<Option<Packet>, DecodeError> {
    decode_from(buf, version, max_packet_bytes, true, &ByteString::new())
}

fn decode_from(
    buf: &mut BytesMut,
    version: Option<ProtocolVersion>,
    max_packet_bytes: usize,
    from_client: bool,
    known_topic: &ByteString,
) -> Result<Option<Packet>, DecodeError> {
    let Some(header) = FixedHeader::peek(buf, version, from_client, max_packet_bytes)? else {
        return Ok(None);
    };
    if buf.len() < header.packet_bytes {
        return Ok(None);
    }
    if let Some(ack) = plain_ack(&header, buf) {
        buf.advance(header.packet_bytes);
        return Ok(Some(ack));
    }
    let mut packet = buf.split_to(header.packet_bytes).freeze();
    packet.advance(header.header_bytes);
    // Only a CONNECT comes this far without a version, and it brings its own.
    let version = version.unwrap_or(ProtocolVersion::V5);
    decode_body(header, Reader::new(packet), version, known_topic).map(Some)
}

/// PUBACK and its like as nearly all are: a packet identifier alone, for which no part of the buffer needs to be
/// split off. Whatever is less plain, or wrong, is left to [`decode_body`].
fn plain_ack(header: &FixedHeader, buf: &[u8]) -> Option<Packet> {
    let &[high, low] = buf.get(header.header_bytes..header.packet_bytes)? else {
        return None;
    };
    let kind = match header.packet_type {
        PacketType::PubAck => Packet::PubAck,
        PacketType::PubRec => Packet::PubRec,
        PacketType::PubRel => Packet::PubRel,
        PacketType::PubComp => Packet::PubComp,
        _ => return None,
    };
    match u16::from_be_bytes([high, low]) {
        0 => None,
        packet_id => Some(kind(Ack::new(packet_id, ReasonCode::Success))),
    }
}

fn decode_body(
    header: FixedHeader,
    body: Reader,
    version: ProtocolVersion,
    known_topic: &ByteString,
) -> Result<Packet, DecodeError> {
    let packet_type = header.packet_type;
    Ok(match packet_type {
        PacketType::Publish => Packet::Publish(Publish::decode(body, version, header.flags, known_topic)?),
        PacketType::PubAck => Packet::PubAck(Ack::decode(body, version, packet_type)?),
        PacketType::PubRec => Packet::PubRec(Ack::decode(body, version, packet_type)?),
        PacketType::PubRel => Packet::PubRel(Ack::decode(body, version, packet_type)?),
        PacketType::PubComp => Packet::PubComp(Ack::decode(body, version, packet_type)?),
        PacketType::Connect => Packet::Connect(Box::new(Connect::decode(body, header.flags)?)),
        PacketType::ConnAck => Packet::ConnAck(Box::new(ConnAck::decode(body, version)?)),
        PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(body, version)?),
        PacketType::SubAck => Packet::SubAck(SubAck::decode(body, version)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(body, version)?),
        PacketType::UnsubAck => Packet::UnsubAck(UnsubAck::decode(body, version)?),
        PacketType::PingReq => body.finish().map(|()| Packet::PingReq)?,
        PacketType::PingResp => body.finish().map(|()| Packet::PingResp)?,
        PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(body, version)?),
        PacketType::Auth => Packet::Auth(Box::new(Auth::decode(body)?)),
    })
}

/// Name and value pairs that applications pass along, in order, repeated names allowed [MQTT5 3.1.2.11.8].
pub type UserProperties = Vec<(ByteString, ByteString)>;

/// Any packet of any version [MQTT5 2.1.2].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Client to server; boxed, since it is by far the largest and comes once a connection.
    Connect(Box<Connect>),
    /// Server to client; boxed for its size, as CONNECT is.
    ConnAck(Box<ConnAck>),
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
    /// Both ways, MQTT 5 only; boxed for its size.
    Auth(Box<Auth>),
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

impl Packet {
    /// Appends the packet to `out` as `version` has it, or nothing if it cannot be written. A CONNECT is
    /// written in its own protocol. What a version has no room for is left out: before MQTT 5 all
    /// properties and most reasons.
    ///
    /// Texts are taken as they are: that a topic has no wildcard and no string a U+0000 is for those to see
    /// to who make them.
    pub fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        self.judge(version)?;
        let first_byte = self.packet_type().first_byte();
        match self {
            Packet::Connect(connect) => wire::encode(first_byte, &**connect, version, out),
            Packet::ConnAck(connack) => wire::encode(first_byte, &**connack, version, out),
            Packet::Publish(publish) => publish.encode(version, out),
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
                ack.encode(first_byte, version, out)
            }
            Packet::Subscribe(subscribe) => wire::encode(first_byte, subscribe, version, out),
            Packet::SubAck(suback) => wire::encode(first_byte, suback, version, out),
            Packet::Unsubscribe(unsubscribe) => wire::encode(first_byte, unsubscribe, version, out),
            Packet::UnsubAck(unsuback) => wire::encode(first_byte, unsuback, version, out),
            Packet::PingReq | Packet::PingResp => wire::encode(first_byte, &Nothing, version, out),
            Packet::Disconnect(disconnect) => wire::encode(first_byte, disconnect, version, out),
            Packet::Auth(auth) => wire::encode(first_byte, &**auth, version, out),
        }
    }

    /// How many bytes [`encode`](Self::encode) appends, to be held against the receiver's maximum packet
    /// size.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        match self {
            Packet::Connect(connect) => wire::encoded_len(&**connect, version),
            Packet::ConnAck(connack) => wire::encoded_len(&**connack, version),
            Packet::Publish(publish) => publish.encoded_len(version),
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
                wire::encoded_len(ack, version)
            }
            Packet::Subscribe(subscribe) => wire::encoded_len(subscribe, version),
            Packet::SubAck(suback) => wire::encoded_len(suback, version),
            Packet::Unsubscribe(unsubscribe) => wire::encoded_len(unsubscribe, version),
            Packet::UnsubAck(unsuback) => wire::encoded_len(unsuback, version),
            Packet::PingReq | Packet::PingResp => wire::encoded_len(&Nothing, version),
            Packet::Disconnect(disconnect) => wire::encoded_len(disconnect, version),
            Packet::Auth(auth) => wire::encoded_len(&**auth, version),
        }
    }

    /// The specification's name of the packet's type, for logs and errors.
    pub fn packet_type_name(&self) -> &'static str {
        self.packet_type().name()
    }

    /// Refuses what the other side would have to take for a broken packet.
    fn judge(&self, version: ProtocolVersion) -> Result<(), EncodeError> {
        let (packet_id, payload_is_empty) = match self {
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
                (ack.packet_id, false)
            }
            Packet::Subscribe(subscribe) => (subscribe.packet_id, subscribe.filters.is_empty()),
            Packet::SubAck(suback) => (suback.packet_id, suback.reasons.is_empty()),
            Packet::Unsubscribe(unsubscribe) => (unsubscribe.packet_id, unsubscribe.filters.is_empty()),
            Packet::UnsubAck(unsuback) => (
                unsuback.packet_id,
                unsuback.reasons.is_empty() && version == ProtocolVersion::V5,
            ),
            Packet::Connect(connect) if connect.lacks_username() => {
                return Err(EncodeError::NotInVersion {
                    what: "a password without a user name",
                });
            }
            Packet::Auth(_) if version < ProtocolVersion::V5 => {
                return Err(EncodeError::NotInVersion { what: "an AUTH" });
            }
            _ => return Ok(()),
        };
        match (packet_id, payload_is_empty) {
            (0, _) => Err(EncodeError::PacketIdZero),
            (_, true) => Err(EncodeError::EmptyPayload),
            _ => Ok(()),
        }
    }

    const fn packet_type(&self) -> PacketType {
        match self {
            Packet::Connect(_) => PacketType::Connect,
            Packet::ConnAck(_) => PacketType::ConnAck,
            Packet::Publish(_) => PacketType::Publish,
            Packet::PubAck(_) => PacketType::PubAck,
            Packet::PubRec(_) => PacketType::PubRec,
            Packet::PubRel(_) => PacketType::PubRel,
            Packet::PubComp(_) => PacketType::PubComp,
            Packet::Subscribe(_) => PacketType::Subscribe,
            Packet::SubAck(_) => PacketType::SubAck,
            Packet::Unsubscribe(_) => PacketType::Unsubscribe,
            Packet::UnsubAck(_) => PacketType::UnsubAck,
            Packet::PingReq => PacketType::PingReq,
            Packet::PingResp => PacketType::PingResp,
            Packet::Disconnect(_) => PacketType::Disconnect,
            Packet::Auth(_) => PacketType::Auth,
        }
    }
}
