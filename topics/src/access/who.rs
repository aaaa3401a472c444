//! Whom a rule of the configuration is about.

use super::Substitutions;

/// The clients that a rule is about: those that match each list that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// Devices, the only one of the three that somebody vouches for.
    pub devices: Option<Vec<NamePattern>>,
    /// Client identifiers, which are the client's own choice.
    pub client_ids: Option<Vec<NamePattern>>,
    /// User names, which are the client's own choice.
    pub usernames: Option<Vec<NamePattern>>,
}

impl Who {
    /// Whether this client is one of them.
    pub fn is(&self, client: &Substitutions<'_>) -> bool {
        let device = client.device_id.as_str();
        is_one_of(self.devices.as_deref(), Some(device))
            && is_one_of(self.client_ids.as_deref(), Some(client.client_id))
            && is_one_of(self.usernames.as_deref(), client.username)
    }

    /// Whether a client could be one of them, or not, by calling itself otherwise.
    pub fn is_by_own_choice(&self) -> bool {
        self.devices.is_none() && (self.client_ids.is_some() || self.usernames.is_some())
    }
}

fn is_one_of(patterns: Option<&[NamePattern]>, name: Option<&str>) -> bool {
    patterns
        .is_none_or(|patterns| name.is_some_and(|name| patterns.iter().any(|pattern| pattern.matches(name))))
}

/// A name, in which `*` stands for any characters, none included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(String);

impl NamePattern {
    /// Every text is a pattern.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether it matches the whole name.
    pub fn matches(&self, name: &str) -> bool {
        let Some((beginning, rest)) = self.0.split_once('*') else {
            return self.0 == name;
        };
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        let inner = name
            .strip_prefix(beginning)
            .and_then(|name| name.strip_suffix(end));
        // Each part where it is found first: what comes later has the most room then.
        inner.is_some_and(|inner| {
            let mut parts = middle.split('*');
            parts
                .try_fold(inner, |left, part| left.split_once(part).map(|(_, left)| left))
                .is_some()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_star_stands_for_any_characters_and_everything_else_for_itself() {
        for (pattern, name, matches) in [
            ("dash", "dash", true),
            ("dash", "dash2", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("sensor-*", "sensor-", true),
            ("sensor-*", "sensor-7", true),
            ("sensor-*", "a-sensor-7", false),
            ("*-7", "sensor-7", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "ac", false),
            ("a*b*b", "ab", false),
            ("ä*ö", "äüö", true),
        ] {
            assert_eq!(
                NamePattern::new(pattern).matches(name),
                matches,
                "{pattern} {name}"
            );
        }
    }

    /// The definition, by trying everything.
    fn by_definition(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|at| by_definition(rest, &name[at..])),
            Some((first, rest)) => name
                .split_first()
                .is_some_and(|(found, name)| found == first && by_definition(rest, name)),
        }
    }

    proptest! {
        #[test]
        fn patterns_match_what_their_definition_says(pattern in "[ab*]{0,7}", name in "[ab]{0,7}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            let expected = by_definition(&chars(&pattern), &chars(&name));
            prop_assert_eq!(NamePattern::new(pattern).matches(&name), expected);
        }
    }
}
