//! Sentences drawn from patterns.

use super::around::{self, Clause};
use super::chance::Chance;
use super::noise::{Segment, disturbed, joined, tidy};
use super::patterns::{Capture, Entry, Pattern, Patterns, Piece, Source};
use super::{Example, Language, numbers, open, say};
use models::assistant::actions::{Action, SlotValue};
use models::assistant::intents::{self, Kind, UNSUPPORTED};

/// Draws sentences of one language, for ever.
#[derive(Debug)]
pub struct Sampler<'p> {
    patterns: &'p Patterns,
    language: Language,
    chance: Chance,
    /// By the place of a list its name, looked up for every capture.
    names: Vec<String>,
}

/// How often an intent is drawn, beside the others.
fn weight(intent: &str) -> u32 {
    match intent {
        UNSUPPORTED => 70,
        "HassTurnOn" | "HassTurnOff" => 16,
        "HassLightSet" => 15,
        "HassClimateSetTemperature" | "HassGetState" | "HassSetPosition" => 10,
        "HassStartTimer" | "HassListAddItem" => 8,
        "HassSetVolume" | "HassSetVolumeRelative" | "HassShoppingListAddItem" | "HassGetWeather" => 6,
        "HassClimateGetTemperature" | "HassFanSetSpeed" | "HassBroadcast" => 5,
        "HassCancelAllTimers" | "ClawdbotThanks" | "HassGetCurrentDate" | "HassGetCurrentTime" => 2,
        _ => 4,
    }
}

/// What nobody says in one breath with something else, or not before it.
fn stands_alone(intent: &str, is_last: bool) -> bool {
    matches!(intent, UNSUPPORTED | "HassNevermind")
        || intent.starts_with("Clawdbot")
        || intent == "HassBroadcast" && !is_last
}

/// Whether it has words of any kind.
fn has_text(action: &Action) -> bool {
    ["message", "item", "conversation_command"]
        .iter()
        .any(|slot| action.slots.get(slot).is_some())
}

fn ends_in_text(segments: &[Segment], actions: &[Action]) -> bool {
    let last = segments.iter().rfind(|segment| !segment.text.trim().is_empty());
    actions.last().is_some_and(has_text) && last.is_none_or(|segment| segment.is_span)
}

impl<'p> Sampler<'p> {
    /// From this seed.
    pub fn new(patterns: &'p Patterns, language: Language, seed: u64) -> Self {
        Self {
            patterns,
            language,
            chance: Chance::new(seed),
            names: (0..patterns.lists.len())
                .map(|place| patterns.list_name(place).unwrap_or_default().to_owned())
                .collect(),
        }
    }

    /// One of this intent, as it is written in the patterns; none where there is no pattern.
    pub fn plain(&mut self, intent: &str) -> Option<Example> {
        let (segments, actions) = self.sentence(|name| u32::from(name == intent))?;
        Some(self.finished(&segments, actions))
    }

    /// The next one.
    pub fn next_example(&mut self) -> Option<Example> {
        let (mut segments, actions) = match self.chance.below(100) {
            0..18 => self.several()?,
            18..24 => self.conditional()?,
            _ => self.sentence(weight)?,
        };
        let has_lead = self.give_reasons(&mut segments, &actions);
        let segments = disturbed(segments, &actions, has_lead, self.language, &mut self.chance);
        Some(self.finished(&segments, actions))
    }

    fn finished(&mut self, segments: &[Segment], mut actions: Vec<Action>) -> Example {
        actions.iter_mut().for_each(Action::put_in_order);
        let text: String = segments.iter().map(|segment| segment.text.as_str()).collect();
        Example {
            text: tidy(&text),
            say: say::to(&actions, self.patterns, self.language),
            actions,
        }
    }

    /// With why it is said, now and then; whether that stands in front.
    fn give_reasons(&mut self, segments: &mut Vec<Segment>, actions: &[Action]) -> bool {
        if !around::has_reasons(actions) {
            return false;
        }
        let mut has_lead = false;
        if let Some(action) = actions.first().filter(|_| self.chance.percent(11))
            && let Some(text) = self.clause("lead", around::kind(action))
        {
            let clause = Clause {
                text,
                is_condition: false,
                is_behind: false,
            };
            clause.put(segments, self.language, &mut self.chance);
            has_lead = true;
        }
        // Behind a text it could be part of the text.
        if let Some(action) = actions.last().filter(|action| !has_text(action)) {
            let clause = match self.chance.percent(7) {
                true => self.clause("trail", around::kind(action)),
                false => None,
            };
            if let Some(text) = clause {
                let clause = Clause {
                    text,
                    is_condition: false,
                    is_behind: true,
                };
                clause.put(segments, self.language, &mut self.chance);
            }
        }
        has_lead
    }

    fn clause(&mut self, list: &str, kind: &str) -> Option<String> {
        let kind = if self.chance.percent(60) { kind } else { "" };
        let place = self.patterns.list_place(&format!("{list}{kind}"))?;
        self.drawn_from(place).map(|(said, _)| said)
    }

