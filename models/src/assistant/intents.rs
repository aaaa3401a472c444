//! What can be meant: intents, their slots, and what may stand in these. `models/embedded/INTENTS.md` says which sentence means
//! what. Names are Home Assistant's (developers.home-assistant.io, "Built-in intents"), and ours.

use serde_json::{Value, json};

/// Something that can be meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// As it stands in an action.
    pub name: &'static str,
    /// What may come with it, in the order in which it is written.
    pub slots: &'static [&'static str],
}

/// What is out of reach.
pub const UNSUPPORTED: &str = "unsupported";

const WHERE: &[&str] = &["name", "area", "floor", "domain", "device_class"];
const PLAYER: &[&str] = &["name", "area"];
const TIMER: &[&str] = &["name", "start_hours", "start_minutes", "start_seconds", "area"];

/// All intents.
pub const INTENTS: &[Intent] = &[
    Intent {
        name: "HassTurnOn",
        slots: WHERE,
    },
    Intent {
        name: "HassTurnOff",
        slots: WHERE,
    },
    Intent {
        name: "HassToggle",
        slots: WHERE,
    },
    Intent {
        name: "HassGetState",
        slots: &["name", "area", "floor", "domain", "device_class", "state"],
    },
    Intent {
        name: "HassLightSet",
        slots: &["name", "area", "floor", "brightness", "brightness_step", "color"],
    },
    Intent {
        name: "HassClimateSetTemperature",
        slots: &[
            "name",
            "area",
            "floor",
            "temperature",
            "temperature_unit",
            "temperature_step",
        ],
    },
    Intent {
        name: "HassClimateGetTemperature",
        slots: &["name", "area", "floor"],
    },
    Intent {
        name: "HassSetPosition",
        slots: &["name", "area", "floor", "domain", "device_class", "position"],
    },
    Intent {
        name: "HassFanSetSpeed",
        slots: &["name", "area", "percentage"],
    },
    Intent {
        name: "HassSetVolume",
        slots: &["name", "area", "volume_level"],
    },
    Intent {
        name: "HassSetVolumeRelative",
        slots: &["name", "area", "volume_step"],
    },
    Intent {
        name: "HassMediaPause",
        slots: PLAYER,
    },
    Intent {
        name: "HassMediaUnpause",
        slots: PLAYER,
    },
    Intent {
        name: "HassMediaNext",
        slots: PLAYER,
    },
    Intent {
        name: "HassMediaPrevious",
        slots: PLAYER,
    },
    Intent {
        name: "HassMediaPlayerMute",
        slots: PLAYER,
    },
    Intent {
        name: "HassMediaPlayerUnmute",
        slots: PLAYER,
    },
    Intent {
        name: "HassStartTimer",
        slots: &["hours", "minutes", "seconds", "name", "conversation_command"],
    },
    Intent {
        name: "HassCancelTimer",
        slots: TIMER,
    },
    Intent {
        name: "HassPauseTimer",
        slots: TIMER,
    },
    Intent {
        name: "HassUnpauseTimer",
        slots: TIMER,
    },
    Intent {
        name: "HassTimerStatus",
        slots: TIMER,
    },
    Intent {
        name: "HassIncreaseTimer",
        slots: &["hours", "minutes", "seconds", "name"],
    },
    Intent {
        name: "HassDecreaseTimer",
        slots: &["hours", "minutes", "seconds", "name"],
    },
    Intent {
        name: "HassCancelAllTimers",
        slots: &[],
    },
    Intent {
        name: "HassShoppingListAddItem",
        slots: &["item"],
    },
    Intent {
        name: "HassListAddItem",
        slots: &["item", "name"],
    },
    Intent {
        name: "HassVacuumStart",
        slots: PLAYER,
    },
    Intent {
        name: "HassVacuumReturnToBase",
        slots: PLAYER,
    },
    Intent {
        name: "HassGetWeather",
        slots: &["name", "day"],
    },
    Intent {
        name: "HassGetCurrentTime",
        slots: &[],
    },
    Intent {
        name: "HassGetCurrentDate",
        slots: &[],
    },
    Intent {
        name: "HassNevermind",
        slots: &[],
    },
    Intent {
        name: "HassBroadcast",
        slots: &["message"],
    },
    Intent {
        name: "ClawdbotStatus",
        slots: &[],
    },
    Intent {
        name: "ClawdbotHelp",
        slots: &[],
    },
    Intent {
        name: "ClawdbotGreeting",
        slots: &[],
    },
    Intent {
        name: "ClawdbotThanks",
        slots: &[],
    },
    Intent {
        name: UNSUPPORTED,
        slots: &[],
    },
];

