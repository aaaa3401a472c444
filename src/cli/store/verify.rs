//! `clawdbot store verify`: reads everything, and says what is damaged.

use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::super::{Failure, say};
use super::Place;
use super::wait::{self, Meter};
use crate::admin::{self, AdminError, AdminRequest};
use crate::store::{Progress, Report, StillStore};

#[derive(Debug, Args)]
pub(super) struct VerifyFlags {
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
    /// Let go of what was set aside because it is damaged, after it was told; a daemon must run
    #[arg(long)]
    forget: bool,
}

pub(super) fn run(place: &Place, flags: &VerifyFlags) -> Result<(), Failure> {
    let mut request = AdminRequest::new("store-verify");
    request.arguments.insert("forget".to_owned(), json!(flags.forget));
    let report = match wait::job(&place.dir, &request) {
        Err(AdminError::NotRunning(_)) if flags.forget => {
            return Err(Failure::Misconfigured(
                "--forget needs a daemon that runs; start one with `clawdbot serve`".to_owned(),
            ));
        }
        Err(AdminError::NotRunning(_)) => check_file(place)?,
        answer => serde_json::from_value(answer?).map_err(|error| {
            Failure::AtRunTime(format!("the daemon is another version than this: {error}"))
        })?,
    };
    if flags.json {
        let mut value = serde_json::to_value(&report).unwrap_or(Value::Null);
        value["sound"] = json!(report.is_sound());
        say(value)?;
    } else {
        say(&report)?;
    }
    if report.is_sound() {
        return Ok(());
    }
    Err(Failure::AtRunTime(format!(
        "the store {} is damaged; check the disk",
        place.store
    )))
}

fn check_file(place: &Place) -> Result<Report, Failure> {
    let _lock = admin::take_lock(&place.dir)?;
    let masters = place.masters()?;
    let progress = Arc::new(Progress::default());
    let meter = Meter::watch(progress.clone());
    let report = StillStore::at(place.store.clone()).check(&masters, &progress);
    drop(meter);
    Ok(report?)
}
