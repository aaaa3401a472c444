//! What a device was promised, and whether it got that.

use std::collections::BTreeMap;

use models::Precision;
use serde_json::Value;

use super::engine::{answer, command};
use super::world::World;

/// How a request may end beside its answer.
const KNOWN_ERRORS: [&str; 9] = [
    "queue_full",
    "overloaded",
    "expired",
    "deadline_unreachable",
    "dead_lettered",
    "precision_unavailable",
    "model_unavailable",
    "invalid_request",
    "cache_too_small",
];

/// A request as its device sees it.
#[derive(Default)]
pub(super) struct Asked {
    max_tokens: usize,
    /// Not to be answered with fewer bits.
    min_precision: Option<Precision>,
    /// The broker has it: it must end.
    pub(super) is_accepted: bool,
    /// The items of the present attempt.
    items: Vec<Value>,
    /// The daemon that was asked.
    life: u32,
    /// What it comes to was told on the topic of intents.
    is_told: bool,
    /// How it ended, the first time.
    pub(super) end: Option<String>,
}

/// All of a device's.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) asked: BTreeMap<String, Asked>,
    /// Whether items may be lost: it subscribes anew each time.
    pub(super) is_forgetful: bool,
}

impl Answers {
    pub(super) fn open(&self) -> impl Iterator<Item = &String> {
        let open = self.asked.iter().filter(|(_, asked)| asked.end.is_none());
        open.map(|(id, _)| id)
    }

    /// What must have ended and has not.
    pub(super) fn missing(&self) -> impl Iterator<Item = &String> {
        let of_this = self.asked.iter().filter(|_| !self.is_forgetful);
        let missing = of_this.filter(|(_, asked)| asked.is_accepted && asked.end.is_none());
        missing.map(|(id, _)| id)
    }

    /// Takes an event in: what was understood of a request.
    pub(super) fn hear(&mut self, event: &Value, world: &World) {
        let id = event["id"].as_str().unwrap_or_default();
        let is_what_was_said =
            command(id).is_some_and(|say| event["say"] == say) && event["actions"][0]["slots"]["name"] == id;
        match self.asked.get_mut(id) {
            Some(asked) if is_what_was_said => asked.is_told = true,
            _ => world.fault(format!("{event} is nobody's command")),
        }
    }

    /// Takes an item in. One that comes again must be the one that came.
    pub(super) fn take(&mut self, item: Value, world: &World) {
        let id = item["id"].as_str().unwrap_or_default().to_owned();
        let Some(asked) = self.asked.get_mut(&id) else {
            return world.fault(format!("{item} is nobody's"));
        };
        let seq = item["seq"].as_u64().and_then(|seq| usize::try_from(seq).ok());
        let Some(seq) = seq else {
            return world.fault(format!("{item} has no seq"));
        };
        let died = world.life() > asked.life;
        if seq == 0 && died && !asked.items.is_empty() && !self.is_forgetful {
            // A daemon died over it, or before the end of it was on its disk, and the next one begins anew; or its first
            // item comes again, and all others behind it.
            asked.items.clear();
        }
        let is_again = asked.items.get(seq).is_some_and(|known| *known == item);
        if is_again {
            return;
        }
        let is_complete = asked.items.last().is_some_and(|last| last["done"] == true);
        if !self.is_forgetful && (is_complete || seq != asked.items.len()) {
            let last = asked.items.last().map_or(Value::Null, Clone::clone);
            return world.fault(format!("{item} behind {last}"));
        }
        if item["done"] == true {
            let how = item["finish_reason"].as_str().unwrap_or_default();
            let code = item["error"]["code"].as_str().unwrap_or_default();
            let end = if how == "error" { code } else { how };
            let is_known = matches!(how, "stop" | "length" | "cancelled")
                || (how == "error" && KNOWN_ERRORS.contains(&code));
            if !is_known {
                world.fault(format!("{item} ends in none of the named ways"));
            }
            asked.end.get_or_insert_with(|| end.to_owned());
        }
        let precision = item["precision"]
            .as_str()
            .and_then(|name| name.parse::<Precision>().ok());
        let says = item["delta"].as_str().is_some_and(|delta| !delta.is_empty());
        // The better a precision, the smaller it is.
        if says
            && asked
                .min_precision
                .is_some_and(|least| precision.is_none_or(|found| found > least))
        {
            world.fault(format!("{item} has too few bits"));
        }
        let is_done_at_once = item["actions"].is_array();
        if is_done_at_once && !asked.is_told && !self.is_forgetful {
            world.fault(format!("{item} was told to nobody who acts on it"));
        }
        asked.items.push(item);
        asked.check_text(&id, self.is_forgetful, world);
    }
}

impl Asked {
    pub(super) fn of(max_tokens: usize, min_precision: Option<Precision>, life: u32) -> Self {
        Self {
            max_tokens,
            min_precision,
            life,
            ..Self::default()
        }
    }

    /// Nothing is missing of the text, nothing twice.
    fn check_text(&self, id: &str, is_forgetful: bool, world: &World) {
        if is_forgetful {
            return;
        }
        let said: String = self
            .items
            .iter()
            .filter_map(|item| item["delta"].as_str())
            .collect();
        let words = answer(id).take(self.max_tokens).map(|(_, word)| word);
        let mut whole: String = words.collect();
        // Either of two may answer a command, but no third.
        let last = self.items.last();
        let is_done_at_once = last.is_some_and(|item| item["actions"].is_array());
        if let Some(say) = command(id).filter(|say| is_done_at_once || *say == said) {
            whole = say;
        }
        let is_whole = self
            .items
            .last()
            .is_some_and(|item| matches!(item["finish_reason"].as_str(), Some("stop" | "length")));
        if !whole.starts_with(&said) || (is_whole && said != whole) {
            world.fault(format!("{id} was answered {said:?}, not {whole:?}"));
        }
    }
}