    /// A command on a condition, at a time of the clock, again and again, or for so long: out of reach, all of them.
    fn conditional(&mut self) -> Option<(Vec<Segment>, Vec<Action>)> {
        let is_behind = self.chance.percent(50);
        let of_these = |intent: &str| {
            if around::takes_condition(intent, is_behind) {
                weight(intent)
            } else {
                0
            }
        };
        let (mut segments, _) = self.sentence(of_these)?;
        let list = if is_behind {
            "condition_after"
        } else {
            "condition_before"
        };
        if let Some(text) = self.clause(list, "") {
            let clause = Clause {
                text,
                is_condition: true,
                is_behind,
            };
            clause.put(&mut segments, self.language, &mut self.chance);
            return Some((segments, vec![Action::unsupported()]));
        }
        // A language without such clauses.
        self.sentence(weight)
    }

    /// Two or three sentences in one.
    fn several(&mut self) -> Option<(Vec<Segment>, Vec<Action>)> {
        let count = if self.chance.percent(62) { 2 } else { 3 };
        let out_of_reach = self.chance.percent(7).then(|| self.chance.below(count));
        let (mut parts, mut actions) = (Vec::new(), Vec::new());
        for number in 0..count {
            let is_last = number + 1 == count;
            let of_these = |intent: &str| match (out_of_reach == Some(number), stands_alone(intent, is_last))
            {
                (true, _) => u32::from(intent == UNSUPPORTED),
                (false, true) => 0,
                (false, false) => weight(intent),
            };
            let (mut segments, mut meant) = self.sentence(of_these)?;
            // Behind a text, what follows would be part of the text.
            let mut again = 8;
            while !is_last && ends_in_text(&segments, &meant) {
                again -= 1;
                if again == 0 {
                    return None;
                }
                (segments, meant) = self.sentence(of_these)?;
            }
            parts.push(segments);
            actions.extend(meant);
        }
        if out_of_reach.is_some() {
            // Nothing is done by halves.
            actions = vec![Action::unsupported()];
        }
        actions.truncate(intents::MAX_ACTIONS);
        Some((joined(parts, self.language, &mut self.chance), actions))
    }

    fn sentence(&mut self, weight: impl Fn(&str) -> u32) -> Option<(Vec<Segment>, Vec<Action>)> {
        let (_, patterns) = self
            .chance
            .pick_weighted(&self.patterns.patterns, |(intent, _)| weight(intent))?;
        let pattern: &Pattern = self.chance.pick_weighted(patterns, |pattern| pattern.weight)?;
        let mut actions: Vec<Action> = pattern
            .actions
            .iter()
            .map(|(intent, _)| Action::new(intent))
            .collect();
        for (action, (_, slots)) in actions.iter_mut().zip(&pattern.actions) {
            slots
                .iter()
                .for_each(|(slot, value)| action.slots.set(slot, value.clone()));
        }
        let mut segments = Vec::new();
        self.expand(&pattern.pieces, &mut segments, &mut actions);
        Some((segments, actions))
    }

    fn expand(&mut self, pieces: &'p [Piece], segments: &mut Vec<Segment>, actions: &mut [Action]) {
        for piece in pieces {
            match piece {
                Piece::Words(words) => segments.push(Segment::words(words)),
                Piece::Choice { optional: true, .. } if self.chance.percent(50) => {}
                Piece::Choice { alternatives, .. } => {
                    if let Some(pieces) = self.chance.pick(alternatives) {
                        self.expand(pieces, segments, actions);
                    }
                }
                Piece::Rule(rule) => {
                    if let Some(entry) = self.entry(self.patterns.rules.get(*rule)) {
                        self.expand(&entry.pieces, segments, actions);
                    }
                }
                Piece::Capture(capture) => self.capture(capture, segments, actions),
            }
        }
    }

