use super::*;
use crate::filter::FilterError;
use proptest::prelude::*;
use serde::Deserialize;
use serde::de::value::{Error as ValueError, MapDeserializer};

fn device(text: &str) -> DeviceId {
    text.parse().unwrap()
}

fn name(text: &str) -> TopicName {
    text.parse().unwrap()
}

fn filter(text: &str) -> TopicFilter {
    text.parse().unwrap()
}

fn entry(permission: Permission, action: Action, topic: &str) -> AclEntry {
    AclEntry {
        permission,
        action,
        topic: topic.into(),
        qos: None,
        retain: None,
    }
}

fn allow(topic: &str) -> AclEntry {
    entry(Permission::Allow, Action::All, topic)
}

fn deny(topic: &str) -> AclEntry {
    entry(Permission::Deny, Action::All, topic)
}

fn compile_for(
    client_id: &str,
    username: Option<&str>,
    entries: &[AclEntry],
) -> Result<AccessRules, AccessError> {
    AccessRules::compile(
        entries,
        &Substitutions {
            client_id,
            username,
            device_id: &device("mobile"),
        },
    )
}

fn rules(entries: &[AclEntry]) -> AccessRules {
    compile_for("mobile_123", Some("anna"), entries).unwrap()
}

fn publishes(rules: &AccessRules, topic: &str) -> bool {
    rules.may_publish(&name(topic), 1, false).is_allowed()
}

fn subscribes(rules: &AccessRules, text: &str) -> bool {
    rules.may_subscribe(&filter(text), 1).is_allowed()
}

