//! The basic types of the wire: bounds-checked reading, and writing that measures and writes with the
//! same code [MQTT5 1.5].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::{DecodeError, EncodeError, ProtocolVersion};

/// The largest value of a variable byte integer [MQTT5 1.5.5].
pub(super) const MAX_VARIABLE: u32 = 268_435_455;

/// Reads a packet's body from its front. Strings and binary fields come out as slices of the packet.
pub(super) struct Reader {
    unread: Bytes,
}

impl Reader {
    pub(super) fn new(body: Bytes) -> Self {
        Reader { unread: body }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.unread.try_get_u8().map_err(|_| DecodeError::Truncated)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.unread.try_get_u16().map_err(|_| DecodeError::Truncated)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.unread.try_get_u32().map_err(|_| DecodeError::Truncated)
    }

    /// A variable byte integer in its shortest form [MQTT5 1.5.5, MQTT-1.5.5-1].
    pub(super) fn variable(&mut self) -> Result<u32, DecodeError> {
        match read_variable(&self.unread)? {
            None => Err(DecodeError::Truncated),
            Some(variable) if !variable.is_shortest() => Err(DecodeError::VariableByteInteger),
            Some(variable) => {
                self.unread.advance(variable.bytes);
                Ok(variable.value)
            }
        }
    }

    /// Binary data: a length of 16 bits and that many bytes [MQTT5 1.5.6].
    pub(super) fn binary(&mut self) -> Result<Bytes, DecodeError> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }

    /// A string [MQTT5 1.5.4].
    pub(super) fn text(&mut self) -> Result<ByteString, DecodeError> {
        judge_text(self.binary()?)
    }

    /// A string that names something, and so has no control characters in it.
    pub(super) fn name(&mut self) -> Result<ByteString, DecodeError> {
        judge_name(self.binary()?)
    }

    /// A topic name: not empty, no wildcards [MQTT5 3.3.2.1].
    pub(super) fn topic_name(&mut self) -> Result<ByteString, DecodeError> {
        let topic = self.name()?;
        if topic.is_empty() || has_wildcards(&topic) {
            return Err(DecodeError::TopicName);
        }
        Ok(topic)
    }

    /// A topic without wildcards, or nothing where an alias may stand for it. One that equals `known` was
    /// judged before, and costs one comparison.
    pub(super) fn topic_or(&mut self, known: &ByteString) -> Result<ByteString, DecodeError> {
        let length = usize::from(self.u16()?);
        if self
            .unread
            .get(..length)
            .is_some_and(|topic| topic == known.as_bytes())
        {
            self.unread.advance(length);
            return Ok(known.clone());
        }
        let topic = judge_name(self.take(length)?)?;
        if has_wildcards(&topic) {
            return Err(DecodeError::TopicName);
        }
        Ok(topic)
    }

    /// A topic filter, not empty. Where its wildcards may stand is for the filter parser to say.
    pub(super) fn topic_filter(&mut self) -> Result<ByteString, DecodeError> {
        let filter = self.name()?;
        if filter.is_empty() {
            return Err(DecodeError::EmptyTopicFilter);
        }
        Ok(filter)
    }

    /// A packet identifier, never 0 [MQTT5 2.2.1].
    pub(super) fn packet_id(&mut self, packet: &'static str) -> Result<u16, DecodeError> {
        match self.u16()? {
            0 => Err(DecodeError::PacketIdZero { packet }),
            packet_id => Ok(packet_id),
        }
    }

    /// A section of its own, to be read to its end.
    pub(super) fn section(&mut self, length: usize) -> Result<Reader, DecodeError> {
        Ok(Reader::new(self.take(length)?))
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.unread)
    }

    /// The packet has to be used up [MQTT5 2.1.4].
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        match self.unread.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::TrailingBytes { bytes }),
        }
    }

    fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if length > self.unread.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(self.unread.split_to(length))
    }
}

fn judge_text(bytes: Bytes) -> Result<ByteString, DecodeError> {
    let text = ByteString::try_from(bytes).map_err(|_| DecodeError::Utf8)?;
    if text.as_bytes().contains(&0) {
        return Err(DecodeError::Utf8);
    }
    Ok(text)
}

fn judge_name(bytes: Bytes) -> Result<ByteString, DecodeError> {
    let name = judge_text(bytes)?;
    if has_control_characters(&name) {
        return Err(DecodeError::ControlCharacter);
    }
    Ok(name)
}

/// A variable byte integer as it was found, so that the caller can judge its length.
pub(super) struct Variable {
    pub(super) value: u32,
    pub(super) bytes: usize,
}

impl Variable {
    pub(super) fn is_shortest(&self) -> bool {
        self.bytes == variable_len(self.value)
    }
}

/// The variable byte integer at the front of `bytes`, None where it goes on beyond their end. A fifth
/// byte is an error as soon as the fourth announces it [MQTT5 1.5.5].
pub(super) fn read_variable(bytes: &[u8]) -> Result<Option<Variable>, DecodeError> {
    let mut value = 0;
    for (position, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * position);
        if byte & 0x80 == 0 {
            return Ok(Some(Variable {
                value,
                bytes: position + 1,
            }));
        }
    }
    if bytes.len() >= 4 {
        Err(DecodeError::VariableByteInteger)
    } else {
        Ok(None)
    }
}

