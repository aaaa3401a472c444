//! `clawdbot model`: the models folder, and how models come into it.

mod fit;
mod import;
mod list;
mod pull;
mod quantize;
mod remove;
mod show;

use std::path::PathBuf;

pub(super) use list::aligned;

use clap::{Args, Subcommand};

use super::{Failure, GlobalFlags, With};
use crate::hub::HubError;
use crate::library::{Library, LibraryError};
use crate::security::DataDir;
use crate::settings::Settings;

#[derive(Debug, Args)]
pub(super) struct ModelFlags {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Fetch a model from the Hugging Face hub, or go on where an earlier attempt ended
    Pull(With<pull::PullFlags>),
    /// List the models that are here
    List(With<list::ListFlags>),
    /// Say what is known of a model, and how good it is at each precision
    Show(With<show::ShowFlags>),
    /// Say at which precision and with how much context a model fits the memory, before it is loaded
    Fit(With<fit::FitFlags>),
    /// Remove a model and what was packed of it
    Rm(With<remove::RemoveFlags>),
    /// Take a model from elsewhere on this machine into the models folder
    Import(With<import::ImportFlags>),
    /// Pack a model's weights now, and not at the daemon's first start
    Quantize(With<quantize::QuantizeFlags>),
}

pub(super) fn run(global: GlobalFlags, flags: ModelFlags) -> Result<(), Failure> {
    match flags.action {
        Action::Pull(With { global: inner, flags }) => pull::run(&Desk::of(global.then(inner))?, &flags),
        Action::List(With { global: inner, flags }) => list::run(&Desk::of(global.then(inner))?, &flags),
        Action::Show(With { global: inner, flags }) => show::run(&Desk::of(global.then(inner))?, &flags),
        Action::Fit(With { global: inner, flags }) => fit::run(&Desk::of(global.then(inner))?, &flags),
        Action::Rm(With { global: inner, flags }) => remove::run(&Desk::of(global.then(inner))?, &flags),
        Action::Import(With { global: inner, flags }) => import::run(&Desk::of(global.then(inner))?, &flags),
        Action::Quantize(With { global: inner, flags }) => {
            quantize::run(&Desk::of(global.then(inner))?, &flags)
        }
    }
}

/// What every one of these commands needs.
struct Desk {
    settings: Settings,
    library: Library,
    /// Where packed weights are kept, by the daemon too.
    packed: PathBuf,
}

impl Desk {
    fn of(global: GlobalFlags) -> Result<Desk, Failure> {
        let settings = global.settings(Vec::new())?;
        Ok(Desk {
            library: Library::of(&settings.data_dir),
            packed: settings.data_dir.join("packed"),
            settings,
        })
    }

    /// Models may be wanted before the daemon's first start.
    fn prepare(&self) -> Result<(), Failure> {
        DataDir::prepare(&self.settings.data_dir)
            .map(drop)
            .map_err(Failure::misconfigured)
    }

    fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.settings.model.threads.unwrap_or_else(all)
    }

    /// The path of what is named, which may also be a model elsewhere.
    fn path_of(&self, named: &str) -> Result<PathBuf, Failure> {
        let path = self.library.resolve(named)?;
        if path == self.library.embedded() {
            self.prepare()?;
            self.library.unpack(&path)?;
        }
        if path.exists() {
            return Ok(path);
        }
        Err(LibraryError::Missing {
            name: named.to_owned(),
        }
        .into())
    }
}

impl From<LibraryError> for Failure {
    fn from(error: LibraryError) -> Failure {
        match error {
            LibraryError::Missing { .. } | LibraryError::Ambiguous { .. } => Failure::misconfigured(error),
            LibraryError::Io { .. } | LibraryError::Busy { .. } => Failure::at_run_time(error),
        }
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Failure {
        if error.is_misconfiguration() {
            Failure::misconfigured(error)
        } else {
            Failure::at_run_time(error)
        }
    }
}