/// The intent of this name.
pub fn intent(name: &str) -> Option<&'static Intent> {
    INTENTS.iter().find(|intent| intent.name == name)
}

/// What may stand in a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Words of the sentence.
    Span,
    /// One of these.
    Word(&'static [&'static str]),
    /// A whole number in these bounds.
    Integer(i64, i64),
    /// A number.
    Number,
    /// "up", "down", or a number with a sign.
    Step,
}

/// What may stand in the slot of this name; none where there is no such slot.
pub fn kind(slot: &str) -> Option<Kind> {
    Some(match slot {
        "name" | "area" | "floor" | "item" | "message" | "conversation_command" => Kind::Span,
        "domain" => Kind::Word(&["light", "fan", "switch", "lock", "cover", "scene"]),
        "device_class" => Kind::Word(&[
            "blind", "curtain", "shade", "shutter", "awning", "garage", "gate", "window", "door",
        ]),
        "state" => Kind::Word(&["on", "off", "open", "closed", "locked", "unlocked"]),
        "temperature_unit" => Kind::Word(&["celsius", "fahrenheit"]),
        "day" => Kind::Word(&[
            "today",
            "tonight",
            "tomorrow",
            "day after tomorrow",
            "weekend",
            "monday",
            "tuesday",
            "wednesday",
            "thursday",
            "friday",
            "saturday",
            "sunday",
        ]),
        "color" => Kind::Word(&[
            "red",
            "orange",
            "yellow",
            "green",
            "blue",
            "purple",
            "pink",
            "white",
            "cyan",
            "magenta",
            "turquoise",
            "brown",
            "warm white",
            "cool white",
            "daylight",
        ]),
        "brightness" => Kind::Integer(1, 100),
        "position" | "percentage" | "volume_level" => Kind::Integer(0, 100),
        "hours" | "minutes" | "seconds" | "start_hours" | "start_minutes" | "start_seconds" => {
            Kind::Integer(0, 999)
        }
        "temperature" => Kind::Number,
        "brightness_step" | "volume_step" | "temperature_step" => Kind::Step,
        _ => return None,
    })
}

/// The most actions of one sentence.
pub const MAX_ACTIONS: usize = 6;
/// The longest text in a slot, in characters.
const MAX_SPAN: usize = 80;
/// The longest sentence that is said, in characters.
const MAX_SAY: usize = 160;

/// The form of an answer, as a JSON schema: whatever is answered is one of it.
pub fn schema() -> Value {
    let actions: Vec<Value> = INTENTS.iter().map(action_schema).collect();
    json!({
        "type": "object",
        "properties": {
            "actions": {"type": "array", "items": {"anyOf": actions}, "minItems": 1, "maxItems": MAX_ACTIONS},
            "say": {"type": "string", "maxLength": MAX_SAY},
        },
        "required": ["actions", "say"],
        "additionalProperties": false,
    })
}

fn action_schema(intent: &Intent) -> Value {
    let slots: serde_json::Map<String, Value> = intent
        .slots
        .iter()
        .filter_map(|slot| Some(((*slot).to_owned(), slot_schema(kind(slot)?))))
        .collect();
    json!({
        "type": "object",
        "properties": {
            "intent": {"const": intent.name},
            "slots": {"type": "object", "properties": slots, "additionalProperties": false},
        },
        "required": ["intent", "slots"],
        "additionalProperties": false,
    })
}

fn slot_schema(kind: Kind) -> Value {
    match kind {
        Kind::Span => json!({"type": "string", "minLength": 1, "maxLength": MAX_SPAN}),
        Kind::Word(words) => json!({"enum": words}),
        Kind::Integer(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Kind::Number => json!({"type": "number", "minimum": -99, "maximum": 999}),
        Kind::Step => json!({"anyOf": [
            {"enum": ["up", "down"]}, {"type": "number", "minimum": -100, "maximum": 100},
        ]}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_of_every_intent_has_a_kind_and_no_intent_stands_there_twice() {
        for (at, intent) in INTENTS.iter().enumerate() {
            assert!(intent.slots.iter().all(|slot| kind(slot).is_some()), "{intent:?}");
            assert!(
                INTENTS[..at].iter().all(|other| other.name != intent.name),
                "{intent:?}"
            );
        }
    }
}
