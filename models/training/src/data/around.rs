//! What stands around a command: why it is given, which changes nothing of it, or on which condition, which puts it out of reach.
//! The clauses are lists of the pattern files (`@lead`, `@trail`, `@condition_before`, …).

use models::assistant::actions::{Action, SlotValue};
use models::assistant::intents::UNSUPPORTED;

use super::Language;
use super::chance::Chance;
use super::noise::Segment;

/// Which reasons fit an action, by the ending of a list's name; "" where only such as fit any.
pub(super) fn kind(action: &Action) -> &'static str {
    let text = |slot: &str| action.slots.get(slot).map(SlotValue::to_string);
    let rises = |slot: &str| text(slot).is_some_and(|step| !(step == "down" || step.starts_with('-')));
    let domain = text("domain").unwrap_or_default();
    match (action.intent.as_str(), domain.as_str()) {
        ("HassTurnOn", "light") => "_light_on",
        ("HassTurnOff", "light") => "_light_off",
        ("HassTurnOn", "cover") => "_cover_open",
        ("HassTurnOff", "cover") => "_cover_close",
        ("HassLightSet", _) if text("brightness_step").is_some() => match rises("brightness_step") {
            true => "_light_on",
            false => "_light_off",
        },
        ("HassClimateSetTemperature", _) if text("temperature_step").is_some() => {
            match rises("temperature_step") {
                true => "_climate_up",
                false => "_climate_down",
            }
        }
        ("HassSetVolumeRelative", _) => match rises("volume_step") {
            true => "_media_loud",
            false => "_media_quiet",
        },
        ("HassMediaPause" | "HassMediaPlayerMute", _) => "_media_pause",
        ("HassVacuumStart", _) => "_vacuum",
        ("HassShoppingListAddItem" | "HassListAddItem", _) => "_list",
        ("HassStartTimer", _) => "_timer",
        ("HassGetWeather", _) => "_weather",
        _ => "",
    }
}

/// Whether somebody gives reasons with it.
pub(super) fn has_reasons(actions: &[Action]) -> bool {
    let is_talk = |action: &Action| action.intent.starts_with("Clawdbot") || action.intent == "HassNevermind";
    !actions.iter().any(is_talk)
}

/// Whether a condition puts it out of reach, before it and behind it. A day belongs to a question for the weather, and a message
/// or a list's entry may contain any words.
pub(super) fn takes_condition(intent: &str, behind: bool) -> bool {
    let has_text = matches!(
        intent,
        "HassBroadcast" | "HassListAddItem" | "HassShoppingListAddItem"
    );
    let asks =
        intent.starts_with("HassGet") || intent == "HassClimateGetTemperature" || intent.contains("Timer");
    let talks = intent.starts_with("Clawdbot") || intent == "HassNevermind" || intent == UNSUPPORTED;
    !(asks || talks || behind && has_text)
}

/// A clause that stands beside a command.
pub(super) struct Clause {
    pub(super) text: String,
    /// Else it only says why.
    pub(super) is_condition: bool,
    /// Else before.
    pub(super) is_behind: bool,
}

impl Clause {
    /// With these words.
    pub(super) fn put(self, segments: &mut Vec<Segment>, language: Language, chance: &mut Chance) {
        let joint = chance.pick(self.joints(language)).copied().unwrap_or(" ");
        let (clause, joint) = (Segment::words(&self.text), Segment::words(joint));
        if self.is_behind {
            segments.extend([joint, clause]);
        } else {
            segments.splice(0..0, [clause, joint]);
        }
    }

    fn joints(&self, language: Language) -> &'static [&'static str] {
        match (language, self.is_behind, self.is_condition) {
            (Language::English, false, true) => &[", ", ", ", " "],
            (Language::English, false, false) => &[
                ", ",
                ", ",
                ", ",
                ", so ",
                " so ",
                " ",
                ". ",
                " - ",
                ", please ",
                ", can you ",
                " and ",
            ],
            (Language::English, true, true) => &[" ", " ", " ", ", "],
            (Language::English, true, false) => &[
                ", ",
                ", ",
                ", ",
                " because ",
                ", because ",
                ", cos ",
                ". ",
                " ",
                " - ",
                " since ",
                ", you know ",
            ],
            (Language::Chinese, false, true) => &["", "", "", "，", " "],
            (Language::Chinese, false, false) => &[
                "，",
                "，",
                "，",
                "，",
                "，",
                "，",
                "。",
                " ",
                "，请",
                "，帮我",
                "，快",
                "",
            ],
            (Language::Chinese, true, true) => &["，", "，", "，", "，", " ", "。", ""],
            (Language::Chinese, true, false) => &["，", "，", "，", "，", " ", "。", "，因为", ""],
        }
    }
}
