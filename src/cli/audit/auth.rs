//! Who comes in, for how long, and to what.

use std::time::Duration;

use serde_json::Value;
use topics::access::{Action, NamePattern, Permission, PolicyEntry};

use super::{Subject, unless, where_so};
use crate::cli::report::{Examined, Finding};
use crate::security::certificates::utc;
use crate::settings::AuthMode;

/// A token that is stolen is worth something for so long.
const LONG_TOKEN: Duration = Duration::from_secs(3600);
/// A device that was away for so long may be lost.
const UNSEEN: Duration = Duration::from_secs(90 * 24 * 3600);

pub(super) fn nobody_is_asked(subject: &Subject) -> Examined {
    where_so(
        subject.settings.auth.mode == AuthMode::None,
        || {
            let message = "everybody on this machine reads and publishes whatever they like, and nobody is asked who they are";
            Finding::warning(message, "auth.mode = \"token\"").about("auth.mode")
        },
        "clients show who they are",
    )
}

pub(super) fn token_lifetime(subject: &Subject) -> Examined {
    let lifetime = subject.settings.auth.token_lifetime;
    where_so(
        lifetime > LONG_TOKEN,
        || {
            let message = format!(
                "a token that is stolen lets its thief in for up to {} s",
                lifetime.as_secs()
            );
            let hint = "auth.token_lifetime_s = 900; devices get another by their secret";
            Finding::warning(message, hint).about("auth.token_lifetime_s")
        },
        &format!("tokens live {} s", lifetime.as_secs()),
    )
}

pub(super) fn access_to_everything(subject: &Subject) -> Examined {
    let findings = allowed(&subject.settings.access, is_everything, |entry, number, topic| {
        let message = format!("rule {number} allows {} {}", who(entry), what(entry, topic));
        let hint = "name the topics that they need, or deny the others in a rule before it";
        Finding::warning(message, hint).about(format!("access[{number}].topics"))
    });
    unless(findings, "no rule allows everything")
}

pub(super) fn access_to_others(subject: &Subject) -> Examined {
    let findings = allowed(&subject.settings.access, is_of_others, |entry, number, topic| {
        let message = format!("rule {number} allows {} {}", who(entry), what(entry, topic));
        let finding = if entry.action == Action::Subscribe {
            Finding::info(
                message,
                "where they need not read along, take the topic out of the rule",
            )
        } else {
            let hint = "action = \"subscribe\" where they only read; what they publish there comes in another device's name";
            Finding::warning(message, hint)
        };
        finding.about(format!("access[{number}].topics"))
    });
    unless(findings, "each device has its own topics, and nobody else's")
}

/// Findings about the topics of allow rules; rules are counted from 1, as messages about settings do.
fn allowed(
    rules: &[PolicyEntry],
    is_it: impl Fn(&PolicyEntry, &str) -> bool,
    finding: impl Fn(&PolicyEntry, usize, &str) -> Finding,
) -> Vec<Finding> {
    let mut found = Vec::new();
    for (number, entry) in (1..)
        .zip(rules)
        .filter(|(_, entry)| entry.permission == Permission::Allow)
    {
        let topics = entry.topics.iter().filter(|topic| is_it(entry, topic));
        found.extend(topics.map(|topic| finding(entry, number, topic)));
    }
    found
}

fn is_everything(_: &PolicyEntry, topic: &str) -> bool {
    matches!(topic, "#" | "+/#")
}

/// Whether a topic is below `clawdbot/`, and not the client's own.
fn is_of_others(entry: &PolicyEntry, topic: &str) -> bool {
    let mut levels = topic.strip_prefix("eq ").unwrap_or(topic).split('/');
    let (Some("clawdbot" | "+"), Some(device)) = (levels.next(), levels.next()) else {
        return false;
    };
    let is_own = device.contains("${device_id}") || entry.who.devices == Some(vec![NamePattern::new(device)]);
    !is_own && !is_everything(entry, topic)
}

fn who(entry: &PolicyEntry) -> &'static str {
    match &entry.who.devices {
        None => "every device",
        Some(_) => "the devices that it names",
    }
}

fn what(entry: &PolicyEntry, topic: &str) -> String {
    let verb = match entry.action {
        Action::Publish => "publish to",
        Action::Subscribe => "read",
        Action::All => "read and publish to",
    };
    format!("to {verb} {topic:?}")
}

pub(super) fn unseen(subject: &Subject) -> Examined {
    let Some(devices) = subject
        .devices
        .as_ref()
        .and_then(|answer| answer["devices"].as_array())
    else {
        return Ok("not known: no daemon answers".to_owned());
    };
    let before = subject.now.checked_sub(UNSEEN).unwrap_or(subject.now);
    // Times are told in a form whose order is theirs.
    let findings = unseen_since(devices, &utc(before));
    unless(
        findings,
        format!("{} devices are known, none of them away for long", devices.len()),
    )
}

fn unseen_since(devices: &[Value], before: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for device in devices
        .iter()
        .filter(|device| device["state"] == "paired" && device["connected"] != true)
    {
        let name = device["name"].as_str().unwrap_or_default();
        let seen = device["last_seen"].as_str();
        // One that was paired and never came is as old as its pairing.
        let Some(last) = seen.or(device["paired"].as_str()).filter(|last| *last < before) else {
            continue;
        };
        let message = match seen {
            Some(_) => format!("{name} was here last on {last}, and its secret still lets it in"),
            None => {
                format!("{name} was paired on {last} and never came since, and its secret still lets it in")
            }
        };
        found.push(Finding::info(message, format!("clawdbot device revoke {name}")).about(name));
    }
    found
}

