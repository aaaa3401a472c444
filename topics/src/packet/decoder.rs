//! Decodes what one client sends, and remembers what it published to last.

use bytes::BytesMut;
use bytestring::ByteString;

use super::{DecodeError, Packet, ProtocolVersion, decode_from};

/// [`decode_from_client`](super::decode_from_client) for a whole connection.
///
/// Most clients publish to the same topic again and again. The decoder keeps the last one, with memory of
/// its own: an equal one is not judged a second time, and a message shares it instead of holding on to the
/// buffer it was read into.
#[derive(Debug)]
pub struct ClientDecoder {
    max_packet_bytes: usize,
    last_topic: ByteString,
}

impl ClientDecoder {
    /// A decoder that refuses packets larger than `max_packet_bytes`, header included.
    pub fn new(max_packet_bytes: usize) -> Self {
        Self {
            max_packet_bytes,
            last_topic: ByteString::new(),
        }
    }

    /// Takes one whole packet off the front of `buf`; None when more bytes are needed. After an error the
    /// contents of `buf` mean nothing any more.
    pub fn decode(
        &mut self,
        buf: &mut BytesMut,
        version: Option<ProtocolVersion>,
    ) -> Result<Option<Packet>, DecodeError> {
        let mut decoded = decode_from(buf, version, self.max_packet_bytes, true, &self.last_topic);
        if let Ok(Some(Packet::Publish(publish))) = &mut decoded
            && !publish.topic.is_empty()
            && publish.topic.as_ptr() != self.last_topic.as_ptr()
        {
            self.last_topic = ByteString::from(&*publish.topic);
            publish.topic = self.last_topic.clone();
        }
        decoded
    }
}
