//! Frames of a WebSocket, from and to bytes, on a server's side. A payload is handed on as it comes,
//! unmasked where it was read: no frame is ever held as a whole, so that its length, which the client
//! chooses, costs nothing here. How long a packet may be is MQTT's to say.

use std::io::Cursor;

use bytes::{BufMut, BytesMut};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// The longest header: flags, length in eight bytes, mask.
const MAX_HEADER_BYTES: usize = 14;
/// RFC 6455 5.5.
const MAX_CONTROL_BYTES: u64 = 125;

/// What a client did wrong, as it is told and logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) code: CloseCode,
    pub(super) why: &'static str,
}

/// What a client asked for beside its data.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Echo this.
    Pong(Vec<u8>),
    /// It goes: this is what the answer must carry.
    Close(Vec<u8>),
}

/// Takes frames apart, wherever they were cut on the way.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    head: Vec<u8>,
    frame: Option<Frame>,
    /// A message has begun and its last frame has not come.
    in_message: bool,
    closed: bool,
}

#[derive(Debug)]
struct Frame {
    /// Of a control frame what came so far; nothing for data.
    control: Option<(Control, Vec<u8>)>,
    mask: [u8; 4],
    left: u64,
}

impl Decoder {
    /// Leaves in the first bytes of `raw` the data that came in it, and says how many they are.
    pub(super) fn decode(&mut self, raw: &mut [u8], requests: &mut Vec<Request>) -> Result<usize, Violation> {
        let (mut read, mut kept) = (0, 0);
        while let Some(byte) = raw.get(read).copied() {
            // Nothing means anything after a Close.
            if self.closed {
                break;
            }
            let Some(frame) = &mut self.frame else {
                read += 1;
                self.head.push(byte);
                self.begin_frame()?;
                self.end_frame(requests)?;
                continue;
            };
            let left = usize::try_from(frame.left).unwrap_or(usize::MAX);
            let length = left.min(raw.len() - read);
            let Some(part) = raw.get_mut(read..read + length) else {
                break;
            };
            unmask(part, frame.mask);
            frame.mask.rotate_left(length % 4);
            frame.left -= length as u64;
            match &mut frame.control {
                Some((_, payload)) => payload.extend_from_slice(part),
                None => {
                    raw.copy_within(read..read + length, kept);
                    kept += length;
                }
            }
            read += length;
            self.end_frame(requests)?;
        }
        Ok(kept)
    }

