//! What belongs to WebSocket alone: the request, frames and packets that do not fit each other, what is
//! forbidden.

use std::io::{Read, Write};

use tungstenite::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};

use super::wires::{Frames, read_head, tcp};
use crate::support::daemon::{Daemon, Home, start};
use crate::support::raw::{RawClient, connect};
use crate::support::wait_for;

fn open(daemon: &Daemon) -> Frames<std::net::TcpStream> {
    Frames::open(tcp(daemon.listener("websocket")))
}

/// Part of a message: the first says binary, the last says so.
fn part(bytes: &[u8], first: bool, last: bool) -> Message {
    let data = if first { Data::Binary } else { Data::Continue };
    Message::Frame(Frame::message(bytes.to_vec(), OpCode::Data(data), last))
}

#[test]
fn packets_may_be_cut_over_frames_and_frames_may_hold_several_packets() {
    let daemon = Daemon::launch().start();
    let token = daemon.token("phone");
    let connect = connect(5, "phone", Some(&token));
    let (head, rest) = connect.split_at(7);
    let mut frames = open(&daemon);
    // A message of three frames, a ping among them, and then one with the rest and two packets more.
    frames.socket.send(part(&head[..1], true, false)).unwrap();
    frames
        .socket
        .send(Message::Ping(b"hub?".to_vec().into()))
        .unwrap();
    frames.socket.send(part(&[], false, false)).unwrap();
    frames.socket.send(part(&head[1..], false, true)).unwrap();
    assert_eq!(
        frames.socket.read().unwrap(),
        Message::Pong(b"hub?".to_vec().into())
    );
    let batch = [rest, &[0xC0, 0], &[0xC0, 0]].concat();
    frames.socket.send(Message::Binary(batch.into())).unwrap();
    let mut client = RawClient::over(frames);
    assert_eq!(client.connack_code(), 0);
    for _ in 0..2 {
        assert_eq!(client.packet().expect("a PINGRESP"), [0xD0, 0]);
    }
}

#[test]
fn a_text_frame_ends_the_connection_before_and_after_connect() {
    let daemon = Daemon::launch().start();
    let token = daemon.token("phone");
    for admitted in [false, true] {
        let mut frames = open(&daemon);
        if admitted {
            frames.write_all(&connect(5, "phone", Some(&token))).unwrap();
            frames.read_exact(&mut [0; 4]).unwrap();
        }
        frames.socket.send(Message::Text("hello".into())).unwrap();
        let close = loop {
            match frames.socket.read().expect("a Close") {
                Message::Close(close) => break close.expect("a code"),
                Message::Binary(_) => {}
                other => panic!("{other:?} instead of Close"),
            }
        };
        assert_eq!(close.code, CloseCode::Unsupported, "{admitted}: {close:?}");
        let end = frames.socket.read();
        assert!(
            matches!(end, Err(tungstenite::Error::ConnectionClosed)),
            "{end:?}"
        );
    }
}

#[test]
fn what_asks_for_no_websocket_gets_an_answer_in_http() {
    let daemon = Daemon::launch().start();
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\n{upgrade}\r\n"), "404 Not Found"),
        (
            "GET /mqtt HTTP/1.1\r\nHost: hub\r\n\r\n".to_owned(),
            "426 Upgrade Required",
        ),
        (format!("GET /mqtt HTTP/1.1\r\n{upgrade}\r\n"), "400 Bad Request"),
        (
            format!("GET /mqtt HTTP/1.1\r\n{upgrade}Sec-WebSocket-Protocol: chat\r\n\r\n"),
            "400 Bad Request",
        ),
        ("\u{10}\u{c}\u{0}\u{4}MQTT".to_owned(), "400 Bad Request"),
        (
            format!("GET /mqtt HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(20_000)),
            "431 Request Header Fields Too Large",
        ),
    ] {
        let mut stream = tcp(daemon.listener("websocket"));
        stream.write_all(request.as_bytes()).unwrap();
        let head = read_head(&mut stream);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
        let mut why = String::new();
        stream.read_to_string(&mut why).unwrap();
        assert!(why.len() > 10, "no explanation after {head}");
    }
    wait_for("all to be counted", || {
        let failed = daemon.metric("clawdbot_mqtt_handshakes_failed_total");
        (failed == Some(6.0)).then_some(())
    });
}

#[test]
fn a_port_that_nobody_asked_for_may_be_taken_and_that_is_said() {
    // Whoever has it, this test or somebody else: the daemon cannot.
    let _taken = std::net::TcpListener::bind("127.0.0.1:8083");
    let home = Home::new();
    let mut command = home.command(&["serve"]);
    command.env_remove("CLAWDBOT__MQTT__WEBSOCKET");
    let daemon = start(home, command);
    assert!(daemon.log().contains("no WebSocket listener"), "{}", daemon.log());
    RawClient::admitted(daemon.mqtt, 5, "phone", &daemon.token("phone"));
}
