//! Tokens that somebody without the key can make, and good ones that were changed.

use std::fs;

use super::*;

/// Tries a token as the device that is attacked, by both places where one can be.
#[track_caller]
fn assert_refused(daemon: &Daemon, token: &str) {
    let failures = || {
        daemon
            .metric("clawdbot_mqtt_authentication_failures_total")
            .expect("a counter")
    };
    let before = failures();
    let hello = Hello {
        client_id: "attacker",
        username: Some(VICTIM),
        token: Some(token),
        ..Hello::default()
    };
    assert_eq!(
        Peer::connect(daemon, hello).err(),
        Some(BAD_USER_NAME_OR_PASSWORD),
        "{token}"
    );
    // By AUTH's method, in the Authentication Data.
    let method = [
        &[0x15][..],
        &text(b"clawdbot-jwt"),
        &[0x16],
        &text(token.as_bytes()),
    ]
    .concat();
    if let Ok(length) = u8::try_from(method.len())
        && length < 128
    {
        let body = [
            &text(b"MQTT")[..],
            &[5, 2, 0, 60, length],
            &method,
            &text(b"attacker"),
        ];
        let mut wire = RawClient::open(daemon.mqtt);
        wire.send(&packet(0x10, &body.concat()));
        assert_eq!(wire.connack_code(), BAD_USER_NAME_OR_PASSWORD, "{token}");
    }
    assert!(failures() > before, "it is counted");
    let log = daemon.log();
    let mut parts = token.split('.').filter(|part| part.len() > 8);
    assert!(parts.all(|part| !log.contains(part)), "{token} is in the log");
}

fn daemon() -> Daemon {
    Daemon::launch().start()
}

#[test]
fn a_token_made_by_hand_with_the_key_is_taken_so_that_the_others_fail_for_their_fault() {
    let daemon = daemon();
    let token = jwt(&hs256(), &claims(VICTIM), &key_of(&daemon));
    let hello = Hello {
        client_id: "by hand",
        token: Some(&token),
        ..Hello::default()
    };
    assert!(Peer::connect(&daemon, hello).is_ok());
}

#[test]
fn no_token() {
    let daemon = daemon();
    for username in [None, Some(VICTIM)] {
        let hello = Hello {
            client_id: VICTIM,
            username,
            ..Hello::default()
        };
        assert_eq!(Peer::connect(&daemon, hello).err(), Some(NOT_AUTHORIZED));
    }
    // In 3.1.1: not authorized.
    let mut wire = RawClient::open(daemon.mqtt);
    wire.send(&crate::support::raw::connect(4, VICTIM, None));
    assert_eq!(wire.connack_code(), 5);
    assert_refused(&daemon, "");
}

#[test]
fn a_good_token_where_the_user_name_stands() {
    let daemon = daemon();
    let token = daemon.token(VICTIM);
    let hello = Hello {
        client_id: VICTIM,
        username: Some(&token),
        ..Hello::default()
    };
    assert_eq!(Peer::connect(&daemon, hello).err(), Some(NOT_AUTHORIZED));
    assert!(!daemon.log().contains(&token));
}

#[test]
fn an_expired_token() {
    let daemon = daemon();
    let key = key_of(&daemon);
    for exp in [now_s() - 1, now_s() - 86_400, 0] {
        let mut claims = claims(VICTIM);
        claims["exp"] = exp.into();
        assert_refused(&daemon, &jwt(&hs256(), &claims, &key));
    }
}

#[test]
fn a_token_from_the_future() {
    let daemon = daemon();
    let key = key_of(&daemon);
    for claim in ["iat", "nbf"] {
        let mut claims = claims(VICTIM);
        claims[claim] = (now_s() + 600).into();
        claims["exp"] = (now_s() + 1_200).into();
        assert_refused(&daemon, &jwt(&hs256(), &claims, &key));
    }
}