    /// Looks whether the header is whole, and refuses what may not follow.
    fn begin_frame(&mut self) -> Result<(), Violation> {
        let parsed = FrameHeader::parse(&mut Cursor::new(self.head.as_slice()));
        let (header, left) = match parsed {
            Ok(Some(parsed)) => parsed,
            Ok(None) if self.head.len() < MAX_HEADER_BYTES => return Ok(()),
            _ => return Err(protocol("the frame's header means nothing")),
        };
        self.head = Vec::new();
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(protocol("a reserved bit is set"));
        }
        let Some(mask) = header.mask else {
            return Err(protocol("a client's frame must be masked"));
        };
        let control = match header.opcode {
            OpCode::Control(control) => {
                if !header.is_final || left > MAX_CONTROL_BYTES {
                    return Err(protocol("a control frame is too long or in pieces"));
                }
                Some((control, Vec::new()))
            }
            OpCode::Data(data) => {
                match data {
                    Data::Continue if self.in_message => {}
                    Data::Binary if !self.in_message => {}
                    // [MQTT-6.0.0-1]
                    Data::Text => {
                        return Err(Violation {
                            code: CloseCode::Unsupported,
                            why: "MQTT comes in binary frames",
                        });
                    }
                    _ => return Err(protocol("a frame does not continue the message before it")),
                }
                self.in_message = !header.is_final;
                None
            }
        };
        self.frame = Some(Frame { control, mask, left });
        Ok(())
    }

    fn end_frame(&mut self, requests: &mut Vec<Request>) -> Result<(), Violation> {
        let Some(frame) = self.frame.take_if(|frame| frame.left == 0) else {
            return Ok(());
        };
        match frame.control {
            Some((Control::Ping, payload)) => {
                // An answer to the newest is enough [RFC 6455 5.5.3], so that they never pile up.
                requests.retain(|request| !matches!(request, Request::Pong(_)));
                requests.push(Request::Pong(payload));
            }
            Some((Control::Close, payload)) => {
                self.closed = true;
                requests.push(Request::Close(close_answer(&payload)?));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The same code goes back, without the words.
fn close_answer(payload: &[u8]) -> Result<Vec<u8>, Violation> {
    match *payload {
        [] => Ok(Vec::new()),
        [high, low, ..] if CloseCode::from(u16::from_be_bytes([high, low])).is_allowed() => {
            Ok(vec![high, low])
        }
        _ => Err(protocol("a Close frame has no code that may be sent")),
    }
}

fn unmask(part: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = part.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

fn protocol(why: &'static str) -> Violation {
    Violation {
        code: CloseCode::Protocol,
        why,
    }
}

/// A whole message in one binary frame.
pub(super) fn binary(payload: &[u8], out: &mut BytesMut) {
    frame(OpCode::Data(Data::Binary), payload, out);
}

/// The answer to a Ping.
pub(super) fn pong(payload: &[u8], out: &mut BytesMut) {
    frame(OpCode::Control(Control::Pong), payload, out);
}

/// A Close with a code and words for it.
pub(super) fn close(code: CloseCode, why: &str, out: &mut BytesMut) {
    let mut payload = u16::from(code).to_be_bytes().to_vec();
    payload.extend_from_slice(why.as_bytes());
    close_with(&payload, out);
}

/// A Close with what an answer must carry.
pub(super) fn close_with(payload: &[u8], out: &mut BytesMut) {
    frame(OpCode::Control(Control::Close), payload, out);
}

fn frame(opcode: OpCode, payload: &[u8], out: &mut BytesMut) {
    let header = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    let length = payload.len() as u64;
    out.reserve(header.len(length) + payload.len());
    // Writing to memory does not fail.
    let _ = header.format(length, &mut out.writer());
    out.put_slice(payload);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A client's frame: flags and opcode in the first byte.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x11, 0x22, 0x44, 0x88];
        let header = FrameHeader {
            mask: Some(mask),
            ..FrameHeader::default()
        };
        let mut bytes = Vec::new();
        header.format(payload.len() as u64, &mut bytes).unwrap();
        bytes[0] = first;
        bytes.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
        bytes
    }

    fn decode(mut raw: Vec<u8>) -> (Result<Vec<u8>, &'static str>, Vec<Request>) {
        let mut requests = Vec::new();
        let kept = Decoder::default().decode(&mut raw, &mut requests);
        let data = kept.map(|kept| raw[..kept].to_vec());
        (data.map_err(|violation| violation.why), requests)
    }

    #[test]
    fn what_a_client_may_not_send_is_refused() {
        let unmasked = vec![0x82, 0x01, 0x00];
        for (bytes, why) in [
            (masked(0x81, b"text"), "MQTT comes in binary frames"),
            (masked(0x01, b"text"), "MQTT comes in binary frames"),
            (unmasked, "a client's frame must be masked"),
            (masked(0xC2, b""), "a reserved bit is set"),
            (masked(0x83, b""), "the frame's header means nothing"),
            (
                masked(0x80, b"more"),
                "a frame does not continue the message before it",
            ),
            (
                [masked(0x02, b"a"), masked(0x82, b"b")].concat(),
                "a frame does not continue the message before it",
            ),
            (masked(0x09, b""), "a control frame is too long or in pieces"),
            (
                masked(0x89, &[0; 126]),
                "a control frame is too long or in pieces",
            ),
            (masked(0x88, &[3]), "a Close frame has no code that may be sent"),
            (
                masked(0x88, &[0x03, 0xED]),
                "a Close frame has no code that may be sent",
            ),
        ] {
            assert_eq!(decode(bytes).0, Err(why));
        }
    }

    #[test]
    fn the_newest_ping_is_answered_and_nothing_counts_after_a_close() {
        let bytes = [
            masked(0x02, b"da"),
            masked(0x89, b"one"),
            masked(0x89, b"two"),
            masked(0x8A, b"unasked"),
            masked(0x80, b"ta"),
            masked(0x88, &[0x03, 0xE8, b'b', b'y', b'e']),
            masked(0x81, b"text"),
        ]
        .concat();
        let (data, requests) = decode(bytes);
        assert_eq!(data.unwrap(), b"data");
        let expected = [Request::Pong(b"two".into()), Request::Close(vec![0x03, 0xE8])];
        assert_eq!(requests, expected);
    }

    proptest! {
        #[test]
        fn frames_are_joined_wherever_they_are_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
            cut in 1usize..200,
        ) {
            let last = payloads.len() - 1;
            let raw: Vec<u8> = payloads.iter().enumerate().flat_map(|(at, payload)| {
                let first = if at == last { 0x80 } else { 0 } | if at == 0 { 2 } else { 0 };
                [masked(first, payload), masked(0x89, b"?")].concat()
            }).collect();
            let (mut decoder, mut data, mut requests) = (Decoder::default(), Vec::new(), Vec::new());
            for piece in raw.chunks(cut) {
                let mut piece = piece.to_vec();
                let kept = decoder.decode(&mut piece, &mut requests).unwrap();
                data.extend_from_slice(&piece[..kept]);
            }
            prop_assert_eq!(data, payloads.concat());
            prop_assert_eq!(requests.len(), 1);
        }

        #[test]
        fn whatever_comes_is_decoded_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _either = Decoder::default().decode(&mut bytes, &mut Vec::new());
        }
    }
}
