//! Sentence patterns: a notation of words, choices, rules and captures, read from files. `models/embedded/patterns/README.md`
//! describes it for those who write them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use models::assistant::actions::SlotValue;
use models::assistant::intents;

/// A file that is not understood.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// The system.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A line.
    #[error("{place}: {problem}")]
    Line {
        /// File and line.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A piece of a pattern.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Words(String),
    Rule(usize),
    Capture(Capture),
    /// One of these; where it is optional, half the time none.
    Choice {
        alternatives: Vec<Vec<Piece>>,
        optional: bool,
    },
}

/// What is drawn from a list and meant by the sentence.
#[derive(Clone, Debug)]
pub(super) struct Capture {
    /// Which action of the sentence, from 0.
    pub(super) action: usize,
    pub(super) slot: String,
    pub(super) source: Source,
}

/// Where a capture's words come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    List(usize),
    Percent { negative: bool },
    Celsius,
    Fahrenheit,
    Small,
    Duration { before_noun: bool },
}

/// One of a rule's or list's.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) pieces: Vec<Piece>,
    /// What is meant, where it is not what is said.
    pub(super) value: Option<String>,
    pub(super) weight: u32,
}

/// An intent with the slots that it has whatever is drawn.
pub(super) type Meaning = (String, Vec<(String, SlotValue)>);

/// A sentence of an intent.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) pieces: Vec<Piece>,
    /// What it means, without what captures bring.
    pub(super) actions: Vec<Meaning>,
    pub(super) weight: u32,
}

/// All of a language.
#[derive(Debug, Default)]
pub struct Patterns {
    pub(super) rules: Vec<Vec<Entry>>,
    pub(super) lists: Vec<Vec<Entry>>,
    /// By intent, in the order of the files.
    pub(super) patterns: Vec<(String, Vec<Pattern>)>,
    /// What is said, by intent.
    pub(super) says: Vec<Say>,
    list_names: HashMap<String, usize>,
}

/// With what an action is answered.
#[derive(Clone, Debug)]
pub(super) struct Say {
    pub(super) intent: String,
    /// The slots that must be there, some with this value.
    pub(super) slots: Vec<(String, Option<String>)>,
    pub(super) text: String,
}

impl Patterns {
    /// Reads every `.txt` file of a directory, in the order of their names.
    ///
    /// # Errors
    /// The first line that is not understood.
    pub fn read(directory: &Path) -> Result<Self, PatternError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| PatternError::File { path, source }
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed(directory))? {
            let path = entry.map_err(failed(directory))?.path();
            if path.extension().is_some_and(|extension| extension == "txt") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            let text = fs::read_to_string(&path).map_err(failed(&path))?;
            files.push((path.display().to_string(), text));
        }
        Self::parse(&files)
    }

    /// The same from texts with their names.
    ///
    /// # Errors
    /// The first line that is not understood.
    pub fn parse(files: &[(String, String)]) -> Result<Self, PatternError> {
        let mut reader = Reader::default();
        // Names first: a line may use what stands in a later one.
        for_each_line(files, |line| reader.learn_name(line))?;
        for_each_line(files, |line| reader.read(line))?;
        let patterns = reader.patterns;
        patterns.check_no_rule_contains_itself()?;
        Ok(patterns)
    }

    /// The list of this name.
    pub(super) fn list(&self, name: &str) -> Option<&[Entry]> {
        self.list_names
            .get(name)
            .and_then(|at| self.lists.get(*at))
            .map(Vec::as_slice)
    }

    /// The place of the list of this name, and the name of the list at a place.
    pub(super) fn list_place(&self, name: &str) -> Option<usize> {
        self.list_names.get(name).copied()
    }

    /// See [`list_place`](Self::list_place).
    pub(super) fn list_name(&self, place: usize) -> Option<&str> {
        let found = self.list_names.iter().find(|(_, at)| **at == place);
        found.map(|(name, _)| name.as_str())
    }

    fn check_no_rule_contains_itself(&self) -> Result<(), PatternError> {
        // 1 while it is being looked at, 2 when it was.
        let mut seen = vec![0_u8; self.rules.len()];
        for rule in 0..self.rules.len() {
            if self.contains_itself(rule, &mut seen) {
                return Err(PatternError::Line {
                    place: "the rules".to_owned(),
                    problem: "one of them contains itself, at last".to_owned(),
                });
            }
        }
        Ok(())
    }

    fn contains_itself(&self, rule: usize, seen: &mut [u8]) -> bool {
        match seen.get(rule) {
            Some(2) | None => return false,
            Some(1) => return true,
            Some(_) => {}
        }
        seen[rule] = 1;
        let mut inner = Vec::new();
        for entry in self.rules.get(rule).into_iter().flatten() {
            rules_of(&entry.pieces, &mut inner);
        }
        let found = inner.into_iter().any(|inner| self.contains_itself(inner, seen));
        seen[rule] = 2;
        found
    }
}