fn problem(client_id: &str, username: Option<&str>, topic: &str) -> RuleError {
    match compile_for(client_id, username, &[allow(topic)]) {
        Err(AccessError::Entry {
            number: 1, problem, ..
        }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_has_its_own_topics_and_no_others() {
    let rules = AccessRules::device_default(&device("mobile"));
    for topic in [
        "clawdbot/mobile/command",
        "clawdbot/mobile/lwt",
        "clawdbot/mobile",
        "clawdbot/mobile/a/b",
    ] {
        assert!(publishes(&rules, topic) && subscribes(&rules, topic), "{topic}");
    }
    for topic in [
        "clawdbot/tablet/command",
        "clawdbot/bridge/request/x",
        "clawdbot",
        "$SYS/x",
        "clawdbot/mobile2/x",
    ] {
        assert!(!publishes(&rules, topic) && !subscribes(&rules, topic), "{topic}");
    }
    assert!(subscribes(&rules, "clawdbot/mobile/#"));
    assert!(subscribes(&rules, "$share/g/clawdbot/mobile/+"));
    for wide in [
        "#",
        "+/#",
        "clawdbot/#",
        "clawdbot/+/command",
        "+/mobile/#",
        "$share/g/#",
        "$share/g/clawdbot/+",
    ] {
        assert!(!subscribes(&rules, wide), "{wide}");
    }
}

#[test]
fn unrestricted_includes_dollar_topics() {
    let rules = AccessRules::unrestricted();
    assert!(publishes(&rules, "$SYS/x") && publishes(&rules, "a"));
    assert!(subscribes(&rules, "$SYS/#") && subscribes(&rules, "#"));
}

#[test]
fn a_rule_for_everything_leaves_dollar_topics_out() {
    let rules = rules(&[allow("#")]);
    assert!(publishes(&rules, "a/b") && subscribes(&rules, "#"));
    assert!(!publishes(&rules, "$SYS/x") && !subscribes(&rules, "$SYS/#"));
}

#[test]
fn the_first_rule_that_applies_decides() {
    let kept = rules(&[deny("a/secret"), allow("a/+")]);
    assert!(publishes(&kept, "a/b") && !publishes(&kept, "a/secret"));
    let opened = rules(&[allow("a/+"), deny("a/secret")]);
    assert!(publishes(&opened, "a/secret"));
}

#[test]
fn no_rule_means_no() {
    let none = rules(&[]);
    assert!(!publishes(&none, "a") && !subscribes(&none, "a"));
    assert_eq!(
        none.may_publish(&name("a"), 0, false).to_string(),
        "denied: no rule applies"
    );
}

#[test]
fn a_deny_rule_stops_every_subscription_that_could_see_its_topics() {
    let rules = rules(&[deny("a/secret/#"), allow("a/#")]);
    for reaching in ["a/#", "a/+", "a/secret", "a/secret/x", "a/+/x", "$share/g/a/#"] {
        assert!(!subscribes(&rules, reaching), "{reaching}");
    }
    assert!(subscribes(&rules, "a/open/#") && subscribes(&rules, "a"));
}

#[test]
fn two_rules_do_not_cover_a_filter_together() {
    assert!(!subscribes(&rules(&[allow("a"), allow("a/+/#")]), "a/#"));
}

#[test]
fn actions_are_kept_apart() {
    let rules = rules(&[
        entry(Permission::Allow, Action::Publish, "p/#"),
        entry(Permission::Allow, Action::Subscribe, "s/#"),
    ]);
    assert!(publishes(&rules, "p/x") && !subscribes(&rules, "p/x"));
    assert!(!publishes(&rules, "s/x") && subscribes(&rules, "s/x"));
}

#[test]
fn qos_and_retain_narrow_a_rule() {
    let rules = rules(&[AclEntry {
        qos: Some(vec![0, 1]),
        retain: Some(false),
        ..allow("a")
    }]);
    let publish = |qos, retain| rules.may_publish(&name("a"), qos, retain).is_allowed();
    assert!(publish(0, false) && publish(1, false));
    assert!(!publish(2, false) && !publish(1, true) && !publish(3, false) && !publish(255, false));
    // Subscribing has no retain flag that a rule could ask for.
    assert!(rules.may_subscribe(&filter("a"), 1).is_allowed());
    assert!(!rules.may_subscribe(&filter("a"), 2).is_allowed());
}

#[test]
fn a_literal_rule_is_about_its_own_text_only() {
    let allowed = rules(&[allow("eq a/#")]);
    assert!(subscribes(&allowed, "a/#") && subscribes(&allowed, "$share/g/a/#"));
    assert!(!subscribes(&allowed, "a/b") && !publishes(&allowed, "a/b"));
    // EMQX's own default: nobody subscribes to all at once, and to single topics they may.
    let denied = rules(&[deny("eq #"), allow("#")]);
    assert!(!subscribes(&denied, "#") && subscribes(&denied, "a/b"));
    let placeholder = rules(&[allow("eq a/${clientid}")]);
    assert!(publishes(&placeholder, "a/${clientid}") && !publishes(&placeholder, "a/mobile_123"));
}

#[test]
fn placeholders_stand_for_the_clients_values() {
    let rules = rules(&[
        allow("c/${clientid}/#"),
        allow("u/x-${username}"),
        allow("d/${device_id}"),
        allow("${username}${device_id}"),
    ]);
    for topic in ["c/mobile_123/x", "u/x-anna", "d/mobile", "annamobile"] {
        assert!(publishes(&rules, topic), "{topic}");
    }
    assert!(!publishes(&rules, "c/other/x"));
}

#[test]
fn a_value_that_would_widen_a_rule_is_refused() {
    for value in [
        "",
        "+",
        "#",
        "a/b",
        "a/#",
        "../x",
        "$SYS",
        "a$",
        "${username}",
        "a\0",
        "a\n",
    ] {
        for (topic, client_id, username) in [
            ("clawdbot/${clientid}/#", value, None),
            ("${username}", "c", Some(value)),
        ] {
            let problem = problem(client_id, username, topic);
            assert!(
                matches!(problem, RuleError::Substitution(SubstitutionError::Value { .. })),
                "{value:?}"
            );
        }
        // A value that no rule uses does no harm.
        assert!(compile_for(value, Some(value), &[allow("clawdbot/${device_id}/#")]).is_ok());
    }
}

#[test]
fn a_value_never_becomes_the_bridge() {
    for (topic, client_id) in [
        ("clawdbot/${clientid}/#", "bridge"),
        ("clawdbot/bri${clientid}/#", "dge"),
    ] {
        let problem = problem(client_id, None, topic);
        assert!(
            matches!(problem, RuleError::Substitution(SubstitutionError::Bridge { .. })),
            "{topic}"
        );
    }
    assert!(publishes(
        &rules(&[allow("clawdbot/bridge/#")]),
        "clawdbot/bridge/request/x"
    ));
}

#[test]
fn broken_entries_say_which_and_why() {
    assert_eq!(
        problem("c", None, "a/${username}"),
        SubstitutionError::Missing {
            name: "username".into()
        }
        .into()
    );
    assert_eq!(
        problem("c", None, "a/${client}"),
        SubstitutionError::Unknown {
            name: "client".into()
        }
        .into()
    );
    assert_eq!(
        problem("c", None, "a/${clientid"),
        SubstitutionError::Unclosed {
            level: "${clientid".into()
        }
        .into()
    );
    assert_eq!(
        problem("c", None, "a/#/b"),
        FilterError::HashNotLast { level: 2 }.into()
    );
    assert_eq!(problem("c", None, "eq "), FilterError::Empty.into());
    assert_eq!(problem("c", None, "$share/g/a"), RuleError::Shared);
    assert_eq!(problem("c", None, "eq $share/g/a"), RuleError::Shared);

    let with_qos = |qos| {
        compile_for(
            "c",
            None,
            &[
                allow("a"),
                AclEntry {
                    qos: Some(qos),
                    ..allow("b")
                },
            ],
        )
    };
    let error = with_qos(vec![0, 3]).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"the token's acl claim: entry 2 ("b"): there is no QoS 3; use 0, 1 and 2"#
    );
    assert!(matches!(
        with_qos(vec![]),
        Err(AccessError::Entry {
            problem: RuleError::NoQos,
            ..
        })
    ));

    let many = vec![allow("a"); MAX_RULES + 1];
    assert_eq!(
        compile_for("c", None, &many),
        Err(AccessError::TooManyRules { rules: 257 })
    );
}

#[test]
fn a_decision_names_its_rule() {
    let rules = rules(&[
        deny("a"),
        AclEntry {
            qos: Some(vec![1, 0, 1]),
            retain: Some(true),
            ..entry(Permission::Allow, Action::Publish, "b/#")
        },
    ]);
    let decision = rules.may_publish(&name("b/c"), 0, true);
    assert_eq!(
        decision.to_string(),
        "decided by rule 2 of the token: allow publish b/# qos 0,1 retain true"
    );
    assert_eq!(decision.rule().unwrap().permission(), Permission::Allow);
    assert_eq!(
        rules.may_subscribe(&filter("a"), 0).to_string(),
        "decided by rule 1 of the token: deny all a"
    );
}

#[test]
fn an_entry_is_read_from_a_claims_fields() {
    let read = |fields: &[(&'static str, &'static str)]| {
        AclEntry::deserialize(MapDeserializer::<_, ValueError>::new(fields.iter().copied()))
    };
    let fields = [("permission", "deny"), ("action", "subscribe"), ("topic", "a/#")];
    assert_eq!(
        read(&fields).unwrap(),
        entry(Permission::Deny, Action::Subscribe, "a/#")
    );
    let with = |field| read(&[&fields[..], &[field]].concat()).unwrap_err().to_string();
    assert!(with(("ipaddr", "10.0.0.1")).contains("unknown field `ipaddr`"));
    assert!(
        read(&fields[..2])
            .unwrap_err()
            .to_string()
            .contains("missing field `topic`")
    );
    assert!(
        read(&[("permission", "maybe")])
            .unwrap_err()
            .to_string()
            .contains("unknown variant `maybe`")
    );
}

fn filters() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "+", "$c"]);
    (prop::collection::vec(level, 1..=3), any::<bool>())
        .prop_map(|(levels, hash)| levels.join("/") + if hash { "/#" } else { "" })
}

