//! What is in a backup, in words.

use std::time::{SystemTime, UNIX_EPOCH};

use super::super::bar::size;
use super::super::{Failure, say};
use super::time;
use crate::backup::{Made, Summary};

const HOUR_S: u64 = 3600;
const DAY_S: u64 = 24 * HOUR_S;

/// When it was made, and how long ago.
pub(super) fn when(made_at_unix_s: u64, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let age = match now.checked_sub(made_at_unix_s) {
        None => "in the future: is the clock right?".to_owned(),
        Some(age @ ..HOUR_S) => format!("{} minutes ago", age / 60),
        Some(age @ HOUR_S..DAY_S) => format!("{} hours ago", age / HOUR_S),
        Some(age) => format!("{} days ago", age / DAY_S),
    };
    format!("{} ({age})", time(made_at_unix_s))
}

/// One line of a backup that was made.
pub(super) fn made(made: &Made) -> String {
    let mut line = format!(
        "backup {} ({}): {}",
        made.file.display(),
        size(made.bytes),
        contents(&made.summary)
    );
    if made.removed > 0 {
        line += &format!("; {} older removed", made.removed);
    }
    line
}

/// How much of what.
pub(super) fn contents(summary: &Summary) -> String {
    let files = summary.members.len();
    let Some(store) = &summary.store else {
        return format!("{files} files, and no store");
    };
    let tables: Vec<String> = store
        .values
        .iter()
        .map(|(table, count)| format!("{table} {count}"))
        .collect();
    let mut text = format!("{files} files, {} values", store.total());
    if !tables.is_empty() {
        text += &format!(" ({})", tables.join(", "));
    }
    if store.damaged > 0 {
        text += &format!("; {} damaged ones are not in it", store.damaged);
    }
    text
}

/// What must be brought again, and from where.
pub(super) fn say_what_is_missing(summary: &Summary) -> Result<(), Failure> {
    for model in &summary.head.models {
        let name = &model.name;
        match &model.source {
            Some(_) => say(format!(
                "model {name} is not in it: `clawdbot model pull {name}` brings it"
            ))?,
            None => say(format!(
                "model {name} is not in it and was imported: `clawdbot model import PATH` takes it from where it is"
            ))?,
        }
    }
    for path in &summary.head.outside {
        say(format!("{path}, which the settings name, is not in it"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ages_are_told_in_the_unit_that_suits_them() {
        let made = 1_795_854_600;
        for (age, words) in [
            (59, "0 minutes ago"),
            (3599, "59 minutes ago"),
            (3600, "1 hours ago"),
            (DAY_S, "1 days ago"),
            (400 * DAY_S, "400 days ago"),
        ] {
            let told = when(made, UNIX_EPOCH + Duration::from_secs(made + age));
            assert_eq!(told, format!("2026-11-28T08:30:00Z ({words})"));
        }
        assert!(when(made, UNIX_EPOCH).contains("is the clock right"));
    }
}
