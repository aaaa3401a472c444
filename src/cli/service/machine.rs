//! Where files go, and whether commands are run.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::call::{Call, shown};
use super::{Failure, Place};
use crate::service::Manager;

/// See the module.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) manager: Manager,
    /// What stands for `/`.
    root: PathBuf,
    /// Whether that is another than `/`.
    is_elsewhere: bool,
    /// Whether commands are run.
    pub(super) runs: bool,
}

impl Machine {
    pub(super) fn of(place: &Place) -> Self {
        Self {
            manager: place.manager.unwrap_or(Manager::here()),
            root: place.root.clone().unwrap_or_else(|| PathBuf::from("/")),
            is_elsewhere: place.root.is_some(),
            runs: place.root.is_none() || place.with_commands,
        }
    }

    /// Where a file of the system is.
    pub(super) fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What stands for `/`.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether files go somewhere else than where the system looks for them.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.is_elsewhere
    }

    /// Refuses whoever may not do it, with the command for those who may.
    pub(super) fn check_permission(&self) -> Result<(), Failure> {
        self.permit(platform::user::is_root(), std::env::args().skip(1))
    }

    fn permit(&self, is_root: bool, typed: impl Iterator<Item = String>) -> Result<(), Failure> {
        if self.is_elsewhere {
            return Ok(());
        }
        if self.manager != Manager::here() {
            return Err(Failure::Misconfigured(
                "that is not what runs the services of this system; add --root DIR to write files for another, or --print to see \
                 them"
                    .to_owned(),
            ));
        }
        if is_root {
            return Ok(());
        }
        let program =
            std::env::current_exe().map_or("clawdbot".to_owned(), |path| path.display().to_string());
        let words = std::iter::once(program).chain(typed);
        let words: Vec<String> = words.map(|word| shown(&word)).collect();
        Err(Failure::Misconfigured(format!(
            "services of the system are root's to change; run: sudo {}",
            words.join(" ")
        )))
    }

    /// The text of the file that describes the service, where it is installed.
    pub(super) fn installed(&self) -> Result<Option<String>, Failure> {
        let path = self.at(self.manager.file());
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("reading", &path, &error)),
        }
    }

    /// Writes that file, whole or not at all.
    pub(super) fn write(&self, text: &str) -> Result<(), Failure> {
        let path = self.at(self.manager.file());
        let beside = path.with_extension("new");
        let written = path.parent().map_or(Ok(()), fs::create_dir_all);
        written
            .and_then(|()| fs::write(&beside, text))
            // launchd takes none that others can write to, and everybody may read it.
            .and_then(|()| fs::set_permissions(&beside, Permissions::from_mode(0o644)))
            .and_then(|()| fs::rename(&beside, &path))
            .map_err(|error| failed("writing", &path, &error))
    }

    /// Removes it.
    pub(super) fn remove(&self) -> Result<(), Failure> {
        let path = self.at(self.manager.file());
        fs::remove_file(&path).map_err(|error| failed("removing", &path, &error))
    }

    /// Runs a command that must succeed, where commands are run.
    pub(super) fn run(&self, call: &Call) -> Result<(), Failure> {
        if self.runs { call.run() } else { Ok(()) }
    }
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::AtRunTime(format!(
        "{doing} {} failed: {error}; look whether it is root's and the disk has room",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(manager: Manager, root: Option<&str>) -> Machine {
        Machine::of(&Place {
            root: root.map(PathBuf::from),
            with_commands: false,
            manager: Some(manager),
        })
    }

    fn refused(machine: &Machine, is_root: bool) -> Option<String> {
        let typed = ["service", "install", "--data-dir", "/my data"].map(str::to_owned);
        match machine.permit(is_root, typed.into_iter()) {
            Err(Failure::Misconfigured(message)) => Some(message),
            Ok(()) => None,
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_root_changes_the_system_and_others_are_told_what_to_type() {
        let here = machine(Manager::here(), None);
        assert_eq!(refused(&here, true), None);
        let message = refused(&here, false).unwrap();
        assert!(message.contains("run: sudo "), "{message}");
        assert!(
            message.ends_with("service install --data-dir '/my data'"),
            "{message}"
        );
    }

    #[test]
    fn another_systems_services_are_written_below_another_root_only_and_by_anybody() {
        let other = match Manager::here() {
            Manager::Systemd => Manager::Launchd,
            Manager::Launchd => Manager::Systemd,
        };
        assert!(refused(&machine(other, None), true).unwrap().contains("--root"));
        let elsewhere = machine(other, Some("/package"));
        assert_eq!(refused(&elsewhere, false), None);
        assert!(!elsewhere.runs);
        assert_eq!(elsewhere.at(Path::new("/etc/x")), Path::new("/package/etc/x"));
    }
}
