//! How well sentences are understood, beside what people wrote that they mean.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::actions::Action;
use super::intents::UNSUPPORTED;

/// A sentence with what it means, as a line of a test set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Labelled {
    /// The sentence.
    pub text: String,
    /// What it means.
    pub actions: Vec<Action>,
}

impl Labelled {
    /// Whether it is nothing that could be done.
    pub fn is_out_of_reach(&self) -> bool {
        is_out_of_reach(&self.actions)
    }
}

fn is_out_of_reach(actions: &[Action]) -> bool {
    actions.iter().any(|action| action.intent == UNSUPPORTED)
}

/// Reads a test set: a JSON object a line.
///
/// # Errors
/// The number of the first line that is not understood, and why.
pub fn read(lines: &str) -> Result<Vec<Labelled>, String> {
    let numbered = (1..)
        .zip(lines.lines())
        .filter(|(_, line)| !line.trim().is_empty());
    let parsed = numbered.map(|(number, line)| {
        let labelled: Labelled =
            serde_json::from_str(line).map_err(|error| format!("line {number}: {error}"))?;
        let problem = labelled.actions.iter().find_map(Action::problem);
        match problem {
            Some(problem) => Err(format!("line {number}: {problem}")),
            None if labelled.actions.is_empty() => Err(format!("line {number}: it has no action")),
            None => Ok(labelled),
        }
    });
    parsed.collect()
}

/// Sums over a test set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Scores {
    /// Sentences that mean something that can be done.
    pub commands: usize,
    /// Of these, those of which every intent was right, in their order.
    pub intents_right: usize,
    /// Of these, those of which every slot was right as well.
    pub all_right: usize,
    /// Sentences that are out of reach.
    pub out_of_reach: usize,
    /// Of these, those that were taken for commands.
    pub accepted: usize,
    /// Answers that were none.
    pub unreadable: usize,
    /// What was meant, what was understood, and how often; only where they differ.
    pub confusions: BTreeMap<String, BTreeMap<String, usize>>,
}

impl Scores {
    /// Counts a sentence. `understood` is None where the answer could not be read.
    pub fn count(&mut self, meant: &Labelled, understood: Option<&[Action]>) {
        let intents = |actions: &[Action]| {
            let names: Vec<&str> = actions.iter().map(|action| action.intent.as_str()).collect();
            names.join(" + ")
        };
        let (wanted, found) = (intents(&meant.actions), understood.map(intents));
        self.unreadable += usize::from(found.is_none());
        if meant.is_out_of_reach() {
            self.out_of_reach += 1;
            self.accepted += usize::from(!understood.is_some_and(is_out_of_reach));
        } else {
            self.commands += 1;
            self.intents_right += usize::from(found.as_ref() == Some(&wanted));
            self.all_right += usize::from(understood == Some(meant.actions.as_slice()));
        }
        let found = found.unwrap_or_else(|| "nothing readable".to_owned());
        if found != wanted {
            *self
                .confusions
                .entry(wanted)
                .or_default()
                .entry(found)
                .or_default() += 1;
        }
    }

    /// The most frequent confusions: what was meant, what was understood, how often.
    pub fn worst(&self, count: usize) -> Vec<(&str, &str, usize)> {
        let each = self.confusions.iter().flat_map(|(meant, found)| {
            found
                .iter()
                .map(move |(found, times)| (meant.as_str(), found.as_str(), *times))
        });
        let mut all: Vec<_> = each.collect();
        all.sort_by_key(|(_, _, times)| std::cmp::Reverse(*times));
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = r#"
{"text": "kitchen lights on", "actions": [{"intent": "HassTurnOn", "slots": {"area": "kitchen", "domain": "light"}}]}
{"text": "sing", "actions": [{"intent": "unsupported", "slots": {}}]}
"#;

    #[test]
    fn intents_slots_and_what_is_out_of_reach_are_counted_apart() {
        let set = read(SET).unwrap();
        let mut scores = Scores::default();
        scores.count(&set[0], Some(&set[0].actions));
        let mut without_slots = Action::new("HassTurnOn");
        scores.count(&set[0], Some(std::slice::from_ref(&without_slots)));
        without_slots.intent = "HassTurnOff".into();
        scores.count(&set[0], Some(std::slice::from_ref(&without_slots)));
        scores.count(&set[0], None);
        scores.count(&set[1], Some(&set[1].actions));
        scores.count(&set[1], Some(&set[0].actions));
        assert_eq!(
            (scores.commands, scores.intents_right, scores.all_right),
            (4, 2, 1)
        );
        assert_eq!(
            (scores.out_of_reach, scores.accepted, scores.unreadable),
            (2, 1, 1)
        );
        assert_eq!(scores.worst(1).len(), 1);
        assert_eq!(scores.confusions["HassTurnOn"]["HassTurnOff"], 1);
    }

    #[test]
    fn a_line_that_means_nothing_known_is_named() {
        let error = read(&SET.replace("HassTurnOn", "HassDance")).unwrap_err();
        assert!(
            error.starts_with("line 2") && error.contains("HassDance"),
            "{error}"
        );
        assert!(read(r#"{"text": "x", "actions": []}"#).is_err());
    }

    /// The test sets of the repository are what their guide says.
    #[test]
    fn the_committed_test_sets_are_of_known_intents_and_slots() {
        for language in ["en", "zh", "en-dev", "zh-dev"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(format!("../tests/assistant/{language}.jsonl"));
            let set = read(&std::fs::read_to_string(path).unwrap()).unwrap();
            assert!(set.len() >= 500, "{language}: {}", set.len());
            let mut texts: Vec<&str> = set.iter().map(|labelled| labelled.text.as_str()).collect();
            texts.sort_unstable();
            texts.dedup();
            assert_eq!(
                texts.len(),
                set.len(),
                "{language}: a sentence stands there twice"
            );
        }
    }
}
