//! A session takes any conversation: whatever its client sends and whenever the connection goes, what it
//! answers can be written, and what it keeps stays within its bounds.
//!
//! The input is what the client sends, byte for byte. Packet type 0 does not exist in MQTT, so a byte
//! below 0x10 between two packets is free to say what else happens: a message for the client, time that
//! passes, a lost connection. Recorded MQTT traffic is thus a seed as it is.
#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use bytestring::ByteString;
use libfuzzer_sys::fuzz_target;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::{Packet, QoS, ReasonCode, decode_from_client};
use topics::session::{Delivery, Detach, Effect, RateLimit, Session, SessionConfig, Welcome};

/// Small, so that a short input reaches every bound.
fn config() -> SessionConfig {
    SessionConfig {
        receive_maximum: 3,
        max_inflight: 3,
        max_packet_bytes: 4096,
        topic_alias_maximum: 2,
        max_keep_alive_s: 60,
        max_session_expiry_s: 3600,
        max_queued_messages: 4,
        max_queued_bytes: 4096,
        max_subscriptions: 3,
        publish_rate: RateLimit {
            messages_per_s: 3,
            bytes_per_s: 100,
        },
        ..SessionConfig::default()
    }
}

fuzz_target!(|bytes: &[u8]| Run::new().play(bytes));

struct Run {
    config: Arc<SessionConfig>,
    session: Session,
    now: Instant,
    /// What the client said it takes.
    client_max_packet_bytes: usize,
    closed: bool,
    /// Effects that wait for the driver's answer; the input decides when it comes.
    unanswered: Vec<Effect>,
}

impl Run {
    fn new() -> Self {
        let config = Arc::new(config());
        Self {
            session: Session::new(config.clone(), ByteString::from_static("fuzz")),
            config,
            now: Instant::now(),
            client_max_packet_bytes: usize::MAX,
            closed: false,
            unanswered: Vec::new(),
        }
    }

    fn play(mut self, bytes: &[u8]) {
        let mut unread = BytesMut::from(bytes);
        while let Some(&first) = unread.first() {
            if first < 0x10 {
                unread.advance(1);
                self.happen(first);
                continue;
            }
            let version = self.session.version();
            match decode_from_client(&mut unread, version, self.config.max_packet_bytes) {
                Ok(Some(Packet::Connect(connect))) if version.is_none() => {
                    self.client_max_packet_bytes = connect
                        .properties
                        .maximum_packet_size
                        .map_or(usize::MAX, |bytes| bytes as usize);
                    self.closed = false;
                    self.step(|session, now, effects| {
                        // A refused CONNECT is answered by the driver; the session stays as it was.
                        let _ = session.attach(now, &connect, Welcome::default(), effects);
                    });
                }
                Ok(Some(packet)) => {
                    // The driver handles no packet behind a SUBSCRIBE before its router has answered.
                    if self
                        .unanswered
                        .iter()
                        .any(|effect| matches!(effect, Effect::Subscribe { .. }))
                    {
                        self.answer(ReasonCode::Success);
                    }
                    self.step(|session, now, effects| session.receive(now, packet, effects));
                }
                Ok(None) => break,
                Err(fault) => {
                    self.step(|session, _, effects| session.fail(fault.reason(), effects));
                    break;
                }
            }
        }
        self.lose(Detach::Lost);
        // Whatever was kept has an end.
        self.wait(Duration::from_secs(u64::from(u32::MAX)));
    }

    fn happen(&mut self, what: u8) {
        match what {
            0x0..=0x2 => self.deliver(what, 10),
            0x3..=0x5 => self.deliver(what - 3, 2000),
            0x6 => self.deliver(1, 5000),
            0x7 => self.wait(Duration::from_millis(500)),
            0x8 => self.wait(Duration::from_secs(100)),
            0x9 => self.lose(Detach::Lost),
            0xA => self.lose(Detach::TakenOver),
            0xB => self.answer(ReasonCode::QuotaExceeded),
            0xD => self.session.hand_on(&mut |delivery| {
                assert!(delivery.share.is_some(), "{delivery:?} came by no share");
                true
            }),
            _ => self.answer(ReasonCode::Success),
        }
    }

