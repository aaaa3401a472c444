//! What MQTT 5 clients are told and may ask for beside their messages: topic aliases, response
//! information, reason strings, AUTH. The packets are written and read by our own codec.

use bytes::BytesMut;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use topics::packet::{
    Ack, Auth, ConnAck, Connect, ConnectProperties, Packet, ProtocolVersion, Publish, QoS, ReasonCode,
    Subscribe, SubscribeFilter, SubscriptionOptions, decode,
};

use crate::support::daemon::Daemon;
use crate::support::raw::RawClient;

const METHOD: &str = "clawdbot-jwt";

struct Peer(RawClient);

impl Peer {
    fn open(daemon: &Daemon, connect: &Connect) -> Peer {
        let mut peer = Peer(RawClient::open(daemon.mqtt));
        peer.send(&Packet::Connect(Box::new(connect.clone())));
        peer
    }

    /// Connects and is let in.
    fn admitted(daemon: &Daemon, connect: &Connect) -> (Peer, ConnAck) {
        let mut peer = Peer::open(daemon, connect);
        match peer.receive() {
            Some(Packet::ConnAck(connack)) if connack.reason == ReasonCode::Success => (peer, *connack),
            other => panic!("{other:?}"),
        }
    }

    /// Connects and is not.
    fn refused(daemon: &Daemon, connect: &Connect) -> ConnAck {
        let mut peer = Peer::open(daemon, connect);
        match peer.receive() {
            Some(Packet::ConnAck(connack)) if connack.reason.is_error() => {
                peer.0.assert_closed();
                *connack
            }
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        packet.encode(ProtocolVersion::V5, &mut bytes).expect("a packet");
        self.0.send(&bytes);
    }

    fn receive(&mut self) -> Option<Packet> {
        let mut bytes = BytesMut::from(&self.0.packet()?[..]);
        decode(&mut bytes, Some(ProtocolVersion::V5), 1 << 20).expect("a packet in order")
    }

    fn ask(&mut self, packet: &Packet) -> Packet {
        self.send(packet);
        self.receive().expect("an answer")
    }

    /// The reason of the DISCONNECT that must come now, and the end.
    fn parted(&mut self) -> (ReasonCode, Option<String>) {
        match self.receive() {
            Some(Packet::Disconnect(disconnect)) => {
                self.0.assert_closed();
                (disconnect.reason, disconnect.reason_string.map(|s| s.to_string()))
            }
            other => panic!("{other:?}"),
        }
    }

    fn publish(&mut self, topic: &str) -> Ack {
        self.send_publish(topic);
        match self.receive() {
            Some(Packet::PubAck(ack)) => ack,
            other => panic!("{other:?}"),
        }
    }

    fn send_publish(&mut self, topic: &str) {
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: topic.into(),
            packet_id: 7,
            properties: None,
            payload: "payload".into(),
        }));
    }
}

fn connect(client_id: &str) -> Connect {
    Connect {
        protocol: ProtocolVersion::V5,
        is_bridge: false,
        clean_start: true,
        keep_alive_s: 60,
        client_id: client_id.into(),
        username: None,
        password: None,
        will: None,
        properties: ConnectProperties::default(),
    }
}

fn with_password(client_id: &str, token: &str) -> Connect {
    Connect {
        password: Some(token.to_owned().into()),
        ..connect(client_id)
    }
}

fn by_method(client_id: &str, token: &str) -> Connect {
    let mut connect = connect(client_id);
    connect.properties.authentication_method = Some(METHOD.into());
    connect.properties.authentication_data = Some(token.to_owned().into());
    connect
}

fn renewal(method: &str, token: &str) -> Packet {
    Packet::Auth(Box::new(Auth {
        reason: ReasonCode::ReAuthenticate,
        authentication_method: Some(method.into()),
        authentication_data: Some(token.to_owned().into()),
        reason_string: None,
        user_properties: Vec::new(),
    }))
}

fn subscribe(filter: &str) -> Packet {
    subscribe_at(filter, QoS::AtMostOnce)
}

