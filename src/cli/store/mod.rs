//! `clawdbot store`: looks after what outlives the daemon, by the daemon where one runs.

mod export;
pub(super) mod secret;
mod verify;
pub(super) mod wait;

use clap::{Args, Subcommand};

use super::{Failure, GlobalFlags, With, say};
use crate::admin::{self, AdminError};
use crate::security::{DataDir, KeyError, MasterKeyPlace};
use crate::settings::{Settings, StoreMode};
use crate::store::{Masters, StillStore, StoreError, StorePlace};

#[derive(Debug, Args)]
pub(super) struct StoreFlags {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read everything that is kept, and say what is damaged: exit code 1 if something is
    Verify(With<verify::VerifyFlags>),
    /// Write everything that is kept to an archive, sealed under a key that is printed once, or a passphrase
    Export(With<export::ExportFlags>),
    /// Make a store of an archive, where there is none or an empty one; no daemon may run
    Import(With<export::ImportFlags>),
    /// Give the disk back what the file does not need any more; no daemon may run, as it could write nothing meanwhile
    Compact(With<CompactFlags>),
}

#[derive(Debug, Args)]
struct CompactFlags {}

pub(super) fn run(global: GlobalFlags, flags: StoreFlags) -> Result<(), Failure> {
    match flags.action {
        Action::Verify(With { global: inner, flags }) => {
            verify::run(&Place::of(&global.then(inner))?, &flags)
        }
        Action::Export(With { global: inner, flags }) => {
            export::export(&Place::of(&global.then(inner))?, &flags)
        }
        Action::Import(With { global: inner, flags }) => {
            export::import(&Place::of(&global.then(inner))?, &flags)
        }
        Action::Compact(With { global: inner, .. }) => compact(&Place::of(&global.then(inner))?),
    }
}

/// It moves every page and lets nobody write meanwhile: a daemon's clients would wait for it.
fn compact(place: &Place) -> Result<(), Failure> {
    let _lock = admin::take_lock(&place.dir)?;
    place.masters()?;
    let (before, after) = StillStore::at(place.store.clone()).compact()?;
    say(format!("{before} bytes before, {after} now"))
}

/// Where the store is, and what opens it.
pub(super) struct Place {
    pub(super) dir: DataDir,
    pub(super) store: StorePlace,
    pub(super) master_key: MasterKeyPlace,
}

impl Place {
    pub(super) fn of(global: &GlobalFlags) -> Result<Place, Failure> {
        Place::in_settings(&global.settings(Vec::new())?)
    }

    pub(super) fn in_settings(settings: &Settings) -> Result<Place, Failure> {
        if settings.store.mode == StoreMode::None {
            return Err(Failure::Misconfigured(
                "store.mode = \"none\": nothing is kept, and so there is no store".to_owned(),
            ));
        }
        let dir = DataDir::prepare(&settings.data_dir).map_err(Failure::misconfigured)?;
        let master_key = MasterKeyPlace::of(&dir, settings.store.master_key.as_ref());
        Ok(Place {
            store: StorePlace::of(&settings.store, dir.store()),
            dir,
            master_key,
        })
    }

    /// The keys of a store that must be there.
    pub(super) fn masters(&self) -> Result<Masters, Failure> {
        if self.store.file().is_some_and(|file| !file.exists()) {
            return Err(Failure::Misconfigured(format!(
                "there is no store at {} yet; `clawdbot serve` makes it at its first start",
                self.store
            )));
        }
        Ok(self.master_key.load_or_create(&self.store)?)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Failure {
        Failure::misconfigured(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::at_run_time(error)
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Failure {
        Failure::at_run_time(error)
    }
}
