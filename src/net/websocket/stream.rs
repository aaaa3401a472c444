//! A WebSocket as a stream of bytes. Where frames begin and end means nothing [MQTT-6.0.0-2]: what is
//! written until a flush goes out as one frame, and what comes in is joined again.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actors::device_session::ByteStream;
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tungstenite::protocol::frame::coding::CloseCode;

use super::frames::{self, Decoder, Request, Violation};

/// The largest frame that we send.
const FRAME_BYTES: usize = 64 * 1024;

/// Answers to Pings wait for a client that does not read only as long as no more than this waits before them.
const MAX_WIRE_BYTES: usize = 2 * FRAME_BYTES;

/// How long a client that broke the protocol may take to see why, and go.
const LINGER: Duration = Duration::from_secs(2);

/// See the module. An idle one holds no buffer. It belongs to one task: an answer to a Ping that waits
/// for room goes on with the next read or flush.
pub(super) struct WebSocketStream<S> {
    stream: S,
    decoder: Decoder,
    /// What came behind the handshake's request.
    rest: Vec<u8>,
    /// What was written since the last flush.
    payload: BytesMut,
    /// Whole frames on their way.
    wire: BytesMut,
    /// We said Close, and may say nothing more.
    closing: bool,
    state: State,
}

enum State {
    Open,
    /// The client was told what it did wrong; what still comes is not looked at.
    Failing {
        why: &'static str,
        until: Pin<Box<Sleep>>,
    },
    /// Nothing more comes.
    Ended,
}

impl<S: ByteStream> WebSocketStream<S> {
    /// After the handshake; `rest` is what came behind it.
    pub(super) fn new(stream: S, rest: Vec<u8>) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
            rest,
            payload: BytesMut::new(),
            wire: BytesMut::new(),
            closing: false,
            state: State::Open,
        }
    }

    /// Reads once; what is in the buffer then is raw.
    fn poll_raw(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(self.rest.get(..length).unwrap_or_default());
        self.rest.drain(..length);
        Poll::Ready(Ok(()))
    }

    /// A failure is not the reader's: what came with the request is still to be read, and whatever is written
    /// next fails as well.
    fn answer(&mut self, requests: Vec<Request>, cx: &mut Context<'_>) {
        for request in requests {
            match request {
                _ if self.closing => {}
                // The answer to a later Ping will do [RFC 6455 5.5.3].
                Request::Pong(_) if self.wire.len() > MAX_WIRE_BYTES => {}
                Request::Pong(payload) => frames::pong(&payload, &mut self.wire),
                Request::Close(payload) => {
                    frames::close_with(&payload, &mut self.wire);
                    self.closing = true;
                }
            }
        }
        let _ = self.poll_wire(cx);
    }

    fn fail(&mut self, violation: Violation, cx: &mut Context<'_>) {
        if !self.closing {
            frames::close(violation.code, violation.why, &mut self.wire);
            self.closing = true;
        }
        // Best effort: a client whose socket is full has other troubles.
        let _ = self.poll_wire(cx);
        self.state = State::Failing {
            why: violation.why,
            until: Box::pin(tokio::time::sleep(LINGER)),
        };
    }

    /// A socket that is closed with bytes unread resets the connection, and the client may never see
    /// the reason: so they are read, for nobody, until it goes or it takes too long.
    fn poll_failing(&mut self, cx: &mut Context<'_>) -> Poll<Option<&'static str>> {
        let State::Failing { why, until } = &mut self.state else {
            return Poll::Ready(None);
        };
        let why = *why;
        if until.as_mut().poll(cx).is_pending() {
            let mut ignored = [0; 1024];
            loop {
                let mut buffer = ReadBuf::new(&mut ignored);
                match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                    Ok(()) if !buffer.filled().is_empty() => {}
                    _ => break,
                }
            }
        }
        self.end(cx);
        Poll::Ready(Some(why))
    }

    fn end(&mut self, cx: &mut Context<'_>) {
        self.state = State::Ended;
        // TLS has a goodbye of its own. Best effort: the client has left.
        let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
    }

    fn poll_wire(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.wire.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.wire))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.wire.advance(written),
            }
        }
        self.wire = BytesMut::new();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Makes a frame of what was written when the one before it has left, so that no more than one
    /// waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_wire(cx))?;
        if self.payload.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let payload = std::mem::take(&mut self.payload);
        frames::binary(&payload, &mut self.wire);
        self.poll_wire(cx)
    }
}

impl<S: ByteStream> AsyncRead for WebSocketStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(why) = ready!(self.poll_failing(cx)) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        let before = buffer.filled().len();
        while let State::Open = self.state {
            ready!(self.poll_raw(cx, buffer))?;
            let mut requests = Vec::new();
            let Some(raw) = buffer.filled_mut().get_mut(before..) else {
                break;
            };
            if raw.is_empty() {
                self.end(cx);
                break;
            }
            let decoded = self.decoder.decode(raw, &mut requests);
            buffer.set_filled(before + decoded.unwrap_or_default());
            let is_last = requests
                .iter()
                .any(|request| matches!(request, Request::Close(_)));
            if !requests.is_empty() {
                self.answer(requests, cx);
            }
            if let Err(violation) = decoded {
                self.fail(violation, cx);
                return self.poll_read(cx, buffer);
            }
            if is_last {
                self.end(cx);
            }
            if buffer.filled().len() > before {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: ByteStream> AsyncWrite for WebSocketStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.payload.len() >= FRAME_BYTES {
            ready!(self.poll_send(cx))?;
        }
        let length = bytes.len().min(FRAME_BYTES - self.payload.len());
        self.payload
            .extend_from_slice(bytes.get(..length).unwrap_or_default());
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    /// Says goodbye in WebSocket's way. The client's answer is read like everything else, and with it
    /// the stream ends.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        if !self.closing {
            frames::close(CloseCode::Normal, "", &mut self.wire);
            self.closing = true;
        }
        self.poll_wire(cx)
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
