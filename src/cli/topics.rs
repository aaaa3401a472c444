//! `clawdbot topics`: every bound topic with its actor and its mailbox.

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Failure, GlobalFlags, block_on, say};
use crate::admin::{self, AdminRequest};
use crate::security::{DataDir, DataDirError};

/// Rows of one answer, which is one line of the status socket.
const PAGE_ROWS: usize = 1000;

#[derive(Debug, Args)]
pub(super) struct TopicsFlags {
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// What a person is shown of a row; JSON has the rest.
#[derive(Deserialize)]
struct Row {
    topic: String,
    actor: String,
    actors: usize,
    depth: usize,
    bound: usize,
    messages_in: u64,
    rejected: u64,
    malformed: u64,
}

pub(super) fn run(global: &GlobalFlags, flags: TopicsFlags) -> Result<(), Failure> {
    let settings = global.settings(Vec::new())?;
    let dir = DataDir::open(&settings.data_dir).map_err(|error| match error {
        // No directory means that no daemon ever ran on it, which is no fault of the configuration.
        DataDirError::Missing(_) => Failure::at_run_time(error),
        _ => Failure::misconfigured(error),
    })?;
    let rows = block_on(all(&dir))?;
    if flags.json {
        let total = rows.len();
        return say(json!({"topics": rows, "total": total}));
    }
    let rows: Vec<Row> = serde_json::from_value(Value::Array(rows))
        .map_err(|error| Failure::AtRunTime(format!("the daemon is another version than this: {error}")))?;
    say(table(&rows).trim_end())
}

/// All pages. What is bound or let go between two of them may be missing.
pub(super) async fn all(dir: &DataDir) -> Result<Vec<Value>, Failure> {
    let mut rows = Vec::new();
    let mut request = AdminRequest::new("topics");
    request.arguments.insert("limit".to_owned(), json!(PAGE_ROWS));
    loop {
        let mut page = admin::ask(dir, &request).await.map_err(Failure::at_run_time)?;
        if let Some(Value::Array(more)) = page.get_mut("topics").map(Value::take) {
            rows.extend(more);
        }
        match page.get_mut("next").map(Value::take) {
            Some(next @ Value::String(_)) => request.arguments.insert("after".to_owned(), next),
            _ => return Ok(rows),
        };
    }
}

fn table(rows: &[Row]) -> String {
    let width = |of: fn(&Row) -> &str, least: usize| {
        let widths = rows.iter().map(|row| of(row).chars().count());
        widths.max().unwrap_or(0).max(least)
    };
    let (topic, actor) = (width(|row| &row.topic, 5), width(|row| &row.actor, 5));
    let head = format!(
        "{:topic$}  {:actor$}  actors  depth  bound         in  rejected  malformed\n",
        "topic", "actor"
    );
    let lines = rows.iter().map(|row| {
        format!(
            "{:topic$}  {:actor$}  {:>6}  {:>5}  {:>5}  {:>9}  {:>8}  {:>9}\n",
            row.topic,
            row.actor,
            row.actors,
            row.depth,
            row.bound,
            row.messages_in,
            row.rejected,
            row.malformed
        )
    });
    std::iter::once(head).chain(lines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_get_a_table_as_wide_as_its_longest_topic() {
        let row = |topic: &str, messages_in| Row {
            topic: topic.to_owned(),
            actor: "Thermostat".to_owned(),
            actors: 2,
            depth: 1,
            bound: 16,
            messages_in,
            rejected: 3,
            malformed: 4,
        };
        let table = table(&[row("clawdbot/{device_id}/telemetry", 12345), row("short", 7)]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{table}");
        assert!(
            lines[1].ends_with("2      1     16      12345         3          4"),
            "{table}"
        );
    }
}
