//! The fixed header: what kind of packet comes, and how long it is [MQTT5 2.1].

use super::wire::read_variable;
use super::{DecodeError, ProtocolVersion};

const DUP: u8 = 0b1000;

/// The kinds of packets [MQTT5 2.1.2].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    pub(super) const fn name(self) -> &'static str {
        match self {
            PacketType::Connect => "CONNECT",
            PacketType::ConnAck => "CONNACK",
            PacketType::Publish => "PUBLISH",
            PacketType::PubAck => "PUBACK",
            PacketType::PubRec => "PUBREC",
            PacketType::PubRel => "PUBREL",
            PacketType::PubComp => "PUBCOMP",
            PacketType::Subscribe => "SUBSCRIBE",
            PacketType::SubAck => "SUBACK",
            PacketType::Unsubscribe => "UNSUBSCRIBE",
            PacketType::UnsubAck => "UNSUBACK",
            PacketType::PingReq => "PINGREQ",
            PacketType::PingResp => "PINGRESP",
            PacketType::Disconnect => "DISCONNECT",
            PacketType::Auth => "AUTH",
        }
    }

    /// The first byte, where the flags are the fixed ones; a PUBLISH adds its own [MQTT5 2.1.3].
    pub(super) const fn first_byte(self) -> u8 {
        (self as u8) << 4 | self.flags()
    }

    pub(super) const fn is_server_only(self) -> bool {
        matches!(
            self,
            PacketType::ConnAck | PacketType::SubAck | PacketType::UnsubAck | PacketType::PingResp
        )
    }

    /// Whether nothing may follow its header [MQTT5 3.12.1, 3.13.1].
    const fn is_bare(self) -> bool {
        matches!(self, PacketType::PingReq | PacketType::PingResp)
    }

    const fn flags(self) -> u8 {
        match self {
            PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => 0b0010,
            _ => 0,
        }
    }

    const fn from_first_byte(first_byte: u8) -> Option<Self> {
        Some(match first_byte >> 4 {
            1 => PacketType::Connect,
            2 => PacketType::ConnAck,
            3 => PacketType::Publish,
            4 => PacketType::PubAck,
            5 => PacketType::PubRec,
            6 => PacketType::PubRel,
            7 => PacketType::PubComp,
            8 => PacketType::Subscribe,
            9 => PacketType::SubAck,
            10 => PacketType::Unsubscribe,
            11 => PacketType::UnsubAck,
            12 => PacketType::PingReq,
            13 => PacketType::PingResp,
            14 => PacketType::Disconnect,
            15 => PacketType::Auth,
            _ => return None,
        })
    }
}

/// A fixed header that was found acceptable.
#[derive(Clone, Copy, Debug)]
pub(super) struct FixedHeader {
    pub(super) packet_type: PacketType,
    /// The lower half of the first byte.
    pub(super) flags: u8,
    pub(super) header_bytes: usize,
    /// With its header.
    pub(super) packet_bytes: usize,
}

impl FixedHeader {
    /// Judges what there is of a header, None while it is incomplete. Each byte is judged when it is
    /// there: a wrong beginning is not given the time to become a packet.
    pub(super) fn peek(
        bytes: &[u8],
        version: Option<ProtocolVersion>,
        from_client: bool,
        max_packet_bytes: usize,
    ) -> Result<Option<Self>, DecodeError> {
        let Some((&first_byte, after)) = bytes.split_first() else {
            return Ok(None);
        };
        let flags = first_byte & 0x0F;
        let packet_type = judge_first_byte(first_byte, version)?;
        let remaining_length = read_variable(after).map_err(|_| DecodeError::RemainingLength)?;
        // A ping is its header; anything more is told before it is awaited.
        if packet_type.is_bare() && remaining_length.as_ref().is_some_and(|length| length.value > 0) {
            return Err(DecodeError::RemainingLength);
        }
        if from_client && packet_type.is_server_only() {
            let packet = packet_type.name();
            return Err(DecodeError::ServerOnly { packet });
        }
        let Some(remaining_length) = remaining_length else {
            return Ok(None);
        };
        // Older versions never asked for the shortest form, and there are clients that reserve four bytes.
        if version == Some(ProtocolVersion::V5) && !remaining_length.is_shortest() {
            return Err(DecodeError::RemainingLength);
        }
        let header_bytes = 1 + remaining_length.bytes;
        let packet_bytes = header_bytes.saturating_add(remaining_length.value as usize);
        if packet_bytes > max_packet_bytes {
            return Err(DecodeError::PacketTooLarge {
                packet_bytes,
                max_packet_bytes,
            });
        }
        Ok(Some(FixedHeader {
            packet_type,
            flags,
            header_bytes,
            packet_bytes,
        }))
    }
}

/// Flags that may be set or not. In MQTT 3.1 PUBREL, SUBSCRIBE and UNSUBSCRIBE are marked when they are sent
/// again, as a PUBLISH is; since 3.1.1 they are not.
fn open_flags(packet_type: PacketType, version: Option<ProtocolVersion>) -> u8 {
    if version == Some(ProtocolVersion::V31) && packet_type.flags() != 0 {
        DUP
    } else {
        0
    }
}

fn judge_first_byte(first_byte: u8, version: Option<ProtocolVersion>) -> Result<PacketType, DecodeError> {
    let reserved = DecodeError::ReservedPacketType {
        packet_type: first_byte >> 4,
    };
    let packet_type = PacketType::from_first_byte(first_byte).ok_or(reserved.clone())?;
    let packet = packet_type.name();
    match (packet_type, version) {
        // MQTT 3.1 leaves the flags of a CONNECT open, so they are judged when its version is known.
        (PacketType::Connect, _) => return Ok(packet_type),
        (_, None) => return Err(DecodeError::ConnectExpected { packet }),
        (PacketType::Auth, Some(older)) if older < ProtocolVersion::V5 => return Err(reserved),
        _ => {}
    }
    let flags = first_byte & 0x0F;
    if packet_type != PacketType::Publish && flags & !open_flags(packet_type, version) != packet_type.flags()
    {
        return Err(DecodeError::Flags { packet, flags });
    }
    Ok(packet_type)
}