    fn deliver(&mut self, qos: u8, payload_bytes: usize) {
        let qos = QoS::try_from(qos).expect("0, 1 or 2");
        let topic = TopicName::parse(ByteString::from_static("a/b")).expect("a topic");
        let mut message = Message::new(topic, vec![0; payload_bytes], qos);
        message.expires_at = Some(self.now + Duration::from_secs(90));
        // Small ones come by a share, large ones do not.
        let share = (payload_bytes == 10).then(|| Arc::new("$share/g/a/b".parse().expect("a filter")));
        let delivery = Delivery {
            message: Arc::new(message),
            qos,
            retain: false,
            subscription_identifiers: vec![7],
            share,
        };
        self.step(|session, now, effects| session.deliver(now, delivery, effects));
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.step(|session, now, effects| session.tick(now, effects));
    }

    fn lose(&mut self, cause: Detach) {
        // The driver waits for its router's answer before it looks at anything else.
        self.answer(ReasonCode::Success);
        self.step(|session, now, effects| session.detach(now, cause, effects));
    }

    fn answer(&mut self, reason: ReasonCode) {
        for effect in std::mem::take(&mut self.unanswered) {
            self.step(|session, _, effects| match effect {
                Effect::Route { packet_id, .. } => session.routed(packet_id, reason, effects),
                Effect::Subscribe { packet_id, wanted } => {
                    let reasons = wanted
                        .iter()
                        .map(|w| w.filter.as_ref().err().copied().unwrap_or(reason));
                    session.subscribed(packet_id, &wanted, reasons.collect(), effects);
                }
                Effect::Unsubscribe { packet_id, filters } => {
                    session.unsubscribed(packet_id, &filters, effects);
                }
                Effect::Authenticate { .. } => {
                    let verdict = if reason.is_error() { Err(reason) } else { Ok(()) };
                    session.authenticated(verdict, effects);
                }
                other => unreachable!("{other:?} waits for no answer"),
            });
        }
    }

    fn step(&mut self, act: impl FnOnce(&mut Session, Instant, &mut Vec<Effect>)) {
        let version_before = self.session.version();
        let mut effects = Vec::new();
        act(&mut self.session, self.now, &mut effects);
        for effect in effects {
            let effect = match effect {
                Effect::Forward(message) => Effect::Send(message.to_packet()),
                other => other,
            };
            match effect {
                Effect::Send(packet) => {
                    assert!(!self.closed, "{packet:?} after the connection was closed");
                    // A packet that goes out while the session ends its connection goes to the old one.
                    let version = self
                        .session
                        .version()
                        .or(version_before)
                        .expect("a connection to send on");
                    let mut written = BytesMut::new();
                    packet
                        .encode(version, &mut written)
                        .expect("a packet that can be written");
                    assert!(written.len() <= self.client_max_packet_bytes, "{packet:?}");
                }
                Effect::Close => self.closed = true,
                Effect::Route { packet_id: 0, .. } => {}
                Effect::Route { .. }
                | Effect::Subscribe { .. }
                | Effect::Unsubscribe { .. }
                | Effect::Authenticate { .. } => {
                    self.unanswered.push(effect);
                }
                Effect::Forget(_)
                | Effect::Forward(_)
                | Effect::PublishWill(_)
                | Effect::HandOn(_)
                | Effect::Dropped(_)
                | Effect::Pause(_)
                | Effect::End => {}
            }
        }
        assert!(self.session.subscriptions().count() <= self.config.max_subscriptions);
        let most_waiting = self.config.max_queued_messages + usize::from(self.config.max_inflight);
        assert!(
            self.session.waiting() <= most_waiting,
            "{} wait",
            self.session.waiting()
        );
    }
}
