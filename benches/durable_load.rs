//! QoS 1 messages for sessions that outlive their connections, for `benches/durable.sh`: pairs of a publisher and a
//! subscriber that is connected, or away and comes for its messages afterwards.
//!
//! `cargo bench` runs every bench target; without a port this one has nothing to do and ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a load generator has nobody to tell but its user"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use topics::packet::{
    Ack, Connect, ConnectProperties, Packet, ProtocolVersion, Publish, QoS, ReasonCode, Subscribe,
    SubscribeFilter, SubscriptionOptions, decode,
};

/// Publications under way for each publisher.
const WINDOW: usize = 50;
const PAYLOAD_BYTES: usize = 64;

fn main() {
    let argument = |name: &str| {
        let mut args = std::env::args().skip_while(|arg| arg != name).skip(1);
        args.next()
    };
    let Some(port) = argument("--port").and_then(|port| port.parse().ok()) else {
        println!("durable_load: give it `--port N`; benches/durable.sh does");
        return;
    };
    let number = |name: &str, default| argument(name).map_or(default, |text| text.parse().expect("a number"));
    let (pairs, messages) = (number("--pairs", 1), number("--messages", 10_000));
    let away = argument("--subscribers").as_deref() == Some("away");
    let run = std::process::id();

    let names: Vec<_> = (0..pairs).map(|pair| format!("d{run}x{pair}")).collect();
    let subscribers: Vec<_> = names.iter().map(|name| subscribed(port, name)).collect();
    // Those that are away leave before anything is published.
    let mut connected: Vec<Option<Link>> = subscribers
        .into_iter()
        .map(|link| (!away).then_some(link))
        .collect();
    let start = Arc::new(Barrier::new(pairs + 1));
    let publishers: Vec<_> = names
        .iter()
        .map(|name| {
            let (name, start) = (name.clone(), start.clone());
            thread::spawn(move || publish(port, &name, messages, &start))
        })
        .collect();
    let receivers: Vec<_> = connected
        .iter_mut()
        .filter_map(Option::take)
        .map(|link| thread::spawn(move || receive(link, messages)))
        .collect();
    start.wait();
    let began = Instant::now();
    publishers.into_iter().for_each(|thread| thread.join().unwrap());
    let published_in = began.elapsed();
    let receivers = if away {
        let come_back = |name: &String| {
            let name = name.clone();
            thread::spawn(move || receive(Link::open(port, &format!("s{name}"), false), messages))
        };
        names.iter().map(come_back).collect()
    } else {
        receivers
    };
    let received: usize = receivers.into_iter().map(|thread| thread.join().unwrap()).sum();
    let all_in = began.elapsed();
    for name in &names {
        drop(Link::open(port, &format!("s{name}"), true));
    }
    let total = pairs * messages;
    println!(
        "acknowledged_per_s={:.0} through_per_s={:.0} received={received}/{total}",
        total as f64 / published_in.as_secs_f64(),
        received as f64 / all_in.as_secs_f64(),
    );
}

fn topic(name: &str) -> String {
    format!("durable/{name}")
}

fn subscribed(port: u16, name: &str) -> Link {
    let mut link = Link::open(port, &format!("s{name}"), false);
    link.send(&Packet::Subscribe(Subscribe {
        packet_id: 1,
        subscription_identifier: None,
        user_properties: Vec::new(),
        filters: vec![SubscribeFilter {
            filter: topic(name).into(),
            options: SubscriptionOptions::new(QoS::AtLeastOnce),
        }],
    }));
    assert!(matches!(link.packet(), Some(Packet::SubAck(_))));
    link
}

fn publish(port: u16, name: &str, messages: usize, start: &Barrier) {
    let mut link = Link::open(port, &format!("p{name}"), true);
    let payload = Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
    let topic = topic(name);
    start.wait();
    let (mut sent, mut acknowledged) = (0, 0);
    while acknowledged < messages {
        let mut out = BytesMut::new();
        while sent < messages && sent - acknowledged < WINDOW {
            sent += 1;
            let publish = Packet::Publish(Publish {
                dup: false,
                qos: QoS::AtLeastOnce,
                retain: false,
                topic: topic.clone().into(),
                packet_id: u16::try_from(sent % 60_000 + 1).unwrap(),
                properties: None,
                payload: payload.clone(),
            });
            publish.encode(ProtocolVersion::V311, &mut out).unwrap();
        }
        link.stream.write_all(&out).unwrap();
        assert!(matches!(link.packet(), Some(Packet::PubAck(_))));
        acknowledged += 1;
    }
}

/// Takes so many messages, or those that come until nothing comes any more.
fn receive(mut link: Link, messages: usize) -> usize {
    link.stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut received = 0;
    while received < messages {
        match link.packet() {
            Some(Packet::Publish(publish)) => {
                received += 1;
                link.send(&Packet::PubAck(Ack::new(publish.packet_id, ReasonCode::Success)));
            }
            Some(_) => {}
            None => break,
        }
    }
    received
}

struct Link {
    stream: TcpStream,
    input: BytesMut,
}

impl Link {
    fn open(port: u16, client_id: &str, clean: bool) -> Link {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut link = Link {
            stream,
            input: BytesMut::new(),
        };
        link.send(&Packet::Connect(Box::new(Connect {
            protocol: ProtocolVersion::V311,
            is_bridge: false,
            clean_start: clean,
            keep_alive_s: 0,
            client_id: client_id.to_owned().into(),
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties::default(),
        })));
        assert!(matches!(link.packet(), Some(Packet::ConnAck(_))));
        link
    }

    fn send(&mut self, packet: &Packet) {
        let mut out = BytesMut::new();
        packet.encode(ProtocolVersion::V311, &mut out).unwrap();
        self.stream.write_all(&out).unwrap();
    }

    /// None when nothing more comes.
    fn packet(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = decode(&mut self.input, Some(ProtocolVersion::V311), usize::MAX).unwrap() {
                return Some(packet);
            }
            let mut chunk = [0; 64 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
            }
        }
    }
}
