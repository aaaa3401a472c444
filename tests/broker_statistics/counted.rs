//! A client that counts what it says and hears.

use std::net::SocketAddr;

use crate::support::raw::RawClient;

/// One way: what went over the wire.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    bytes: usize,
    packets: usize,
    publishes: usize,
    payload_bytes: usize,
}

/// What all clients of a broker said and heard.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    to_broker: Said,
    from_broker: Said,
}

/// A client whose traffic is counted.
pub(super) struct Counted(RawClient);

impl Said {
    fn count(&mut self, packet: &[u8]) {
        self.bytes += packet.len();
        self.packets += 1;
        if packet[0] >> 4 == 3 {
            self.publishes += 1;
            self.payload_bytes += payload_bytes(packet);
        }
    }
}

impl Traffic {
    /// As `OF_THE_WIRE` names it.
    pub(super) fn in_the_order_of_names(self) -> [f64; 8] {
        let (received, sent) = (self.to_broker, self.from_broker);
        [
            received.bytes,
            sent.bytes,
            received.packets,
            sent.packets,
            received.payload_bytes,
            sent.payload_bytes,
            received.publishes,
            sent.publishes,
        ]
        .map(|count| count as f64)
    }
}

impl Counted {
    pub(super) fn open(broker: SocketAddr) -> Counted {
        Counted(RawClient::open(broker))
    }

    /// Sends one packet.
    pub(super) fn say(&mut self, traffic: &mut Traffic, packet: &[u8]) {
        traffic.to_broker.count(packet);
        self.0.send(packet);
    }

    /// The next packet, which must begin like this.
    #[track_caller]
    pub(super) fn hear(&mut self, traffic: &mut Traffic, first: u8) -> Vec<u8> {
        let packet = self.hear_any(traffic);
        assert_eq!(packet[0], first, "{:02x?}", &packet[..packet.len().min(20)]);
        packet
    }

    #[track_caller]
    pub(super) fn hear_any(&mut self, traffic: &mut Traffic) -> Vec<u8> {
        let packet = self.0.packet().expect("a packet");
        traffic.from_broker.count(&packet);
        packet
    }

    #[track_caller]
    pub(super) fn hear_the_end(mut self) {
        self.0.assert_closed();
    }
}

/// Of a PUBLISH in the form of 3.1.1.
fn payload_bytes(packet: &[u8]) -> usize {
    let length_bytes = packet[1..].iter().take_while(|byte| **byte & 0x80 > 0).count() + 1;
    let topic_at = 1 + length_bytes;
    let topic_bytes = usize::from(u16::from_be_bytes([packet[topic_at], packet[topic_at + 1]]));
    let id_bytes = if packet[0] & 0b110 > 0 { 2 } else { 0 };
    packet.len() - topic_at - 2 - topic_bytes - id_bytes
}
