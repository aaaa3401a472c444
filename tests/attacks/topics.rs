//! Another device's topics, by every way that leads to them.

use super::*;
use crate::support::client::{BOTH, Client, Login};
use crate::support::wait_for;

/// Filters that reach beyond the attacker's own topics.
const BEYOND: [&str; 20] = [
    "#",
    "+/#",
    "/#",
    "+/+/command",
    "+/+/+",
    "clawdbot/#",
    "clawdbot/+/command",
    "clawdbot/+/#",
    "clawdbot/+",
    "+/phone/#",
    "clawdbot/phone/#",
    "clawdbot/phone/reply",
    "clawdbot/bridge/#",
    "$SYS/#",
    "$SYS/broker/uptime",
    "$share/group/#",
    "$share/group/clawdbot/+/command",
    "$share/group/clawdbot/phone/#",
    "$share/clawdbot/$SYS/#",
    "clawdbot/Tablet/#",
];

/// A phone that hears everything of its own, and a tablet beside it.
fn two(daemon: &Daemon) -> (Peer, Peer) {
    let mut victim = Peer::of(daemon, VICTIM, VICTIM);
    assert_eq!(victim.subscribe("clawdbot/phone/#"), 0);
    victim.everything();
    (victim, Peer::of(daemon, ATTACKER, ATTACKER))
}

/// What the victim gets when it is told something after all that was done to it: that alone.
#[track_caller]
fn assert_untouched(victim: &mut Peer) {
    assert_eq!(victim.publish("clawdbot/phone/x", "own"), 0);
    let own = ("clawdbot/phone/x".to_owned(), b"own".to_vec());
    assert_eq!(victim.everything(), [own]);
}

#[test]
fn publishing_to_another_device_or_to_the_hub() {
    let daemon = Daemon::launch().start();
    let (mut victim, mut attacker) = two(&daemon);
    let targets = [
        "clawdbot/phone/command",
        "clawdbot/phone/cancel",
        "clawdbot/phone/reply",
        "clawdbot/phone/status",
        "clawdbot/phone",
        "clawdbot/bridge/request/topics",
        "clawdbot/bridge/response/topics",
        "clawdbot",
        "clawdbot/Tablet/x",
        "/clawdbot/tablet/x",
        "$SYS/broker/uptime",
        "$share/group/clawdbot/phone/x",
        "homeassistant/status",
    ];
    for topic in targets {
        assert_eq!(attacker.publish(topic, "attack"), NOT_AUTHORIZED, "{topic}");
    }
    assert_eq!(denied(&daemon, "publish"), targets.len() as f64);
    assert_untouched(&mut victim);
}

#[test]
fn subscribing_to_another_device_or_to_all() {
    let daemon = Daemon::launch().start();
    let (mut victim, mut attacker) = two(&daemon);
    for filter in BEYOND {
        assert_eq!(attacker.subscribe(filter), NOT_AUTHORIZED, "{filter}");
    }
    assert_eq!(denied(&daemon, "subscribe"), BEYOND.len() as f64);
    assert_eq!(victim.publish("clawdbot/phone/x", "private"), 0);
    victim.message();
    assert_eq!(attacker.everything(), []);
}

#[tokio::test]
async fn the_same_from_clients_of_another_make_in_both_versions() {
    let daemon = Daemon::launch().start();
    for version in BOTH {
        let mut owner = Client::of(&daemon, VICTIM, "owner").await;
        owner.subscribe("clawdbot/phone/in", 1).await;
        let login = Login::new(version, &daemon, ATTACKER, ATTACKER);
        let mut client = Client::connect(daemon.mqtt, login).await.unwrap();
        for filter in BEYOND {
            assert_eq!(
                client.try_subscribe(filter, 1).await,
                None,
                "{version:?} {filter}"
            );
        }
        client.publish("clawdbot/phone/in", 0, false, "foreign").await;
        // Behind the foreign message on the same connection, so the foreign one was judged before.
        client.subscribe("clawdbot/tablet/x", 1).await;
        owner.publish("clawdbot/phone/in", 1, false, "own").await;
        assert_eq!(owner.message().await.payload, b"own", "{version:?}");
    }
}

#[test]
fn a_good_filter_does_not_bring_a_bad_one_in() {
    let daemon = Daemon::launch().start();
    let (mut victim, mut attacker) = two(&daemon);
    let answers = attacker.subscribe_all(&["clawdbot/tablet/#", "clawdbot/phone/#", "clawdbot/tablet/x"]);
    assert_eq!(answers, [0, NOT_AUTHORIZED, 0]);
    victim.publish("clawdbot/phone/x", "private");
    assert_eq!(attacker.publish("clawdbot/tablet/x", "own"), 0);
    let came = attacker.everything();
    assert!(
        came.iter()
            .all(|(topic, _)| topic.starts_with("clawdbot/tablet/")),
        "{came:?}"
    );
}

