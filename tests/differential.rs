//! Our packet codec against `rumqttd::protocol`, the codec of a broker that was written by others from the
//! same specification: what one writes, the other reads as the same.
//!
//! That is all rumqttd is trusted with here, and why it is a development dependency only. Its router dies
//! of a publish whose topic begins with a letter beyond ASCII and of the last member leaving a shared
//! subscription, it has no access lists and no way to end a session; its codec panics on two packet types,
//! leaves flags unchecked and lacks AUTH; and it brings some 170 crates. So the tests also write down where the
//! two differ: [`lax`] is what rumqttd lets through that we refuse, [`DIFFERENCES`] has an example of each
//! kind, and every entry is asserted from both sides. Whoever raises rumqttd's version sees what changed.

#![allow(
    clippy::expect_used,
    reason = "clippy.toml exempts tests, but sees none in an integration test's helpers"
)]

#[path = "../topics/tests/packets/any_packet.rs"]
mod any_packet;
mod translation;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use rumqttd::protocol as theirs;
use rumqttd::protocol::Protocol;
use topics::packet::*;

use translation::{Untranslatable, translate};

const MAX_PACKET_BYTES: usize = 1 << 20;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2048) })]

    #[test]
    fn what_we_write_they_read_as_the_same((version, packet) in packet_of_both()) {
        let packet = of_both(packet);
        let expected = translate(&packet, version);
        let read = they_read(&we_write(&packet, version), version);
        match (expected, unread_by_them(&packet, version)) {
            (Err(Untranslatable::Auth), _) => {
                prop_assert_eq!(read, TheirVerdict::Refused(theirs::Error::InvalidPacketType(15)));
            }
            (Err(Untranslatable::BinaryPassword), _) => {
                prop_assert!(matches!(read, TheirVerdict::Refused(_)), "{:?}", read);
            }
            (Ok(_), Some(Fault::Panics)) => prop_assert_eq!(read, TheirVerdict::Panicked),
            (Ok(_), Some(Fault::Refuses)) => {
                prop_assert!(matches!(read, TheirVerdict::Refused(_)), "{:?}", read);
            }
            (Ok(expected), None) => prop_assert_eq!(read, TheirVerdict::Packet(Box::new(expected))),
        }
    }

    #[test]
    fn what_they_write_we_read_as_the_same((version, packet) in packet_of_both()) {
        let packet = of_both(packet);
        let Ok(translated) = translate(&packet, version) else { return Ok(()) };
        let mut written = they_write(translated, version);
        let read = decode(&mut written, version_before(&packet, version), MAX_PACKET_BYTES);
        if is_bare_reason(&packet, version) {
            // Their DISCONNECT counts one byte too few: the last one is the next packet's first.
            prop_assert_eq!(read, Ok(Some(packet)));
            prop_assert_eq!(&written[..], &[0]);
        } else {
            prop_assert_eq!(read, Ok(Some(packet)));
            prop_assert!(written.is_empty());
        }
    }

    /// Between what is legal and noise: where both still read a packet it is the same one, and where only
    /// they do, the reason is on the list.
    #[test]
    fn on_damaged_packets_we_agree_or_know_why_not(
        (version, packet) in packet_of_both(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = we_write(&packet, version);
        for (place, value) in damage {
            let length = bytes.len();
            bytes[place.index(length)] = value;
        }
        let read = they_read(&bytes, version);
        let is_connect = bytes[0] >> 4 == 1;
        let ours = decode(&mut bytes.clone(), (!is_connect).then_some(version), MAX_PACKET_BYTES);
        match (ours, read) {
            (_, TheirVerdict::Panicked) => {
                prop_assert_eq!(version, ProtocolVersion::V5);
                prop_assert!(matches!(bytes[0] >> 4, 2 | 11), "they panic on 0x{:02X}", bytes[0]);
            }
            (Ok(Some(packet)), read) => agree(&packet, version, &read)?,
            (Ok(None), read) => {
                prop_assert!(
                    matches!(read, TheirVerdict::Refused(theirs::Error::InsufficientBytes(_))),
                    "we wait for more, they say {:?}", read
                );
            }
            (Err(_), TheirVerdict::Refused(_)) => {}
            (Err(fault), TheirVerdict::Packet(packet)) => {
                prop_assert!(lax(&fault) || miscounts(&packet), "we say {}, they read {:?}", fault, packet);
            }
        }
    }
}