fn rules_of(pieces: &[Piece], found: &mut Vec<usize>) {
    for piece in pieces {
        match piece {
            Piece::Rule(rule) => found.push(*rule),
            Piece::Choice { alternatives, .. } => {
                alternatives.iter().for_each(|pieces| rules_of(pieces, found))
            }
            Piece::Words(_) | Piece::Capture(_) => {}
        }
    }
}

/// A line that says something.
struct Line<'l> {
    is_say: bool,
    text: &'l str,
}

fn for_each_line(
    files: &[(String, String)],
    mut each: impl FnMut(&Line<'_>) -> Result<(), String>,
) -> Result<(), PatternError> {
    for (name, text) in files {
        for (number, text) in (1..).zip(text.lines()) {
            if text.trim().is_empty() || text.starts_with('#') {
                continue;
            }
            let is_say = name.ends_with("say.txt");
            each(&Line { is_say, text }).map_err(|problem| PatternError::Line {
                place: format!("{name}:{number}"),
                problem,
            })?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Reader {
    patterns: Patterns,
    rule_names: HashMap<String, usize>,
    intent: Option<usize>,
}

impl Reader {
    fn learn_name(&mut self, line: &Line<'_>) -> Result<(), String> {
        if let Some((name, _)) = definition(line.text, "@", "")? {
            let next = self.patterns.list_names.len();
            self.patterns.list_names.entry(name.to_owned()).or_insert(next);
            self.patterns
                .lists
                .resize_with(self.patterns.list_names.len(), Vec::new);
        } else if let Some((name, _)) = definition(line.text, "<", ">")? {
            let next = self.rule_names.len();
            self.rule_names.entry(name.to_owned()).or_insert(next);
            self.patterns.rules.resize_with(self.rule_names.len(), Vec::new);
        }
        Ok(())
    }

    fn read(&mut self, line: &Line<'_>) -> Result<(), String> {
        if let Some((name, entries)) = definition(line.text, "@", "")? {
            let is_spoken_form = name.starts_with("say_");
            let entries = self.entries(entries, is_spoken_form)?;
            let at = self.patterns.list_names.get(name).copied().unwrap_or(usize::MAX);
            self.patterns
                .lists
                .get_mut(at)
                .ok_or("a list without a place")?
                .extend(entries);
        } else if let Some((name, entries)) = definition(line.text, "<", ">")? {
            let entries = self.entries(entries, false)?;
            let at = self.rule_names.get(name).copied().unwrap_or(usize::MAX);
            self.patterns
                .rules
                .get_mut(at)
                .ok_or("a rule without a place")?
                .extend(entries);
        } else if line.is_say {
            self.read_say(line.text)?;
        } else if line.text.starts_with([' ', '\t']) {
            let pattern = self.pattern(line.text)?;
            let at = self.intent.ok_or("a pattern before the first intent")?;
            if let Some((_, patterns)) = self.patterns.patterns.get_mut(at) {
                patterns.push(pattern);
            }
        } else if let Some(name) = line.text.strip_suffix(':') {
            known_intent(name)?;
            let all = &mut self.patterns.patterns;
            self.intent = Some(
                all.iter()
                    .position(|(intent, _)| intent == name)
                    .unwrap_or_else(|| {
                        all.push((name.to_owned(), Vec::new()));
                        all.len() - 1
                    }),
            );
        } else {
            return Err("it is neither a list (@name = …), a rule (<name> = …), an intent (Name:) nor, indented, a pattern".into());
        }
        Ok(())
    }

    fn read_say(&mut self, text: &str) -> Result<(), String> {
        let (what, said) = text
            .split_once(" = ")
            .ok_or("a sentence is written Intent slot … = words")?;
        let mut words = what.split_whitespace();
        let intent = known_intent(words.next().unwrap_or_default())?;
        let condition = |word: &str| match word.split_once('=') {
            Some((slot, value)) => (slot.to_owned(), Some(value.to_owned())),
            None => (word.to_owned(), None),
        };
        let slots: Vec<_> = words.map(condition).collect();
        let unknown = slots
            .iter()
            .find(|(slot, _)| !intent.slots.contains(&slot.as_str()));
        if let Some((unknown, _)) = unknown {
            return Err(format!("{} has no slot {unknown}", intent.name));
        }
        self.patterns.says.push(Say {
            intent: intent.name.to_owned(),
            slots,
            text: said.trim().to_owned(),
        });
        Ok(())
    }

    fn entries(&self, text: &str, is_spoken_form: bool) -> Result<Vec<Entry>, String> {
        split(text, '|')?
            .into_iter()
            .map(|entry| self.entry(entry, is_spoken_form))
            .collect()
    }

    fn entry(&self, text: &str, is_spoken_form: bool) -> Result<Entry, String> {
        let (text, weight) = weighted(text);
        let (said, value) = match text.split_once(" -> ") {
            Some((said, value)) => (said.trim(), Some(value.trim().to_owned())),
            None => (text, None),
        };
        if said.is_empty() {
            return Err("an entry is empty".into());
        }
        // What is left of the arrow is an English word there, not a pattern.
        let pieces = if is_spoken_form {
            vec![Piece::Words(said.to_owned())]
        } else {
            self.pieces(said, None)?
        };
        Ok(Entry {
            pieces,
            value,
            weight,
        })
    }

    fn pattern(&self, text: &str) -> Result<Pattern, String> {
        let (text, weight) = weighted(text);
        let (words, meaning) = match text.split_once(" ; ") {
            Some((words, meaning)) => (words, Some(meaning)),
            None => (text.strip_suffix(" ;").unwrap_or(text), None),
        };
        let own = self.intent.and_then(|at| self.patterns.patterns.get(at));
        let own = own
            .map(|(intent, _)| intent.clone())
            .ok_or("a pattern before the first intent")?;
        let mut actions = Vec::new();
        for (number, part) in meaning.unwrap_or_default().split("&&").enumerate() {
            let (intent, slots) = match number {
                0 => (own.as_str(), part.trim()),
                _ => part.trim().split_once(' ').unwrap_or((part.trim(), "")),
            };
            let known = known_intent(intent)?;
            let slots = assignments(slots)?;
            if let Some((unknown, _)) = slots
                .iter()
                .find(|(slot, _)| !known.slots.contains(&slot.as_str()))
            {
                return Err(format!("{intent} has no slot {unknown}"));
            }
            actions.push((intent.to_owned(), slots));
        }
        let pieces = self.pieces(words.trim(), Some(&actions))?;
        Ok(Pattern {
            pieces,
            actions,
            weight,
        })
    }

    /// What the text is made of. Captures only where there are actions that they could belong to.
    fn pieces(&self, text: &str, actions: Option<&[Meaning]>) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['(', '[', '<', '{']) {
            let (words, opened) = rest.split_at(at);
            if !words.is_empty() {
                pieces.push(Piece::Words(words.to_owned()));
            }
            let (inner, behind) = enclosed(opened)?;
            let choice = |optional| {
                let alternatives = split(inner, '|')?
                    .into_iter()
                    .map(|one| self.pieces(one, actions));
                Ok::<_, String>(Piece::Choice {
                    alternatives: alternatives.collect::<Result<_, _>>()?,
                    optional,
                })
            };
            pieces.push(match opened.as_bytes().first() {
                Some(b'(') => choice(false)?,
                Some(b'[') => choice(true)?,
                Some(b'<') => {
                    let rule = self.rule_names.get(inner);
                    Piece::Rule(*rule.ok_or_else(|| format!("there is no rule <{inner}>"))?)
                }
                _ => {
                    let actions = actions.ok_or("a capture stands in a pattern only")?;
                    Piece::Capture(self.capture(inner, actions)?)
                }
            });
            rest = behind;
        }
        if let Some(closing) = rest.find([')', ']', '>', '}']) {
            return Err(format!("{:?} closes nothing", &rest[closing..=closing]));
        }
        if !rest.is_empty() {
            pieces.push(Piece::Words(rest.to_owned()));
        }
        Ok(pieces)
    }

    fn capture(&self, text: &str, actions: &[Meaning]) -> Result<Capture, String> {
        let (number, name) = match text.split_once('.') {
            Some((number, name)) => (
                number
                    .parse::<usize>()
                    .map_err(|_| format!("{number:?} is no number"))?,
                name,
            ),
            None => (1, text),
        };
        let (slot, list) = name.split_once(':').unwrap_or((name, name));
        let action = number.checked_sub(1).ok_or("actions are counted from 1")?;
        let (intent, _) = actions
            .get(action)
            .ok_or_else(|| format!("there is no action {number}"))?;
        let source = match list {
            "percent" => Source::Percent { negative: false },
            "-percent" => Source::Percent { negative: true },
            "celsius" => Source::Celsius,
            "fahrenheit" => Source::Fahrenheit,
            "small" => Source::Small,
            "duration" => Source::Duration { before_noun: false },
            "start_duration" => Source::Duration { before_noun: true },
            _ => {
                let list = self.patterns.list_names.get(list);
                Source::List(*list.ok_or_else(|| format!("there is no list for {{{text}}}"))?)
            }
        };
        let slots = known_intent(intent)?.slots;
        let has_slot = match source {
            Source::Duration { .. } => slots.iter().any(|slot| slot.ends_with("minutes")),
            _ => slots.contains(&slot),
        };
        if !has_slot {
            return Err(format!("{intent} has no slot for {{{text}}}"));
        }
        Ok(Capture {
            action,
            slot: slot.to_owned(),
            source,
        })
    }
}

fn known_intent(name: &str) -> Result<&'static intents::Intent, String> {
    intents::intent(name).ok_or_else(|| format!("there is no intent {name:?}"))
}

/// `@name = text` or `<name> = text`.
fn definition<'l>(line: &'l str, open: &str, close: &str) -> Result<Option<(&'l str, &'l str)>, String> {
    let Some(rest) = line.strip_prefix(open) else {
        return Ok(None);
    };
    let (name, text) = rest
        .split_once(" = ")
        .ok_or("a definition is written name = entry | entry")?;
    let name = name.strip_suffix(close).ok_or("the name of a rule ends with >")?;
    let is_name = |name: &str| {
        name.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    if !is_name(name) {
        return Err(format!("{name:?} is no name: letters, digits and _"));
    }
    Ok(Some((name, text)))
}

/// A weight at the end, ` *3`.
fn weighted(text: &str) -> (&str, u32) {
    let text = text.trim();
    let found = text
        .rsplit_once(" *")
        .and_then(|(rest, weight)| Some((rest.trim(), weight.parse().ok()?)));
    found.unwrap_or((text, 1))
}

/// `slot=value` separated by blanks, values with blanks in double quotes.
fn assignments(text: &str) -> Result<Vec<(String, SlotValue)>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (slot, behind) = rest
            .split_once('=')
            .ok_or_else(|| format!("{rest:?} is no slot=value"))?;
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or("a quotation without an end")?,
            None => behind.split_once(' ').unwrap_or((behind, "")),
        };
        let is_text = matches!(
            intents::kind(slot),
            Some(intents::Kind::Span | intents::Kind::Word(_))
        );
        let number = value.parse::<serde_json::Number>().ok().filter(|_| !is_text);
        let value = number.map_or_else(|| SlotValue::Text(value.to_owned()), SlotValue::Number);
        found.push((slot.trim().to_owned(), value));
        rest = behind.trim();
    }
    Ok(found)
}