#[test]
fn another_key() {
    let daemon = daemon();
    let key = key_of(&daemon);
    let mut nearly = key.clone();
    nearly[31] ^= 1;
    let half = &key[..16];
    for key in [&b""[..], b"secret", &[0; 32], &nearly, half, b"clawdbot"] {
        assert_refused(&daemon, &jwt(&hs256(), &claims(VICTIM), key));
    }
}

#[test]
fn the_key_of_another_daemon() {
    let (daemon, other) = (daemon(), daemon());
    assert_refused(&daemon, &jwt(&hs256(), &claims(VICTIM), &key_of(&other)));
}

#[test]
fn the_algorithm_none_however_it_is_spelled() {
    let daemon = daemon();
    let key = key_of(&daemon);
    for spelling in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({"alg": spelling, "typ": "JWT"});
        let unsigned = unsigned(&header, &claims(VICTIM));
        assert_refused(&daemon, &format!("{unsigned}."));
        assert_refused(&daemon, &unsigned);
        // Signed by the right key all the same: what the header says counts.
        assert_refused(&daemon, &jwt(&header, &claims(VICTIM), &key));
    }
}

#[test]
fn no_algorithm_at_all() {
    let daemon = daemon();
    let key = key_of(&daemon);
    for header in [
        json!({"typ": "JWT"}),
        json!({"alg": null}),
        json!({"alg": ["HS256"]}),
        json!("HS256"),
    ] {
        assert_refused(&daemon, &jwt(&header, &claims(VICTIM), &key));
    }
}

#[test]
fn other_algorithms_with_the_secret_taken_for_their_key() {
    let daemon = daemon();
    let key = key_of(&daemon);
    for algorithm in [
        "RS256", "RS512", "PS256", "ES256", "EdDSA", "HS384", "HS512", "hs256",
    ] {
        let header = json!({"alg": algorithm, "typ": "JWT"});
        assert_refused(&daemon, &jwt(&header, &claims(VICTIM), &key));
    }
}

#[test]
fn hs256_with_what_everybody_may_read_as_its_secret() {
    let home = crate::support::daemon::Home::new();
    crate::support::process::finish(&mut home.command(&["certs", "init"])).assert_code(0);
    let daemon = Daemon::launch_in(home)
        .set("mqtt.tls", "127.0.0.1:0")
        .set("mqtt.secure_websocket", "127.0.0.1:0")
        .start();
    let certificates = daemon.home().data_dir().join("certs");
    let mut public = 0;
    for file in fs::read_dir(certificates).expect("certificates") {
        let pem = fs::read(file.expect("a file").path()).expect("a file");
        let text = String::from_utf8(pem.clone()).expect("PEM");
        if text.contains("PRIVATE KEY") {
            continue;
        }
        public += 1;
        let lines = text.lines().filter(|line| !line.starts_with("---"));
        let der = base64::engine::general_purpose::STANDARD.decode(lines.collect::<String>());
        assert_refused(&daemon, &jwt(&hs256(), &claims(VICTIM), &pem));
        if let Ok(der) = der {
            assert_refused(&daemon, &jwt(&hs256(), &claims(VICTIM), &der));
        }
    }
    assert!(public >= 2, "the authority and the server");
}

#[test]
fn a_header_that_brings_its_own_key_or_names_a_file() {
    let daemon = daemon();
    let own = b"the attacker's own key, 32 bytes";
    let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(own)});
    for header in [
        json!({"alg": "HS256", "jwk": jwk}),
        json!({"alg": "HS256", "jku": "http://127.0.0.1:1/keys"}),
        json!({"alg": "HS256", "kid": "../../../../dev/null"}),
        json!({"alg": "HS256", "x5c": [URL_SAFE_NO_PAD.encode(own)]}),
    ] {
        assert_refused(&daemon, &jwt(&header, &claims(VICTIM), own));
        assert_refused(&daemon, &jwt(&header, &claims(VICTIM), b""));
    }
}