#[test]
fn a_rule_of_the_token_opens_its_own_topics_and_no_neighbours() {
    let daemon = Daemon::launch().start();
    let acl = json!([
        {"permission": "deny", "action": "all", "topic": "house/door/#"},
        {"permission": "allow", "action": "all", "topic": "house/+/lamp"},
    ]);
    let mut peer = Peer::with_acl(&daemon, ATTACKER, &acl);
    assert_eq!(
        peer.subscribe("house/+/lamp"),
        NOT_AUTHORIZED,
        "the door's is among them"
    );
    assert_eq!(peer.subscribe("house/kitchen/lamp"), 0);
    for beyond in [
        "house/#",
        "house/door/lamp",
        "house/+/+",
        "+/kitchen/lamp",
        "$share/g/house/+/lamp",
    ] {
        assert_eq!(peer.subscribe(beyond), NOT_AUTHORIZED, "{beyond}");
    }
    assert_eq!(peer.publish("house/kitchen/lamp", "on"), 0);
    assert_eq!(peer.publish("house/door/lamp", "on"), NOT_AUTHORIZED);
    assert_eq!(peer.publish("house/kitchen/lamp/x", "on"), NOT_AUTHORIZED);
}

#[test]
fn a_will_to_another_devices_topic_keeps_its_client_out() {
    let daemon = Daemon::launch().start();
    let (mut victim, _) = two(&daemon);
    let token = daemon.token(ATTACKER);
    let targets = [
        "clawdbot/phone/command",
        "clawdbot/phone/status",
        "$SYS/broker/uptime",
        "clawdbot/bridge/request/topics",
    ];
    for topic in targets {
        for retain in [false, true] {
            let hello = Hello {
                client_id: "doomed",
                token: Some(&token),
                will: Some((topic, "attack", retain)),
                ..Hello::default()
            };
            assert_eq!(
                Peer::connect(&daemon, hello).err(),
                Some(NOT_AUTHORIZED),
                "{topic}"
            );
        }
    }
    assert_eq!(denied(&daemon, "will"), 2.0 * targets.len() as f64);
    assert_untouched(&mut victim);
}

#[test]
fn a_will_that_was_allowed_is_not_told_when_the_rules_have_changed() {
    let daemon = Daemon::launch().start();
    let mut victim = Peer::with_acl(
        &daemon,
        VICTIM,
        &json!([{"permission": "allow", "action": "subscribe", "topic": "shared/x"}]),
    );
    assert_eq!(victim.subscribe("shared/x"), 0);
    let acl = json!([{"permission": "allow", "action": "publish", "topic": "shared/x"}]);
    let wide = token_with(&daemon, ATTACKER, &acl);
    let by_method = |token: &str| {
        let properties = [
            &[0x15][..],
            &text(b"clawdbot-jwt"),
            &[0x16],
            &text(token.as_bytes()),
        ]
        .concat();
        let length = properties.len();
        let low = u8::try_from(length & 0x7F).expect("seven bits") | 0x80;
        [
            &[low, u8::try_from(length >> 7).expect("seven bits")][..],
            &properties,
        ]
        .concat()
    };
    let connect = [
        &text(b"MQTT")[..],
        &[5, 0b110, 0, 60],
        &by_method(&wide),
        &text(b"doomed"),
        &[0],
        &text(b"shared/x"),
        &text(b"attack"),
    ];
    let mut wire = RawClient::open(daemon.mqtt);
    wire.send(&packet(0x10, &connect.concat()));
    assert_eq!(wire.connack_code(), 0);
    // A renewal by a token that allows less.
    let narrow = daemon.token(ATTACKER);
    wire.send(&packet(0xF0, &[&[0x19][..], &by_method(&narrow)].concat()));
    assert_eq!(wire.packet().expect("an AUTH")[0], 0xF0);
    drop(wire);
    wait_for("the will to be judged", || {
        (denied(&daemon, "will") == 1.0).then_some(())
    });
    assert_eq!(victim.everything(), []);
}

#[test]
fn a_subscription_does_not_outlive_the_rule_that_allowed_it() {
    let daemon = Daemon::launch().start();
    let publishes = json!([{"permission": "allow", "action": "publish", "topic": "house/+"}]);
    let mut house = Peer::with_acl(&daemon, VICTIM, &publishes);
    let reads = json!([{"permission": "allow", "action": "subscribe", "topic": "house/#"}]);
    let (wide, narrow) = (token_with(&daemon, ATTACKER, &reads), daemon.token(ATTACKER));
    let hello = |token| Hello {
        client_id: "reader",
        token: Some(token),
        keeps: true,
        ..Hello::default()
    };
    let mut reader = Peer::connect(&daemon, hello(&wide)).expect("let in");
    let filters = ["house/#", "$share/group/house/door", "clawdbot/tablet/x"];
    assert_eq!(reader.subscribe_all(&filters), [0, 0, 0]);
    house.publish("house/door", "heard");
    assert_eq!(reader.everything().len(), 2);

    // The same session, with a token that allows less.
    let mut reader = Peer::connect(&daemon, hello(&narrow)).expect("let in");
    reader.everything();
    const NOBODY_SUBSCRIBED: u8 = 0x10;
    assert_eq!(house.publish("house/door", "private"), NOBODY_SUBSCRIBED);
    assert_eq!(reader.publish("clawdbot/tablet/x", "own"), 0);
    assert_eq!(reader.everything().len(), 1, "what is allowed it still has");
    assert_eq!(denied(&daemon, "subscribe"), 2.0);
}

