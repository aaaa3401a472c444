//! `clawdbot model rm NAME`.

use std::fs;

use clap::Args;

use super::Desk;
use crate::cli::bar::size;
use crate::cli::{Failure, say};
use crate::library::Staging;

#[derive(Debug, Args)]
pub(super) struct RemoveFlags {
    /// A name of `clawdbot model list`
    #[arg(value_name = "NAME")]
    model: String,
    /// Also the model that the configuration names
    #[arg(long)]
    force: bool,
}

pub(super) fn run(desk: &Desk, flags: &RemoveFlags) -> Result<(), Failure> {
    let entry = match desk.library.find(&flags.model) {
        Ok(entry) => entry,
        Err(error) => return remove_unfinished(desk, &flags.model).unwrap_or_else(|| Err(error.into())),
    };
    let configured = desk.settings.model.path.as_deref();
    if configured.is_some_and(|path| entry.is_at(path)) && !flags.force {
        return Err(Failure::Misconfigured(format!(
            "{} is the model that model.path names, and the daemon would not start without it; set another one first, or \
             write --force",
            entry.name
        )));
    }
    let mut bytes = entry.bytes();
    // The packed files are found by where the model is, so as long as it is there.
    let packed = models::kept_files(&entry.model, &desk.packed).map_err(Failure::at_run_time)?;
    desk.library.remove(&entry)?;
    for path in packed {
        bytes += fs::metadata(&path).map_or(0, |metadata| metadata.len());
        fs::remove_file(&path).map_err(Failure::at_run_time)?;
    }
    say(format!(
        "{} is removed, {} with what was packed of it",
        entry.name,
        size(bytes)
    ))
}

/// What an interrupted pull has left; none where there is nothing of that name.
fn remove_unfinished(desk: &Desk, named: &str) -> Option<Result<(), Failure>> {
    let (name, bytes) = desk
        .library
        .unfinished()
        .into_iter()
        .find(|(name, _)| name.to_string().eq_ignore_ascii_case(named))?;
    let removed = desk.library.stage(&name).and_then(Staging::abandon);
    Some(removed.map_err(Failure::from).and_then(|()| {
        say(format!(
            "{name} is removed, {} of what was not whole yet",
            size(bytes)
        ))
    }))
}
