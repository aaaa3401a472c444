//! What somebody would try who wants in, or wants what is another's: each attempt from the outside, against the
//! real program. Tokens are forged and packets written by hand, so that nothing of ours is trusted to be right.

#[path = "attacks/client_ids.rs"]
mod client_ids;
#[path = "attacks/rules.rs"]
mod rules;
#[path = "attacks/secrets.rs"]
mod secrets;
#[path = "attacks/tokens.rs"]
mod tokens;
#[path = "attacks/topics.rs"]
mod topics;

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::raw::{RawClient, packet, text};

/// The device that attacks, with a good token of its own, and the one that is attacked.
const ATTACKER: &str = "tablet";
const VICTIM: &str = "phone";

const BAD_USER_NAME_OR_PASSWORD: u8 = 0x86;
const NOT_AUTHORIZED: u8 = 0x87;
const CLIENT_IDENTIFIER_NOT_VALID: u8 = 0x85;

/// A JWT by hand: RFC 7515's three parts.
fn jwt(header: &Value, claims: &Value, key: &[u8]) -> String {
    let algorithm = match header["alg"].as_str() {
        Some("HS384") => hmac::HMAC_SHA384,
        Some("HS512") => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let signed = unsigned(header, claims);
    let signature = hmac::sign(&hmac::Key::new(algorithm, key), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}", part(header), part(claims))
}

fn hs256() -> Value {
    json!({"alg": "HS256", "typ": "JWT"})
}

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a clock").as_secs()
}

/// Claims that are taken, when they are signed by the right key.
fn claims(device: &str) -> Value {
    json!({"sub": device, "iat": now_s(), "exp": now_s() + 900, "jti": "forged by hand"})
}

/// The daemon's key, as its owner could read it.
fn key_of(daemon: &Daemon) -> Vec<u8> {
    fs::read(daemon.home().data_dir().join("keys/token-signing.key")).expect("a key")
}

/// A good token with rules.
fn token_with(daemon: &Daemon, device: &str, acl: &Value) -> String {
    // Two of one second are two.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut claims = claims(device);
    claims["acl"] = acl.clone();
    claims["jti"] = NUMBER.fetch_add(1, Relaxed).to_string().into();
    jwt(&hs256(), &claims, &key_of(daemon))
}

/// A client of MQTT 5 that was let in, written by hand.
struct Peer {
    wire: RawClient,
    /// Messages that came while something else was waited for: topic and payload.
    inbox: Vec<(String, Vec<u8>)>,
}

/// What CONNECT says.
#[derive(Clone, Copy, Default)]
struct Hello<'a> {
    client_id: &'a str,
    username: Option<&'a str>,
    token: Option<&'a str>,
    /// Topic, payload, retain.
    will: Option<(&'a str, &'a str, bool)>,
    /// A session that stays.
    keeps: bool,
}

impl Hello<'_> {
    fn packet(&self) -> Vec<u8> {
        let mut flags = if self.keeps { 0 } else { 0b10 };
        let mut fields = text(self.client_id.as_bytes());
        if let Some((topic, payload, retain)) = self.will {
            flags |= 0b1100 | if retain { 0b10_0000 } else { 0 };
            fields.push(0);
            fields.extend(text(topic.as_bytes()));
            fields.extend(text(payload.as_bytes()));
        }
        if let Some(name) = self.username {
            flags |= 0b1000_0000;
            fields.extend(text(name.as_bytes()));
        }
        if let Some(token) = self.token {
            flags |= 0b100_0000;
            fields.extend(text(token.as_bytes()));
        }
        // A Session Expiry Interval of ten minutes, or no properties.
        let properties: &[u8] = if self.keeps { &[5, 0x11, 0, 0, 2, 88] } else { &[0] };
        let body = [&text(b"MQTT")[..], &[5, flags, 0, 60], properties, &fields].concat();
        packet(0x10, &body)
    }
}

