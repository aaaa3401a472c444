//! `clawdbot service status`: what the system says of the service, and what the daemon says of itself.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::machine::Machine;
use super::manage::State;
use super::{Failure, GlobalFlags, Place, no_settings, say};
use crate::admin::{self, AdminRequest};
use crate::security::DataDir;

#[derive(Debug, Args)]
pub(super) struct StatusFlags {
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(global: &GlobalFlags, flags: &StatusFlags) -> Result<(), Failure> {
    no_settings(global)?;
    let machine = Machine::of(&flags.place);
    let text = machine.installed()?;
    let named = global.data_dir.as_ref().map(PathBuf::from);
    let written = text.as_deref().and_then(|text| machine.manager.data_dir_in(text));
    let data_dir = named
        .or(written)
        .unwrap_or(machine.manager.data_dir().to_path_buf());
    let state = match machine.runs {
        true => State::ask(machine.manager)?,
        false => State::default(),
    };
    let daemon = daemon(&machine, &data_dir);
    let report = json!({
        "installed": text.is_some(),
        "file": machine.at(machine.manager.file()),
        "enabled": text.is_some() && state.is_enabled,
        "running": state.is_running,
        "state": state.state,
        "pid": state.pid,
        "restarts": state.restarts,
        "since": state.since,
        "data_dir": data_dir,
        "daemon": daemon.as_ref().ok(),
    });
    if flags.json {
        say(&report)?;
    } else {
        say(for_people(&report, &daemon))?;
    }
    if text.is_none() {
        return Err(Failure::AtRunTime(
            "the service is not installed; `sudo clawdbot service install` installs it".to_owned(),
        ));
    }
    if !state.is_running {
        let hint =
            "`sudo clawdbot service install` starts it, `clawdbot doctor` says what may keep it from running";
        return Err(Failure::AtRunTime(format!("the service does not run; {hint}")));
    }
    Ok(())
}

/// What the daemon on this data directory says of itself, or why it says nothing.
fn daemon(machine: &Machine, data_dir: &std::path::Path) -> Result<Value, String> {
    let dir = DataDir::open(&machine.at(data_dir)).map_err(|error| error.to_string())?;
    let asked = super::super::block_on(async {
        let status = admin::ask(&dir, &AdminRequest::new("status")).await;
        status.map_err(Failure::at_run_time)
    });
    asked.map_err(|failure| match failure {
        Failure::AtRunTime(message) | Failure::Misconfigured(message) => message,
        Failure::Interrupted => "interrupted".to_owned(),
    })
}

fn for_people(report: &Value, daemon: &Result<Value, String>) -> String {
    let yes = |name: &str| match report[name].as_bool() {
        Some(true) => "yes",
        _ => "no",
    };
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let mut lines = vec![
        format!(
            "installed: {} ({})",
            yes("installed"),
            text(&report["file"]).unwrap_or_default()
        ),
        format!("enabled:   {}", yes("enabled")),
    ];
    let more = [
        ("state", ""),
        ("pid", "process "),
        ("since", "since "),
        ("restarts", "restarts: "),
    ];
    let more: Vec<String> = more
        .into_iter()
        .filter_map(|(name, before)| Some(format!("{before}{}", text(&report[name])?)))
        .collect();
    lines.push(match more.is_empty() {
        true => format!("running:   {}", yes("running")),
        false => format!("running:   {} ({})", yes("running"), more.join(", ")),
    });
    lines.push(format!(
        "data:      {}",
        text(&report["data_dir"]).unwrap_or_default()
    ));
    lines.push(match daemon {
        Ok(status) => format!(
            "daemon:    version {}, up for {} s, model {}",
            text(&status["version"]).unwrap_or_default(),
            status["uptime_s"],
            text(&status["inference"]["worker"]).unwrap_or_default(),
        ),
        Err(reason) => format!("daemon:    says nothing: {reason}"),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_what_is_known_and_nothing_of_what_is_not() {
        let report = json!({"installed": true, "file": "/f", "enabled": true, "running": true, "state": "active (running)",
            "pid": 12, "restarts": 1, "since": null, "data_dir": "/d"});
        let daemon = Ok(json!({"version": "0.1.0", "uptime_s": 5, "inference": {"worker": "ready"}}));
        assert_eq!(
            for_people(&report, &daemon),
            "installed: yes (/f)\nenabled:   yes\nrunning:   yes (active (running), process 12, restarts: 1)\ndata:      /d\n\
             daemon:    version 0.1.0, up for 5 s, model ready"
        );
        let nothing = json!({"installed": false, "file": "/f", "state": "", "data_dir": "/d"});
        let told = for_people(&nothing, &Err("no".to_owned()));
        assert!(
            told.contains("running:   no\n") && told.ends_with("says nothing: no"),
            "{told}"
        );
    }
}
