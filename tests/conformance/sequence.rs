//! One sequence: read from its file, played against a broker.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

// The codec's tests read the same words.
#[path = "../../topics/tests/sequences/payload.rs"]
mod payload;

/// How long an answer may take. Generous, because the machine is shared with other work; only sequences
/// that fail wait for it.
const PATIENCE: Duration = Duration::from_secs(3);

const PINGREQ: &[u8] = &[0xC0, 0];
const PINGRESP: &[u8] = &[0xD0, 0];

pub(crate) struct Sequence {
    group: String,
    name: String,
    /// The protocol level that stands in CONNECT.
    level: u8,
    begins_connected: bool,
    ends_closed: bool,
    steps: Vec<Step>,
}

enum Step {
    Send(Vec<u8>),
    Receive(Vec<u8>),
    Subscribe {
        topic: String,
        qos: u8,
    },
    Unsubscribe {
        topic: String,
    },
    ExternalPublish {
        topic: String,
        payload: Vec<u8>,
        qos: u8,
        retain: bool,
    },
}

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../shared/data/mqtt-sequences"
    ))
}

/// The sequences of each file; None without the folder.
pub(crate) fn load() -> Option<Vec<Vec<Sequence>>> {
    let entries = std::fs::read_dir(folder()).ok()?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let load_file = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).expect("a readable file");
        let groups: Value = serde_json::from_str(&text).expect("JSON");
        groups
            .as_array()
            .expect("a list of groups")
            .iter()
            .flat_map(read_group)
            .collect()
    };
    Some(paths.iter().map(load_file).collect())
}

fn read_group(group: &Value) -> Vec<Sequence> {
    if group["disable"].as_bool() == Some(true) {
        return Vec::new();
    }
    let tests = group["tests"].as_array().expect("a group has tests");
    tests.iter().map(|test| Sequence::read(group, test)).collect()
}

impl Sequence {
    fn read(group: &Value, test: &Value) -> Self {
        let flag = |key: &str| test[key].as_bool().or(group[key].as_bool()).unwrap_or(true);
        let level = test["ver"].as_u64().or(group["ver"].as_u64()).unwrap_or(4);
        Self {
            group: text(group, "group"),
            name: text(test, "name"),
            level: u8::try_from(level).expect("a protocol level"),
            begins_connected: flag("connect"),
            ends_closed: flag("expect_disconnect"),
            steps: test["msgs"]
                .as_array()
                .expect("messages")
                .iter()
                .map(read_step)
                .collect(),
        }
    }

    /// Group and name, which together are unique enough for a table.
    pub(crate) fn place(&self) -> String {
        format!("{} | {}", self.group, self.name)
    }

    pub(crate) fn score_name(&self) -> &'static str {
        if self.level == 5 { "5.0" } else { "3.1 and 3.1.1" }
    }

    /// All that the client itself says, in pieces; the first is its CONNECT, if it has one.
    pub(crate) fn said(&self) -> Vec<Vec<u8>> {
        let connect = self.begins_connected.then(|| connect(self.level, &self.name));
        let rest = self.steps.iter().filter_map(|step| match step {
            Step::Send(bytes) => Some(bytes.clone()),
            Step::Subscribe { topic, qos } => Some(filter_packet(0x82, self.level, topic, Some(*qos))),
            Step::Unsubscribe { topic } => Some(filter_packet(0xA2, self.level, topic, None)),
            Step::Receive(_) | Step::ExternalPublish { .. } => None,
        });
        connect.into_iter().chain(rest).collect()
    }

    /// Plays the sequence; the error says what was seen instead.
    pub(crate) fn run(&self, broker: SocketAddr) -> Result<(), String> {
        let mut client = Client::connect(broker)?;
        if self.begins_connected {
            client.send(&connect(self.level, &self.name))?;
            client.expect(&[0x20, if self.level == 5 { 3 } else { 2 }, 0, 0], self.level)?;
        }
        for step in &self.steps {
            self.play(step, &mut client, broker)?;
        }
        if self.ends_closed {
            client.expect_end()
        } else {
            client.send(PINGREQ)?;
            client.expect(PINGRESP, self.level)
        }
    }

    fn play(&self, step: &Step, client: &mut Client, broker: SocketAddr) -> Result<(), String> {
        match step {
            Step::Send(bytes) => client.send(bytes),
            Step::Receive(bytes) => client.expect(bytes, self.level),
            Step::Subscribe { topic, qos } => {
                client.send(&filter_packet(0x82, self.level, topic, Some(*qos)))?;
                client.expect_packet_of_type(0x90)
            }
            Step::Unsubscribe { topic } => {
                client.send(&filter_packet(0xA2, self.level, topic, None))?;
                client.expect_packet_of_type(0xB0)
            }
            Step::ExternalPublish {
                topic,
                payload,
                qos,
                retain,
            } => publish_as_helper(broker, topic, payload, *qos, *retain).map_err(|e| format!("helper: {e}")),
        }
    }
}

