//! Actions, as the assistant gives them: compared, checked and written in one form.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::intents::{self, Kind};

/// What stands in a slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SlotValue {
    /// A number.
    Number(serde_json::Number),
    /// Text.
    Text(String),
}

impl PartialEq for SlotValue {
    /// 21 and 21.0 are the same.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => one.as_f64() == other.as_f64(),
            (Self::Text(one), Self::Text(other)) => one == other,
            _ => false,
        }
    }
}

impl From<i64> for SlotValue {
    fn from(number: i64) -> Self {
        Self::Number(number.into())
    }
}

impl From<&str> for SlotValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl fmt::Display for SlotValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// The slots of an action, in the order of its intent.
#[derive(Clone, Debug, Default)]
pub struct Slots(Vec<(String, SlotValue)>);

impl Slots {
    /// What stands in a slot.
    pub fn get(&self, slot: &str) -> Option<&SlotValue> {
        self.0
            .iter()
            .find(|(name, _)| name == slot)
            .map(|(_, value)| value)
    }

    /// Puts something into a slot, in the place of what was there.
    pub fn set(&mut self, slot: &str, value: SlotValue) {
        match self.0.iter_mut().find(|(name, _)| name == slot) {
            Some((_, old)) => *old = value,
            None => self.0.push((slot.to_owned(), value)),
        }
    }

    /// Each slot and what stands in it.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SlotValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for Slots {
    /// Their order means nothing.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(name, value)| other.get(name) == Some(value))
    }
}

impl Serialize for Slots {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Slots {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Slots;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of slots")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Slots, A::Error> {
                let mut slots = Slots::default();
                while let Some((name, value)) = map.next_entry::<String, SlotValue>()? {
                    slots.set(&name, value);
                }
                Ok(slots)
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

/// One thing to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// What.
    pub intent: String,
    /// To what, and how.
    pub slots: Slots,
}

impl Action {
    /// With no slots yet.
    pub fn new(intent: &str) -> Self {
        Self {
            intent: intent.to_owned(),
            slots: Slots::default(),
        }
    }

    /// What is out of reach.
    pub fn unsupported() -> Self {
        Self::new(intents::UNSUPPORTED)
    }

    /// Brings the slots into the order of the intent, in which they are written.
    pub fn put_in_order(&mut self) {
        let order = intents::intent(&self.intent).map_or(&[][..], |intent| intent.slots);
        let place = |name: &str| order.iter().position(|slot| *slot == name).unwrap_or(usize::MAX);
        self.slots.0.sort_by_key(|(name, _)| place(name));
    }

    /// What is wrong with it, if something is.
    pub fn problem(&self) -> Option<String> {
        let Some(intent) = intents::intent(&self.intent) else {
            return Some(format!("there is no intent {:?}", self.intent));
        };
        self.slots.iter().find_map(|(name, value)| {
            if !intent.slots.contains(&name) {
                return Some(format!("{} has no slot {name:?}", intent.name));
            }
            let is_right = intents::kind(name).is_some_and(|kind| fits(kind, value));
            (!is_right).then(|| format!("{value} is nothing for {name} of {}", intent.name))
        })
    }
}

fn fits(kind: Kind, value: &SlotValue) -> bool {
    match (kind, value) {
        (Kind::Span, SlotValue::Text(text)) => !text.is_empty(),
        (Kind::Word(words), SlotValue::Text(text)) => words.contains(&text.as_str()),
        (Kind::Integer(least, most), SlotValue::Number(number)) => number
            .as_i64()
            .is_some_and(|number| (least..=most).contains(&number)),
        (Kind::Number | Kind::Step, SlotValue::Number(_)) => true,
        (Kind::Step, SlotValue::Text(text)) => matches!(text.as_str(), "up" | "down"),
        _ => false,
    }
}

/// What the assistant answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What is to be done, in the order of the sentence; at least one.
    pub actions: Vec<Action>,
    /// What is said to it.
    pub say: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(json: &str) -> Action {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_order_of_slots_and_the_form_of_numbers_mean_nothing() {
        let one =
            action(r#"{"intent":"HassClimateSetTemperature","slots":{"temperature":21,"area":"hall"}}"#);
        let mut other =
            action(r#"{"intent":"HassClimateSetTemperature","slots":{"area":"hall","temperature":21.0}}"#);
        assert_eq!(one, other);
        other.slots.set("area", "attic".into());
        assert_ne!(one, other);
    }

    #[test]
    fn slots_are_written_in_the_order_of_their_intent() {
        let mut action = action(r#"{"intent":"HassTurnOn","slots":{"domain":"light","area":"hall"}}"#);
        action.put_in_order();
        let json = serde_json::to_string(&action).unwrap();
        assert_eq!(
            json,
            r#"{"intent":"HassTurnOn","slots":{"area":"hall","domain":"light"}}"#
        );
    }

    #[test]
    fn what_does_not_fit_is_found() {
        let problem = |json| action(json).problem();
        assert_eq!(
            problem(r#"{"intent":"HassTurnOn","slots":{"domain":"light"}}"#),
            None
        );
        assert!(problem(r#"{"intent":"HassTurnOn","slots":{"domain":"lamp"}}"#).is_some());
        assert!(problem(r#"{"intent":"HassTurnOn","slots":{"item":"eggs"}}"#).is_some());
        assert!(problem(r#"{"intent":"HassLightSet","slots":{"brightness":300}}"#).is_some());
        assert!(problem(r#"{"intent":"HassLightSet","slots":{"brightness_step":"sideways"}}"#).is_some());
        assert!(problem(r#"{"intent":"Dance","slots":{}}"#).is_some());
    }
}
