//! Holds the codec against Eclipse Mosquitto's broker tests: 1,826 sequences of packets, most of them
//! wrong in one way. They are not part of this project and are looked for in `../shared/data`.
//!
//! The codec sees single packets only. Where a broker's answer depends on more than the packet (an unknown
//! alias, a second CONNECT), the sequence is counted as the session's, and listed by name.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "clippy.toml exempts tests, but sees none in an integration test's helpers"
)]

#[path = "sequences/json.rs"]
mod json;
#[path = "sequences/payload.rs"]
mod payload;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use bytes::{Buf, BytesMut};
use json::Json;
use topics::packet::{DecodeError, Packet, ProtocolVersion, ReasonCode, decode, decode_from_client};

const MAX_PACKET_BYTES: usize = 300_000_000;

#[test]
fn mosquittos_sequences_are_read_as_its_broker_reads_them() {
    let Some(sequences) = load() else { return };
    let mut verdicts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for sequence in &sequences {
        for verdict in judge(sequence) {
            let line = format!(
                "{} | {}{SEPARATOR}{}",
                sequence.group, sequence.name, verdict.detail
            );
            verdicts.entry(verdict.kind).or_default().push(line);
        }
    }
    for (kind, lines) in &verdicts {
        println!("{kind}: {}", lines.len());
        if *kind != AGREES {
            lines.iter().for_each(|line| println!("    {line}"));
        }
    }
    let left: Vec<&str> = verdicts
        .get(SESSION)
        .into_iter()
        .flatten()
        .map(|line| place(line))
        .collect();
    assert_eq!(
        left, FOR_THE_SESSION,
        "the codec accepts what it refused before, or the reverse"
    );
    let differing = verdicts.get(DIFFERS).map_or(0, Vec::len);
    assert_eq!(
        differing, 0,
        "{differing} packets are read otherwise than Mosquitto reads them"
    );
}

#[test]
fn what_a_broker_sends_is_read_and_written_to_the_same_bytes() {
    let Some(sequences) = load() else { return };
    let mut packets = 0;
    for sequence in &sequences {
        for bytes in sequence.messages.iter().filter_map(Message::received) {
            let version = answer_version(sequence.version, &bytes);
            let place = format!("{} | {} | {bytes:02X?}", sequence.group, sequence.name);
            let mut unread = BytesMut::from(&bytes[..]);
            let packet = decode(&mut unread, Some(version), MAX_PACKET_BYTES);
            let packet = packet
                .unwrap_or_else(|fault| panic!("{place}: {fault}"))
                .expect("a whole packet");
            assert!(unread.is_empty(), "{place}: more than a packet");
            let mut written = BytesMut::new();
            packet
                .encode(version, &mut written)
                .unwrap_or_else(|fault| panic!("{place}: {fault}"));
            assert_eq!(&written[..], &bytes[..], "{place}: {packet:?}");
            assert_eq!(written.len(), packet.encoded_len(version), "{place}");
            packets += 1;
        }
    }
    println!("{packets} packets");
}

