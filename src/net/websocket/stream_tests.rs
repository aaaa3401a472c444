//! The stream against tungstenite's own client, in memory.

use std::io::{Read, Write};
use std::task::Waker;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tungstenite::protocol::Role;
use tungstenite::{Error, Message, WebSocket};

use super::*;

/// A server and a client that talk through a pipe of that many bytes.
fn pair(pipe_bytes: usize) -> (WebSocketStream<DuplexStream>, Client) {
    let (ours, theirs) = duplex(pipe_bytes);
    let theirs = Blocking {
        stream: theirs,
        waker: Waker::noop().clone(),
    };
    let client = Client(WebSocket::from_raw_socket(theirs, Role::Client, None));
    (WebSocketStream::new(ours, Vec::new()), client)
}

/// A stream in the form that tungstenite knows, which is that of the standard library: what would wait
/// is an error, and the waker was left here before.
struct Blocking<S> {
    stream: S,
    waker: Waker,
}

fn or_would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl<S: ByteStream> Read for Blocking<S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(bytes);
        let mut cx = Context::from_waker(&self.waker);
        or_would_block(Pin::new(&mut self.stream).poll_read(&mut cx, &mut buffer))?;
        Ok(buffer.filled().len())
    }
}

impl<S: ByteStream> Write for Blocking<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut cx = Context::from_waker(&self.waker);
        or_would_block(Pin::new(&mut self.stream).poll_write(&mut cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut cx = Context::from_waker(&self.waker);
        or_would_block(Pin::new(&mut self.stream).poll_flush(&mut cx))
    }
}

struct Client(WebSocket<Blocking<DuplexStream>>);

impl Client {
    async fn send(&mut self, message: Message) {
        let mut message = Some(message);
        self.go_on(|socket| match message.take() {
            Some(message) => socket.send(message),
            None => socket.flush(),
        })
        .await
        .unwrap();
    }

    async fn next(&mut self) -> Result<Message, Error> {
        self.go_on(|socket| socket.read()).await
    }

    async fn go_on<T>(
        &mut self,
        mut step: impl FnMut(&mut WebSocket<Blocking<DuplexStream>>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        std::future::poll_fn(|cx| {
            self.0.get_mut().waker.clone_from(cx.waker());
            match step(&mut self.0) {
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                other => Poll::Ready(other),
            }
        })
        .await
    }
}

fn binary(bytes: &[u8]) -> Message {
    Message::Binary(Bytes::copy_from_slice(bytes))
}

#[tokio::test]
async fn what_is_written_until_a_flush_is_one_frame_and_what_comes_is_joined() {
    let (mut server, mut client) = pair(1 << 16);
    server.write_all(b"ab").await.unwrap();
    server.write_all(b"cd").await.unwrap();
    server.flush().await.unwrap();
    assert_eq!(client.next().await.unwrap(), binary(b"abcd"));

    for part in [&b"x"[..], b"", b"yz"] {
        client.send(binary(part)).await;
    }
    let mut three = [0; 3];
    server.read_exact(&mut three).await.unwrap();
    assert_eq!(&three, b"xyz");
}

#[tokio::test]
async fn more_than_a_frame_goes_through_a_narrow_pipe_both_ways() {
    let (server, mut client) = pair(100);
    let long: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
    let expected = long.clone();
    let echo = tokio::spawn(async move {
        let mut server = server;
        server.write_all(&long).await.unwrap();
        server.flush().await.unwrap();
        let mut back = vec![0; long.len()];
        server.read_exact(&mut back).await.unwrap();
        back
    });
    let mut received = Vec::new();
    while received.len() < expected.len() {
        let Message::Binary(part) = client.next().await.unwrap() else {
            panic!("not binary")
        };
        assert!(part.len() <= FRAME_BYTES);
        received.extend_from_slice(&part);
    }
    assert!(received == expected, "other bytes came");
    client.send(Message::Binary(received.into())).await;
    assert!(echo.await.unwrap() == expected, "other bytes came back");
}

#[tokio::test]
async fn a_text_frame_ends_it_with_a_reason() {
    let (mut server, mut client) = pair(1 << 16);
    client.send(Message::Text("hello".into())).await;
    let reading = tokio::spawn(async move { server.read_u8().await });
    let close = client.next().await.unwrap();
    assert!(
        matches!(&close, Message::Close(Some(frame)) if frame.code == CloseCode::Unsupported),
        "{close:?}"
    );
    drop(client);
    assert!(reading.await.unwrap().is_err());
}

#[tokio::test]
async fn pings_are_answered_while_nothing_else_is_said() {
    let (mut server, mut client) = pair(1 << 16);
    tokio::spawn(async move { server.read_u8().await });
    client.send(Message::Ping(Bytes::from_static(b"there?"))).await;
    assert_eq!(
        client.next().await.unwrap(),
        Message::Pong(Bytes::from_static(b"there?"))
    );
}

#[tokio::test]
async fn either_side_may_say_goodbye_first() {
    let (mut server, mut client) = pair(1 << 16);
    server.write_all(b"last").await.unwrap();
    server.shutdown().await.unwrap();
    let reading = tokio::spawn(async move { server.read(&mut [0; 8]).await });
    assert_eq!(client.next().await.unwrap(), binary(b"last"));
    assert!(matches!(client.next().await.unwrap(), Message::Close(Some(_))));
    assert!(matches!(client.next().await, Err(Error::ConnectionClosed)));
    assert_eq!(reading.await.unwrap().unwrap(), 0);

    let (mut server, mut client) = pair(1 << 16);
    let reading = tokio::spawn(async move { server.read(&mut [0; 8]).await });
    client.send(Message::Close(None)).await;
    assert_eq!(reading.await.unwrap().unwrap(), 0);
    assert!(matches!(client.next().await.unwrap(), Message::Close(_)));
}

#[tokio::test]
async fn a_client_that_vanishes_is_the_end_and_no_error() {
    let (mut server, client) = pair(1 << 16);
    drop(client);
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_was_said_before_a_ping_that_cannot_be_answered_any_more_is_read() {
    let (mut server, mut client) = pair(1 << 16);
    client.send(binary(b"bye")).await;
    client.send(Message::Ping(Bytes::from_static(b"there?"))).await;
    drop(client);
    let mut all = Vec::new();
    server.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"bye");
}

#[tokio::test]
async fn answers_to_pings_that_nobody_reads_are_not_heaped_up() {
    let (mut server, mut client) = pair(1 << 16);
    for _ in 0..3000 {
        client.send(Message::Ping(Bytes::from_static(&[7; 125]))).await;
        let mut cx = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut server).poll_read(&mut cx, &mut ReadBuf::new(&mut [0; 8]));
        assert!(read.is_pending(), "{read:?}");
    }
    let waiting_bytes = server.wire.len();
    assert!(
        waiting_bytes <= MAX_WIRE_BYTES + 200,
        "{waiting_bytes} bytes wait"
    );
}
