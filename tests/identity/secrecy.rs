//! What is secret is seen by nobody: no subscriber, no retained store, no log.

use super::support::{
    LEVELS, PAIR, TOKEN, ask, code_for, everything, publish_1, stranger, token_by_secret, with_secret,
};
use crate::support::daemon::Daemon;
use crate::support::raw::{RawClient, packet, text};

fn subscribe(client: &mut RawClient, level: u8, filter: &str) {
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    let body = [&[0, 1], properties, &text(filter.as_bytes()), &[0]].concat();
    client.send(&packet(0x82, &body));
    let suback = loop {
        let packet = client.packet().expect("a SUBACK");
        // What is retained may come first.
        if packet[0] >> 4 != 3 {
            break packet;
        }
        assert_tells_nothing(&packet);
    };
    assert_eq!((suback[0], suback.last()), (0x90, Some(&0)), "{filter}");
}

/// Not even that there is such a topic.
fn assert_tells_nothing(packet: &[u8]) {
    let text = String::from_utf8_lossy(packet);
    assert!(!text.contains("/token") && !text.contains("/pair"), "{text}");
}

#[test]
fn a_subscriber_with_every_right_sees_no_secret_and_no_log_tells_one() {
    let daemon = Daemon::launch().set("log.level", "trace").start();
    let mut secrets = Vec::new();
    for level in LEVELS {
        let token = daemon.home().token_with_acl("spy", everything());
        let mut spy = RawClient::admitted(daemon.mqtt, level, "spy", &token);
        let name = format!("phone-{level}");
        let own = format!("clawdbot/{name}/token");
        for filter in [
            "#",
            "clawdbot/+/token",
            &own,
            "clawdbot/bridge/response/+",
            PAIR,
            TOKEN,
        ] {
            subscribe(&mut spy, level, filter);
        }
        let code = code_for(&daemon, &name);
        let wrong = "ZZZZ-9876";
        let mut device = stranger(&daemon, level, "device");
        ask(&mut device, level, PAIR, wrong);
        let answer = ask(&mut device, level, PAIR, &code);
        let secret = answer["data"]["secret"].as_str().expect("a secret").to_owned();
        let token = token_by_secret(&daemon, level, &name, &secret);
        let mut device = RawClient::admitted(daemon.mqtt, level, "by-token", &token);
        let next = daemon.token(&name);
        // Also where somebody asks for it to be retained.
        let body = [
            &text(own.as_bytes())[..],
            if level == 5 { &[0] } else { &[] },
            next.as_bytes(),
        ]
        .concat();
        device.send(&packet(0x31, &body));
        publish_1(&mut device, level, &own, &daemon.token("other"));
        // Those who may do everything may not speak there either.
        spy.send(&crate::support::raw::publish(
            level,
            PAIR.as_bytes(),
            code.as_bytes(),
        ));
        spy.send(&crate::support::raw::publish(
            level,
            b"clawdbot/bridge/response/pair",
            b"not from the hub",
        ));
        spy.send(&crate::support::raw::publish(level, b"the/end", b"x"));
        loop {
            let packet = spy.packet().expect("a PUBLISH");
            assert_tells_nothing(&packet);
            let text = String::from_utf8_lossy(&packet);
            for secret in [&code, &secret, &token, &next] {
                assert!(!text.contains(secret.as_str()));
            }
            if text.contains("the/end") {
                break;
            }
        }
        let mut late = RawClient::admitted(
            daemon.mqtt,
            level,
            "late",
            &daemon.home().token_with_acl("spy", everything()),
        );
        subscribe(&mut late, level, "clawdbot/+/token");
        late.send(&packet(0xC0, &[]));
        assert_eq!(
            late.packet().expect("a PINGRESP"),
            [0xD0, 0],
            "nothing is retained there"
        );
        drop(with_secret(&daemon, level, "c", &name, &secret));
        secrets.extend([code, wrong.to_owned(), secret, token, next]);
    }
    let log = daemon.log();
    assert!(log.contains("device paired"), "{log}");
    for secret in secrets {
        assert!(!log.contains(&secret), "{secret} is in the log");
    }
    let stored = std::fs::read_dir(daemon.home().data_dir()).expect("a data directory");
    for entry in stored.flatten().filter(|entry| entry.path().is_file()) {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&bytes).contains("verifier"),
            "{entry:?} is not sealed"
        );
    }
}
