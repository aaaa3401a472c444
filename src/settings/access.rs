//! The list `[[access]]`: rules that say who may publish and subscribe to what. It is the only list among the
//! settings, and the only one read with the place of each of its values, not of the whole.

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use topics::access::{Action, MAX_RULES, NamePattern, Permission, PolicyEntry, Who, check_topic};

use super::{Origin, Problem};

/// Its name as a setting.
pub(super) const KEY: &str = "access";

const FIELDS: [&str; 8] = [
    "devices",
    "client_ids",
    "usernames",
    "permission",
    "action",
    "topics",
    "qos",
    "retain",
];

/// What one source says. The list of a stronger source takes the place of the whole: a list in which rules of
/// several sources stood in turn would have an order that nobody wrote.
#[derive(Clone, Debug)]
pub(super) struct AccessList {
    pub(super) entries: Vec<PolicyEntry>,
    pub(super) problems: Vec<Problem>,
    pub(super) origin: Origin,
}

/// Reads the list as it stands in a file; `origin` tells where an offset is.
pub(super) fn read(value: &Spanned<DeValue<'_>>, origin: &dyn Fn(usize) -> Origin) -> AccessList {
    let mut reader = Reader {
        origin,
        problems: Vec::new(),
    };
    let entries = reader.list(value);
    // Tables are sorted by name; messages follow the file.
    reader.problems.sort_by_key(|(offset, _)| *offset);
    AccessList {
        entries,
        problems: reader.problems.into_iter().map(|(_, problem)| problem).collect(),
        origin: origin(value.span().start),
    }
}

/// Reads the list from a variable or a flag, where it is one value of TOML.
pub(super) fn read_text(text: &str, origin: &Origin) -> AccessList {
    let origin_of = |_| origin.clone();
    match DeValue::parse(text) {
        Ok(value) => read(&value, &origin_of),
        Err(error) => AccessList {
            entries: Vec::new(),
            problems: vec![Problem {
                key: KEY.to_owned(),
                value: format!("{text:?}"),
                origin: origin.clone(),
                reason: format!(
                    "this is not TOML: {}; write a list of tables, for example [{{permission = \"deny\", topics = \
                     [\"a/#\"]}}]",
                    error.message().trim()
                ),
            }],
            origin: origin.clone(),
        },
    }
}

struct Reader<'a> {
    origin: &'a dyn Fn(usize) -> Origin,
    /// Each with its offset.
    problems: Vec<(usize, Problem)>,
}