/// Codes live for ten minutes and five tries, so that open ones are no finding; but somebody may try.
pub(super) fn wrong_codes(subject: &Subject) -> Examined {
    let tries = subject.counter("clawdbot.pairing.wrong_codes");
    where_so(
        tries > 0,
        || {
            let message = format!("{tries} wrong pairing codes were shown since the daemon's start");
            let hint = "where it was not you who mistyped: `clawdbot device list`, and `clawdbot device revoke` what is not yours";
            Finding::info(message, hint)
        },
        "nobody showed a wrong pairing code",
    )
}

pub(super) fn flapping(subject: &Subject) -> Examined {
    where_so(
        subject.settings.flapping.max_disconnects == 0,
        || {
            let message = "clients that come and go without end, or guess without end, are never banned";
            Finding::warning(message, "flapping.max_disconnects = 15").about("flapping.max_disconnects")
        },
        "clients that come and go without end are banned",
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;
    use topics::access::Who;

    use super::*;
    use crate::cli::report::Severity;

    fn rule(permission: Permission, action: Action, devices: &[&str], topics: &[&str]) -> PolicyEntry {
        let names = devices
            .iter()
            .map(|name| NamePattern::new(*name))
            .collect::<Vec<_>>();
        PolicyEntry {
            who: Who {
                devices: (!devices.is_empty()).then_some(names),
                ..Who::default()
            },
            permission,
            action,
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            qos: None,
            retain: None,
        }
    }

    /// Of both checks the ids' first letters and the severities.
    fn found(rule: PolicyEntry) -> (Vec<Severity>, Vec<Severity>) {
        let mut subject = Subject::for_tests(Path::new("/nowhere"));
        subject.settings.access = vec![rule];
        let severities = |examined: Examined| {
            let findings = examined.err().unwrap_or_default();
            findings.iter().map(|finding| finding.severity).collect()
        };
        (
            severities(access_to_everything(&subject)),
            severities(access_to_others(&subject)),
        )
    }

    #[test]
    fn rules_that_give_everything_or_other_devices_topics_are_named() {
        use Action::{All, Publish, Subscribe};
        use Permission::{Allow, Deny};
        use Severity::{Info, Warning};
        for (rule, everything, others) in [
            (rule(Allow, All, &["a"], &["#"]), vec![Warning], vec![]),
            (
                rule(Allow, Subscribe, &[], &["+/#", "house/#"]),
                vec![Warning],
                vec![],
            ),
            (rule(Deny, All, &[], &["#", "clawdbot/#"]), vec![], vec![]),
            (
                rule(Allow, Subscribe, &["wall-*"], &["clawdbot/#"]),
                vec![],
                vec![Info],
            ),
            (
                rule(Allow, Publish, &["a"], &["clawdbot/+/command"]),
                vec![],
                vec![Warning],
            ),
            (
                rule(Allow, All, &["a"], &["eq clawdbot/b/x"]),
                vec![],
                vec![Warning],
            ),
            (
                rule(Allow, All, &["a"], &["clawdbot/a/x", "clawdbot/${device_id}/y"]),
                vec![],
                vec![],
            ),
            (
                rule(Allow, All, &["a", "b"], &["clawdbot/a/x"]),
                vec![],
                vec![Warning],
            ),
            (
                rule(Allow, All, &["a"], &["house/door", "clawdbot", "$SYS/#"]),
                vec![],
                vec![],
            ),
        ] {
            assert_eq!(found(rule.clone()), (everything, others), "{rule:?}");
        }
    }

    #[test]
    fn devices_that_were_away_for_long_are_named_and_those_that_cannot_come_are_not() {
        let device = |name: &str, state: &str, connected: bool, paired: &str, seen: Option<&str>| {
            let mut device = json!({"name": name, "state": state, "connected": connected});
            device["paired"] = json!(paired);
            device["last_seen"] = json!(seen);
            device
        };
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-08-01T00:00:00Z");
        let devices = [
            device("gone", "paired", false, old, Some(old)),
            device("never", "paired", false, old, None),
            device("here", "paired", true, old, Some(old)),
            device("lately", "paired", false, old, Some(new)),
            device("new", "paired", false, new, None),
            device("out", "revoked", false, old, Some(old)),
        ];
        let found = unseen_since(&devices, "2026-06-01T00:00:00Z");
        let paths: Vec<_> = found.iter().map(|finding| finding.path.as_deref()).collect();
        assert_eq!(paths, [Some("gone"), Some("never")]);
        assert_eq!(found[0].fix_hint, "clawdbot device revoke gone");
    }

    #[test]
    fn long_tokens_no_bans_and_nobody_asked_are_named() {
        let mut subject = Subject::for_tests(Path::new("/nowhere"));
        let checks = [nobody_is_asked, token_lifetime, flapping, wrong_codes];
        assert!(checks.iter().all(|check| check(&subject).is_ok()));
        subject.settings.auth.mode = AuthMode::None;
        subject.settings.auth.token_lifetime = Duration::from_secs(3601);
        subject.settings.flapping.max_disconnects = 0;
        subject.status = Some(json!({"counters": {"clawdbot.pairing.wrong_codes": 2}}));
        assert!(checks.iter().all(|check| check(&subject).is_err()));
    }
}
