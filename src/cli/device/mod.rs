//! `clawdbot device`: says which devices may come in. The running daemon is asked, since it is what lets them in.

mod invitation;
mod qr;

use std::io::{self, IsTerminal};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::invitation::Shown;
use super::token::check_device_id;
use super::{Failure, GlobalFlags, With, ask_daemon, say};
use crate::admin::AdminRequest;

#[derive(Debug, Args)]
pub(super) struct DeviceFlags {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Wait for a device: shows a code, valid 10 minutes, that the device exchanges for its secret
    Pair(With<PairFlags>),
    /// List the devices
    List(With<ListFlags>),
    /// Say what is known of a device
    Show(With<NameFlags>),
    /// Shut a device out: its secret and its tokens are void, its connections end
    Revoke(With<NameFlags>),
    /// Give a device another display name; its topics keep its id
    Rename(With<RenameFlags>),
}

#[derive(Debug, Args)]
struct PairFlags {
    /// The device's id, which stands in its topics: one topic level, without + # / $, and not `bridge`
    name: String,
    /// The device is paired already, and another one, or the same one reset, takes its place
    #[arg(long)]
    again: bool,
    /// The name or address by which the device reaches this machine [default: what this machine is called]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Print no QR code
    #[arg(long)]
    no_qr: bool,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ListFlags {
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct NameFlags {
    /// The device's id
    name: String,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RenameFlags {
    /// The device's id
    name: String,
    /// Its display name from now on
    label: String,
}

pub(super) fn run(global: GlobalFlags, flags: DeviceFlags) -> Result<(), Failure> {
    match flags.action {
        Action::Pair(With { global: inner, flags }) => pair(&global.then(inner), &flags),
        Action::List(With { global: inner, flags }) => list(&global.then(inner), &flags),
        Action::Show(With { global: inner, flags }) => {
            let device = ask(&global.then(inner), "device-show", json!({"name": flags.name}))?;
            show(&device, flags.json)
        }
        Action::Revoke(With { global: inner, flags }) => {
            check_device_id(&flags.name)?;
            let device = ask(&global.then(inner), "device-revoke", json!({"name": flags.name}))?;
            show(&device, flags.json)
        }
        Action::Rename(With { global: inner, flags }) => {
            let arguments = json!({"name": flags.name, "label": flags.label});
            let device = ask(&global.then(inner), "device-rename", arguments)?;
            show(&device, false)
        }
    }
}

fn ask(global: &GlobalFlags, command: &str, arguments: Value) -> Result<Value, Failure> {
    let mut request = AdminRequest::new(command);
    if let Value::Object(arguments) = arguments {
        request.arguments = arguments;
    }
    ask_daemon(global, &request)
}

fn pair(global: &GlobalFlags, flags: &PairFlags) -> Result<(), Failure> {
    check_device_id(&flags.name)?;
    let mut answer = ask(
        global,
        "device-pair",
        json!({"name": flags.name, "again": flags.again}),
    )?;
    if let Some(host) = &flags.host {
        answer["invitation"]["host"] = json!(host);
    }
    let shown = Shown::read(&answer)?;
    if flags.json {
        answer["uri"] = json!(shown.uri());
        return say(answer);
    }
    if !flags.no_qr {
        let colours = io::stdout().is_terminal();
        say(qr::draw(&shown.uri(), colours).ok_or_else(|| {
            Failure::AtRunTime("what the device must know is too long for a QR code; add --no-qr".to_owned())
        })?)?;
    }
    say(shown.for_people())
}

fn list(global: &GlobalFlags, flags: &ListFlags) -> Result<(), Failure> {
    let answer = ask(global, "device-list", json!({}))?;
    if flags.json {
        return say(answer);
    }
    let empty = Vec::new();
    let devices = answer["devices"].as_array().unwrap_or(&empty);
    if devices.is_empty() {
        return say("no device yet; `clawdbot device pair NAME` waits for one");
    }
    say(table(devices))
}

/// A column for each of these, as wide as its widest cell.
fn table(devices: &[Value]) -> String {
    const COLUMNS: [&str; 5] = ["name", "label", "state", "connected", "last_seen"];
    let mut rows = vec![COLUMNS.map(|name| name.replace('_', " "))];
    rows.extend(
        devices
            .iter()
            .map(|device| COLUMNS.map(|name| cell(&device[name]))),
    );
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let lines = rows.iter().map(|row| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn show(device: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return say(device);
    }
    const FACTS: [&str; 8] = [
        "name",
        "label",
        "state",
        "connected",
        "created",
        "paired",
        "revoked",
        "last_seen",
    ];
    for fact in FACTS {
        say(format!("{:<10} {}", fact.replace('_', " "), cell(&device[fact])))?;
    }
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_stand_in_columns() {
        let devices = [
            json!({"name": "phone", "label": "Anna's phone", "state": "paired", "connected": true, "last_seen": null}),
            json!({"name": "kitchen-tablet", "label": null, "state": "revoked", "connected": false, "last_seen": "2026"}),
        ];
        assert_eq!(
            table(&devices),
            "name            label         state    connected  last seen\n\
             phone           Anna's phone  paired   yes        -\n\
             kitchen-tablet  -             revoked  no         2026"
        );
    }
}
