//! Daemons at a broker that does what a test says, packet by packet: what Mosquitto never does, and the order of
//! what is said.

use std::net::TcpListener;

use crate::support::daemon::{Daemon, Launch};
use crate::support::raw::{RawClient, packet, text};
use crate::support::{PATIENCE, wait_for};

const TELEMETRY: &str = "clawdbot/phone/telemetry";
const HEATING: &str = "clawdbot/phone/heating";

/// One that grants what it is asked for, unless it is about a topic that it refuses.
struct Scripted {
    listener: TcpListener,
    refused: &'static str,
}

/// A daemon's connection to it.
struct Connection {
    client: RawClient,
    refused: &'static str,
}

/// What a daemon said.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// A message, with its packet identifier.
    Published(String, u16),
    /// It is done with a message.
    Acknowledged(u16),
}

impl Scripted {
    fn refusing(refused: &'static str) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Scripted { listener, refused }
    }

    fn daemon(&self) -> Launch {
        let port = self.listener.local_addr().expect("its address").port();
        Daemon::launch()
            .set("broker.mode", "external")
            .set("broker.address", format!("mqtt://127.0.0.1:{port}"))
            .set("broker.client_id", "hub-1")
            .set("supervisor.min_backoff_ms", 50)
    }

    /// Waits for a connection, which says nothing before it is let in.
    fn knock(&self) -> RawClient {
        let (stream, _) = self.listener.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut client = RawClient::over(stream);
        let connect = client.packet().expect("a CONNECT");
        assert_eq!(connect[0], 0x10, "{connect:02x?}");
        client
    }

    fn admit(&self, session_present: bool) -> Connection {
        let mut client = self.knock();
        client.send(&packet(0x20, &[u8::from(session_present), 0, 0]));
        let refused = self.refused;
        Connection { client, refused }
    }
}

impl Connection {
    /// The next thing that is said beside subscriptions and the daemon's presence, which are answered here.
    fn hear(&mut self) -> Said {
        loop {
            let packet = self.client.packet().expect("a packet");
            let length = 1 + packet[1..].iter().take_while(|byte| **byte & 0x80 != 0).count();
            let body = &packet[length + 1..];
            match packet[0] >> 4 {
                3 => {
                    let (topic, rest) = take_text(body);
                    let id = u16::from_be_bytes([rest[0], rest[1]]);
                    if topic != "clawdbot/bridge/state/hub-1" {
                        return Said::Published(topic, id);
                    }
                    self.acknowledge(id);
                }
                4 => return Said::Acknowledged(u16::from_be_bytes([body[0], body[1]])),
                8 => self.grant(body),
                12 => self.client.send(&[0xD0, 0]),
                other => panic!("a packet of type {other}: {packet:02x?}"),
            }
        }
    }

    fn grant(&mut self, subscribe: &[u8]) {
        let (mut answer, mut rest) = (vec![subscribe[0], subscribe[1], 0], &subscribe[3..]);
        while !rest.is_empty() {
            let (filter, options) = take_text(rest);
            answer.push(if filter.contains(self.refused) {
                0x87
            } else {
                options[0] & 3
            });
            rest = &options[1..];
        }
        self.client.send(&packet(0x90, &answer));
    }

    fn acknowledge(&mut self, id: u16) {
        self.client.send(&packet(0x40, &id.to_be_bytes()));
    }

    /// Brings a message; its flags are those of the packet.
    fn bring(&mut self, flags: u8, id: u16) {
        let id = if flags & 2 != 0 {
            &id.to_be_bytes()[..]
        } else {
            &[]
        };
        let body = [&text(TELEMETRY.as_bytes()), id, &[0], b"{\"celsius\": 1}"].concat();
        self.client.send(&packet(0x30 | flags, &body));
    }

    fn hear_heating(&mut self) -> u16 {
        match self.hear() {
            Said::Published(topic, id) if topic == HEATING => id,
            other => panic!("{other:?} instead of a word to the heating"),
        }
    }
}

const QOS_0: u8 = 0;
const QOS_1: u8 = 2;
const AGAIN: u8 = 2 | 8;

fn take_text(bytes: &[u8]) -> (String, &[u8]) {
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    let (text, rest) = bytes[2..].split_at(length);
    (String::from_utf8(text.to_vec()).expect("a text"), rest)
}

#[test]
fn a_message_is_acknowledged_only_when_the_broker_has_what_its_actor_published() {
    let broker = Scripted::refusing("nothing");
    let _daemon = broker.daemon().application("thermostat").start_unready();
    let mut connection = broker.admit(false);
    connection.bring(QOS_1, 7);
    let first = connection.hear_heating();
    // Handled after the first, and told before that is acknowledged.
    connection.bring(QOS_0, 0);
    let second = connection.hear_heating();
    connection.bring(QOS_1, 8);
    let third = connection.hear_heating();
    connection.acknowledge(first);
    assert_eq!(connection.hear(), Said::Acknowledged(7));
    connection.acknowledge(third);
    connection.acknowledge(second);
    assert_eq!(connection.hear(), Said::Acknowledged(8));
}

#[test]
fn what_was_handled_before_a_connection_was_lost_is_not_handled_again_after_failed_attempts() {
    let broker = Scripted::refusing("nothing");
    let _daemon = broker.daemon().application("thermostat").start_unready();
    let mut connection = broker.admit(false);
    connection.bring(QOS_1, 7);
    connection.hear_heating();
    drop(connection);
    drop(broker.knock());
    drop(broker.knock());
    let mut connection = broker.admit(true);
    // The message that was not acknowledged is sent again, and the one that was brought again is no other.
    let heating = connection.hear_heating();
    connection.bring(AGAIN, 7);
    connection.acknowledge(heating);
    assert_eq!(connection.hear(), Said::Acknowledged(7));
}

#[test]
fn a_subscription_that_is_refused_is_told_of_and_holds_up_no_other() {
    let broker = Scripted::refusing("bridge");
    let daemon = broker.daemon().application("thermostat").start_unready();
    let mut connection = broker.admit(false);
    connection.bring(QOS_1, 7);
    let heating = connection.hear_heating();
    connection.acknowledge(heating);
    assert_eq!(connection.hear(), Said::Acknowledged(7));
    let health = wait_for("the refusal to be told", || {
        let (code, health) = daemon.get("/health");
        (code == 503 && health.contains("\"connected\":true")).then_some(health)
    });
    for part in [
        "$share/clawdbot/clawdbot/bridge/request/+",
        "NotAuthorized",
        "allow it",
    ] {
        assert!(health.contains(part), "{part:?} is missing in {health}");
    }
    assert_eq!(daemon.metric("clawdbot_broker_subscriptions"), Some(4.0));
}