/// Both read something, or we do and they refuse it.
fn agree(packet: &Packet, version: ProtocolVersion, read: &TheirVerdict) -> Result<(), TestCaseError> {
    // A damaged level makes it a CONNECT of another protocol, which the parser of `version` is not for.
    let other_protocol = matches!(
        packet,
        Packet::Connect(c) if c.protocol != version || c.protocol < ProtocolVersion::V311 || c.is_bridge
    );
    let known = other_protocol
        || unread_by_them(packet, version).is_some()
        || is_bare_goodbye(packet, version)
        || identifiers(packet) > 1;
    match (translate(packet, version), read) {
        (Ok(expected), TheirVerdict::Packet(read)) if identifiers(packet) < 2 => {
            prop_assert_eq!(&**read, &expected);
        }
        (Err(_), TheirVerdict::Refused(_)) | (Ok(_), TheirVerdict::Packet(_)) => {}
        (_, read) => prop_assert!(known, "we read {:?}, they say {:?}", packet, read),
    }
    Ok(())
}

/// What rumqttd lets through. The rest it refuses as we do.
fn lax(fault: &DecodeError) -> bool {
    match fault {
        // It looks at no flags but those of PUBLISH and of a DISCONNECT with a body.
        DecodeError::Flags { .. } | DecodeError::ConnectFlags { .. } | DecodeError::ConnAckFlags { .. } => {
            true
        }
        DecodeError::SubscriptionOptions { .. } | DecodeError::DupAtQoS0 => true,
        // Lengths may be longer than they need be, properties may reach beyond their section, and what
        // comes after the last field is not looked at.
        DecodeError::RemainingLength | DecodeError::VariableByteInteger => true,
        DecodeError::Truncated | DecodeError::TrailingBytes { .. } => true,
        // Topics are bytes to it, and strings may contain U+0000 and control characters.
        DecodeError::Utf8 | DecodeError::ControlCharacter => true,
        DecodeError::ClientIdentifier | DecodeError::Credentials => true,
        DecodeError::TopicName | DecodeError::ResponseTopic | DecodeError::EmptyTopicFilter => true,
        // No value is out of bounds but a QoS, a retain handling and a PUBLISH's packet identifier.
        DecodeError::PacketIdZero { .. } | DecodeError::PropertyValue { .. } => true,
        DecodeError::TopicAliasZero | DecodeError::DuplicateProperty { .. } => true,
        // It compares no field with another.
        DecodeError::PasswordWithoutUsername | DecodeError::AuthenticationDataWithoutMethod => true,
        DecodeError::NoLocalOnShared | DecodeError::EmptyPayload { .. } => true,

        DecodeError::ReservedPacketType { .. }
        | DecodeError::ConnectExpected { .. }
        | DecodeError::ServerOnly { .. }
        | DecodeError::PacketTooLarge { .. }
        | DecodeError::ProtocolName
        | DecodeError::UnsupportedProtocolVersion { .. }
        | DecodeError::QoS { .. }
        | DecodeError::UnknownProperty { .. }
        | DecodeError::PropertyNotAllowed { .. }
        | DecodeError::ReasonCode { .. } => false,
    }
}

