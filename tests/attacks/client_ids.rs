//! Client identifiers of others: a session is taken over by its own device alone.

use super::*;

fn as_attacker(daemon: &Daemon, client_id: &str, keeps: bool) -> Option<u8> {
    let token = daemon.token(ATTACKER);
    let hello = Hello {
        client_id,
        token: Some(&token),
        keeps,
        ..Hello::default()
    };
    Peer::connect(daemon, hello).err()
}

#[test]
fn another_devices_session_is_not_taken_over_while_its_client_is_there() {
    let daemon = Daemon::launch().start();
    let mut victim = Peer::of(&daemon, VICTIM, "kitchen");
    assert_eq!(victim.subscribe("clawdbot/phone/x"), 0);
    for keeps in [false, true] {
        assert_eq!(
            as_attacker(&daemon, "kitchen", keeps),
            Some(CLIENT_IDENTIFIER_NOT_VALID)
        );
    }
    assert_eq!(victim.publish("clawdbot/phone/x", "still here"), 0);
    assert_eq!(victim.message().1, b"still here");
}

#[test]
fn another_devices_session_is_neither_resumed_nor_ended_while_its_client_is_away() {
    let daemon = Daemon::launch().start();
    let token = daemon.token(VICTIM);
    let hello = Hello {
        client_id: "kitchen",
        token: Some(&token),
        keeps: true,
        ..Hello::default()
    };
    let mut victim = Peer::connect(&daemon, hello).expect("let in");
    // At QoS 1, so that it is kept.
    let mut body = vec![0, 1, 0];
    body.extend(text(b"clawdbot/phone/x"));
    body.push(1);
    victim.wire.send(&packet(0x82, &body));
    assert_eq!(victim.wait_for(0x90).last(), Some(&1));
    victim.wire.send(&[0xE0, 0]);
    victim.wire.assert_closed();
    Peer::of(&daemon, VICTIM, "other").publish("clawdbot/phone/x", "kept");
    for keeps in [false, true] {
        assert_eq!(
            as_attacker(&daemon, "kitchen", keeps),
            Some(CLIENT_IDENTIFIER_NOT_VALID)
        );
    }
    let mut wire = RawClient::open(daemon.mqtt);
    wire.send(&hello.packet());
    let connack = wire.packet().expect("a CONNACK");
    assert_eq!(connack[2..4], [1, 0], "the session is there: {connack:02x?}");
    let publish = wire.packet().expect("what was kept");
    assert!(publish.ends_with(b"kept"), "{publish:02x?}");
}

#[test]
fn the_name_of_another_device_that_is_connected_is_no_client_identifier_for_others() {
    let daemon = Daemon::launch().start();
    let _victim = Peer::of(&daemon, VICTIM, "kitchen");
    assert_eq!(
        as_attacker(&daemon, VICTIM, false),
        Some(CLIENT_IDENTIFIER_NOT_VALID)
    );
}

#[test]
fn an_odd_client_identifier_or_user_name_widens_no_rule() {
    let daemon = Daemon::launch().start();
    let acl = json!([
        {"permission": "allow", "action": "all", "topic": "room/${clientid}/#"},
        {"permission": "allow", "action": "all", "topic": "house/${username}/#"},
    ]);
    for odd in ["+", "#", "a/b", "a/#", "$SYS", "${username}", ""] {
        for (client_id, username) in [(odd, "name"), ("id", odd)] {
            let token = token_with(&daemon, ATTACKER, &acl);
            let hello = Hello {
                client_id,
                username: Some(username),
                token: Some(&token),
                ..Hello::default()
            };
            // Without an identifier it is given one that nobody can choose.
            match Peer::connect(&daemon, hello) {
                Err(reason) => assert_eq!(reason, BAD_USER_NAME_OR_PASSWORD, "{odd}"),
                Ok(mut peer) => {
                    assert!(client_id.is_empty(), "{odd} was let in");
                    assert_eq!(peer.subscribe("room/+/#"), NOT_AUTHORIZED);
                }
            }
        }
    }
}
