//! `clawdbot doctor`: everything that could keep it from working, tried for real: with a daemon, by asking it what its clients ask;
//! without one, by doing what it would do at its start. It writes a page of a file of its own, and asks as `clawdbot ask` does.

mod daemon;
mod machine;

use clap::Args;
use serde_json::Value;

use super::report::{Checked, Finding, Report};
use super::{Failure, GlobalFlags, block_on};
use crate::admin::{self, AdminError, AdminRequest};
use crate::security::{DataDir, DataDirError};
use crate::settings::Settings;

#[derive(Debug, Args)]
pub(super) struct DoctorFlags {
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// What is looked at.
struct Patient {
    settings: Settings,
    /// None where there is none yet, or it cannot be used.
    dir: Option<DataDir>,
    /// What the daemon says of itself; None where none runs.
    status: Option<Value>,
}

pub(super) fn run(global: &GlobalFlags, flags: DoctorFlags) -> Result<(), Failure> {
    let mut report = Report::default();
    match global.settings(Vec::new()) {
        Ok(settings) => {
            report.note_settings(&settings);
            examine(settings, &mut report)?;
        }
        Err(error) => report.note_wrong_settings(&error),
    }
    report.conclude(flags.json, "something keeps it from working; see above")
}

fn examine(settings: Settings, report: &mut Report) -> Result<(), Failure> {
    let (dir, checked) = data_dir(&settings);
    report.note("data_dir", checked);
    let mut trouble = None;
    let status = match &dir {
        Some(dir) => match block_on(async { Ok(admin::ask(dir, &AdminRequest::new("status")).await) })? {
            Ok(status) => Some(status),
            Err(AdminError::NotRunning(_)) => None,
            Err(error) => {
                trouble = Some(error);
                None
            }
        },
        None => None,
    };
    let patient = Patient {
        settings,
        dir,
        status,
    };
    type Check = fn(&Patient) -> Checked;
    let always: [(&str, Check); 7] = [
        ("keys", machine::keys),
        ("disk_space", machine::disk_space),
        ("disk_speed", machine::disk_speed),
        ("memory", machine::memory),
        ("clock", machine::clock),
        ("certificate", machine::certificate),
        ("backups", machine::backups),
    ];
    let without_daemon: [(&str, Check); 4] = [
        ("daemon", |_| {
            let hint = "`clawdbot serve` starts it; run doctor again then, and it asks a question";
            Err(Finding::info("no daemon runs on this data directory", hint))
        }),
        ("ports", machine::ports),
        ("store", machine::store),
        ("model", machine::model),
    ];
    let with_daemon: [(&str, Check); 8] = [
        ("daemon", daemon::runs),
        ("listeners", daemon::listeners),
        ("model", daemon::model),
        ("precision", daemon::precision),
        ("commands", daemon::commands),
        ("store", daemon::store),
        ("request", daemon::request),
        ("metrics", daemon::metrics),
    ];
    let further: &[(&str, Check)] = match (&patient.status, &trouble) {
        (Some(_), _) => &with_daemon,
        (None, None) => &without_daemon,
        // One that hangs has its ports, and takes no questions.
        (None, Some(_)) => &[],
    };
    if let Some(error) = trouble {
        let hint = "look into its log, and restart it if it hangs";
        report.note("daemon", Err(Finding::error(error.to_string(), hint)));
    }
    for (name, check) in always.iter().chain(further) {
        report.note(name, check(&patient));
    }
    Ok(())
}

fn data_dir(settings: &Settings) -> (Option<DataDir>, Checked) {
    let path = settings.data_dir.display();
    match DataDir::open(&settings.data_dir) {
        Ok(dir) => (Some(dir), Ok(format!("{path}"))),
        Err(error @ DataDirError::Missing(_)) => {
            let hint = "`clawdbot serve` makes it at its first start";
            (
                None,
                Err(Finding::info(error.to_string(), hint).about("data_dir")),
            )
        }
        Err(error) => {
            let hint = "give it back to the user who runs clawdbot, for nobody else to write (chmod 700), or set data_dir";
            (
                None,
                Err(Finding::misconfigured(error.to_string(), hint).about(path)),
            )
        }
    }
}
