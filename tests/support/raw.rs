//! Bytes on a socket, for what no decent client would send.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// A connection without a protocol, whatever carries its bytes.
pub(crate) struct RawClient {
    wire: Box<dyn Wire>,
}

/// What carries bytes. The end is read as no bytes.
pub(crate) trait Wire: Read + Write + Send {
    /// The same once more, for a thread of its own.
    fn again(&self) -> Box<dyn Wire> {
        panic!("only plain TCP can be had twice")
    }
}

impl Wire for TcpStream {
    fn again(&self) -> Box<dyn Wire> {
        Box::new(self.try_clone().expect("a second handle of the socket"))
    }
}

impl RawClient {
    pub(crate) fn open(address: SocketAddr) -> RawClient {
        let stream = TcpStream::connect(address).expect("the daemon accepts");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        RawClient::over(stream)
    }

    pub(crate) fn over(wire: impl Wire + 'static) -> RawClient {
        RawClient { wire: Box::new(wire) }
    }

    /// Opened and let in.
    pub(crate) fn admitted(address: SocketAddr, level: u8, client_id: &str, token: &str) -> RawClient {
        let mut client = RawClient::open(address);
        client.send(&connect(level, client_id, Some(token)));
        assert_eq!(client.connack_code(), 0, "{client_id} is let in");
        client
    }

    /// The same connection once more, for a thread of its own.
    pub(crate) fn again(&self) -> RawClient {
        RawClient {
            wire: self.wire.again(),
        }
    }

    /// Sends as much as the other side takes: it may have closed already.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _closed = self.wire.write_all(bytes).and_then(|()| self.wire.flush());
    }

    /// The next packet with its header; nothing where the daemon closed.
    pub(crate) fn packet(&mut self) -> Option<Vec<u8>> {
        let mut packet = vec![self.byte()?];
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            packet.push(byte);
            length |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.wire.read_exact(&mut body).ok()?;
        packet.extend(body);
        Some(packet)
    }

    /// The code of the CONNACK that must come now.
    pub(crate) fn connack_code(&mut self) -> u8 {
        let packet = self.packet().expect("a CONNACK");
        assert_eq!(packet[0], 0x20, "{packet:02x?} is no CONNACK");
        // A reason told at length makes its length longer, too.
        let length_bytes = packet[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
        packet[1 + length_bytes + 1]
    }

    /// The reason of the DISCONNECT that must come now, after which the daemon must close.
    #[track_caller]
    pub(crate) fn disconnect_reason(&mut self) -> u8 {
        let packet = self.packet().expect("a DISCONNECT");
        assert_eq!(packet[0], 0xE0, "{packet:02x?} is no DISCONNECT");
        self.assert_closed();
        packet.get(2).copied().unwrap_or_default()
    }

    /// Panics unless the daemon closes without another word.
    #[track_caller]
    pub(crate) fn assert_closed(&mut self) {
        if let Some(byte) = self.byte() {
            panic!("the daemon said {byte:02x} instead of closing");
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.wire.read(&mut byte) {
            Ok(0) => None,
            Ok(_) => Some(byte[0]),
            // A reset is an end too: the daemon had bytes of ours left to read when it closed.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("the daemon neither spoke nor closed: {error}"),
        }
    }
}

/// A text with its length in two bytes.
pub(crate) fn text(text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short text").to_be_bytes();
    [&length[..], text].concat()
}

/// A packet: the first byte, the length, the body.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7F).expect("seven bits");
        length >>= 7;
        packet.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

/// A CONNECT that starts a clean session, at protocol level 3, 4 or 5, or one that does not exist.
pub(crate) fn connect(level: u8, client_id: &str, token: Option<&str>) -> Vec<u8> {
    let mut body = text(b"MQTT");
    body.push(level);
    body.push(if token.is_some() { 0b1100_0010 } else { 0b10 });
    body.extend([0, 60]);
    if level == 5 {
        body.push(0);
    }
    body.extend(text(client_id.as_bytes()));
    if let Some(token) = token {
        body.extend(text(b"test"));
        body.extend(text(token.as_bytes()));
    }
    packet(0x10, &body)
}

/// A PUBLISH at QoS 0.
pub(crate) fn publish(level: u8, topic: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if level == 5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    packet(0x30, &body)
}
