use proptest::prelude::*;

use super::super::{AccessRules, NamePattern, SubstitutionError};
use super::*;

fn entry(permission: Permission, action: Action, topics: &[&str]) -> PolicyEntry {
    PolicyEntry {
        who: Who::default(),
        permission,
        action,
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        qos: None,
        retain: None,
    }
}

fn allow(topic: &str) -> PolicyEntry {
    entry(Permission::Allow, Action::All, &[topic])
}

fn deny(topic: &str) -> PolicyEntry {
    entry(Permission::Deny, Action::All, &[topic])
}

fn claim(permission: Permission, topic: &str) -> AclEntry {
    entry(permission, Action::All, &[topic]).acl_entry(topic)
}

fn patterns(texts: &[&str]) -> Option<Vec<NamePattern>> {
    Some(texts.iter().map(|text| NamePattern::new(*text)).collect())
}

fn try_rules(
    entries: &[PolicyEntry],
    acl: &[AclEntry],
    (device, client_id, username): (&str, &str, Option<&str>),
) -> Result<AccessRules, AccessError> {
    let client = Substitutions {
        client_id,
        username,
        device_id: &device.parse().unwrap(),
    };
    AccessRules::for_client(&AccessPolicy::new(entries.to_vec()), acl, &client)
}

fn rules(entries: &[PolicyEntry], acl: &[AclEntry]) -> AccessRules {
    try_rules(entries, acl, ("phone", "phone_1", Some("anna"))).unwrap()
}

fn publishes(rules: &AccessRules, topic: &str) -> bool {
    rules.may_publish(&topic.parse().unwrap(), 1, false).is_allowed()
}

fn subscribes(rules: &AccessRules, filter: &str) -> bool {
    rules.may_subscribe(&filter.parse().unwrap(), 1).is_allowed()
}

#[test]
fn what_the_configuration_grants_comes_beside_what_a_device_has() {
    let rules = rules(
        &[entry(
            Permission::Allow,
            Action::Subscribe,
            &["clawdbot/#", "$SYS/#"],
        )],
        &[],
    );
    assert!(subscribes(&rules, "clawdbot/#") && subscribes(&rules, "$SYS/broker/#"));
    assert!(!publishes(&rules, "clawdbot/tablet/x") && publishes(&rules, "clawdbot/phone/x"));
    assert!(!subscribes(&rules, "#"));
}

#[test]
fn a_deny_rule_of_the_configuration_holds_against_token_and_default() {
    let denies = [deny("clawdbot/phone/secret/#"), deny("house/door")];
    let rules = rules(&denies, &[claim(Permission::Allow, "house/#")]);
    assert!(publishes(&rules, "house/lamp") && !publishes(&rules, "house/door"));
    assert!(!publishes(&rules, "clawdbot/phone/secret/a") && publishes(&rules, "clawdbot/phone/x"));
    assert!(!subscribes(&rules, "clawdbot/phone/#") && !subscribes(&rules, "house/#"));
    assert!(subscribes(&rules, "house/lamp/#"));
}

#[test]
fn a_deny_rule_of_the_token_holds_against_what_the_configuration_grants() {
    let rules = rules(&[allow("house/#")], &[claim(Permission::Deny, "house/door")]);
    assert!(publishes(&rules, "house/lamp") && !publishes(&rules, "house/door"));
}

#[test]
fn in_the_configuration_the_first_rule_that_applies_decides() {
    let exception = [allow("house/door/bell"), deny("house/door/#"), allow("house/#")];
    let rules = rules(&exception, &[]);
    assert!(publishes(&rules, "house/door/bell") && publishes(&rules, "house/lamp"));
    assert!(!publishes(&rules, "house/door/lock") && !subscribes(&rules, "house/#"));
}

#[test]
fn a_rule_is_about_those_who_match_all_that_it_names() {
    let who = Who {
        devices: patterns(&["phone", "sensor-*"]),
        client_ids: patterns(&["*_1"]),
        usernames: None,
    };
    let granted = [PolicyEntry {
        who,
        ..allow("house/#")
    }];
    let may = |who| publishes(&try_rules(&granted, &[], who).unwrap(), "house/lamp");
    assert!(may(("phone", "phone_1", None)) && may(("sensor-7", "x_1", Some("a"))));
    assert!(!may(("phone", "phone_2", None)) && !may(("tablet", "phone_1", None)));
    let named = [PolicyEntry {
        who: Who {
            usernames: patterns(&["*"]),
            ..Who::default()
        },
        ..allow("house/#")
    }];
    let may = |username| {
        publishes(
            &try_rules(&named, &[], ("a", "b", username)).unwrap(),
            "house/lamp",
        )
    };
    assert!(may(Some("anna")) && may(Some("")) && !may(None));
}