/// What a broker refuses although the packets are in order each by itself: a second CONNECT, an empty
/// client identifier, an AUTH nobody asked for, an acknowledgement out of turn, an alias or an option that was not agreed on, and
/// filters, whose wildcards are the filter parser's.
const FOR_THE_SESSION: &[&str] = &[
    "v5.0   AUTH | F0 long",
    "v3.1   CONNECT | 10 empty client ID",
    "v3.1.1 CONNECT | 10 [MQTT-3.1.0-2]",
    "v3.1.1 CONNECT | 10 empty client ID clean false [MQTT-3.1.3-7]",
    "v3.1.1 CONNECT | duplicate CONNECT",
    "v5.0   CONNECT | tiny max packet",
    "v5.0   CONNECT EXTENDED AUTH | unsupported authentication method",
    "v5.0   DISCONNECT | E0 non-zero session expiry",
    "v3.1.1 FLOW | QoS 1 PUBLISH-PUBREC",
    "v3.1.1 FLOW | QoS 1 PUBLISH-PUBCOMP",
    "v3.1.1 FLOW | QoS 2 PUBLISH-PUBACK",
    "v3.1.1 FLOW | QoS 2 PUBLISH-PUBCOMP",
    "v3.1.1 FLOW | QoS 2 PUBLISH-PUBREC-PUBREL-PUBACK",
    "v5.0   FLOW | QoS 1 PUBLISH-PUBREC",
    "v5.0   FLOW | QoS 1 PUBLISH-PUBCOMP",
    "v5.0   FLOW | QoS 2 PUBLISH-PUBACK",
    "v5.0   FLOW | QoS 2 PUBLISH-PUBCOMP",
    "v5.0   FLOW | QoS 2 PUBLISH-PUBREC-PUBREL-PUBACK",
    "v3.1.1 PUBLISH | 34 QoS 2 Dup flow*3",
    "v5.0   PUBLISH | 34 QoS 2 Dup flow*3",
    "v5.0   PUBLISH ALLOWED PROPERTIES | topic alias > max topic alias",
    "v5.0   PUBLISH ALLOWED PROPERTIES | topic-alias (two byte integer) no topic",
    "v5.0   PUBLISH DISALLOWED PROPERTIES | 2*subscription-identifier=1 (variable byte integer)",
    "v3.1.1 SUBSCRIBE | 82 invalid topic",
    "v3.1.1 UNSUBSCRIBE | A2 invalid topic",
];

/// Group and name of a verdict's line.
fn place(line: &str) -> &str {
    line.rsplit_once(SEPARATOR).map_or(line, |(place, _)| place)
}

/// A sequence with its settings resolved.
struct Sequence {
    group: String,
    name: String,
    version: ProtocolVersion,
    begins_connected: bool,
    ends_closed: bool,
    messages: Vec<Message>,
}

enum Message {
    Send(Vec<u8>),
    Receive(Vec<u8>),
    /// What the codec does not see: a helper's publication, a subscription made for the test.
    Other,
}

