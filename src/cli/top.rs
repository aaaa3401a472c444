//! `clawdbot top`: what runs at the moment, how fast, with how much memory, and how full the actors' mailboxes are.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::bar::size;
use super::model::aligned;
use super::{Failure, GlobalFlags, block_on, say, topics};
use crate::admin::{self, AdminRequest};
use crate::security::{DataDir, DataDirError};

#[derive(Debug, Args)]
pub(super) struct TopFlags {
    /// Show it once, measured over one interval, and end
    #[arg(long)]
    once: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// What was seen at one moment.
struct Look {
    at: Instant,
    status: Value,
    /// By the kind of actor.
    actors: BTreeMap<String, Actors>,
}

/// All actors of one kind that own topics.
#[derive(Clone, Copy, Default)]
struct Actors {
    count: u64,
    deepest: u64,
    bound: u64,
    messages: u64,
    rejected: u64,
}

/// The parts of the ledger that are the daemon's.
const OF_DAEMON: [&str; 5] = [
    "sessions_bytes",
    "retained_bytes",
    "queues_bytes",
    "store_cache_bytes",
    "other_of_daemon_bytes",
];

pub(super) fn run(global: &GlobalFlags, flags: TopFlags) -> Result<(), Failure> {
    let settings = global.settings(Vec::new())?;
    let dir = DataDir::open(&settings.data_dir).map_err(|error| match error {
        // No directory means that no daemon ever ran on it, which is no fault of the configuration.
        DataDirError::Missing(_) => Failure::at_run_time(error),
        _ => Failure::misconfigured(error),
    })?;
    let is_terminal = std::io::stdout().is_terminal();
    block_on(async {
        let mut before = look(&dir).await?;
        loop {
            tokio::time::sleep(Duration::from_secs(flags.interval)).await;
            let now = look(&dir).await?;
            if is_terminal && !flags.once {
                // Home, and nothing of what was there before.
                say("\x1b[H\x1b[2J")?;
            }
            say(shown(&before, &now))?;
            if flags.once {
                return Ok(());
            }
            before = now;
        }
    })
}

async fn look(dir: &DataDir) -> Result<Look, Failure> {
    let status = admin::ask(dir, &AdminRequest::new("status")).await;
    let status = status.map_err(Failure::at_run_time)?;
    let mut actors = BTreeMap::<String, Actors>::new();
    for row in topics::all(dir).await? {
        let kind = row["actor"].as_str().unwrap_or("?").to_owned();
        let of = actors.entry(kind).or_default();
        let number = |name: &str| row[name].as_u64().unwrap_or(0);
        of.count += number("actors");
        of.deepest = of.deepest.max(number("depth"));
        of.bound = of.bound.max(number("bound"));
        of.messages += number("messages_in");
        of.rejected += number("rejected");
    }
    Ok(Look {
        at: Instant::now(),
        status,
        actors,
    })
}

fn shown(before: &Look, now: &Look) -> String {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(1e-3);
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
    let status = &now.status;
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let (inference, memory) = (&status["inference"], &status["memory"]);
    let ledger = &memory["ledger"];
    let generated = |look: &Look| number(&look.status["inference"]["generated_tokens"]);
    let clients = number(&status["counters"]["clawdbot.mqtt.connections"]);
    let mut lines = vec![
        format!(
            "clawdbot {}  up {} s  {clients} clients",
            text(&status["version"]),
            number(&status["uptime_s"])
        ),
        format!(
            "inference  {}  {} at {}  {:.1} tokens/s  {} running, {} of them paused, {} waiting  {} processes lost",
            text(&inference["worker"]),
            text(&inference["model"]["name"]),
            text(&inference["model"]["precision"]),
            rate(generated(before), generated(now)),
            number(&inference["running"]),
            number(&inference["paused"]),
            number(&inference["waiting"]),
            number(&inference["workers_lost"]),
        ),
        format!(
            "memory     {} of {} to be had  weights {}, caches {} and {} kept, daemon {}, rest of the process {}, assistant {}",
            size(number(&memory["available_bytes"])),
            size(number(&memory["total_bytes"])),
            size(number(&ledger["weights_bytes"])),
            size(number(&ledger["kv_running_bytes"])),
            size(number(&ledger["kv_kept_bytes"])),
            size(OF_DAEMON.iter().map(|part| number(&ledger[*part])).sum()),
            size(number(&ledger["other_of_worker_bytes"])),
            size(number(&ledger["assistant_bytes"])),
        ),
        format!("           {}", text(&memory["verdict"])),
    ];
    if let Some(last) = memory["done"].as_array().and_then(|done| done.last()) {
        lines.push(format!(
            "           last: {}, {}",
            text(&last["action"]),
            text(&last["reason"])
        ));
    }
    lines.push(String::new());
    let mut rows = vec![
        [
            "ACTOR",
            "ACTORS",
            "DEEPEST MAILBOX",
            "OF",
            "MESSAGES/S",
            "REJECTED",
        ]
        .map(str::to_owned),
    ];
    for (kind, actors) in &now.actors {
        let was = before.actors.get(kind).copied().unwrap_or_default();
        rows.push([
            kind.clone(),
            actors.count.to_string(),
            actors.deepest.to_string(),
            actors.bound.to_string(),
            format!("{:.1}", rate(was.messages, actors.messages)),
            actors.rejected.to_string(),
        ]);
    }
    lines.extend(aligned(&rows));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_those_between_two_looks() {
        let look = |after: u64, tokens: u64, messages| Look {
            at: Instant::now() + Duration::from_secs(after),
            status: json!({
                "version": "1", "uptime_s": 9, "counters": {"clawdbot.mqtt.connections": 3},
                "inference": {"worker": "ready", "model": {"name": "m", "precision": "int8"}, "running": 2, "paused": 1,
                    "waiting": 4, "workers_lost": 5, "generated_tokens": tokens},
                "memory": {"verdict": "enough", "done": [{"action": "step_down", "reason": "short"}]},
            }),
            actors: BTreeMap::from([(
                "Conversation".to_owned(),
                Actors {
                    messages,
                    ..Actors::default()
                },
            )]),
        };
        let shown = shown(&look(0, 100, 10), &look(2, 300, 40));
        for part in [
            "m at int8  100.0 tokens/s  2 running, 1 of them paused, 4 waiting  5 processes lost",
            "last: step_down, short",
            "3 clients",
            "enough",
        ] {
            assert!(shown.contains(part), "{part:?} is missing in {shown}");
        }
        let row = shown
            .lines()
            .find(|line| line.starts_with("Conversation"))
            .unwrap();
        assert!(row.contains("15.0"), "{row}");
    }
}