fn variable_len(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

pub(super) fn has_wildcards(topic: &str) -> bool {
    topic.bytes().any(|byte| matches!(byte, b'+' | b'#'))
}

fn has_control_characters(name: &str) -> bool {
    // Nearly every name is ASCII, and is spared the decoding of characters.
    name.bytes().any(|byte| byte.is_ascii_control()) || (!name.is_ascii() && name.chars().any(is_discouraged))
}

/// What a string should not include beyond ASCII [MQTT5 1.5.4].
fn is_discouraged(character: char) -> bool {
    matches!(character, '\u{80}'..='\u{9F}' | '\u{FDD0}'..='\u{FDEF}')
        || matches!(u32::from(character) & 0xFFFF, 0xFFFE | 0xFFFF)
}

/// Where a packet's fields go: a buffer, or a count of bytes. One code for both cannot disagree with itself.
pub(super) trait Sink {
    fn raw(&mut self, bytes: &[u8]);

    /// A section whose length stands before it as a variable byte integer.
    fn section<B: Body + ?Sized>(&mut self, content: &B, version: ProtocolVersion);

    fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    fn variable(&mut self, value: u32) {
        let mut rest = value.min(MAX_VARIABLE);
        while rest > 0x7F {
            self.u8((rest & 0x7F) as u8 | 0x80);
            rest >>= 7;
        }
        self.u8(rest as u8);
    }

    /// A string or binary data. Writing cuts off what does not fit; measuring has refused that before.
    fn sized(&mut self, bytes: &[u8]) {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(length);
        self.raw(bytes.get(..usize::from(length)).unwrap_or_default());
    }
}

/// What writes itself into a sink: a packet after its fixed header, or its properties.
pub(super) trait Body {
    fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S);
}

impl Sink for BytesMut {
    fn raw(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }

    fn section<B: Body + ?Sized>(&mut self, content: &B, version: ProtocolVersion) {
        let measured = Measured::of(content, version);
        self.variable(u32::try_from(measured.bytes).unwrap_or(MAX_VARIABLE));
        content.write(version, self);
    }
}

/// Counts what a buffer would be given.
#[derive(Default)]
struct Measured {
    bytes: usize,
    field_too_long: bool,
}

impl Measured {
    fn of<B: Body + ?Sized>(body: &B, version: ProtocolVersion) -> Self {
        let mut measured = Measured::default();
        body.write(version, &mut measured);
        measured
    }
}

impl Sink for Measured {
    fn raw(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn section<B: Body + ?Sized>(&mut self, content: &B, version: ProtocolVersion) {
        let before = self.bytes;
        content.write(version, self);
        let length = u32::try_from(self.bytes - before).unwrap_or(u32::MAX);
        self.bytes += variable_len(length);
    }

    fn sized(&mut self, bytes: &[u8]) {
        self.field_too_long |= bytes.len() > usize::from(u16::MAX);
        self.bytes += 2 + bytes.len();
    }
}

/// Writes a whole packet, or nothing.
pub(super) fn encode<B: Body>(
    first_byte: u8,
    body: &B,
    version: ProtocolVersion,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let measured = Measured::of(body, version);
    if measured.field_too_long {
        return Err(EncodeError::FieldTooLong);
    }
    let remaining_length = u32::try_from(measured.bytes)
        .ok()
        .filter(|&length| length <= MAX_VARIABLE)
        .ok_or(EncodeError::PacketTooLong {
            remaining_bytes: measured.bytes,
        })?;
    out.reserve(1 + variable_len(remaining_length) + measured.bytes);
    out.put_u8(first_byte);
    out.variable(remaining_length);
    body.write(version, out);
    Ok(())
}

/// Makes room for a whole packet and writes its fixed header and the length of its first field, in one piece.
pub(super) fn begin(
    first_byte: u8,
    remaining_bytes: usize,
    first_field_bytes: u16,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut rest = u32::try_from(remaining_bytes)
        .ok()
        .filter(|&length| length <= MAX_VARIABLE)
        .ok_or(EncodeError::PacketTooLong { remaining_bytes })?;
    let mut header = [first_byte, 0, 0, 0, 0, 0, 0];
    let mut length = 1;
    let mut bytes = header.iter_mut().skip(1);
    loop {
        let more = rest > 0x7F;
        if let Some(byte) = bytes.next() {
            *byte = (rest & 0x7F) as u8 | u8::from(more) << 7;
        }
        length += 1;
        rest >>= 7;
        if !more {
            break;
        }
    }
    for (byte, value) in bytes.zip(first_field_bytes.to_be_bytes()) {
        *byte = value;
    }
    out.reserve(length + remaining_bytes);
    out.extend_from_slice(header.get(..length + 2).unwrap_or_default());
    Ok(())
}

/// How many bytes [`encode`] writes.
pub(super) fn encoded_len<B: Body>(body: &B, version: ProtocolVersion) -> usize {
    let remaining_bytes = Measured::of(body, version).bytes;
    1 + variable_len(u32::try_from(remaining_bytes).unwrap_or(u32::MAX)) + remaining_bytes
}

/// The body of PINGREQ and PINGRESP.
pub(super) struct Nothing;

impl Body for Nothing {
    fn write<S: Sink>(&self, _version: ProtocolVersion, _sink: &mut S) {}
}