/// Where rumqttd fails on a legal packet.
fn unread_by_them(packet: &Packet, version: ProtocolVersion) -> Option<Fault> {
    match packet {
        // Its MQTT 5 reader ends in `unreachable!` for what only a server sends, SUBACK excepted.
        Packet::ConnAck(_) | Packet::UnsubAck(_) if version == ProtocolVersion::V5 => Some(Fault::Panics),
        // A reason without properties [MQTT5 3.14.2.2.1] has it look for a length that is not there.
        packet if is_bare_reason(packet, version) => Some(Fault::Refuses),
        // A DISCONNECT may have this reason by the list of all of them [MQTT5 2.4], though not by its own
        // [MQTT5 3.14.2.1], which is the one it follows.
        Packet::Disconnect(disconnect) if disconnect.reason == ReasonCode::BadAuthenticationMethod => {
            Some(Fault::Refuses)
        }
        _ => None,
    }
}

enum Fault {
    Panics,
    Refuses,
}

fn is_bare_reason(packet: &Packet, version: ProtocolVersion) -> bool {
    let Packet::Disconnect(disconnect) = packet else {
        return false;
    };
    version == ProtocolVersion::V5
        && disconnect.reason != ReasonCode::Success
        && *disconnect == Disconnect::new(disconnect.reason)
}

/// Nobody writes out a success without properties, but it is legal [MQTT5 3.14.2.1], and they refuse it like
/// any bare reason. Once read it looks like the DISCONNECT with nothing in it, which they do read.
fn is_bare_goodbye(packet: &Packet, version: ProtocolVersion) -> bool {
    version == ProtocolVersion::V5 && *packet == Packet::Disconnect(Disconnect::new(ReasonCode::Success))
}

/// It counts each subscription identifier one byte too long, and so ends the properties too early.
fn identifiers(packet: &Packet) -> usize {
    match packet {
        Packet::Publish(publish) => publish
            .properties
            .as_ref()
            .map_or(0, |properties| properties.subscription_identifiers.len()),
        _ => 0,
    }
}

fn miscounts(packet: &theirs::Packet) -> bool {
    match packet {
        theirs::Packet::Publish(_, Some(properties)) => !properties.subscription_identifiers.is_empty(),
        theirs::Packet::Subscribe(_, Some(properties)) => properties.id.is_some(),
        _ => false,
    }
}

/// rumqttd has one text for "no user name" and "an empty one", and knows no bridges.
fn of_both(mut packet: Packet) -> Packet {
    if let Packet::Connect(connect) = &mut packet {
        connect.is_bridge = false;
        connect.password = connect.password.take().filter(|password| !password.is_empty());
        connect.username = connect.username.take().filter(|username| !username.is_empty());
        if connect.protocol < ProtocolVersion::V5 && connect.username.is_none() {
            connect.password = None;
        }
    }
    packet
}

/// MQTT 3.1 it does not know.
fn packet_of_both() -> impl Strategy<Value = (ProtocolVersion, Packet)> {
    select(vec![ProtocolVersion::V311, ProtocolVersion::V5])
        .prop_flat_map(|version| (Just(version), any_packet::packet(version)))
}

#[derive(Debug, PartialEq)]
enum TheirVerdict {
    Packet(Box<theirs::Packet>),
    Refused(theirs::Error),
    Panicked,
}

fn they_read(bytes: &[u8], version: ProtocolVersion) -> TheirVerdict {
    let mut unread = BytesMut::from(bytes);
    let read = catch_unwind(AssertUnwindSafe(|| match version {
        ProtocolVersion::V5 => theirs::v5::V5.read_mut(&mut unread, MAX_PACKET_BYTES),
        _ => theirs::v4::V4.read_mut(&mut unread, MAX_PACKET_BYTES),
    }));
    match read {
        Ok(Ok(packet)) => TheirVerdict::Packet(Box::new(packet)),
        Ok(Err(fault)) => TheirVerdict::Refused(fault),
        Err(_) => TheirVerdict::Panicked,
    }
}

fn they_write(packet: theirs::Packet, version: ProtocolVersion) -> BytesMut {
    let mut written = BytesMut::new();
    let result = match version {
        ProtocolVersion::V5 => theirs::v5::V5.write(packet, &mut written),
        _ => theirs::v4::V4.write(packet, &mut written),
    };
    result.expect("they write what was translated");
    written
}

