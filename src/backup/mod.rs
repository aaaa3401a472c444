//! Backups: all that another machine needs to go on as this one did, in one sealed file. That is what the store keeps, the keys
//! (but for the master key: a restored store gets its own), the certificates, the settings file, and a list of the models.

mod create;
mod format;
mod key;
mod restore;
mod retention;
mod schedule;
mod subject;

use std::io;
use std::path::{Path, PathBuf};

pub use create::{Made, Target, Values, create};
pub use format::{Head, MemberFacts, Summary, verify};
pub use key::{is_shown, note_shown};
pub use restore::restore;
pub use retention::{Listed, list};
pub use schedule::{BackupGauge, BackupKeeper, KeeperConfig};
pub use subject::Subject;

use crate::admin::AdminError;
use crate::library::LibraryError;
use crate::security::certificates::OwnError;
use crate::security::{DataDirError, KeyError};
use crate::service::MAY_NOT_WRITE;
use crate::store::ArchiveError;

/// Why there is no backup, or nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something else.
    #[error("it is no backup of `clawdbot backup create`")]
    NoBackup,
    /// The file, what is in it, or the store.
    #[error(transparent)]
    Archive(ArchiveError),
    /// No daemon ever ran.
    #[error(
        "there is nothing to back up in {} yet; `clawdbot serve` makes it at its first start, or name another directory \
         with --data-dir",
        .0.display()
    )]
    NothingThere(PathBuf),
    /// It is no key, certificate or settings file.
    #[error("{} is larger than 1 MiB, which no file of a backup is; see what it is, and move it away", .0.display())]
    TooLarge(PathBuf),
    /// One at a time.
    #[error("another clawdbot is just making a backup in {}; wait for it", .0.display())]
    Busy(PathBuf),
    /// Nothing is put over what is there.
    #[error(
        "{} is not empty; restore into a directory that is, or that is not there yet (--data-dir)",
        .0.display()
    )]
    NotEmpty(PathBuf),
    /// The settings keep nothing.
    #[error(
        "it has what a store kept, and the settings here have none (store.mode = \"none\", or an external broker); give \
         others with --config or --set"
    )]
    NoStoreHere,
    /// A clock that nobody set.
    #[error("the clock says that it is before 1970 or after 9999; set it")]
    NoTime,
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The backup's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificates.
    #[error(transparent)]
    Certificates(#[from] OwnError),
    /// The models folder.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A daemon that runs, or the lock.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The system refused.
    #[error("{action} {} failed: {source}; {}", path.display(), what_helps(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

fn what_helps(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => MAY_NOT_WRITE,
        _ => "check that it is there, who owns it and that its disk has room",
    }
}

impl From<ArchiveError> for BackupError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::NoArchive => Self::NoBackup,
            other => Self::Archive(other),
        }
    }
}

impl BackupError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }

    /// Whether something else must be given, and the machine is well.
    pub fn is_misuse(&self) -> bool {
        match self {
            Self::Archive(error) => !matches!(
                error,
                ArchiveError::Io(_)
                    | ArchiveError::Store(_)
                    | ArchiveError::Stopped
                    | ArchiveError::NoRandomness
            ),
            Self::Busy(_) | Self::NoTime | Self::Library(_) | Self::Admin(_) | Self::Io { .. } => false,
            _ => true,
        }
    }
}