fn subscribe_at(filter: &str, qos: QoS) -> Packet {
    Packet::Subscribe(Subscribe {
        packet_id: 1,
        subscription_identifier: None,
        user_properties: Vec::new(),
        filters: vec![SubscribeFilter {
            filter: filter.into(),
            options: SubscriptionOptions::new(qos),
        }],
    })
}

/// A token with a rule of its own, which `clawdbot token` does not make yet.
fn token_that_allows(daemon: &Daemon, device: &str, topic: &str) -> String {
    // The daemon's own token is asked for first, so that there is a key.
    let _made = daemon.token(device);
    let key = std::fs::read(daemon.home().data_dir().join("keys/token-signing.key")).expect("a key");
    let claims = json!({
        "sub": device, "exp": 4_000_000_000_u64,
        "acl": [{"permission": "allow", "action": "publish", "topic": topic}],
    });
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(&key)).expect("a token")
}

#[test]
fn a_client_that_takes_aliases_is_sent_a_topic_once() {
    let daemon = Daemon::launch().set("auth.mode", "none").start();
    let mut asking = connect("reader");
    asking.properties.topic_alias_maximum = Some(3);
    let (mut reader, _) = Peer::admitted(&daemon, &asking);
    reader.ask(&subscribe("some/topic"));
    let (mut writer, _) = Peer::admitted(&daemon, &connect("writer"));
    for (topic, alias) in [("some/topic", 1), ("", 1), ("", 1)] {
        writer.publish("some/topic");
        let Some(Packet::Publish(publish)) = reader.receive() else {
            panic!("no message")
        };
        assert_eq!(publish.topic, topic);
        assert_eq!(publish.properties.and_then(|p| p.topic_alias), Some(alias));
    }
}

#[test]
fn a_client_that_asks_is_told_where_its_answers_may_go() {
    let daemon = Daemon::launch().start();
    let mut asking = with_password("mobile_123", &daemon.token("mobile"));
    let told = |asking: &Connect| {
        let (_, connack) = Peer::admitted(&daemon, asking);
        connack.properties.response_information
    };
    assert_eq!(told(&asking), None);
    asking.properties.request_response_information = Some(true);
    assert_eq!(told(&asking).as_deref(), Some("clawdbot/mobile/reply"));

    let open = Daemon::launch().set("auth.mode", "none").start();
    let mut asking = connect("anybody");
    asking.properties.request_response_information = Some(true);
    let (_, connack) = Peer::admitted(&open, &asking);
    assert_eq!(
        connack.properties.response_information.as_deref(),
        Some("clawdbot/anybody/reply")
    );
}

#[test]
fn a_refusal_says_what_to_do_and_never_repeats_a_secret() {
    let daemon = Daemon::launch().start();
    let words = |connect: &Connect| Peer::refused(&daemon, connect).properties.reason_string;
    let said = words(&with_password("mobile", "a.bad.token")).expect("words");
    assert!(
        said.contains("clawdbot token") && !said.contains("a.bad"),
        "{said}"
    );
    let mut discreet = with_password("mobile", "a.bad.token");
    discreet.properties.request_problem_information = Some(false);
    assert_eq!(words(&discreet), None);

    let mut curious = with_password("mobile", &daemon.token("mobile"));
    curious.properties.request_problem_information = Some(true);
    let (mut peer, _) = Peer::admitted(&daemon, &curious);
    let ack = peer.publish("clawdbot/other/command");
    assert_eq!(ack.reason, ReasonCode::NotAuthorized);
    assert!(ack.reason_string.expect("words").contains("may not publish"));
}

