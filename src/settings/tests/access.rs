//! The list `[[access]]`: what is read, and what is refused with its line.

use topics::access::{Action, Permission};

use super::*;

const GRANT: &str = "[[access]]\ndevices = \"dash*\"\npermission = \"allow\"\ntopics = \"clawdbot/#\"\n";

#[test]
fn rules_are_read_in_their_order_with_their_defaults() {
    let text = format!(
        "{GRANT}\n[[access]]\ndevices = [\"phone\", \"tablet\"]\nusernames = \"anna\"\npermission = \"deny\"\n\
         action = \"publish\"\ntopics = [\"a/${{clientid}}\", \"eq b/#\"]\nqos = [1, 2]\nretain = true\n"
    );
    let entries = setup().file(&text).settings().access;
    assert_eq!(entries.len(), 2);
    assert_eq!(
        (entries[0].permission, entries[0].action),
        (Permission::Allow, Action::All)
    );
    assert_eq!((&entries[0].qos, entries[0].retain), (&None, None));
    assert_eq!(entries[0].topics, ["clawdbot/#"]);
    assert_eq!(entries[0].who.devices.as_ref().map(Vec::len), Some(1));
    assert_eq!(
        (entries[1].permission, entries[1].action),
        (Permission::Deny, Action::Publish)
    );
    assert_eq!(
        (&entries[1].qos, entries[1].retain),
        (&Some(vec![1, 2]), Some(true))
    );
    assert_eq!(entries[1].topics, ["a/${clientid}", "eq b/#"]);
    assert!(setup().settings().access.is_empty());
}

#[test]
fn the_list_of_a_stronger_source_takes_the_place_of_the_whole() {
    let list = |topic: &str| format!("[{{permission = \"deny\", topics = [\"{topic}\"]}}]");
    let setup = setup()
        .file(GRANT)
        .variable("CLAWDBOT__ACCESS", &list("by/variable"));
    let topics = |setup: &Setup| -> Vec<String> {
        let entries = setup.settings().access;
        entries.into_iter().flat_map(|entry| entry.topics).collect()
    };
    assert_eq!(topics(&setup), ["by/variable"]);
    let setup = setup.flag("--set", "access", &list("by/flag"));
    assert_eq!(topics(&setup), ["by/flag"]);
    assert!(setup.flag("--set", "access", "[]").settings().access.is_empty());
}

#[test]
fn everything_wrong_with_a_rule_is_said_at_once_each_with_its_line() {
    let setup = setup().file(
        "[[access]]\n\
         permission = \"perhaps\"\n\
         topics = [\n\
         \"good/#\",\n\
         \"a/#/b\",\n\
         ]\n\
         qos = [0, 3]\n\
         retain = \"no\"\n\
         [[access]]\n\
         action = \"subscribe\"\n\
         retain = true\n\
         device = \"x\"\n\
         devices = []\n",
    );
    let message = setup.message();
    for (line, words) in [
        (
            2,
            "access[1].permission = \"perhaps\": not one of the choices; write \"allow\" or \"deny\"",
        ),
        (5, "access[1].topics = \"a/#/b\": "),
        (7, "access[1].qos = 3: there is no such QoS"),
        (
            8,
            "access[1].retain = \"no\": the wrong type; write true or false",
        ),
        (9, "access[2].permission = nothing: a rule needs it"),
        (9, "access[2].topics = nothing: a rule needs it"),
        (11, "access[2].retain = true: a subscription has no retain flag"),
        (
            12,
            "access[2].device = \"x\": a rule has no such field; did you mean devices?",
        ),
        (13, "access[2].devices = a list: it is about nobody"),
    ] {
        assert_says(&message, &[&format!("{}{words}", setup.at_line(line))]);
    }
    assert_says(&message, &["9 faults"]);
}

#[test]
fn what_is_no_list_of_rules_is_refused_with_the_form_of_one() {
    for (text, words) in [
        (
            "[access]\npermission = \"allow\"",
            "write each under a line [[access]]",
        ),
        ("access = [\"a\"]", "a rule is a table"),
        ("[[acces]]\npermission = \"allow\"", "did you mean access?"),
        (
            "[[access]]\npermission = \"allow\"\ntopics = [\"${name}\"]",
            "there is no placeholder ${name}",
        ),
        (
            "[[access]]\npermission = \"allow\"\ntopics = \"$share/g/a\"",
            "leave $share/{group}/ out",
        ),
    ] {
        assert_says(&setup().file(text).message(), &[words]);
    }
    let by_variable = setup().variable("CLAWDBOT__ACCESS", "deny everything");
    assert_says(
        &by_variable.message(),
        &[
            "environment variable CLAWDBOT__ACCESS",
            "this is not TOML",
            "a list of tables",
        ],
    );
    let by_flag = setup().flag("--set", "access", "[{permission = \"deny\", topics = 5}]");
    assert_says(&by_flag.message(), &["flag --set: access[1].topics = 5"]);
}

#[test]
fn what_anybody_could_call_itself_is_granted_nothing() {
    for who in ["usernames = \"anna\"", "client_ids = \"dash*\""] {
        let rule = |permission: &str| {
            setup().file(&format!(
                "[[access]]\n{who}\npermission = \"{permission}\"\ntopics = \"a\"\n"
            ))
        };
        assert_says(&rule("allow").message(), &["name the devices too"]);
        assert_eq!(rule("deny").settings().access.len(), 1);
    }
    let topic = |permission: &str, topic: &str| {
        setup().file(&format!(
            "[[access]]\npermission = \"{permission}\"\ntopics = \"{topic}\"\n"
        ))
    };
    for choice in [
        "clawdbot/${clientid}/#",
        "clawdbot/x-${username}",
        "+/${clientid}/status",
    ] {
        assert_says(&topic("allow", choice).message(), &["write ${device_id} there"]);
        assert_eq!(topic("deny", choice).settings().access.len(), 1);
    }
    assert_eq!(topic("allow", "house/${clientid}/#").settings().access.len(), 1);
}

#[test]
fn more_rules_than_each_message_can_be_held_against_are_refused() {
    let topics: Vec<String> = (0..257).map(|n| format!("\"a/{n}\"")).collect();
    let text = format!(
        "[[access]]\npermission = \"deny\"\ntopics = [{}]\n",
        topics.join(", ")
    );
    assert_says(
        &setup().file(&text).message(),
        &["there are 257 rules", "use 256 or fewer"],
    );
}

#[test]
fn rules_that_nobody_would_hold_to_are_refused() {
    let setup_with = |more: &str| setup().file(&format!("{more}\n{GRANT}"));
    let open = setup_with("[auth]\nmode = \"none\"");
    assert_says(
        &open.message(),
        &[
            &open.at_line(3),
            "access = 1 entries: with auth.mode = \"none\" everybody may do everything",
        ],
    );
    let external =
        setup_with("[broker]\nmode = \"external\"\naddress = \"mqtt://127.0.0.1\"\nclient_id = \"a\"\n");
    assert_says(&external.message(), &["config/external-broker/README.md"]);
}
