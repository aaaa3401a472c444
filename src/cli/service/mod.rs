//! `clawdbot service`: has systemd or launchd run the daemon, says how that goes, and takes it back.

mod account;
mod call;
mod install;
mod machine;
mod manage;
mod places;
mod status;
mod uninstall;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failure, GlobalFlags, With, say};
use crate::service::Manager;

#[derive(Debug, Args)]
pub(super) struct ServiceFlags {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write what systemd or launchd needs, make the user and the data directory, and start it; does only what is missing
    Install(With<install::InstallFlags>),
    /// Stop it and have it started no more; all data stays
    Uninstall(With<uninstall::UninstallFlags>),
    /// Say whether it is installed, enabled and running, and how the daemon is: exit code 1 if it does not run
    Status(With<status::StatusFlags>),
}

#[derive(Debug, Args)]
struct Place {
    /// Take this directory for the system's root, and run no command: to make packages
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Run the commands although --root is given: for tests that have others in their places
    #[arg(long, hide = true, requires = "root")]
    with_commands: bool,
    /// Who runs services [default: systemd, on macOS launchd]
    #[arg(long, value_name = "NAME")]
    manager: Option<Manager>,
}

pub(super) fn run(global: GlobalFlags, flags: ServiceFlags) -> Result<(), Failure> {
    match flags.action {
        Action::Install(With { global: inner, flags }) => install::run(&global.then(inner), &flags),
        Action::Uninstall(With { global: inner, flags }) => {
            no_settings(&global.then(inner))?;
            uninstall::run(&flags)
        }
        Action::Status(With { global: inner, flags }) => status::run(&global.then(inner), &flags),
    }
}

fn no_settings(global: &GlobalFlags) -> Result<(), Failure> {
    match global.assignments.first() {
        None => Ok(()),
        Some((key, value)) => Err(Failure::Misconfigured(format!(
            "--set {key}={value} would not be heard by the service; write it into clawdbot.toml in its data directory, or into \
             the file that you name with --config"
        ))),
    }
}
