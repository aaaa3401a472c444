//! What holds for every packet: it is read as it was written, in each version, and nothing that comes from
//! the network makes the decoder panic or take memory.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "clippy.toml exempts tests, but sees none in an integration test's helpers"
)]

#[path = "packets/any_packet.rs"]
mod any_packet;

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use topics::packet::*;

const MAX_PACKET_BYTES: usize = 1 << 20;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn what_is_written_is_read_as_the_same_packet((version, packet) in any_packet()) {
        let written = write(&packet, version);
        prop_assert_eq!(written.len(), packet.encoded_len(version));
        let mut unread = written.clone();
        unread.extend_from_slice(b"the next one");
        let read = decode(&mut unread, version_before(&packet, version), MAX_PACKET_BYTES);
        prop_assert_eq!(read, Ok(Some(packet)));
        prop_assert_eq!(&unread[..], b"the next one");
    }

    #[test]
    fn a_part_of_a_packet_is_never_a_packet((version, packet) in any_packet()) {
        let written = write(&packet, version);
        for length in 0..written.len() {
            let mut unread = BytesMut::from(&written[..length]);
            let read = decode(&mut unread, version_before(&packet, version), MAX_PACKET_BYTES);
            prop_assert_eq!(read, Ok(None), "{} of {} bytes", length, written.len());
            prop_assert_eq!(unread.len(), length);
        }
    }

    #[test]
    fn arbitrary_bytes_cause_neither_panic_nor_allocation(
        bytes in vec(any::<u8>(), 0..200),
        version in of(any_version()),
        max_packet_bytes in 0..300_usize,
    ) {
        read_all(&bytes, version, max_packet_bytes)?;
    }

    #[test]
    fn a_decoder_that_remembers_topics_reads_what_one_without_memory_reads(
        choices in vec((any_packet(), any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        // Few packets, each perhaps damaged and sent twice: equal topics and nearly equal ones.
        let mut decoder = ClientDecoder::new(MAX_PACKET_BYTES);
        for ((version, packet), at, damage) in choices {
            let mut bytes = write(&packet, version);
            let sound = bytes.clone();
            if damage < 64 && !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= damage;
            }
            for mut bytes in [sound.clone(), bytes, sound] {
                let mut again = bytes.clone();
                let expected = decode_from_client(&mut again, Some(version), MAX_PACKET_BYTES);
                prop_assert_eq!(decoder.decode(&mut bytes, Some(version)), expected);
                prop_assert_eq!(bytes, again);
            }
        }
    }

    #[test]
    fn a_damaged_packet_is_refused_or_is_another_whole_packet(
        (version, packet) in any_packet(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = write(&packet, version);
        for (place, value) in damage {
            let length = bytes.len();
            bytes[place.index(length)] = value;
        }
        read_all(&bytes, version_before(&packet, version), MAX_PACKET_BYTES)?;
    }

    #[test]
    fn an_oversized_packet_is_refused_by_its_header((version, packet) in any_packet()) {
        let written = write(&packet, version);
        let limit = written.len() - 1;
        let header_bytes = 1 + written[1..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let mut unread = BytesMut::from(&written[..header_bytes]);
        let capacity = unread.capacity();
        let read = decode(&mut unread, version_before(&packet, version), limit);
        let packet_bytes = written.len();
        prop_assert_eq!(read, Err(DecodeError::PacketTooLarge { packet_bytes, max_packet_bytes: limit }));
        prop_assert_eq!(unread.capacity(), capacity);
    }
}

/// Reads until nothing more comes. Whatever was read can be written and read again, and no room was made.
fn read_all(
    bytes: &[u8],
    version: Option<ProtocolVersion>,
    max_packet_bytes: usize,
) -> Result<(), TestCaseError> {
    let mut unread = BytesMut::from(bytes);
    let capacity = unread.capacity();
    while let Ok(Some(packet)) = decode(&mut unread, version, max_packet_bytes) {
        let version = match &packet {
            Packet::Connect(connect) => connect.protocol,
            _ => version.expect("only a CONNECT comes without a version"),
        };
        let mut again = write(&packet, version);
        let read = decode(&mut again, version_before(&packet, version), usize::MAX);
        prop_assert_eq!(read, Ok(Some(packet)));
    }
    prop_assert!(unread.capacity() <= capacity);
    Ok(())
}

fn write(packet: &Packet, version: ProtocolVersion) -> BytesMut {
    let mut written = BytesMut::new();
    packet
        .encode(version, &mut written)
        .unwrap_or_else(|fault| panic!("{packet:?}: {fault}"));
    written
}

/// What the decoder knows when the packet comes.
fn version_before(packet: &Packet, version: ProtocolVersion) -> Option<ProtocolVersion> {
    (!matches!(packet, Packet::Connect(_))).then_some(version)
}

fn any_version() -> impl Strategy<Value = ProtocolVersion> {
    select(vec![
        ProtocolVersion::V31,
        ProtocolVersion::V311,
        ProtocolVersion::V5,
    ])
}

fn any_packet() -> impl Strategy<Value = (ProtocolVersion, Packet)> {
    any_version().prop_flat_map(|version| (Just(version), any_packet::packet(version)))
}