impl Reader<'_> {
    fn list(&mut self, value: &Spanned<DeValue<'_>>) -> Vec<PolicyEntry> {
        let DeValue::Array(list) = value.get_ref() else {
            let reason = "rules are a list; write each under a line [[access]] of its own";
            self.refuse(KEY.to_owned(), value, reason);
            return Vec::new();
        };
        let entries: Vec<PolicyEntry> = (1..)
            .zip(list.iter())
            .filter_map(|(number, value)| self.entry(number, value))
            .collect();
        let rules: usize = entries.iter().map(|entry| entry.topics.len()).sum();
        if rules > MAX_RULES {
            let reason = format!(
                "there are {rules} rules, one for each topic, and each message is held against all that are about its \
                 client; use {MAX_RULES} or fewer"
            );
            self.refuse(KEY.to_owned(), value, &reason);
        }
        entries
    }

    fn entry(&mut self, number: usize, value: &Spanned<DeValue<'_>>) -> Option<PolicyEntry> {
        let key = format!("{KEY}[{number}]");
        let DeValue::Table(table) = value.get_ref() else {
            self.refuse(key, value, "a rule is a table; write it under a line [[access]]");
            return None;
        };
        self.unknown_fields(&key, table);
        let field = |name: &str| table.get(name).map(|value| (format!("{key}.{name}"), value));
        let who = Who {
            devices: field("devices").and_then(|(key, value)| self.names(&key, value)),
            client_ids: field("client_ids").and_then(|(key, value)| self.names(&key, value)),
            usernames: field("usernames").and_then(|(key, value)| self.names(&key, value)),
        };
        let permission = match field("permission") {
            Some((key, value)) => self.choice(
                key,
                value,
                &[("allow", Permission::Allow), ("deny", Permission::Deny)],
            ),
            None => {
                self.missing(&key, "permission", value, "\"allow\" or \"deny\"");
                None
            }
        };
        let actions = [
            ("publish", Action::Publish),
            ("subscribe", Action::Subscribe),
            ("all", Action::All),
        ];
        let action = match field("action") {
            Some((key, value)) => self.choice(key, value, &actions),
            None => Some(Action::All),
        };
        let topics = match field("topics") {
            Some((key, value)) => self.topics(&key, value),
            None => {
                self.missing(&key, "topics", value, "for example \"clawdbot/+/status\"");
                Vec::new()
            }
        };
        let qos = field("qos").and_then(|(key, value)| self.qos(&key, value));
        let retain = field("retain").and_then(|(key, value)| {
            if action == Some(Action::Subscribe) {
                let reason = "a subscription has no retain flag, so that the rule would not depend on it; leave it out";
                self.refuse(key.clone(), value, reason);
            }
            self.truth(key, value)
        });
        if permission == Some(Permission::Allow)
            && let Some(topic) = topics.iter().find(|topic| lets_choose_a_device(topic))
        {
            let reason = "clients choose their identifiers and user names, and would choose another device's name; write \
                          ${device_id} there";
            self.refuse_at(
                value.span().start,
                format!("{key}.topics"),
                format!("{topic:?}"),
                reason,
            );
        }
        if permission == Some(Permission::Allow) && who.is_by_own_choice() {
            let reason = "client identifiers and user names are what clients say they are, so that this would be allowed \
                          to every device; name the devices too";
            self.refuse(key, value, reason);
        }
        Some(PolicyEntry {
            who,
            permission: permission?,
            action: action?,
            topics,
            qos,
            retain,
        })
    }

    fn unknown_fields(&mut self, key: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let name = name.get_ref().as_ref();
            if FIELDS.contains(&name) {
                continue;
            }
            let near = FIELDS
                .iter()
                .map(|field| (strsim::normalized_damerau_levenshtein(field, name), field))
                .filter(|(likeness, _)| *likeness > 0.6)
                .max_by(|left, right| left.0.total_cmp(&right.0));
            let reason = match near {
                Some((_, field)) => format!("a rule has no such field; did you mean {field}?"),
                None => format!("a rule has no such field; there are {}", FIELDS.join(", ")),
            };
            self.refuse(format!("{key}.{name}"), value, &reason);
        }
    }

    fn names(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Vec<NamePattern>> {
        let names = self.texts(
            key,
            value,
            "it is about nobody; name somebody, or leave it out for everybody",
        );
        Some(
            names
                .into_iter()
                .map(|(name, _)| NamePattern::new(name))
                .collect(),
        )
    }

    fn topics(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Vec<String> {
        let texts = self.texts(key, value, "a rule without a topic never applies; name one");
        for (text, offset) in &texts {
            if let Err(error) = check_topic(text) {
                self.refuse_at(*offset, key.to_owned(), format!("{text:?}"), &error.to_string());
            }
        }
        texts.into_iter().map(|(text, _)| text).collect()
    }

    /// One text or a list of them, each with its offset.
    fn texts(&mut self, key: &str, value: &Spanned<DeValue<'_>>, if_none: &str) -> Vec<(String, usize)> {
        let one_or_more: Vec<&Spanned<DeValue<'_>>> = one_or_more(value);
        if one_or_more.is_empty() {
            self.refuse(key.to_owned(), value, if_none);
        }
        let mut texts = Vec::new();
        for value in one_or_more {
            match value.get_ref() {
                DeValue::String(text) => texts.push((text.to_string(), value.span().start)),
                _ => self.refuse(
                    key.to_owned(),
                    value,
                    "the wrong type; write text in quotes, or a list of such",
                ),
            }
        }
        texts
    }

    fn qos(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Vec<u8>> {
        let one_or_more = one_or_more(value);
        if one_or_more.is_empty() {
            let reason = "a rule about no QoS never applies; leave it out for all";
            self.refuse(key.to_owned(), value, reason);
        }
        let mut levels = Vec::new();
        for value in one_or_more {
            match level(value.get_ref()) {
                Some(level) => levels.push(level),
                None => self.refuse(key.to_owned(), value, "there is no such QoS; use 0, 1 and 2"),
            }
        }
        Some(levels)
    }

    fn truth(&mut self, key: String, value: &Spanned<DeValue<'_>>) -> Option<bool> {
        let truth = value.get_ref().as_bool();
        if truth.is_none() {
            self.refuse(key, value, "the wrong type; write true or false");
        }
        truth
    }

    fn choice<T: Copy>(
        &mut self,
        key: String,
        value: &Spanned<DeValue<'_>>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = value.get_ref().as_str();
        let chosen = choices.iter().find(|(name, _)| text == Some(*name));
        if chosen.is_none() {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
            let reason = format!("not one of the choices; write {}", names.join(" or "));
            self.refuse(key, value, &reason);
        }
        chosen.map(|(_, choice)| *choice)
    }

    fn missing(&mut self, key: &str, field: &str, entry: &Spanned<DeValue<'_>>, write: &str) {
        let reason = format!("a rule needs it; write {field} = {write}");
        self.refuse_at(
            entry.span().start,
            format!("{key}.{field}"),
            "nothing".to_owned(),
            &reason,
        );
    }

    fn refuse(&mut self, key: String, value: &Spanned<DeValue<'_>>, reason: &str) {
        self.refuse_at(value.span().start, key, describe(value.get_ref()), reason);
    }

    fn refuse_at(&mut self, offset: usize, key: String, value: String, reason: &str) {
        let problem = Problem {
            key,
            value,
            origin: (self.origin)(offset),
            reason: reason.to_owned(),
        };
        self.problems.push((offset, problem));
    }
}

/// Whether the level that says whose a topic is would be what a client says.
fn lets_choose_a_device(topic: &str) -> bool {
    let mut levels = topic.split('/');
    matches!(levels.next(), Some("clawdbot" | "+"))
        && levels
            .next()
            .is_some_and(|level| level.contains("${clientid}") || level.contains("${username}"))
}

fn one_or_more<'a, 'i>(value: &'a Spanned<DeValue<'i>>) -> Vec<&'a Spanned<DeValue<'i>>> {
    match value.get_ref() {
        DeValue::Array(list) => list.iter().collect(),
        _ => vec![value],
    }
}

fn level(value: &DeValue<'_>) -> Option<u8> {
    let number = value.as_integer()?;
    let level = u8::from_str_radix(number.as_str(), number.radix()).ok()?;
    (level <= 2).then_some(level)
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