fn read_step(step: &Value) -> Step {
    let payload = || payload::bytes(&text(step, "payload"));
    let qos = || step["qos"].as_u64().unwrap_or(0) as u8;
    match step["type"].as_str() {
        Some("send") => Step::Send(payload()),
        Some("recv") => Step::Receive(payload()),
        Some("subscribe") => Step::Subscribe {
            topic: text(step, "topic"),
            qos: qos(),
        },
        Some("unsubscribe") => Step::Unsubscribe {
            topic: text(step, "topic"),
        },
        Some("external_publish" | "publish") => Step::ExternalPublish {
            topic: text(step, "topic"),
            payload: text(step, "payload").into_bytes(),
            qos: qos(),
            retain: step["retain"].as_bool().unwrap_or(false),
        },
        other => panic!("a step of unknown type {other:?}"),
    }
}

fn text(json: &Value, key: &str) -> String {
    json[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} in {json}"))
        .to_owned()
}

struct Client(TcpStream);

impl Client {
    fn connect(broker: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(broker).map_err(|e| format!("connecting: {e}"))?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Self(stream))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0
            .write_all(bytes)
            .map_err(|e| format!("sending {bytes:02X?}: {e}"))
    }

    fn expect(&mut self, expected: &[u8], level: u8) -> Result<(), String> {
        // A broker's own properties differ, so of a CONNACK of 5.0 only the first two fields count.
        let compared = if level == 5 && expected[0] == 0x20 {
            4
        } else {
            usize::MAX
        };
        let got = self
            .packet()
            .map_err(|e| format!("expected {expected:02X?}, but {e}"))?;
        let front = |bytes: &[u8]| bytes[..bytes.len().min(compared)].to_vec();
        let (mut expected_front, mut got_front) = (front(expected), front(&got));
        if compared == 4 {
            // The length, that is.
            (expected_front[1], got_front[1]) = (0, 0);
        }
        if got_front == expected_front {
            Ok(())
        } else {
            Err(format!("expected {expected:02X?}, got {got:02X?}"))
        }
    }

    fn expect_packet_of_type(&mut self, first_byte: u8) -> Result<(), String> {
        match self.packet()? {
            packet if packet[0] == first_byte => Ok(()),
            packet => Err(format!("expected a packet {first_byte:02X}, got {packet:02X?}")),
        }
    }

    fn expect_end(&mut self) -> Result<(), String> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(e) if !is_reset(&e) => Err(format!("the connection was not closed: {e}")),
            _ if rest.is_empty() => Ok(()),
            _ => Err(format!("expected the end, got {rest:02X?}")),
        }
    }

    /// One whole packet. Its length is small enough here to be read as one or two bytes.
    fn packet(&mut self) -> Result<Vec<u8>, String> {
        let mut packet = vec![0; 2];
        self.fill(&mut packet)?;
        let mut length = usize::from(packet[1] & 0x7F);
        if packet[1] & 0x80 != 0 {
            let mut high = [0];
            self.fill(&mut high)?;
            packet.push(high[0]);
            length |= usize::from(high[0]) << 7;
        }
        let mut body = vec![0; length];
        self.fill(&mut body)?;
        packet.extend(body);
        Ok(packet)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.0.read_exact(bytes).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => "the connection was closed".into(),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "nothing came".into(),
            _ => e.to_string(),
        })
    }
}

fn is_reset(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// A CONNECT with clean start and a keep-alive of 60 seconds.
fn connect(level: u8, client_id: &str) -> Vec<u8> {
    let mut body = Vec::new();
    push_text(&mut body, if level == 3 { "MQIsdp" } else { "MQTT" });
    body.extend([level, 0x02, 0, 60]);
    if level == 5 {
        body.push(0);
    }
    push_text(&mut body, client_id);
    packet(0x10, &body)
}

/// SUBSCRIBE and UNSUBSCRIBE with packet identifier 1.
fn filter_packet(first_byte: u8, level: u8, filter: &str, qos: Option<u8>) -> Vec<u8> {
    let mut body = vec![0, 1];
    if level == 5 {
        body.push(0);
    }
    push_text(&mut body, filter);
    body.extend(qos);
    packet(first_byte, &body)
}

/// Publishes as a second client of 3.1.1 and waits until the broker has taken the message over.
fn publish_as_helper(
    broker: SocketAddr,
    topic: &str,
    payload: &[u8],
    qos: u8,
    retain: bool,
) -> Result<(), String> {
    let mut helper = Client::connect(broker)?;
    helper.send(&connect(4, "helper"))?;
    helper.expect(&[0x20, 2, 0, 0], 4)?;
    let mut body = Vec::new();
    push_text(&mut body, topic);
    if qos > 0 {
        body.extend([0, 1]);
    }
    body.extend(payload);
    helper.send(&packet(0x30 | qos << 1 | u8::from(retain), &body))?;
    match qos {
        0 => {}
        1 => helper.expect(&[0x40, 2, 0, 1], 4)?,
        _ => {
            helper.expect(&[0x50, 2, 0, 1], 4)?;
            helper.send(&[0x62, 2, 0, 1])?;
            helper.expect(&[0x70, 2, 0, 1], 4)?;
        }
    }
    helper.send(&[0xE0, 0])
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(u16::try_from(text.len()).expect("a short text").to_be_bytes());
    bytes.extend(text.as_bytes());
}

fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first_byte];
    let length = body.len();
    if length < 0x80 {
        packet.push(length as u8);
    } else {
        packet.extend([(length & 0x7F) as u8 | 0x80, (length >> 7) as u8]);
    }
    packet.extend(body);
    packet
}