fn we_write(packet: &Packet, version: ProtocolVersion) -> BytesMut {
    let mut written = BytesMut::new();
    packet
        .encode(version, &mut written)
        .expect("a generated packet can be written");
    written
}

fn version_before(packet: &Packet, version: ProtocolVersion) -> Option<ProtocolVersion> {
    (!matches!(packet, Packet::Connect(_))).then_some(version)
}

/// One packet that the two judge differently.
struct Difference {
    what: &'static str,
    version: ProtocolVersion,
    bytes: &'static [u8],
    we: Judgement,
    they: Judgement,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Judgement {
    Accept,
    Refuse,
    Panic,
}

use Judgement::{Accept, Panic, Refuse};
use ProtocolVersion::{V5, V311};

const DIFFERENCES: &[Difference] = &[
    difference("they panic on CONNACK", V5, b"\x20\x03\0\0\0", Accept, Panic),
    difference("they panic on UNSUBACK", V5, b"\xB0\x04\0\x01\0\0", Accept, Panic),
    difference("they lack AUTH", V5, b"\xF0\x00", Accept, Refuse),
    difference(
        "they lack MQTT 3.1",
        V311,
        b"\x10\x0E\0\x06MQIsdp\x03\x02\0\x3C\0\0",
        Accept,
        Refuse,
    ),
    difference(
        "they take passwords for text",
        V5,
        b"\x10\x10\0\x04MQTT\x05\x42\0\0\0\0\0\0\x01\xFF",
        Accept,
        Refuse,
    ),
    difference(
        "a DISCONNECT with a reason alone",
        V5,
        b"\xE0\x01\x04",
        Accept,
        Refuse,
    ),
    difference(
        "a DISCONNECT with a written success alone",
        V5,
        b"\xE0\x01\x00",
        Accept,
        Refuse,
    ),
    difference(
        "a DISCONNECT for a bad authentication method",
        V5,
        b"\xE0\x02\x8C\x00",
        Accept,
        Refuse,
    ),
    difference(
        "flags of SUBSCRIBE",
        V311,
        b"\x80\x06\0\x01\0\x01a\0",
        Refuse,
        Accept,
    ),
    difference(
        "flags of UNSUBSCRIBE",
        V311,
        b"\xA0\x05\0\x01\0\x01a",
        Refuse,
        Accept,
    ),
    difference("flags of PUBREL", V311, b"\x60\x02\0\x01", Refuse, Accept),
    difference("flags of PUBACK", V5, b"\x4F\x02\0\x01", Refuse, Accept),
    difference("flags of PINGREQ", V311, b"\xC7\x00", Refuse, Accept),
    difference("flags of DISCONNECT", V5, b"\xE1\x00", Refuse, Accept),
    difference(
        "flags of CONNECT",
        V311,
        b"\x11\x0C\0\x04MQTT\x04\x02\0\x3C\0\0",
        Refuse,
        Accept,
    ),
    difference(
        "the reserved CONNECT flag",
        V311,
        b"\x10\x0C\0\x04MQTT\x04\x03\0\x3C\0\0",
        Refuse,
        Accept,
    ),
    difference("a body of PINGREQ", V311, b"\xC0\x01\0", Refuse, Accept),
    difference(
        "bytes after the last field",
        V311,
        b"\x50\x03\0\x01\0",
        Refuse,
        Accept,
    ),
    difference("DUP at QoS 0", V311, b"\x38\x03\0\x01a", Refuse, Accept),
    difference(
        "a topic with a wildcard",
        V311,
        b"\x30\x03\0\x01#",
        Refuse,
        Accept,
    ),
    difference("an empty topic", V311, b"\x30\x02\0\0", Refuse, Accept),
    difference(
        "a topic that is no UTF-8",
        V311,
        b"\x30\x03\0\x01\xFF",
        Refuse,
        Accept,
    ),
    difference(
        "U+0000 in a filter",
        V311,
        b"\x82\x06\0\x01\0\x01\0\0",
        Refuse,
        Accept,
    ),
    difference("an empty filter", V311, b"\x82\x05\0\x01\0\0\0", Refuse, Accept),
    difference(
        "SUBSCRIBE with packet identifier 0",
        V311,
        b"\x82\x06\0\0\0\x01a\0",
        Refuse,
        Accept,
    ),
    difference(
        "PUBACK with packet identifier 0",
        V311,
        b"\x40\x02\0\0",
        Refuse,
        Accept,
    ),
    difference(
        "UNSUBSCRIBE without filters",
        V311,
        b"\xA2\x02\0\x01",
        Refuse,
        Accept,
    ),
    difference(
        "reserved subscription options",
        V5,
        b"\x82\x07\0\x01\0\0\x01a\xC0",
        Refuse,
        Accept,
    ),
    difference(
        "topic alias 0",
        V5,
        b"\x30\x07\0\x01a\x03\x23\0\0",
        Refuse,
        Accept,
    ),
    difference(
        "a property twice",
        V5,
        b"\x30\x08\0\x01a\x04\x01\0\x01\0",
        Refuse,
        Accept,
    ),
    difference(
        "a payload format that does not exist",
        V5,
        b"\x30\x06\0\x01a\x02\x01\x07",
        Refuse,
        Accept,
    ),
    difference(
        "a length longer than it need be",
        V5,
        b"\x30\x84\x00\0\x01a\0",
        Refuse,
        Accept,
    ),
];

const fn difference(
    what: &'static str,
    version: ProtocolVersion,
    bytes: &'static [u8],
    we: Judgement,
    they: Judgement,
) -> Difference {
    Difference {
        what,
        version,
        bytes,
        we,
        they,
    }
}

#[test]
fn the_known_differences_are_still_there() {
    for Difference {
        what,
        version,
        bytes,
        we,
        they,
    } in DIFFERENCES
    {
        let is_connect = bytes[0] >> 4 == 1;
        let read = decode(
            &mut BytesMut::from(*bytes),
            (!is_connect).then_some(*version),
            MAX_PACKET_BYTES,
        );
        let ours = match read {
            Ok(Some(_)) => Accept,
            Ok(None) => panic!("{what}: the example is no whole packet"),
            Err(_) => Refuse,
        };
        let theirs = match they_read(bytes, *version) {
            TheirVerdict::Packet(_) => Accept,
            TheirVerdict::Refused(theirs::Error::InsufficientBytes(_)) if ours == Refuse => {
                panic!("{what}: the example is no whole packet to them")
            }
            TheirVerdict::Refused(_) => Refuse,
            TheirVerdict::Panicked => Panic,
        };
        assert_eq!((ours, theirs), (*we, *they), "{what}: ours and theirs");
    }
}

#[test]
fn they_take_a_third_subscription_identifier_for_payload() {
    let publish = Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: ByteString::from_static("a"),
        packet_id: 0,
        properties: Some(Box::new(PublishProperties {
            subscription_identifiers: vec![1, 2, 3],
            ..PublishProperties::default()
        })),
        payload: Bytes::from_static(b"payload"),
    });
    let TheirVerdict::Packet(read) = they_read(&we_write(&publish, V5), V5) else {
        panic!("they read it")
    };
    let theirs::Packet::Publish(publish, Some(properties)) = *read else {
        panic!("a PUBLISH")
    };
    assert_eq!(properties.subscription_identifiers, [1, 2]);
    assert_eq!(&publish.payload[..], b"\x0B\x03payload");
}

#[test]
fn they_cannot_tell_an_empty_user_name_from_none() {
    let bytes = b"\x10\x0E\0\x04MQTT\x04\x82\0\x3C\0\0\0\0";
    let ours = decode(&mut BytesMut::from(&bytes[..]), None, MAX_PACKET_BYTES);
    assert!(matches!(ours, Ok(Some(Packet::Connect(c))) if c.username == Some(ByteString::new())));
    let TheirVerdict::Packet(read) = they_read(bytes, V311) else {
        panic!("they read it")
    };
    assert!(matches!(*read, theirs::Packet::Connect(_, _, _, _, None)));
}
