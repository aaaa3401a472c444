//! A device gets in only after its owner said so.

use serde_json::{Value, json};

use super::support::{
    LEVELS, NOT_AUTHORIZED, PAIR, TOKEN, answer, ask, code_for, connect_as, paired, publish_1, shown,
    stranger, token_by_secret, try_connect, with_secret,
};
use crate::support::daemon::Daemon;
use crate::support::foreign;
use crate::support::process;
use crate::support::raw::{RawClient, packet, text};

#[test]
fn a_device_exchanges_its_code_for_a_secret_and_that_for_tokens() {
    let daemon = Daemon::launch().start();
    for level in LEVELS {
        let name = format!("phone-{level}");
        let secret = paired(&daemon, level, &name);
        assert_eq!(shown(&daemon, &name)["state"], "paired");

        let mut device = with_secret(&daemon, level, "its-own", &name, &secret);
        let topic = format!("clawdbot/{name}/anything");
        assert_eq!(
            publish_1(&mut device, 4.max(level), &topic, "x"),
            if level == 5 { 0x10 } else { 0 }
        );
        assert_eq!(shown(&daemon, &name)["connected"], true);

        let token = token_by_secret(&daemon, level, &name, &secret);
        RawClient::admitted(daemon.mqtt, level, "by-token", &token);
    }
}

#[test]
fn the_answer_goes_where_a_client_of_5_0_wants_it_with_its_correlation_data() {
    let daemon = Daemon::launch().start();
    let code = code_for(&daemon, "phone");
    let mut device = stranger(&daemon, 5, "new");
    let properties = [&[0x08][..], &text(b"any/where"), &[0x09], &text(b"42")].concat();
    let body = [
        &text(PAIR.as_bytes())[..],
        &[u8::try_from(properties.len()).unwrap()],
        &properties,
        code.as_bytes(),
    ];
    device.send(&packet(0x30, &body.concat()));
    let packet = device.packet().expect("an answer");
    let text = String::from_utf8_lossy(&packet);
    assert!(
        text.contains("any/where") && text.contains("\t\0\u{2}42"),
        "no answer to 42"
    );
}

#[test]
fn a_transaction_is_echoed_and_the_code_may_be_written_as_people_do() {
    let daemon = Daemon::launch().start();
    let code = code_for(&daemon, "phone").replace('-', " ").to_lowercase();
    let mut device = stranger(&daemon, 4, "new");
    let question = json!({"code": code, "transaction": {"id": 7}}).to_string();
    let answer = ask(&mut device, 4, PAIR, &question);
    assert_eq!(
        (&answer["status"], &answer["transaction"]),
        (&json!("ok"), &json!({"id": 7}))
    );
}

#[test]
fn the_fifth_wrong_code_is_the_last_and_the_right_one_comes_too_late() {
    let daemon = Daemon::launch().start();
    let code = code_for(&daemon, "phone");
    let mut device = stranger(&daemon, 4, "guesser");
    // From wherever it comes, a guess is a guess.
    let mut other = stranger(&daemon, 5, "other");
    for left in [4, 3] {
        let refused = ask(&mut device, 4, PAIR, "2222-2222");
        assert_eq!(refused["status"], "error");
        assert!(
            refused["error"].as_str().unwrap().contains(&left.to_string()),
            "{refused}"
        );
    }
    for _ in 0..3 {
        ask(&mut other, 5, PAIR, "3333-3333");
    }
    let late = ask(&mut device, 4, PAIR, &code);
    assert_eq!((&late["status"], &late["data"]), (&json!("error"), &json!({})));
    let (_, refused) = try_connect(daemon.mqtt, &connect_as(5, "", Some("pairing"), None));
    assert_eq!(refused, NOT_AUTHORIZED, "nobody is waited for any more");
    assert_eq!(daemon.metric("clawdbot_pairing_wrong_codes_total"), Some(6.0));
}

#[test]
fn a_code_is_used_once() {
    let daemon = Daemon::launch().start();
    let code = code_for(&daemon, "phone");
    let mut first = stranger(&daemon, 4, "first");
    let mut second = stranger(&daemon, 4, "second");
    assert_eq!(ask(&mut first, 4, PAIR, &code)["status"], "ok");
    for again in [&mut first, &mut second] {
        assert_eq!(ask(again, 4, PAIR, &code)["status"], "error");
    }
}

