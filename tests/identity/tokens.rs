//! A session ends when its token does, and a token with its device.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use topics::packet::{Auth, Connect, ConnectProperties, Packet, ProtocolVersion, ReasonCode};

use super::support::{
    LEVELS, NOT_AUTHORIZED, connect_as, paired, publish_1, shown, try_connect, with_secret,
};
use crate::support::PATIENCE;
use crate::support::client::{BOTH, Client, Login, Version};
use crate::support::daemon::Daemon;
use crate::support::raw::{RawClient, connect, packet};

const MAXIMUM_CONNECT_TIME: u8 = 0xA0;
const ADMINISTRATIVE_ACTION: u8 = 0x98;
const BAD_USER_NAME_OR_PASSWORD: u8 = 0x86;

/// Long enough for a busy machine to connect, short enough to wait for.
const SHORT: Duration = Duration::from_secs(3);

#[test]
fn a_session_ends_when_its_token_does_and_says_so_where_there_are_words() {
    let daemon = Daemon::launch().start();
    for level in LEVELS {
        let token = daemon.home().short_token("phone", SHORT);
        let mut client = RawClient::admitted(daemon.mqtt, level, "c", &token);
        if level == 5 {
            assert_eq!(client.disconnect_reason(), MAXIMUM_CONNECT_TIME);
        } else {
            client.assert_closed();
        }
        let (_, again) = try_connect(daemon.mqtt, &connect(5, "c", Some(&token)));
        assert_eq!(again, BAD_USER_NAME_OR_PASSWORD, "an ended token lets nobody in");
    }
    assert_eq!(
        daemon.metric("clawdbot_mqtt_connections_token_ended_total"),
        Some(2.0)
    );
}

#[tokio::test]
async fn the_next_token_goes_on_with_the_session() {
    let daemon = Daemon::launch().start();
    let mut other = Client::of(&daemon, "phone", "other").await;
    for version in BOTH {
        let client_id = format!("{version:?}");
        let login = |token| Login::with_token(version, &client_id, token).persistent();
        let token = daemon.home().short_token("phone", SHORT);
        let mut client = Client::connect(daemon.mqtt, login(token))
            .await
            .expect("admitted");
        client.subscribe("clawdbot/phone/x", 1).await;
        client.closed().await;
        other.publish("clawdbot/phone/x", 1, false, "meanwhile").await;
        let mut client = Client::connect(daemon.mqtt, login(daemon.token("phone")))
            .await
            .expect("admitted");
        assert!(client.session_present);
        assert_eq!(client.message().await.payload, b"meanwhile");
        client.disconnect().await;
    }
}

#[test]
fn a_token_published_in_time_keeps_the_session() {
    let daemon = Daemon::launch().start();
    for level in LEVELS {
        let token = daemon.home().short_token("phone", SHORT);
        let mut client = RawClient::admitted(daemon.mqtt, level, "c", &token);
        let end = Instant::now() + SHORT;
        let next = daemon.token("phone");
        assert_eq!(publish_1(&mut client, level, "clawdbot/phone/token", &next), 0);
        std::thread::sleep(end + Duration::from_secs(1) - Instant::now());
        client.send(&packet(0xC0, &[]));
        assert_eq!(client.packet().expect("a PINGRESP"), [0xD0, 0]);
    }
}

#[test]
fn a_token_published_that_is_none_changes_nothing() {
    let daemon = Daemon::launch().start();
    let mut client = RawClient::admitted(daemon.mqtt, 5, "c", &daemon.home().short_token("phone", SHORT));
    let of_another = daemon.token("tablet");
    let used = daemon.token("phone");
    RawClient::admitted(daemon.mqtt, 5, "another client", &used);
    for bad in ["", "nonsense", &of_another, &used] {
        assert_eq!(
            publish_1(&mut client, 5, "clawdbot/phone/token", bad),
            NOT_AUTHORIZED
        );
    }
    let good = daemon.token("phone");
    for topic in ["clawdbot/tablet/token", "clawdbot/bridge/response/token"] {
        assert_eq!(publish_1(&mut client, 5, topic, &good), NOT_AUTHORIZED, "{topic}");
    }
    assert_eq!(
        client.disconnect_reason(),
        MAXIMUM_CONNECT_TIME,
        "its own token ended"
    );
}

