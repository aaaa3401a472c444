//! The client against a broker that says exactly what the test wants, byte by byte.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

const CONNECT: u8 = 0x10;
const PUBLISH_QOS_1: u8 = 0x32;
const SUBSCRIBE: u8 = 0x82;

fn conversation(address: SocketAddr) -> Conversation {
    Conversation {
        host: address.ip().to_string(),
        port: address.port(),
        device: "cli".to_owned(),
        token: Some("a.b.c".to_owned()),
        request: r#"{"id":"u","prompt":"Hi"}"#.to_owned(),
        unique: "u".to_owned(),
        json: false,
    }
}

/// How the answer looked, and how it ended.
async fn ask(address: SocketAddr) -> (String, Result<(), String>) {
    let mut out = Vec::new();
    let outcome = conversation(address).hold(&mut out).await;
    (
        String::from_utf8(out).unwrap(),
        outcome.map_err(|failure| format!("{failure:?}")),
    )
}

/// A broker that lets the client in with `connack`, takes the question, and sends these items.
async fn broker(connack: u8, items: &'static [&'static str]) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (kind, connect) = packet(&mut stream).await;
        assert_eq!(kind, CONNECT);
        stream.write_all(&[0x20, 3, 0, connack, 0]).await.unwrap();
        if connack != 0 {
            return connect;
        }
        let (kind, subscribe) = packet(&mut stream).await;
        assert_eq!(kind, SUBSCRIBE);
        let suback = [0x90, 4, subscribe[0], subscribe[1], 0, 1];
        stream.write_all(&suback).await.unwrap();
        let (kind, publish) = packet(&mut stream).await;
        assert_eq!(kind, PUBLISH_QOS_1);
        let id_at = 2 + usize::from(u16::from_be_bytes([publish[0], publish[1]]));
        stream
            .write_all(&[0x40, 2, publish[id_at], publish[id_at + 1]])
            .await
            .unwrap();
        for item in items {
            let topic = b"clawdbot/cli/reply/u";
            let length = 2 + topic.len() + 1 + item.len();
            let mut reply = vec![0x30];
            if length >= 128 {
                reply.push(u8::try_from(length % 128).unwrap() | 128);
                reply.push(u8::try_from(length / 128).unwrap());
            } else {
                reply.push(u8::try_from(length).unwrap());
            }
            reply.extend_from_slice(&[0, u8::try_from(topic.len()).unwrap()]);
            reply.extend_from_slice(topic);
            reply.push(0);
            reply.extend_from_slice(item.as_bytes());
            stream.write_all(&reply).await.unwrap();
        }
        publish
    });
    (address, task)
}

/// The next packet: its first byte and its body. All here are shorter than 16 KiB.
async fn packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let kind = stream.read_u8().await.unwrap();
    let low = stream.read_u8().await.unwrap();
    let length = if low < 128 {
        u16::from(low)
    } else {
        u16::from(low & 127) + 128 * u16::from(stream.read_u8().await.unwrap())
    };
    let mut body = vec![0; usize::from(length)];
    stream.read_exact(&mut body).await.unwrap();
    (kind, body)
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[tokio::test]
async fn the_question_names_its_reply_topic_and_the_answer_is_written_as_it_comes() {
    let items = &[
        r#"{"id":"u","seq":0,"delta":"Once"}"#,
        r#"{"id":"u","seq":1,"delta":" upon","done":true,"finish_reason":"stop"}"#,
    ];
    let (address, broker) = broker(0, items).await;
    assert_eq!(ask(address).await, ("Once upon\n".to_owned(), Ok(())));
    let publish = broker.await.unwrap();
    for part in ["clawdbot/cli/command", "clawdbot/cli/reply/u", r#""prompt":"Hi""#] {
        assert!(contains(&publish, part), "{part} is missing");
    }
}

#[tokio::test]
async fn a_refused_token_is_called_a_refused_token() {
    for not_good_enough in [0x86, 0x87] {
        let (address, broker) = broker(not_good_enough, &[]).await;
        let (text, outcome) = ask(address).await;
        assert_eq!(text, "");
        let message = outcome.unwrap_err();
        assert!(
            message.contains("refused the token") && message.contains("--data-dir"),
            "{message}"
        );
        assert!(!message.contains("a.b.c"), "{message}");
        assert!(contains(&broker.await.unwrap(), "a.b.c"));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_failure_after_what_came() {
    let (address, broker) = broker(0, &[r#"{"id":"u","seq":0,"delta":"Once"}"#]).await;
    let (text, outcome) = ask(address).await;
    assert_eq!(text, "Once\n");
    let message = outcome.unwrap_err();
    assert!(
        message.contains("broke off") || message.contains("ask again"),
        "{message}"
    );
    broker.await.unwrap();
}

#[tokio::test]
async fn an_error_item_is_a_failure() {
    let items =
        &[r#"{"id":"u","seq":0,"done":true,"finish_reason":"error","error":{"code":"c","message":"no"}}"#];
    let (address, broker) = broker(0, items).await;
    assert!(ask(address).await.1.unwrap_err().contains("no (c)"));
    broker.await.unwrap();
}

#[tokio::test]
async fn where_nobody_listens_the_message_names_the_address_and_the_command() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let message = ask(address).await.1.unwrap_err();
    assert!(
        message.contains(&address.to_string()) && message.contains("clawdbot serve"),
        "{message}"
    );
}
