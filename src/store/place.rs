//! Where the store is.

use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::backend::Backend;
use super::database::{DatabaseError, SealedDatabase};
#[cfg(feature = "postgres")]
use super::postgres::Postgres;
use super::redb_file::{RedbFile, salvage};
use super::vault::Masters;
use super::{Restored, StoreError};
#[cfg(feature = "postgres")]
use crate::settings::PostgresServer;
use crate::settings::Store;

/// Where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorePlace {
    /// In a file.
    File(PathBuf),
    /// On a database server.
    #[cfg(feature = "postgres")]
    Postgres(PostgresServer),
}

impl fmt::Display for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => write!(f, "{}", server.url),
        }
    }
}

impl StorePlace {
    /// As it is set; `file` is where an embedded one lies.
    pub fn of(settings: &Store, file: PathBuf) -> StorePlace {
        match &settings.postgres {
            #[cfg(feature = "postgres")]
            Some(server) => Self::Postgres(server.clone()),
            _ => Self::File(file),
        }
    }

    /// The file, where it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => None,
        }
    }

    /// Connects to the server, where it is on one, and leaves everything there as it is. Returns which server it is.
    ///
    /// # Errors
    /// What keeps a daemon from connecting.
    pub fn reach(&self) -> Result<String, StoreError> {
        match self {
            Self::File(path) => Ok(path.display().to_string()),
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => {
                let reached = std::thread::scope(|scope| scope.spawn(|| Postgres::reach(server)).join());
                reached
                    .unwrap_or(Err(DatabaseError::Closed))
                    .map_err(|error| self.failed(error))
            }
        }
    }

    /// Opens what is there, or makes it.
    pub(super) fn open(&self, masters: &Masters) -> Result<(SealedDatabase, Restored), StoreError> {
        match self {
            Self::File(path) => self.open_file(path, masters),
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => {
                let open = || {
                    let backend: Box<dyn Backend> = Box::new(Postgres::open(server)?);
                    SealedDatabase::open(backend, masters)
                };
                // Its client waits, which a thread that runs tasks must not.
                let opened = std::thread::scope(|scope| scope.spawn(open).join());
                opened
                    .unwrap_or(Err(DatabaseError::Closed))
                    .map_err(|error| self.failed(error))
            }
        }
    }

    fn open_file(&self, path: &Path, masters: &Masters) -> Result<(SealedDatabase, Restored), StoreError> {
        // Made here, so that it is nobody else's from its first byte on.
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|source| StoreError::Io {
                action: "opening",
                path: path.to_path_buf(),
                source,
            })?;
        let open = || {
            let backend: Box<dyn Backend> = Box::new(RedbFile::open(path)?);
            SealedDatabase::open(backend, masters)
        };
        let damage = match open() {
            Err(error) if error.is_corruption() => error,
            opened => return opened.map_err(|error| self.failed(error)),
        };
        let Some(lost) = salvage::salvage(path) else {
            return Err(self.failed(damage));
        };
        let (database, mut restored) = open().map_err(|error| self.failed(error))?;
        restored.damaged += lost;
        Ok((database, restored))
    }

    pub(super) fn failed(&self, source: DatabaseError) -> StoreError {
        StoreError::Database {
            place: self.to_string(),
            source,
        }
    }
}