impl Peer {
    /// Connects; the reason of CONNACK if it was not let in, after which it must be closed.
    fn connect(daemon: &Daemon, hello: Hello<'_>) -> Result<Peer, u8> {
        let mut wire = RawClient::open(daemon.mqtt);
        wire.send(&hello.packet());
        match wire.connack_code() {
            0 => Ok(Peer {
                wire,
                inbox: Vec::new(),
            }),
            code => {
                wire.assert_closed();
                Err(code)
            }
        }
    }

    /// A client of a device, with a good token.
    fn of(daemon: &Daemon, device: &str, client_id: &str) -> Peer {
        let token = daemon.token(device);
        let hello = Hello {
            client_id,
            token: Some(&token),
            ..Hello::default()
        };
        Peer::connect(daemon, hello).expect("let in")
    }

    /// One whose token has rules.
    fn with_acl(daemon: &Daemon, device: &str, acl: &Value) -> Peer {
        let token = token_with(daemon, device, acl);
        let hello = Hello {
            client_id: device,
            token: Some(&token),
            ..Hello::default()
        };
        Peer::connect(daemon, hello).expect("let in")
    }

    /// Publishes at QoS 1; the reason of PUBACK.
    fn publish(&mut self, topic: &str, payload: &str) -> u8 {
        self.publish_with(topic, payload, false, &[])
    }

    fn retain(&mut self, topic: &str, payload: &str) -> u8 {
        self.publish_with(topic, payload, true, &[])
    }

    fn publish_with(&mut self, topic: &str, payload: &str, retain: bool, properties: &[u8]) -> u8 {
        let mut body = text(topic.as_bytes());
        body.extend([0, 7, u8::try_from(properties.len()).expect("few properties")]);
        body.extend(properties);
        body.extend(payload.as_bytes());
        self.wire.send(&packet(0x32 | u8::from(retain), &body));
        let ack = self.wait_for(0x40);
        ack.get(4).copied().unwrap_or(0)
    }

    /// Subscribes at QoS 0; the reason of SUBACK.
    fn subscribe(&mut self, filter: &str) -> u8 {
        self.subscribe_all(&[filter])[0]
    }

    fn subscribe_all(&mut self, filters: &[&str]) -> Vec<u8> {
        let mut body = vec![0, 9, 0];
        for filter in filters {
            body.extend(text(filter.as_bytes()));
            body.push(0);
        }
        self.wire.send(&packet(0x82, &body));
        let ack = self.wait_for(0x90);
        let codes = ack.len() - filters.len();
        ack[codes..].to_vec()
    }

    /// The next message: topic and payload.
    fn message(&mut self) -> (String, Vec<u8>) {
        if self.inbox.is_empty() {
            let publish = self.wire.packet().expect("a message");
            self.keep(&publish);
        }
        self.inbox.remove(0)
    }

    /// Everything that came, up to the answer to a ping.
    fn everything(&mut self) -> Vec<(String, Vec<u8>)> {
        self.wire.send(&[0xC0, 0]);
        self.wait_for(0xD0);
        std::mem::take(&mut self.inbox)
    }

    fn wait_for(&mut self, first: u8) -> Vec<u8> {
        loop {
            let packet = self.wire.packet().expect("an answer");
            if packet[0] & 0xF0 == first {
                return packet;
            }
            self.keep(&packet);
        }
    }

    /// Only messages at QoS 0 with less than 128 bytes of properties are expected.
    fn keep(&mut self, packet: &[u8]) {
        assert_eq!(packet[0] & 0xF6, 0x30, "{packet:02x?} is no message at QoS 0");
        let header = 2 + packet[1..].iter().take_while(|byte| **byte & 0x80 != 0).count();
        let body = &packet[header..];
        let topic_bytes = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let (topic, rest) = body[2..].split_at(topic_bytes);
        let payload = &rest[1 + usize::from(rest[0])..];
        self.inbox
            .push((String::from_utf8_lossy(topic).into_owned(), payload.to_vec()));
    }
}

fn denied(daemon: &Daemon, action: &str) -> f64 {
    let name = format!("clawdbot_mqtt_access_denied_{action}_total");
    daemon.metric(&name).expect("a counter")
}