impl Message {
    fn received(&self) -> Option<Vec<u8>> {
        match self {
            Message::Receive(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }
}

struct Verdict {
    kind: &'static str,
    detail: String,
}

const SEPARATOR: &str = " => ";
const AGREES: &str = "agrees";
const SILENT: &str = "refused here, closed without a word by Mosquitto";
const SESSION: &str = "accepted here, for the session or the broker to refuse";
const DIFFERS: &str = "differs";

/// Walks through a sequence as a server would, with an eye on the answer to each packet sent.
fn judge(sequence: &Sequence) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let mut version = sequence.begins_connected.then_some(sequence.version);
    for (position, message) in sequence.messages.iter().enumerate() {
        let Message::Send(bytes) = message else { continue };
        let answer = sequence.messages.get(position + 1);
        let is_last = position + 1 == sequence.messages.len();
        let closes = sequence.ends_closed && sequence.messages[position + 1..].len() <= 1;
        let mut unread = BytesMut::from(&bytes[..]);
        let before = version;
        let decoded = decode_all(&mut unread, &mut version);
        let detail = format!("{before:?} {bytes:02X?} {decoded:?}");
        let expected = answer.and_then(refusal);
        let kind = match (&decoded, expected) {
            (Err(fault), Some(reason)) if answers(fault, reason) => AGREES,
            (Ok(_), Some(_)) => SESSION,
            (Err(_), Some(_)) => DIFFERS,
            (Err(_), None) if closes && is_last => match before {
                Some(ProtocolVersion::V5) => SILENT,
                _ if sequence.version == ProtocolVersion::V5 => SILENT,
                _ => AGREES,
            },
            (Err(_), None) => DIFFERS,
            (Ok(packets), None) if closes && is_last && !says_goodbye(packets) => SESSION,
            (Ok(_), None) => AGREES,
        };
        verdicts.push(Verdict { kind, detail });
        if decoded.is_err() {
            break;
        }
    }
    verdicts
}

fn decode_all(
    unread: &mut BytesMut,
    version: &mut Option<ProtocolVersion>,
) -> Result<Vec<Packet>, DecodeError> {
    let mut packets = Vec::new();
    while unread.has_remaining() {
        let Some(packet) = decode_from_client(unread, *version, MAX_PACKET_BYTES)? else {
            break;
        };
        if let Packet::Connect(connect) = &packet {
            *version = Some(connect.protocol);
        }
        packets.push(packet);
    }
    Ok(packets)
}

fn says_goodbye(packets: &[Packet]) -> bool {
    matches!(packets.last(), Some(Packet::Disconnect(_)))
}

/// The error code of a CONNACK or DISCONNECT, as it stands on the wire.
fn refusal(answer: &Message) -> Option<u8> {
    match answer {
        Message::Receive(bytes) => match bytes[..] {
            [0x20, 2, 0, code] if code > 0 => Some(code),
            [0x20, 3, 0, code, 0] if code > 0 => Some(code),
            [0xE0, 1, code] => Some(code),
            _ => None,
        },
        _ => None,
    }
}

fn answers(fault: &DecodeError, code: u8) -> bool {
    if let DecodeError::UnsupportedProtocolVersion { answer_in, .. } = fault {
        return match answer_in {
            ProtocolVersion::V5 => code == fault.reason() as u8,
            _ => code == fault.reason().connack_v311(),
        };
    }
    fault.reason() as u8 == code
}

/// A refusal of an unknown version is written in MQTT 5's shape, whatever the sequence speaks.
fn answer_version(version: ProtocolVersion, bytes: &[u8]) -> ProtocolVersion {
    match bytes {
        [0x20, 3, 0, code, 0] if *code == ReasonCode::UnsupportedProtocolVersion as u8 => ProtocolVersion::V5,
        _ => version,
    }
}

fn load() -> Option<Vec<Sequence>> {
    let folder = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/data/mqtt-sequences"
    ));
    let Ok(entries) = std::fs::read_dir(&folder) else {
        // Past the test harness, which keeps to itself what a passing test prints.
        let notice = format!(
            "SKIPPED: Mosquitto's packet sequences are not at {}
",
            folder.display()
        );
        std::io::stderr()
            .write_all(notice.as_bytes())
            .expect("an open standard error");
        return None;
    };
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    Some(files.iter().flat_map(load_file).collect())
}

fn load_file(file: &PathBuf) -> Vec<Sequence> {
    let text = std::fs::read_to_string(file).expect("a readable file");
    let mut sequences = Vec::new();
    for group in Json::parse(&text).items() {
        if group.flag("disable").unwrap_or(false) {
            continue;
        }
        for test in group.get("tests").expect("a group has tests").items() {
            let number = |key| test.number(key).or(group.number(key));
            let flag = |key| test.flag(key).or(group.flag(key));
            sequences.push(Sequence {
                group: group.text("group").expect("a group has a name"),
                name: test.text("name").expect("a test has a name"),
                version: match number("ver") {
                    Some(3) => ProtocolVersion::V31,
                    Some(5) => ProtocolVersion::V5,
                    _ => ProtocolVersion::V311,
                },
                begins_connected: flag("connect").unwrap_or(true),
                ends_closed: flag("expect_disconnect").unwrap_or(true),
                messages: test
                    .get("msgs")
                    .expect("a test has messages")
                    .items()
                    .iter()
                    .map(message)
                    .collect(),
            });
        }
    }
    sequences
}

fn message(json: &Json) -> Message {
    let bytes = || payload::bytes(&json.text("payload").expect("a payload"));
    match json.text("type").as_deref() {
        Some("send") => Message::Send(bytes()),
        Some("recv") => Message::Receive(bytes()),
        _ => Message::Other,
    }
}
