//! Spans that no list of a pattern has: from the lists of open vocabulary, put together of two, or made up. Names that people give to
//! things have no end, and a model that knows a list by heart writes what it knows instead of what was said.

use super::Language;
use super::chance::Chance;

/// The list of open vocabulary whose entries can stand in a slot of an intent, where a pattern draws from `list`.
pub(super) fn list_for(intent: &str, slot: &str, list: &str) -> Option<&'static str> {
    // What is not in simplified characters, or is a room and a thing in one, is not exchanged for what is something else.
    if list.starts_with("t_") || list.contains("room_") {
        return None;
    }
    let has = |parts: &[&str]| parts.iter().any(|part| list.contains(part));
    Some(match (slot, intent) {
        ("item", "HassShoppingListAddItem") => "more_item",
        ("item", _) => "more_todo",
        ("message", _) => "more_message",
        ("area", _) if !has(&["outdoor", "outside", "out"]) => "more_room",
        ("name", "HassListAddItem") => "more_list_name",
        ("name", "HassGetWeather") => "more_place",
        ("name", intent) if intent.contains("Timer") => "more_timer_name",
        ("name", intent) if intent.contains("Vacuum") => "more_robot",
        ("name", "HassFanSetSpeed") => "more_fan",
        ("name", intent) if intent.contains("Media") || intent.contains("Volume") => "more_player",
        ("name", _) if has(&["light", "lamp"]) => "more_light",
        ("name", _) if has(&["fan"]) => "more_fan",
        ("name", _) if has(&["cover"]) => "more_cover",
        ("name", _) if list == "scene" => "more_scene",
        ("name", _) if has(&["appliance", "thing", "device", "machine", "_dev"]) => "more_device",
        _ => return None,
    })
}

/// A made-up one, of the halves of two.
pub(super) fn crossed(one: &str, other: &str, language: Language) -> String {
    match language {
        Language::English => {
            let (first, second): (Vec<&str>, Vec<&str>) = (
                one.split_whitespace().collect(),
                other.split_whitespace().collect(),
            );
            let begin = first.get(..first.len().div_ceil(2)).unwrap_or_default();
            let end = second.get(second.len() / 2..).unwrap_or_default();
            [begin, end].concat().join(" ")
        }
        Language::Chinese => {
            let (first, second): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
            // A foreign word is not cut.
            if !first.iter().chain(&second).all(|c| *c as u32 >= 0x2E80) {
                return one.to_owned();
            }
            let begin = first.get(..first.len().div_ceil(2)).unwrap_or_default();
            let end = second.get(second.len() / 2..).unwrap_or_default();
            begin.iter().chain(end).collect()
        }
    }
}

/// A word that nobody knows.
pub(super) fn made_up(chance: &mut Chance) -> String {
    const BEGINNINGS: &[&str] = &[
        "b", "br", "c", "ch", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p",
        "pr", "qu", "r", "s", "sh", "sk", "st", "t", "th", "tr", "v", "w", "y", "z", "",
    ];
    const MIDDLES: &[&str] = &["a", "e", "i", "o", "u", "ai", "ee", "oo", "ou", "ea", "y", "ie"];
    const ENDS: &[&str] = &[
        "", "", "n", "r", "l", "s", "t", "m", "ck", "nd", "x", "sh", "ng", "ble", "p",
    ];
    let syllables = 2 + chance.below(2);
    let mut word = String::new();
    for number in 0..syllables {
        for parts in [BEGINNINGS, MIDDLES] {
            word.push_str(chance.pick(parts).copied().unwrap_or_default());
        }
        if number + 1 == syllables || chance.percent(25) {
            word.push_str(chance.pick(ENDS).copied().unwrap_or_default());
        }
    }
    word
}

/// Characters in an order that nobody knows.
pub(super) fn made_up_characters(from: &[String], chance: &mut Chance) -> String {
    let length = 2 + chance.below(2);
    let mut word = String::new();
    for _ in 0..length {
        let characters: Vec<char> = chance
            .pick(from)
            .map(|entry| entry.chars().collect())
            .unwrap_or_default();
        word.extend(chance.pick(&characters).filter(|c| **c as u32 >= 0x2E80));
    }
    word
}
