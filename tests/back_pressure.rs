//! Readers that are slower than their senders: nothing that was accepted is lost unseen, and nobody
//! else waits for long.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::daemon::Daemon;
use crate::support::raw::{RawClient, connect, packet, publish, text};

const PAYLOAD_BYTES: usize = 1000;

fn daemon() -> Daemon {
    Daemon::launch().set("auth.mode", "none").start()
}

fn client(address: SocketAddr, name: &str) -> RawClient {
    let mut client = RawClient::open(address);
    client.send(&connect(4, name, None));
    assert_eq!(client.connack_code(), 0);
    client
}

fn subscriber(address: SocketAddr, name: &str, topic: &str, qos: u8) -> RawClient {
    let mut client = client(address, name);
    client.send(&packet(
        0x82,
        &[&[0, 1][..], &text(topic.as_bytes()), &[qos]].concat(),
    ));
    assert_eq!(client.packet().expect("a SUBACK")[0], 0x90);
    client
}

/// A payload that knows its number.
fn numbered(number: u32) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(PAYLOAD_BYTES, b'x');
    payload
}

/// Reads one message and says which it is.
fn read_number(client: &mut RawClient, topic: &str) -> u32 {
    let packet = client.packet().expect("a PUBLISH");
    assert_eq!(packet[0] & 0xF0, 0x30, "{:02x?}", &packet[..4]);
    let id_bytes = if packet[0] & 0b110 > 0 { 2 } else { 0 };
    let at = packet.len() - PAYLOAD_BYTES;
    assert!(at >= 4 + topic.len() + id_bytes);
    u32::from_be_bytes(packet[at..at + 4].try_into().expect("four bytes"))
}

/// More than every buffer on the way can hold.
const MESSAGES: u32 = 20_000;

fn publish_all(mut client: RawClient, topic: &'static str) -> thread::JoinHandle<RawClient> {
    thread::spawn(move || {
        for number in 0..MESSAGES {
            client.send(&publish(4, topic.as_bytes(), &numbered(number)));
        }
        client
    })
}

#[test]
fn a_reader_slower_than_its_sender_gets_everything_in_order() {
    let daemon = daemon();
    let mut reader = subscriber(daemon.mqtt, "reader", "t", 0);
    let sender = publish_all(client(daemon.mqtt, "sender"), "t");
    for number in 0..MESSAGES {
        if number % 1000 == 0 {
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(read_number(&mut reader, "t"), number);
    }
    sender.join().expect("the sender");
    assert_eq!(
        daemon.metric("clawdbot_mqtt_messages_dropped_outbox_full_total"),
        Some(0.0)
    );
}

#[test]
fn a_reader_that_stopped_reading_loses_alone_and_it_is_counted() {
    let daemon = daemon();
    let _stuck = subscriber(daemon.mqtt, "stuck", "t", 0);
    let mut reader = subscriber(daemon.mqtt, "reader", "t", 0);
    let sender = publish_all(client(daemon.mqtt, "sender"), "t");
    for number in 0..MESSAGES {
        assert_eq!(read_number(&mut reader, "t"), number);
    }
    sender.join().expect("the sender");
    let dropped = daemon.metric("clawdbot_mqtt_messages_dropped_outbox_full_total");
    assert!(dropped.is_some_and(|dropped| dropped > 0.0), "{dropped:?}");
}

/// One of two clients that publish to each other as fast as a window of unacknowledged messages allows.
struct Peer {
    socket: Mutex<RawClient>,
    unacknowledged: Mutex<u16>,
    acknowledged: Condvar,
}

const WINDOW: u16 = 200;

impl Peer {
    fn write(self: Arc<Self>, topic: &'static str) {
        let begin = Instant::now();
        for number in 0..MESSAGES / 4 {
            let mut waiting = self.unacknowledged.lock().expect("a lock");
            while *waiting >= WINDOW {
                waiting = self
                    .acknowledged
                    .wait_timeout(waiting, PATIENCE)
                    .expect("a lock")
                    .0;
                assert!(
                    begin.elapsed() < PATIENCE,
                    "message {number} found no room: nobody acknowledges"
                );
            }
            *waiting += 1;
            drop(waiting);
            let id = u16::try_from(number % 60_000).expect("16 bits") + 1;
            let body = [&text(topic.as_bytes())[..], &id.to_be_bytes(), &numbered(number)].concat();
            self.socket.lock().expect("a lock").send(&packet(0x32, &body));
        }
    }

    /// Reads everything that is published to it, acknowledges it, and counts what is acknowledged to it.
    fn read(self: Arc<Self>, mut incoming: RawClient) {
        let (mut received, mut acknowledged) = (0, 0);
        while received < MESSAGES / 4 || acknowledged < MESSAGES / 4 {
            let packet = incoming.packet().expect("a packet");
            if packet[0] >> 4 == 4 {
                acknowledged += 1;
                *self.unacknowledged.lock().expect("a lock") -= 1;
                self.acknowledged.notify_one();
                continue;
            }
            let at = packet.len() - PAYLOAD_BYTES;
            let number = u32::from_be_bytes(packet[at..at + 4].try_into().expect("four bytes"));
            assert_eq!(number, received, "in order, and none missing");
            received += 1;
            let ack = [0x40, 2, packet[at - 2], packet[at - 1]];
            self.socket.lock().expect("a lock").send(&ack);
        }
    }
}

#[test]
fn two_clients_that_publish_to_each_other_do_not_wait_for_each_other() {
    let daemon = daemon();
    let clients = [("a", "to/a", "to/b"), ("b", "to/b", "to/a")]
        .map(|(name, mine, other)| (subscriber(daemon.mqtt, name, mine, 1), other));
    let mut threads = Vec::new();
    for (incoming, other) in clients {
        let peer = Arc::new(Peer {
            socket: Mutex::new(incoming.again()),
            unacknowledged: Mutex::new(0),
            acknowledged: Condvar::new(),
        });
        let reader = peer.clone();
        threads.push(thread::spawn(move || reader.read(incoming)));
        threads.push(thread::spawn(move || peer.write(other)));
    }
    for thread in threads {
        thread.join().expect("it went well");
    }
    assert_eq!(
        daemon.metric("clawdbot_mqtt_messages_dropped_outbox_full_total"),
        Some(0.0)
    );
    assert_eq!(
        daemon.metric("clawdbot_mqtt_messages_dropped_queue_full_total"),
        Some(0.0)
    );
}