#[test]
fn nobody_is_let_in_to_be_paired_while_no_code_waits() {
    let daemon = Daemon::launch().start();
    for (level, refusal) in [(4, 5), (5, NOT_AUTHORIZED)] {
        for password in [None, Some("")] {
            let connect = connect_as(level, "new", Some("pairing"), password);
            assert_eq!(try_connect(daemon.mqtt, &connect).1, refusal);
        }
    }
    code_for(&daemon, "phone");
    stranger(&daemon, 4, "new");
    // A code in the password would be in no log of ours, but who knows in which of theirs.
    let connect = connect_as(5, "new", Some("pairing"), Some("ABCD-2345"));
    assert_eq!(try_connect(daemon.mqtt, &connect).1, 0x86);
}

#[test]
fn whoever_is_to_be_paired_may_do_nothing_else() {
    let daemon = Daemon::launch().start();
    let mut phone = RawClient::admitted(daemon.mqtt, 5, "phone-client", &daemon.token("phone"));
    code_for(&daemon, "tablet");
    let mut device = stranger(&daemon, 5, "phone-client");
    let subscribe = |filter: &str| packet(0x82, &[&[0, 1, 0][..], &text(filter.as_bytes()), &[0]].concat());
    for (filter, granted) in [
        ("#", NOT_AUTHORIZED),
        ("clawdbot/tablet/#", NOT_AUTHORIZED),
        ("$share/g/clawdbot/bridge/response/pair", NOT_AUTHORIZED),
        ("clawdbot/bridge/response/token", NOT_AUTHORIZED),
        ("clawdbot/bridge/response/+", NOT_AUTHORIZED),
        ("clawdbot/bridge/response/pair", 0),
        ("clawdbot/bridge/response/pair/7", 0),
    ] {
        device.send(&subscribe(filter));
        let suback = device.packet().expect("a SUBACK");
        assert_eq!(suback.last(), Some(&granted), "{filter}");
    }
    for topic in [
        "clawdbot/tablet/command",
        "clawdbot/pairing/token",
        "clawdbot/bridge/request/topics",
        "clawdbot/bridge/response/pair",
        TOKEN,
    ] {
        assert_eq!(publish_1(&mut device, 5, topic, "x"), NOT_AUTHORIZED, "{topic}");
    }
    // Nor does it take over the session whose client identifier it gave.
    assert_eq!(publish_1(&mut phone, 5, "clawdbot/phone/x", "still here"), 0x10);
    let mut will = text(b"MQTT");
    will.extend([5, 0b1000_0110, 0, 60, 0]);
    will.extend(
        [
            text(b"w"),
            vec![0],
            text(b"clawdbot/tablet/status"),
            text(b"offline"),
            text(b"pairing"),
        ]
        .concat(),
    );
    assert_eq!(try_connect(daemon.mqtt, &packet(0x10, &will)).1, NOT_AUTHORIZED);
    // And none of it is kept when it goes.
    assert_eq!(ask(&mut device, 5, PAIR, "nonsense")["status"], "error");
    drop(device);
    crate::support::wait_for("the stranger's session to end", || {
        (daemon.metric("clawdbot_mqtt_sessions")? == 1.0).then_some(())
    });
}

#[test]
fn who_is_known_is_not_paired_and_a_token_gives_no_other_token() {
    let daemon = Daemon::launch().start();
    let code = code_for(&daemon, "tablet");
    let mut phone = RawClient::admitted(daemon.mqtt, 5, "phone", &daemon.token("phone"));
    assert_eq!(publish_1(&mut phone, 5, PAIR, &code), NOT_AUTHORIZED);
    assert_eq!(publish_1(&mut phone, 5, TOKEN, ""), NOT_AUTHORIZED);
    assert_eq!(
        ask(&mut stranger(&daemon, 5, ""), 5, PAIR, &code)["status"],
        "ok",
        "the code was not used up"
    );
}

#[test]
fn a_device_that_is_paired_again_has_nothing_left_of_before() {
    let daemon = Daemon::launch().start();
    let secret = paired(&daemon, 4, "phone");
    let token = token_by_secret(&daemon, 4, "phone", &secret);
    let mut old = with_secret(&daemon, 5, "old", "phone", &secret);
    daemon
        .cli(&["device", "pair", "phone"])
        .assert_code(1)
        .assert_says(&["phone is paired", "--again"]);
    let pair = daemon.cli(&["device", "pair", "phone", "--again", "--json"]);
    let pair: Value = serde_json::from_str(&pair.stdout).expect("JSON");
    // Until somebody uses the code, nothing changes.
    assert_eq!(publish_1(&mut old, 5, "clawdbot/phone/x", "x"), 0x10);
    let mut new = stranger(&daemon, 4, "new");
    let answer = ask(&mut new, 4, PAIR, pair["code"].as_str().unwrap());
    let newer = answer["data"]["secret"].as_str().unwrap();
    assert_eq!(old.disconnect_reason(), 0x98);
    let by = |password: &str| try_connect(daemon.mqtt, &connect_as(5, "c", Some("phone"), Some(password))).1;
    assert_eq!([by(&secret), by(&token), by(newer)], [0x86, 0x86, 0]);
}