#[test]
fn a_token_may_come_by_the_authentication_method() {
    let daemon = Daemon::launch().start();
    let (mut peer, connack) = Peer::admitted(&daemon, &by_method("mobile", &daemon.token("mobile")));
    assert_eq!(connack.properties.authentication_method.as_deref(), Some(METHOD));
    assert_eq!(
        peer.publish("clawdbot/mobile/status").reason,
        ReasonCode::NoMatchingSubscribers
    );

    let refused = |connect: &Connect| Peer::refused(&daemon, connect).reason;
    assert_eq!(
        refused(&by_method("mobile", "a.bad.token")),
        ReasonCode::BadUserNameOrPassword
    );
    let mut other = by_method("mobile", &daemon.token("mobile"));
    other.properties.authentication_method = Some("SCRAM-SHA-256".into());
    assert_eq!(refused(&other), ReasonCode::BadAuthenticationMethod);
    let mut without = connect("mobile");
    without.properties.authentication_method = Some(METHOD.into());
    assert_eq!(refused(&without), ReasonCode::NotAuthorized);
}

#[test]
fn a_new_token_replaces_the_rules_without_a_new_connection() {
    let daemon = Daemon::launch().start();
    let (mut peer, _) = Peer::admitted(&daemon, &by_method("mobile", &daemon.token("mobile")));
    assert_eq!(peer.publish("shared/news").reason, ReasonCode::NotAuthorized);

    let token = token_that_allows(&daemon, "mobile", "shared/news");
    match peer.ask(&renewal(METHOD, &token)) {
        Packet::Auth(auth) => {
            assert_eq!(auth.reason, ReasonCode::Success);
            assert_eq!(auth.authentication_method.as_deref(), Some(METHOD));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        peer.publish("shared/news").reason,
        ReasonCode::NoMatchingSubscribers
    );

    // What comes right behind waits for the verdict and is judged by the new rules.
    peer.send(&renewal(METHOD, &daemon.token("mobile")));
    peer.send_publish("shared/news");
    assert!(matches!(peer.receive(), Some(Packet::Auth(_))));
    let Some(Packet::PubAck(ack)) = peer.receive() else {
        panic!("no PUBACK")
    };
    assert_eq!(ack.reason, ReasonCode::NotAuthorized);
}

#[test]
fn a_token_that_does_not_renew_ends_the_connection() {
    let daemon = Daemon::launch().start();
    let token = daemon.token("mobile");
    for (packet, reason) in [
        (renewal(METHOD, &daemon.token("other")), ReasonCode::NotAuthorized),
        (renewal(METHOD, "a.bad.token"), ReasonCode::NotAuthorized),
        (
            renewal("SCRAM-SHA-256", &token),
            ReasonCode::BadAuthenticationMethod,
        ),
    ] {
        let (mut peer, _) = Peer::admitted(&daemon, &by_method("mobile", &token));
        peer.send(&packet);
        let (said, words) = peer.parted();
        assert_eq!(said, reason);
        assert!(words.is_none_or(|words| !words.contains("a.bad")));
    }
    let (mut peer, _) = Peer::admitted(&daemon, &with_password("mobile", &token));
    peer.send(&renewal(METHOD, &token));
    assert_eq!(peer.parted().0, ReasonCode::ProtocolError);
}

#[test]
fn a_clean_start_leaves_nothing_of_the_session_before() {
    let daemon = Daemon::launch().set("auth.mode", "none").start();
    let (mut writer, _) = Peer::admitted(&daemon, &connect("writer"));
    let mut asking = connect("reader");
    asking.properties.session_expiry_interval_s = Some(600);
    // It acknowledges nothing: messages fill its window and the queue behind it, and stay in its outbox.
    let (mut silent, _) = Peer::admitted(&daemon, &asking);
    silent.ask(&subscribe_at("some/old", QoS::AtLeastOnce));
    for _ in 0..450 {
        writer.publish("some/old");
    }
    let (mut reader, connack) = Peer::admitted(&daemon, &asking);
    assert!(!connack.session_present);
    reader.ask(&subscribe_at("some/new", QoS::AtLeastOnce));
    writer.publish("some/new");
    match reader.receive() {
        Some(Packet::Publish(publish)) => assert_eq!(publish.topic, "some/new"),
        other => panic!("{other:?}"),
    }
}