#[test]
fn a_shared_subscription_takes_no_share_of_what_is_anothers() {
    let daemon = Daemon::launch().start();
    let mut victim = Peer::of(&daemon, VICTIM, VICTIM);
    assert_eq!(victim.subscribe("$share/workers/clawdbot/phone/jobs"), 0);
    let mut attacker = Peer::of(&daemon, ATTACKER, ATTACKER);
    // The victim's own group, by name.
    for filter in [
        "$share/workers/clawdbot/phone/jobs",
        "$share/workers/clawdbot/+/jobs",
        "$share/workers/#",
    ] {
        assert_eq!(attacker.subscribe(filter), NOT_AUTHORIZED, "{filter}");
    }
    for _ in 0..10 {
        victim.publish("clawdbot/phone/jobs", "job");
    }
    assert_eq!(victim.everything().len(), 10);
    assert_eq!(attacker.everything(), []);
}

#[test]
fn an_answer_goes_to_no_topic_that_its_asker_may_not_publish_to() {
    let daemon = Daemon::launch().start();
    let (mut victim, mut attacker) = two(&daemon);
    assert_eq!(attacker.subscribe("clawdbot/tablet/reply"), 0);
    for target in ["clawdbot/phone/inbox", "clawdbot/phone/command", "$SYS/broker/x"] {
        let response_topic = [&[0x08][..], &text(target.as_bytes())].concat();
        assert_eq!(
            attacker.publish_with("clawdbot/tablet/command", "hello", false, &response_topic),
            0
        );
        let (_, answer) = attacker.message();
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        assert_eq!(answer["error"]["code"], "not_authorized", "{answer}");
    }
    assert_eq!(denied(&daemon, "response_topic"), 3.0);
    assert_untouched(&mut victim);
}

#[test]
fn a_topic_alias_is_judged_by_what_it_stands_for_now() {
    const ALIAS_1: [u8; 3] = [0x23, 0, 1];
    let daemon = Daemon::launch().start();
    let (mut victim, mut attacker) = two(&daemon);
    let mut by_alias = |topic: &str| attacker.publish_with(topic, "attack", false, &ALIAS_1);
    const NOBODY_SUBSCRIBED: u8 = 0x10;
    for _ in 0..2 {
        assert_eq!(by_alias("clawdbot/tablet/x"), NOBODY_SUBSCRIBED);
        assert_eq!(by_alias(""), NOBODY_SUBSCRIBED);
        // Assigned anew, by a publication that is refused, and used again.
        assert_eq!(by_alias("clawdbot/phone/command"), NOT_AUTHORIZED);
        assert_eq!(by_alias(""), NOT_AUTHORIZED);
    }
    assert_untouched(&mut victim);
}

#[test]
fn an_allowed_publication_opens_nothing_for_one_that_is_like_it() {
    let daemon = Daemon::launch().start();
    let acl = json!([{"permission": "allow", "action": "publish", "topic": "house/lamp", "qos": [1], "retain": false}]);
    let mut peer = Peer::with_acl(&daemon, ATTACKER, &acl);
    for _ in 0..3 {
        assert_ne!(peer.publish("house/lamp", "on"), NOT_AUTHORIZED);
        assert_eq!(peer.retain("house/lamp", "on"), NOT_AUTHORIZED);
        assert_eq!(peer.publish("house/lamp/", "on"), NOT_AUTHORIZED);
    }
}

#[test]
fn a_retained_message_of_another_is_neither_read_nor_replaced_nor_cleared() {
    let daemon = Daemon::launch().start();
    let (mut victim, mut attacker) = two(&daemon);
    victim.retain("clawdbot/phone/secret", "kept");
    for filter in BEYOND {
        attacker.subscribe(filter);
    }
    for payload in ["replaced", ""] {
        assert_eq!(attacker.retain("clawdbot/phone/secret", payload), NOT_AUTHORIZED);
    }
    assert_eq!(attacker.everything(), []);
    let mut again = Peer::of(&daemon, VICTIM, "again");
    assert_eq!(again.subscribe("clawdbot/phone/secret"), 0);
    assert_eq!(again.message().1, b"kept");
}
