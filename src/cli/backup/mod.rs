//! `clawdbot backup`: everything that another machine needs to go on as this one did, in one sealed file.

mod create;
mod restore;
mod told;

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};

use super::bar::size;
use super::store::secret;
use super::{Failure, GlobalFlags, With, say};
use crate::backup::{self, BackupError};
use crate::security::certificates::utc;
use crate::security::{DataDir, keys};
use crate::settings::{BrokerMode, Settings, StoreMode};

#[derive(Debug, Args)]
pub(super) struct BackupFlags {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a backup, also while the daemon runs; the first one without a passphrase makes a key, and prints it on a terminal
    Create(With<create::CreateFlags>),
    /// Open all of a backup, check it, and list what is in it
    Verify(With<restore::VerifyFlags>),
    /// Make a data directory of a backup, in one that is empty or not there yet
    Restore(With<restore::RestoreFlags>),
    /// List the backups in `backup.directory`
    List(With<ListFlags>),
    /// Make the key that seals backups, where there is none, and print it
    Init(With<NoFlags>),
    /// The key that seals backups
    Key(With<KeyFlags>),
}

#[derive(Debug, Args)]
struct NoFlags {}

#[derive(Debug, Args)]
struct ListFlags {
    /// List another directory
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct KeyFlags {
    #[command(subcommand)]
    action: KeyAction,
}

#[derive(Debug, Subcommand)]
enum KeyAction {
    /// Print it, to be written down
    Show(With<NoFlags>),
}

pub(super) fn run(global: GlobalFlags, flags: BackupFlags) -> Result<(), Failure> {
    match flags.action {
        Action::Create(With { global: inner, flags }) => create::run(&global.then(inner), &flags),
        Action::Verify(With { global: inner, flags }) => restore::verify(&global.then(inner), &flags),
        Action::Restore(With { global: inner, flags }) => restore::restore(&global.then(inner), &flags),
        Action::List(With { global: inner, flags }) => list(&global.then(inner), &flags),
        Action::Init(With { global: inner, .. }) => init(&global.then(inner)),
        Action::Key(With { global: outer, flags }) => {
            let KeyAction::Show(With { global: inner, .. }) = flags.action;
            show_key(&global.then(outer).then(inner))
        }
    }
}

fn list(global: &GlobalFlags, flags: &ListFlags) -> Result<(), Failure> {
    let directory = match &flags.directory {
        Some(directory) => directory.clone(),
        None => directory_of(&global.settings(Vec::new())?)?,
    };
    let listed = backup::list(&directory)?;
    if flags.json {
        return say(serde_json::to_value(&listed).map_err(Failure::at_run_time)?);
    }
    if listed.is_empty() {
        return say(format!("there are no backups in {}", directory.display()));
    }
    for one in listed {
        let name = one.file.file_name().unwrap_or_default().display().to_string();
        let when = told::when(one.made_at_unix_s, SystemTime::now());
        say(format!("{name}  {when}  {}", size(one.bytes)))?;
    }
    Ok(())
}

fn init(global: &GlobalFlags) -> Result<(), Failure> {
    let settings = global.settings(Vec::new())?;
    let dir = DataDir::prepare(&settings.data_dir).map_err(Failure::misconfigured)?;
    let (key, is_new) = keys::load_or_create_backup_key(&dir)?;
    if !is_new && backup::is_shown(&dir) {
        return say("there is a key already; `clawdbot backup key show` prints it");
    }
    tell_key(&dir, &key)
}

fn show_key(global: &GlobalFlags) -> Result<(), Failure> {
    let settings = global.settings(Vec::new())?;
    let dir = DataDir::open(&settings.data_dir).map_err(Failure::misconfigured)?;
    let key = keys::load_backup_key(&dir)?;
    say(secret::show(&key))?;
    Ok(backup::note_shown(&dir)?)
}

/// Once by itself; later whoever may read its file can ask for it.
fn tell_key(dir: &DataDir, key: &[u8]) -> Result<(), Failure> {
    say(format!(
        "the key that backups of this hub are sealed under. Write it down and keep it elsewhere: without it nothing opens them \
         once this disk is gone (`clawdbot backup key show` prints it again)\n{}",
        secret::show(key)
    ))?;
    Ok(backup::note_shown(dir)?)
}

fn directory_of(settings: &Settings) -> Result<PathBuf, Failure> {
    settings.backup.directory.clone().ok_or_else(|| {
        Failure::Misconfigured(
            "backup.directory is empty; set it, or name a directory with --directory".to_owned(),
        )
    })
}

/// Whether a daemon with these settings keeps anything.
fn has_store(settings: &Settings) -> bool {
    settings.store.mode != StoreMode::None && settings.broker.mode == BrokerMode::Embedded
}

fn time(unix_s: u64) -> String {
    utc(UNIX_EPOCH + std::time::Duration::from_secs(unix_s))
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Failure {
        if error.is_misuse() {
            Failure::misconfigured(error)
        } else {
            Failure::at_run_time(error)
        }
    }
}

/// What went wrong with a backup's file.
fn with_file(file: impl std::fmt::Display) -> impl FnOnce(Failure) -> Failure {
    move |failure| match failure {
        Failure::AtRunTime(message) => Failure::AtRunTime(format!("{file}: {message}")),
        Failure::Misconfigured(message) => Failure::Misconfigured(format!("{file}: {message}")),
        Failure::Interrupted => Failure::Interrupted,
    }
}
