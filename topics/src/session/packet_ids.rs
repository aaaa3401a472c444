//! Packet identifiers as keys of a map.

use std::hash::Hasher;

/// Spreads packet identifiers over a map in one multiplication. There are 65,535 of them, and those that a
/// client could choose to share a bucket share it with few: an odd factor changes no two identifiers of different
/// low bits into numbers of equal ones.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PacketIdHasher(u64);

impl Hasher for PacketIdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u16(&mut self, packet_id: u16) {
        // 2^64 over the golden ratio, as in Fibonacci hashing [Knuth, TAOCP 6.4].
        self.0 = u64::from(packet_id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0.rotate_left(8) ^ u64::from(*byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }
}
