//! `clawdbot store export` and `import`: everything that is kept, from one machine to another.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::super::{Failure, say};
use super::Place;
use super::secret::{self, PassphraseFlag};
use super::wait::{self, Meter};
use crate::admin::{self, AdminError, AdminRequest};
use crate::store::{ArchiveContents, ArchiveError, ArchiveSecret, Progress, StillStore};

#[derive(Debug, Args)]
pub(super) struct ExportFlags {
    /// The archive to write; it must not be there yet
    file: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseFlag,
}

#[derive(Debug, Args)]
pub(super) struct ImportFlags {
    /// The archive to read
    file: PathBuf,
    /// File whose first line is the key that the export printed, only its owner's to read; - for the standard input
    #[arg(long, value_name = "PATH", required_unless_present = "passphrase_file")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseFlag,
}

pub(super) fn export(place: &Place, flags: &ExportFlags) -> Result<(), Failure> {
    let given = flags.passphrase.read()?;
    let secret = match given {
        Some(secret) => secret,
        None => ArchiveSecret::random().map_err(Failure::at_run_time)?,
    };
    let file = std::path::absolute(&flags.file).map_err(Failure::at_run_time)?;
    let mut request = AdminRequest::new("store-export");
    let (kind, text) = match &secret {
        ArchiveSecret::Passphrase(passphrase) => ("passphrase", passphrase.clone()),
        ArchiveSecret::Key(key) => ("key", secret::show(key)),
    };
    request.arguments.insert(kind.to_owned(), json!(text));
    request.arguments.insert("file".to_owned(), json!(file));
    let contents: ArchiveContents = match wait::job(&place.dir, &request) {
        Err(AdminError::NotRunning(_)) => {
            let _lock = admin::take_lock(&place.dir)?;
            let masters = place.masters()?;
            let progress = Arc::new(Progress::default());
            let _meter = Meter::watch(progress.clone());
            let store = StillStore::at(place.store.clone());
            let exported = store.export(&masters, &file, &secret, &progress);
            exported.map_err(|error| failed(&file, error))?
        }
        answer => {
            let contents = serde_json::from_value(answer?).map_err(|error| {
                Failure::AtRunTime(format!("the daemon is another version than this: {error}"))
            })?;
            wait::must_be_here(&file)?;
            contents
        }
    };
    say(told("exported to", &file, &contents))?;
    if let ArchiveSecret::Key(key) = &secret {
        say(format!(
            "key, shown this once, without which nothing opens it:\n{}",
            secret::show(key)
        ))?;
    }
    Ok(())
}

pub(super) fn import(place: &Place, flags: &ImportFlags) -> Result<(), Failure> {
    let secret = match (&flags.key_file, flags.passphrase.read()?) {
        (None, Some(secret)) => secret,
        (Some(file), None) => secret::read_key(file)?,
        _ => {
            return Err(Failure::Misconfigured(
                "give either --key-file or --passphrase-file, as the archive was made".to_owned(),
            ));
        }
    };
    let _lock = admin::take_lock(&place.dir)?;
    let masters = place.master_key.load_or_create(&place.store)?;
    let progress = Arc::new(Progress::default());
    let _meter = Meter::watch(progress.clone());
    let store = StillStore::at(place.store.clone());
    let imported = store.import(&masters, &flags.file, &secret, &progress);
    let contents = imported.map_err(|error| failed(&flags.file, error))?;
    say(told("imported from", &flags.file, &contents))
}

fn told(what: &str, file: &Path, contents: &ArchiveContents) -> String {
    let tables: Vec<String> = contents
        .values
        .iter()
        .map(|(table, count)| format!("{table} {count}"))
        .collect();
    let mut line = format!("{} values {what} {}", contents.total(), file.display());
    if !tables.is_empty() {
        line += &format!(": {}", tables.join(", "));
    }
    if contents.damaged > 0 {
        line += &format!("; {} damaged ones are not in it", contents.damaged);
    }
    line
}

/// An archive that cannot be used is a wrong invocation; a disk that fails is not.
fn failed(file: &Path, error: ArchiveError) -> Failure {
    let message = format!("{}: {error}", file.display());
    match error {
        ArchiveError::Io(_) | ArchiveError::Store(_) | ArchiveError::Stopped => Failure::AtRunTime(message),
        _ => Failure::Misconfigured(message),
    }
}