    fn entry(&mut self, entries: Option<&'p Vec<Entry>>) -> Option<&'p Entry> {
        self.chance.pick_weighted(entries?, |entry| entry.weight)
    }

    /// What is said, and what is meant by it.
    fn drawn_from(&mut self, list: usize) -> Option<(String, String)> {
        let entry = self.entry(self.patterns.lists.get(list))?;
        let mut segments = Vec::new();
        self.expand(&entry.pieces, &mut segments, &mut []);
        let said: String = segments.iter().map(|segment| segment.text.as_str()).collect();
        let said = tidy(&said);
        let value = entry.value.clone().unwrap_or_else(|| said.clone());
        Some((said, value))
    }

    fn capture(&mut self, capture: &Capture, segments: &mut Vec<Segment>, actions: &mut [Action]) {
        let Some(action) = actions.get_mut(capture.action) else {
            return;
        };
        let (language, chance) = (self.language, &mut self.chance);
        let slots = &mut action.slots;
        let mut is_known = capture.slot == "area";
        let said = match capture.source {
            Source::Percent { negative } => {
                let (said, value) = numbers::percent(language, chance);
                slots.set(
                    &capture.slot,
                    SlotValue::from(if negative { -value } else { value }),
                );
                said
            }
            Source::Celsius => {
                let (said, value, half) = numbers::celsius(language, chance);
                let exact = serde_json::Number::from_f64(value as f64 + 0.5).filter(|_| half);
                slots.set(
                    &capture.slot,
                    exact.map_or_else(|| SlotValue::from(value), SlotValue::Number),
                );
                said
            }
            Source::Fahrenheit => {
                let value = chance.between(55, 90);
                slots.set(&capture.slot, SlotValue::from(value));
                numbers::spoken(value, language, chance)
            }
            Source::Small => {
                let value = chance.between(1, 30);
                slots.set(&capture.slot, SlotValue::from(value));
                numbers::spoken(value, language, chance)
            }
            Source::Duration { before_noun } => {
                let duration = numbers::duration(language, before_noun, chance);
                let prefix = if before_noun { "start_" } else { "" };
                let parts = [
                    ("hours", duration.hours),
                    ("minutes", duration.minutes),
                    ("seconds", duration.seconds),
                ];
                for (unit, value) in parts {
                    if let Some(value) = value {
                        slots.set(&format!("{prefix}{unit}"), SlotValue::from(value));
                    }
                }
                duration.said
            }
            Source::List(list) => {
                let mut drawn = self.drawn_from(list);
                // Nobody names the same room twice in one breath.
                for _ in 0..3 {
                    let is_again = |action: &Action| match (&drawn, action.slots.get(&capture.slot)) {
                        (Some((_, value)), Some(SlotValue::Text(other))) => value == other,
                        _ => false,
                    };
                    if !actions.iter().take(capture.action).any(is_again) {
                        break;
                    }
                    drawn = self.drawn_from(list);
                }
                let Some((mut said, mut value)) = drawn else {
                    return;
                };
                is_known |= matches!(capture.slot.as_str(), "name" | "floor");
                let intent = actions.get(capture.action).map(|action| action.intent.clone());
                if let Some(other) = self.out_of_open_vocabulary(intent.as_deref(), &capture.slot, list) {
                    // "in the kitchen", which means kitchen, keeps what stands before it.
                    if let Some(before) = said.strip_suffix(&value) {
                        is_known = false;
                        said = format!("{before}{other}");
                        value = other;
                    }
                }
                let is_text = matches!(intents::kind(&capture.slot), Some(Kind::Span | Kind::Word(_)));
                let number = value.parse().ok().filter(|_| !is_text);
                let value = number.map_or_else(|| SlotValue::Text(value), SlotValue::Number);
                if let Some(action) = actions.get_mut(capture.action) {
                    action.slots.set(&capture.slot, value);
                }
                said
            }
        };
        segments.push(Segment::span(&said, is_known));
    }

    /// A span that the pattern's own list does not have, now and then.
    fn out_of_open_vocabulary(&mut self, intent: Option<&str>, slot: &str, list: usize) -> Option<String> {
        let intent = intent?;
        let share = if slot == "area" { 12 } else { 30 };
        if !self.chance.percent(share) {
            return None;
        }
        if slot == "conversation_command" {
            return self.command();
        }
        let more = open::list_for(intent, slot, self.names.get(list)?)?;
        let place = self.patterns.list_place(more)?;
        let (one, _) = self.drawn_from(place)?;
        let is_text = matches!(slot, "message" | "area");
        match self.chance.below(100) {
            0..20 if !is_text => {
                let (other, _) = self.drawn_from(place)?;
                Some(open::crossed(&one, &other, self.language))
            }
            20..32 if !is_text => Some(match self.language {
                Language::English => open::made_up(&mut self.chance),
                Language::Chinese => {
                    let (other, _) = self.drawn_from(place)?;
                    open::made_up_characters(&[one, other], &mut self.chance)
                }
            })
            .filter(|word| !word.is_empty()),
            _ => Some(one),
        }
    }

    /// What can be done later.
    fn command(&mut self) -> Option<String> {
        let of_these = |intent: &str| match intent {
            "HassTurnOn" | "HassTurnOff" => 6,
            "HassLightSet" | "HassClimateSetTemperature" | "HassSetPosition" | "HassMediaPause" => 2,
            "HassSetVolume" | "HassVacuumStart" | "HassVacuumReturnToBase" | "HassMediaUnpause" => 1,
            _ => 0,
        };
        let (segments, actions) = self.sentence(of_these)?;
        let text: String = segments.iter().map(|segment| segment.text.as_str()).collect();
        // A sentence of several, or of several clauses, says more than one command.
        let is_one = actions.len() == 1 && !text.contains([',', '，', '.', '。', '?', '？']);
        is_one.then(|| tidy(&text))
    }
}
