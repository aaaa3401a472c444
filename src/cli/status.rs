//! `clawdbot status`: what the running daemon says about itself.

use clap::Args;
use serde_json::Value;

use super::{Failure, GlobalFlags, ask_daemon, say};
use crate::admin::AdminRequest;

#[derive(Debug, Args)]
pub(super) struct StatusFlags {
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(global: &GlobalFlags, flags: StatusFlags) -> Result<(), Failure> {
    let status = ask_daemon(global, &AdminRequest::new("status"))?;
    if flags.json {
        say(status)
    } else {
        say(for_people(&status, 0).trim_end())
    }
}

/// Names and values, inner objects indented: the daemon may say new things without this knowing.
fn for_people(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, member)| match member {
                Value::Object(inner) if !inner.is_empty() => {
                    format!("{indent}{name}:\n{}", for_people(member, depth + 1))
                }
                _ => format!("{indent}{name}: {}\n", scalar(member)),
            })
            .collect(),
        other => format!("{indent}{}\n", scalar(other)),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_get_names_and_values_with_inner_objects_indented() {
        let status = json!({"model": {"name": "x", "path": null}, "uptime_s": 3});
        assert_eq!(
            for_people(&status, 0),
            "model:\n  name: x\n  path: none\nuptime_s: 3\n"
        );
    }
}
