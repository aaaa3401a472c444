//! The section `[backup]`: where backups go by themselves, how often, and how many are kept.

use std::path::PathBuf;
use std::time::Duration;

use super::Backup;
use super::check::Checker;
use super::raw::{Given, RawBackup};

const DIRECTORY: &str = "backup.directory";
/// A year; a backup that old is hardly one.
const MAX_INTERVAL_H: u64 = 366 * 24;
const MAX_KEEP: u64 = 10_000;

impl Checker<'_> {
    pub(super) fn backup(&mut self, raw: RawBackup) -> Backup {
        let interval_h: u64 = self.number("backup.interval_h", raw.interval_h, 1..=MAX_INTERVAL_H);
        Backup {
            directory: self.backup_directory(raw.directory),
            interval: Duration::from_secs(interval_h * 3600),
            keep: self.number("backup.keep", raw.keep, 1..=MAX_KEEP),
        }
    }

    /// The daemon and the commands run in different directories, and must mean the same place.
    fn backup_directory(&mut self, given: Given<String>) -> Option<PathBuf> {
        let path = self.optional_path(DIRECTORY, given)?;
        if !path.is_absolute() {
            self.refuse(
                DIRECTORY,
                path.display(),
                "not a whole path; write it from the root on, for example \"/mnt/backups\"",
            );
        }
        Some(path)
    }
}
