//! `clawdbot backup create`: by the daemon where one runs, which has the store open.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use clap::Args;
use serde_json::json;

use super::super::store::Place;
use super::super::store::secret::PassphraseFlag;
use super::super::store::wait::{self, Meter};
use super::super::{Failure, GlobalFlags, say};
use super::{directory_of, has_store, tell_key, told, with_file};
use crate::admin::{self, AdminError, AdminRequest};
use crate::backup::{self, Made, Subject, Target, Values};
use crate::security::{DataDir, keys};
use crate::settings::Settings;
use crate::store::{ArchiveSecret, Progress, StillStore};

#[derive(Debug, Args)]
pub(super) struct CreateFlags {
    /// The file to write, which must not be there yet [default: one named by the time, in `backup.directory`]
    #[arg(conflicts_with = "directory")]
    file: Option<PathBuf>,
    /// The directory to write it to, in which `backup.keep` of them are kept
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseFlag,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(global: &GlobalFlags, flags: &CreateFlags) -> Result<(), Failure> {
    let settings = global.settings(Vec::new())?;
    let dir = DataDir::open(&settings.data_dir).map_err(Failure::misconfigured)?;
    dir.check_keys().map_err(Failure::misconfigured)?;
    if !dir.token_signing_key().exists() {
        let root = dir.root().to_path_buf();
        return Err(backup::BackupError::NothingThere(root).into());
    }
    let target = target_of(&settings, flags)?;
    let passphrase = flags.passphrase.read()?;
    let key = match &passphrase {
        Some(_) => None,
        None => Some(keys::load_or_create_backup_key(&dir)?.0),
    };
    let made = if has_store(&settings) {
        with_store(&settings, &dir, &target, passphrase, key)?
    } else {
        let (secret, progress) = (secret_of(passphrase, key)?, Progress::default());
        make(&settings, &dir, &Values::None, &secret, &target, &progress)?
    };
    if flags.json {
        say(json!(made))?;
    } else {
        say(told::made(&made))?;
    }
    if let Some(trouble) = &made.trouble {
        eprintln!("clawdbot: older backups were not removed: {trouble}");
    }
    match key.filter(|_| !flags.json && !backup::is_shown(&dir)) {
        Some(key) if io::stdout().is_terminal() => tell_key(&dir, &key),
        // It may be the log of a script, which is not the place for a key.
        Some(_) => {
            eprintln!(
                "clawdbot: nobody has seen the key of the backups, and it is printed here for a terminal only: run \
                 `clawdbot backup key show --data-dir {}` as the same user and write it down",
                dir.root().display()
            );
            Ok(())
        }
        None => Ok(()),
    }
}

/// By the daemon, or as it would.
fn with_store(
    settings: &Settings,
    dir: &DataDir,
    target: &Target,
    passphrase: Option<ArchiveSecret>,
    key: Option<[u8; crate::store::KEY_BYTES]>,
) -> Result<Made, Failure> {
    let mut request = AdminRequest::new("backup-create");
    let mut say_that = |name: &str, value| {
        request.arguments.insert(name.to_owned(), value);
    };
    match target {
        Target::File(file) => say_that("file", json!(file)),
        Target::Directory(directory, keep) => {
            say_that("directory", json!(directory));
            say_that("keep", json!(keep));
        }
    }
    if let Some(ArchiveSecret::Passphrase(passphrase)) = &passphrase {
        say_that("passphrase", json!(passphrase));
    }
    match wait::job(dir, &request) {
        Err(AdminError::NotRunning(_)) => {
            let place = Place::in_settings(settings)?;
            let _lock = admin::take_lock(dir)?;
            let masters = place.masters()?;
            let store = StillStore::at(place.store.clone());
            let values = Values::Still(&store, &masters);
            let progress = Arc::new(Progress::default());
            let _meter = Meter::watch(progress.clone());
            make(
                settings,
                dir,
                &values,
                &secret_of(passphrase, key)?,
                target,
                &progress,
            )
        }
        answer => {
            let made: Made = serde_json::from_value(answer?).map_err(|error| {
                Failure::AtRunTime(format!("the daemon is another version than this: {error}"))
            })?;
            wait::must_be_here(&made.file)?;
            Ok(made)
        }
    }
}

fn make(
    settings: &Settings,
    dir: &DataDir,
    values: &Values<'_>,
    secret: &ArchiveSecret,
    target: &Target,
    progress: &Progress,
) -> Result<Made, Failure> {
    let subject = Subject::of(settings, dir.clone());
    let made = backup::create(&subject, values, secret, target, SystemTime::now(), progress);
    made.map_err(|error| with_file(target.display())(error.into()))
}

fn secret_of(
    passphrase: Option<ArchiveSecret>,
    key: Option<[u8; crate::store::KEY_BYTES]>,
) -> Result<ArchiveSecret, Failure> {
    passphrase.or(key.map(ArchiveSecret::Key)).ok_or_else(|| {
        Failure::AtRunTime("there is neither a key nor a passphrase; please report this".to_owned())
    })
}

fn target_of(settings: &Settings, flags: &CreateFlags) -> Result<Target, Failure> {
    // The daemon, which writes it, runs somewhere else, and is told in JSON.
    let absolute = |path: &PathBuf| match path.to_str() {
        Some(path) => std::path::absolute(path).map_err(Failure::at_run_time),
        None => Err(Failure::Misconfigured(format!(
            "the path {} is not UTF-8; name another",
            path.display()
        ))),
    };
    let keep = settings.backup.keep;
    match (&flags.file, &flags.directory) {
        (Some(file), _) => Ok(Target::File(absolute(file)?)),
        (None, Some(directory)) => Ok(Target::Directory(absolute(directory)?, keep)),
        (None, None) => directory_of(settings)
            .map(|directory| Target::Directory(directory, keep))
            .map_err(|_| {
                Failure::Misconfigured(
                    "name the file to write, or a directory with --directory, or set backup.directory"
                        .to_owned(),
                )
            }),
    }
}
