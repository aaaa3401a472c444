//! The packet codec takes any bytes: an error, a wait for more, or a packet that reads the same once it
//! was written again.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use topics::packet::{DecodeError, Packet, ProtocolVersion, decode, decode_from_client};

const MAX_PACKET_BYTES: usize = 1 << 16;

type Decode = fn(&mut BytesMut, Option<ProtocolVersion>, usize) -> Result<Option<Packet>, DecodeError>;

fuzz_target!(|bytes: &[u8]| {
    read_connection(bytes);
    for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
        read_all(decode_from_client, bytes, version);
        read_all(decode, bytes, version);
    }
});

/// As a server meets it: nothing is known until a CONNECT names its version.
fn read_connection(bytes: &[u8]) {
    let mut unread = BytesMut::from(bytes);
    if let Ok(Some(packet)) = decode_from_client(&mut unread, None, MAX_PACKET_BYTES) {
        let Packet::Connect(connect) = &packet else {
            panic!("{packet:?} came before a CONNECT")
        };
        let version = connect.protocol;
        write_and_read(&packet, version);
        read_all(decode_from_client, &unread, version);
    }
}

fn read_all(decode: Decode, bytes: &[u8], version: ProtocolVersion) {
    let mut unread = BytesMut::from(bytes);
    loop {
        let before = unread.len();
        match decode(&mut unread, Some(version), MAX_PACKET_BYTES) {
            Ok(Some(packet)) => {
                assert!(unread.len() < before, "{packet:?} took no bytes");
                assert!(before - unread.len() <= MAX_PACKET_BYTES);
                let written_as = match &packet {
                    Packet::Connect(connect) => connect.protocol,
                    _ => version,
                };
                write_and_read(&packet, written_as);
            }
            Ok(None) => {
                assert_eq!(unread.len(), before, "a wait for more took bytes");
                return;
            }
            Err(fault) => {
                // Both are what a peer is told, and have to exist for every fault.
                let _ = (fault.reason(), fault.to_string());
                return;
            }
        }
    }
}

fn write_and_read(packet: &Packet, version: ProtocolVersion) {
    let mut written = BytesMut::new();
    packet
        .encode(version, &mut written)
        .expect("what was read can be written");
    assert_eq!(written.len(), packet.encoded_len(version), "{packet:?}");
    let read = decode(&mut written, Some(version), usize::MAX).expect("what was written can be read");
    assert_eq!(read.as_ref(), Some(packet));
    assert!(written.is_empty());
}