#[test]
fn a_token_given_by_auth_in_time_keeps_the_session() {
    let daemon = Daemon::launch().start();
    let method = || Some("clawdbot-jwt".into());
    let send = |client: &mut RawClient, packet: Packet| {
        let mut bytes = bytes::BytesMut::new();
        packet.encode(ProtocolVersion::V5, &mut bytes).expect("a packet");
        client.send(&bytes);
    };
    let mut client = RawClient::open(daemon.mqtt);
    let first = daemon.home().short_token("phone", SHORT);
    send(
        &mut client,
        Packet::Connect(Box::new(Connect {
            protocol: ProtocolVersion::V5,
            is_bridge: false,
            clean_start: true,
            keep_alive_s: 60,
            client_id: "c".into(),
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties {
                authentication_method: method(),
                authentication_data: Some(first.into()),
                ..ConnectProperties::default()
            },
        })),
    );
    assert_eq!(client.connack_code(), 0);
    let end = Instant::now() + SHORT;
    send(
        &mut client,
        Packet::Auth(Box::new(Auth {
            reason: ReasonCode::ReAuthenticate,
            authentication_method: method(),
            authentication_data: Some(daemon.token("phone").into()),
            reason_string: None,
            user_properties: Vec::new(),
        })),
    );
    assert_eq!(client.packet().expect("AUTH")[0], 0xF0);
    std::thread::sleep(end + Duration::from_secs(1) - Instant::now());
    client.send(&packet(0xC0, &[]));
    assert_eq!(client.packet().expect("a PINGRESP"), [0xD0, 0]);
}

#[test]
fn a_token_is_the_client_s_that_showed_it_first() {
    let launch = Daemon::launch();
    let mut daemon = launch.clone().start();
    let token = daemon.token("phone");
    let by = |client_id: &str| try_connect(daemon.mqtt, &connect(5, client_id, Some(&token))).1;
    assert_eq!(by("mine"), 0);
    assert_eq!(by("thief"), BAD_USER_NAME_OR_PASSWORD);
    assert_eq!(by(""), BAD_USER_NAME_OR_PASSWORD);
    assert_eq!(by("mine"), 0);
    let log = daemon.log();
    assert!(
        log.contains("used by a client with another client identifier"),
        "{log}"
    );
    assert!(!log.contains(&token));
    daemon.signal(Signal::TERM);
    daemon.exit(PATIENCE).expect("it stops");
    let daemon = launch.start();
    let by = |client_id: &str| try_connect(daemon.mqtt, &connect(5, client_id, Some(&token))).1;
    assert_eq!(
        by("thief"),
        BAD_USER_NAME_OR_PASSWORD,
        "the next daemon knows, too"
    );
    assert_eq!(by("mine"), 0);
}

#[test]
fn a_revoked_device_is_out_within_a_second_with_all_it_had() {
    let daemon = Daemon::launch().start();
    let secret = paired(&daemon, 4, "phone");
    let token = daemon.token("phone");
    let unused = daemon.token("phone");
    let mut by_secret = with_secret(&daemon, 5, "by-secret", "phone", &secret);
    let mut by_token = RawClient::admitted(daemon.mqtt, 4, "by-token", &token);
    let mut bystander = RawClient::admitted(daemon.mqtt, 4, "bystander", &daemon.token("tablet"));

    daemon.cli(&["device", "revoke", "phone"]).assert_code(0);
    let revoked = Instant::now();
    assert_eq!(by_secret.disconnect_reason(), ADMINISTRATIVE_ACTION);
    by_token.assert_closed();
    assert!(
        revoked.elapsed() < Duration::from_secs(1),
        "{:?}",
        revoked.elapsed()
    );

    assert_eq!(shown(&daemon, "phone")["state"], "revoked");
    for (username, password) in [("phone", &secret), ("x", &token), ("x", &unused)] {
        let connect = connect_as(5, "by-token", Some(username), Some(password));
        assert_eq!(try_connect(daemon.mqtt, &connect).1, BAD_USER_NAME_OR_PASSWORD);
    }
    bystander.send(&packet(0xC0, &[]));
    assert_eq!(bystander.packet().expect("a PINGRESP"), [0xD0, 0]);
    // The owner may sign a new one, and whoever pairs again is in.
    std::thread::sleep(Duration::from_millis(1100));
    RawClient::admitted(daemon.mqtt, 4, "by-token", &daemon.token("phone"));
    let secret = paired(&daemon, 4, "phone");
    with_secret(&daemon, 4, "again", "phone", &secret);
}

#[tokio::test]
async fn a_device_that_was_never_paired_is_revoked_with_its_sleeping_session() {
    let daemon = Daemon::launch().start();
    let login = |token| Login::with_token(Version::V5, "sleeper", token).persistent();
    let mut client = Client::connect(daemon.mqtt, login(daemon.token("guest")))
        .await
        .expect("admitted");
    client.subscribe("clawdbot/guest/x", 1).await;
    client.disconnect().await;
    assert_eq!(daemon.metric("clawdbot_mqtt_sessions"), Some(1.0));
    let before = daemon.token("guest");
    daemon.cli(&["device", "revoke", "guest"]).assert_code(0);
    crate::support::eventually("the session to end", || {
        (daemon.metric("clawdbot_mqtt_sessions") == Some(0.0)).then_some(())
    })
    .await;
    let ended =
        ["revoked", "expired"].map(|how| daemon.metric(&format!("clawdbot_mqtt_sessions_{how}_total")));
    assert_eq!(ended, [Some(1.0), Some(0.0)], "it is counted once");
    assert!(Client::connect(daemon.mqtt, login(before)).await.is_err());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let client = Client::connect(daemon.mqtt, login(daemon.token("guest")))
        .await
        .expect("admitted");
    assert!(!client.session_present, "nothing of before is left");
}