proptest! {
    /// What a subscription delivers, publishing rules of the same words would let through topic by
    /// topic: a subscription is no way around them.
    #[test]
    fn an_allowed_subscription_delivers_only_allowed_topics(
        entries in prop::collection::vec((any::<bool>(), filters()), 0..6),
        wanted in filters(),
        topics in prop::collection::vec("[abz]|\\$c|[abz]/[abz]|\\$c/[abz]|[abz]/[abz]/[abz]", 20),
    ) {
        let entries: Vec<_> =
            entries.iter().map(|(allowed, topic)| if *allowed { allow(topic) } else { deny(topic) }).collect();
        let rules = rules(&entries);
        if subscribes(&rules, &wanted) {
            for topic in topics.iter().filter(|topic| filter(&wanted).matches(&name(topic))) {
                prop_assert!(publishes(&rules, topic), "{} lets {} through", wanted, topic);
            }
        }
    }

    #[test]
    fn whatever_the_client_calls_itself_its_rule_stays_on_its_level(client_id in "[a+#/$bridge{}\\PC]{0,8}") {
        if let Ok(rules) = compile_for(&client_id, None, &[allow("clawdbot/${clientid}/#")]) {
            prop_assert!(!subscribes(&rules, "clawdbot/#") && !subscribes(&rules, "clawdbot/+/#"));
            prop_assert!(!publishes(&rules, "clawdbot/bridge/x") && !publishes(&rules, "clawdbot/q_q/x"));
            let own_topic = format!("clawdbot/{client_id}/x");
            prop_assert!(publishes(&rules, &own_topic));
        }
    }
}
