//! What is said to actions: by intent and by which slots are there.

use super::Language;
use super::patterns::{Patterns, Piece, Say};
use models::assistant::actions::Action;
use models::assistant::intents::UNSUPPORTED;
use models::assistant::refusal;

/// To all of them.
pub(super) fn to(actions: &[Action], patterns: &Patterns, language: Language) -> String {
    match (actions, language) {
        ([one], _) if one.intent == UNSUPPORTED => refusal(language == Language::Chinese).to_owned(),
        ([one], _) => to_one(one, patterns),
        ([one, other], Language::English) => format!("{} {}", to_one(one, patterns), to_one(other, patterns)),
        ([one, other], Language::Chinese) => format!("{}{}", to_one(one, patterns), to_one(other, patterns)),
        (_, Language::English) => "All done.".to_owned(),
        (_, Language::Chinese) => "都办好了。".to_owned(),
    }
}

fn to_one(action: &Action, patterns: &Patterns) -> String {
    let holds = |(slot, wanted): &(String, Option<String>)| {
        let found = action.slots.get(slot);
        found.is_some_and(|found| wanted.as_ref().is_none_or(|wanted| found.to_string() == *wanted))
    };
    let fits = |say: &&Say| say.intent == action.intent && say.slots.iter().all(holds);
    let Some(say) = patterns.says.iter().find(fits) else {
        return String::new();
    };
    let mut text = say.text.clone();
    for (slot, value) in action.slots.iter() {
        let (value, hole) = (value.to_string(), format!("{{{slot}}}"));
        if text.contains(&hole) {
            // Not "the emma's lamp".
            if value.contains("'s ") {
                text = text.replace(&format!("the {hole}"), &hole);
            }
            text = text.replace(&hole, &translated(patterns, slot, value));
        }
    }
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => text,
    }
}

/// Words of a closed list are English in both languages; this is how they are said.
fn translated(patterns: &Patterns, slot: &str, value: String) -> String {
    let list = patterns.list(&format!("say_{slot}")).unwrap_or_default();
    let said = list.iter().find_map(|entry| match entry.pieces.as_slice() {
        [Piece::Words(words)] if *words == value => entry.value.clone(),
        _ => None,
    });
    said.unwrap_or(value)
}