#[test]
fn where_a_placeholder_has_no_value_an_allow_rule_is_left_out_and_a_deny_rule_keeps_the_client_out() {
    let topic = "by-name/${username}/#";
    for username in [None, Some("+"), Some("a/b")] {
        let client = ("phone", "phone_1", username);
        let rules = try_rules(&[allow(topic)], &[], client).unwrap();
        assert_eq!(rules.count(), 1, "the default alone");
        assert!(!publishes(&rules, "by-name/a/b"));
        let error = try_rules(&[allow("a"), deny(topic)], &[], client).unwrap_err();
        assert!(matches!(
            error,
            AccessError::Configured {
                number: 2,
                problem: RuleError::Substitution(
                    SubstitutionError::Missing { .. } | SubstitutionError::Value { .. }
                ),
                ..
            }
        ));
    }
}

#[test]
fn a_decision_names_the_entry_of_the_configuration() {
    let others = PolicyEntry {
        who: Who {
            devices: patterns(&["tablet"]),
            ..Who::default()
        },
        ..deny("x")
    };
    // The first is not about this client, and is counted all the same: people look for it in their file.
    let rules = rules(
        &[others, entry(Permission::Deny, Action::Publish, &["a", "b/#"])],
        &[],
    );
    assert_eq!(
        rules.may_publish(&"b/c".parse().unwrap(), 0, false).to_string(),
        "decided by [[access]] entry 2 of the configuration: deny publish b/#"
    );
    assert_eq!(
        rules
            .may_publish(&"clawdbot/phone/c".parse().unwrap(), 0, false)
            .to_string(),
        "decided by the built-in rule: allow all clawdbot/phone/#"
    );
}

#[test]
fn topics_that_can_never_be_right_are_known_before_any_client_comes() {
    for good in [
        "a/${clientid}/#",
        "eq a/${x",
        "clawdbot/${username}",
        "$SYS/#",
        "${device_id}/+",
    ] {
        assert_eq!(check_topic(good), Ok(()), "{good}");
    }
    for bad in ["", "a/#/b", "a/${client}", "a/${clientid", "$share/g/a", "eq "] {
        assert!(check_topic(bad).is_err(), "{bad}");
    }
}

fn lists() -> impl Strategy<Value = Vec<(bool, String)>> {
    let level = prop::sample::select(vec!["a", "b", "+", "$c"]);
    let filter = (prop::collection::vec(level, 1..=3), any::<bool>())
        .prop_map(|(levels, hash)| levels.join("/") + if hash { "/#" } else { "" });
    prop::collection::vec((any::<bool>(), filter), 0..5)
}

proptest! {
    /// With two lists as with one: a subscription is no way around the rules about publishing.
    #[test]
    fn an_allowed_subscription_delivers_only_allowed_topics(
        configured in lists(),
        claimed in lists(),
        wanted in lists(),
        topics in prop::collection::vec("[abz]|\\$c|[abz]/[abz]|\\$c/[abz]|[abz]/[abz]/[abz]", 20),
    ) {
        let permission = |allowed| if allowed { Permission::Allow } else { Permission::Deny };
        let entries: Vec<_> = configured
            .iter()
            .map(|(allowed, topic)| entry(permission(*allowed), Action::All, &[topic]))
            .collect();
        let acl: Vec<_> = claimed.iter().map(|(allowed, topic)| claim(permission(*allowed), topic)).collect();
        let rules = rules(&entries, &acl);
        for (_, wanted) in wanted.iter().filter(|(_, wanted)| subscribes(&rules, wanted)) {
            let wanted: crate::filter::TopicFilter = wanted.parse().unwrap();
            for topic in topics.iter().filter(|topic| wanted.matches(&topic.parse().unwrap())) {
                prop_assert!(publishes(&rules, topic), "{} lets {} through", wanted, topic);
            }
        }
    }

    /// Whatever else is said, a no of the configuration's list is a no.
    #[test]
    fn nothing_overrules_the_configurations_no(
        configured in lists(), claimed in lists(), topic in "[ab]|[ab]/[ab]|\\$c/[ab]",
    ) {
        let permission = |allowed| if allowed { Permission::Allow } else { Permission::Deny };
        let entries: Vec<_> = configured
            .iter()
            .map(|(allowed, topic)| entry(permission(*allowed), Action::All, &[topic]))
            .collect();
        let acl: Vec<_> = claimed.iter().map(|(allowed, topic)| claim(permission(*allowed), topic)).collect();
        let topic: crate::name::TopicName = topic.parse().unwrap();
        let alone = rules(&entries, &[]);
        let decision = alone.may_publish(&topic, 1, false);
        if decision.rule().is_some() && !decision.is_allowed() {
            prop_assert!(!publishes(&rules(&entries, &acl), topic.as_str()));
        }
    }
}
