//! Whether somebody was shown the key that backups are sealed under. A key that is only on the disk that is backed up opens
//! nothing once that disk is gone.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::BackupError;
use crate::security::DataDir;

fn mark(dir: &DataDir) -> PathBuf {
    dir.keys().join("backup.shown")
}

/// Whether it was.
pub fn is_shown(dir: &DataDir) -> bool {
    mark(dir).exists()
}

/// Notes that it was.
pub fn note_shown(dir: &DataDir) -> Result<(), BackupError> {
    let path = mark(dir);
    let noted = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path);
    noted
        .map(drop)
        .map_err(|source| BackupError::io("writing", &path, source))
}