#[test]
fn names_that_no_device_can_have_are_refused() {
    let daemon = Daemon::launch().start();
    for (name, says) in [("bridge", "hub's own name"), ("a/b", "'/'"), ("", "empty")] {
        daemon
            .cli(&["device", "pair", name])
            .assert_code(2)
            .assert_says(&[says]);
        daemon.cli(&["token", name]).assert_code(2).assert_says(&[says]);
    }
    daemon
        .cli(&["device", "pair", "pairing"])
        .assert_code(1)
        .assert_says(&["user name by which devices are paired"]);
}

#[test]
fn the_owner_sees_a_code_an_address_and_a_picture_of_both() {
    let daemon = Daemon::launch().start();
    let shown = daemon.cli(&["device", "pair", "phone"]);
    shown.assert_code(0);
    for part in [
        "clawdbot://pair?host=127.0.0.1&port=",
        "&code=",
        "&name=phone",
        "10 minutes",
        "▀",
        "certs init",
    ] {
        assert!(
            shown.stdout.contains(part),
            "{part:?} is missing in {}",
            shown.stdout
        );
    }
    assert!(
        !daemon
            .cli(&["device", "pair", "phone", "--no-qr"])
            .stdout
            .contains('▀')
    );
    let list = daemon.cli(&["device", "list"]);
    assert!(list.stdout.contains("no device yet"), "{}", list.stdout);
    paired(&daemon, 4, "phone");
    daemon
        .cli(&["device", "rename", "phone", "Anna's phone"])
        .assert_code(0);
    let list = daemon.cli(&["device", "list"]);
    assert!(
        list.stdout.contains("phone  Anna's phone  paired"),
        "{}",
        list.stdout
    );
    daemon
        .cli(&["device", "show", "nobody"])
        .assert_code(1)
        .assert_says(&["no device nobody", "device list"]);
}

#[test]
fn without_a_daemon_nobody_is_paired_and_that_is_said() {
    let home = crate::support::daemon::Home::new();
    let finished = process::finish(&mut home.command(&["device", "pair", "phone"]));
    finished.assert_code(1).assert_says(&["clawdbot serve"]);
}

#[test]
fn mosquitto_s_clients_pair_ask_for_a_token_and_connect_by_it() {
    let daemon = Daemon::launch().start();
    let Some(mut rr) = foreign::mosquitto("mosquitto_rr") else {
        return;
    };
    let port = daemon.mqtt.port().to_string();
    let mut request = |arguments: &[&str]| -> Value {
        let program = rr.get_program().to_owned();
        rr = std::process::Command::new(program);
        rr.args(["-h", "127.0.0.1", "-p", &port, "-W", "20"])
            .args(arguments);
        let finished = process::finish(&mut rr);
        finished.assert_code(0);
        serde_json::from_str(&finished.stdout).expect("JSON")
    };
    for version in ["mqttv311", "mqttv5"] {
        let code = code_for(&daemon, version);
        let response = "clawdbot/bridge/response/pair";
        let answer = request(&[
            "-V", version, "-u", "pairing", "-t", PAIR, "-e", response, "-m", &code,
        ]);
        let secret = answer["data"]["secret"].as_str().expect("a secret").to_owned();
        let response = "clawdbot/bridge/response/token";
        let login = ["-V", version, "-u", version, "-P", &secret];
        let answer = request(&[&login[..], &["-t", TOKEN, "-e", response, "-m", ""]].concat());
        let token = answer["data"]["token"].as_str().expect("a token");
        RawClient::admitted(daemon.mqtt, 4, version, token);
    }
}

#[test]
fn a_question_that_cannot_be_read_is_answered_without_its_words() {
    let daemon = Daemon::launch().start();
    let code = code_for(&daemon, "phone");
    let mut device = stranger(&daemon, 4, "new");
    for nonsense in [
        "",
        "{",
        "{\"code\": 7}",
        "{\"code\": \"WXYZ-2345\"",
        "[]",
        "WXYZ-23456",
    ] {
        let answer = ask(&mut device, 4, PAIR, nonsense);
        assert_eq!(answer["status"], "error", "{nonsense}");
        assert!(!answer.to_string().contains("WXYZ"), "{answer}");
    }
    // None of this was a guess.
    device.send(&crate::support::raw::publish(4, PAIR.as_bytes(), code.as_bytes()));
    assert_eq!(answer(&mut device, 4, PAIR)["status"], "ok");
    let connect = connect_as(5, "c", Some("nobody"), Some(&"A".repeat(43)));
    assert_eq!(try_connect(daemon.mqtt, &connect).1, 0x86);
}