/// What stands between the bracket at the beginning and the one that closes it, and what comes behind.
fn enclosed(text: &str) -> Result<(&str, &str), String> {
    let mut open = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            '(' => open.push(')'),
            '[' => open.push(']'),
            '<' => open.push('>'),
            '{' => open.push('}'),
            ')' | ']' | '>' | '}' => {
                if open.pop() != Some(c) {
                    return Err(format!("{c:?} closes what it did not open"));
                }
                if open.is_empty() {
                    return Ok((
                        text.get(1..at).unwrap_or_default(),
                        text.get(at + 1..).unwrap_or_default(),
                    ));
                }
            }
            _ => {}
        }
    }
    Err(format!("{:?} is not closed", text.get(..1).unwrap_or_default()))
}

/// At this character, where it stands in no bracket.
fn split(text: &str, at: char) -> Result<Vec<&str>, String> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_usize, 0);
    for (place, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' | '<' => depth += 1,
            // An arrow closes nothing.
            '>' if text.get(..place).is_some_and(|before| before.ends_with('-')) => {}
            ')' | ']' | '}' | '>' => {
                depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| format!("{c:?} closes nothing"))?
            }
            _ if c == at && depth == 0 => {
                parts.push(text.get(from..place).unwrap_or_default());
                from = place + c.len_utf8();
            }
            _ => {}
        }
    }
    if depth > 0 {
        return Err("a bracket is not closed".into());
    }
    parts.push(text.get(from..).unwrap_or_default());
    Ok(parts)
}
