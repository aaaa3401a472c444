//! `clawdbot backup verify` and `restore`: what is in a backup, and a data directory of it.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use clap::Args;
use serde_json::json;

use super::super::bar::size;
use super::super::store::secret::{self, PassphraseFlag};
use super::super::store::wait::Meter;
use super::super::{Failure, GlobalFlags, say};
use super::{has_store, told, with_file};
use crate::backup::{self, BackupError, Summary};
use crate::security::{DataDir, MasterKeyPlace, keys};
use crate::store::{ArchiveError, ArchiveSecret, Masters, Progress, StillStore, StorePlace};

#[derive(Debug, Args)]
pub(super) struct VerifyFlags {
    /// The backup to read
    file: PathBuf,
    /// File whose first line is the key of the backup, only its owner's to read [default: the key in the data directory]
    #[arg(long, value_name = "PATH", conflicts_with = "passphrase_file")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseFlag,
    /// Print what is in it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RestoreFlags {
    /// The backup to read; --data-dir says where its data directory goes
    file: PathBuf,
    /// File whose first line is the key of the backup, only its owner's to read; - for the standard input
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "passphrase_file",
        conflicts_with = "passphrase_file"
    )]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseFlag,
}

pub(super) fn verify(global: &GlobalFlags, flags: &VerifyFlags) -> Result<(), Failure> {
    let secret = match given(flags.key_file.as_deref(), &flags.passphrase)? {
        Some(secret) => secret,
        None => {
            let settings = global.settings(Vec::new())?;
            let dir = DataDir::open(&settings.data_dir).map_err(Failure::misconfigured)?;
            ArchiveSecret::Key(keys::load_backup_key(&dir)?)
        }
    };
    let opened = File::open(&flags.file).map_err(ArchiveError::from);
    let summary = opened
        .and_then(|file| backup::verify(BufReader::new(file), &secret, &Progress::default()))
        .map_err(|error| with_file(flags.file.display())(BackupError::from(error).into()))?;
    if flags.json {
        return say(json!(summary));
    }
    let head = &summary.head;
    say(format!(
        "{} is whole: made {} by Clawdbot {}, {}",
        flags.file.display(),
        told::when(head.made_at_unix_s, SystemTime::now()),
        head.version,
        told::contents(&summary)
    ))?;
    for member in &summary.members {
        say(format!(
            "  {}  {}  {:03o}",
            member.name,
            size(member.bytes as u64),
            member.mode
        ))?;
    }
    told::say_what_is_missing(&summary)
}

pub(super) fn restore(global: &GlobalFlags, flags: &RestoreFlags) -> Result<(), Failure> {
    let secret = given(flags.key_file.as_deref(), &flags.passphrase)?.ok_or_else(|| {
        Failure::Misconfigured(
            "give either --key-file or --passphrase-file, as the backup was made".to_owned(),
        )
    })?;
    let target = global.settings(Vec::new())?.data_dir;
    let progress = Arc::new(Progress::default());
    let meter = Meter::watch(progress.clone());
    let restored = backup::restore(&flags.file, &secret, &target, &progress, |staging| {
        store_of(global, staging)
    });
    drop(meter);
    let summary = restored.map_err(with_file(flags.file.display()))?;
    tell(&target, &summary)
}

/// Where the store goes, by the settings that count there from now on, those of the backup among them.
fn store_of(global: &GlobalFlags, staging: &DataDir) -> Result<Option<(StillStore, Masters)>, Failure> {
    let there = GlobalFlags {
        config: global.config.clone(),
        data_dir: Some(staging.root().display().to_string()),
        assignments: global.assignments.clone(),
    };
    let settings = there.settings(Vec::new()).map_err(|error| {
        Failure::Misconfigured(format!(
            "the settings that would be used there have faults; give others with --config or --set: {error}"
        ))
    })?;
    if !has_store(&settings) {
        return Ok(None);
    }
    let place = StorePlace::of(&settings.store, staging.store());
    let master_key = MasterKeyPlace::of(staging, settings.store.master_key.as_ref());
    let masters = master_key.load_or_create(&place)?;
    Ok(Some((StillStore::at(place), masters)))
}

fn tell(target: &Path, summary: &Summary) -> Result<(), Failure> {
    say(format!(
        "restored to {}: {}",
        target.display(),
        told::contents(summary)
    ))?;
    told::say_what_is_missing(summary)?;
    say(format!(
        "`clawdbot serve --data-dir '{}'` goes on with it",
        target.display()
    ))
}

fn given(key_file: Option<&Path>, passphrase: &PassphraseFlag) -> Result<Option<ArchiveSecret>, Failure> {
    match key_file {
        Some(file) => secret::read_key(file).map(Some),
        None => passphrase.read(),
    }
}