#[test]
fn claims_that_are_missing() {
    let daemon = daemon();
    let key = key_of(&daemon);
    for missing in ["sub", "exp"] {
        let mut claims = claims(VICTIM);
        claims.as_object_mut().expect("claims").remove(missing);
        assert_refused(&daemon, &jwt(&hs256(), &claims, &key));
    }
    for nothing in [json!({}), json!([]), json!(null), json!("phone")] {
        assert_refused(&daemon, &jwt(&hs256(), &nothing, &key));
    }
}

#[test]
fn claims_that_are_garbled() {
    let daemon = daemon();
    let key = key_of(&daemon);
    for (claim, value) in [
        ("exp", json!("never")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", json!(null)),
        ("exp", json!([4_000_000_000_u64])),
        ("iat", json!("now")),
        ("nbf", json!({})),
        ("sub", json!("")),
        ("sub", json!(7)),
        ("sub", json!(["phone"])),
        ("sub", json!("+")),
        ("sub", json!("#")),
        ("sub", json!("phone/#")),
        ("sub", json!("$SYS")),
        ("sub", json!("bridge")),
        ("sub", json!("phone\u{0}")),
        ("sub", json!("x".repeat(65))),
    ] {
        let mut claims = claims(VICTIM);
        claims[claim] = value;
        assert_refused(&daemon, &jwt(&hs256(), &claims, &key));
    }
}

#[test]
fn an_access_list_that_is_garbled_is_not_taken_in_part() {
    let daemon = daemon();
    let key = key_of(&daemon);
    let rule = |change: &dyn Fn(&mut Value)| {
        let mut rule = json!({"permission": "allow", "action": "all", "topic": "clawdbot/phone/x"});
        change(&mut rule);
        json!([rule])
    };
    for acl in [
        json!("all"),
        json!({"permission": "allow"}),
        json!([7]),
        json!([{}]),
        rule(&|rule| rule["permission"] = "Allow".into()),
        rule(&|rule| rule["action"] = "everything".into()),
        rule(&|rule| rule["topic"] = "a/#/b".into()),
        rule(&|rule| rule["topic"] = "${clientid".into()),
        rule(&|rule| rule["topic"] = "${nobody}/x".into()),
        rule(&|rule| rule["topic"] = "$share/g/a".into()),
        rule(&|rule| rule["qos"] = json!([3])),
        rule(&|rule| rule["qos"] = json!([])),
        rule(&|rule| rule["retain"] = "yes".into()),
        rule(&|rule| rule["ipaddr"] = "127.0.0.1".into()),
        Value::Array(vec![rule(&|_| ())[0].clone(); 257]),
    ] {
        let mut claims = claims(VICTIM);
        claims["acl"] = acl;
        assert_refused(&daemon, &jwt(&hs256(), &claims, &key));
    }
}

#[test]
fn a_good_token_that_was_changed() {
    let daemon = daemon();
    let good = daemon.token(ATTACKER);
    let parts: Vec<&str> = good.split('.').collect();
    let [header, _, signature] = parts[..] else {
        panic!("{good} has not three parts")
    };
    let others = URL_SAFE_NO_PAD.encode(claims(VICTIM).to_string());
    assert_refused(&daemon, &format!("{header}.{others}.{signature}"));
    assert_refused(&daemon, &format!("{header}.{others}."));
    assert_refused(&daemon, &good[..good.len() - 1]);
    for more in ["A", "=", ".", ".x", " ", "\n"] {
        assert_refused(&daemon, &format!("{good}{more}"));
    }
    for before in [" ", "Bearer ", "."] {
        assert_refused(&daemon, &format!("{before}{good}"));
    }
}

#[test]
fn a_token_longer_than_any() {
    let daemon = daemon();
    let mut claims = claims(VICTIM);
    claims["padding"] = "x".repeat(20_000).into();
    assert_refused(&daemon, &jwt(&hs256(), &claims, &key_of(&daemon)));
    assert_refused(&daemon, &".".repeat(60_000));
}
