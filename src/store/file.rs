//! The store of a daemon that does not run. Whoever uses it holds the daemon's lock.

use std::path::{Path, PathBuf};

use redb::{Database, ReadOnlyDatabase, ReadTransaction, ReadableDatabase};

use super::archive::{self, ArchiveError, ArchiveSecret, Contents as ArchiveContents};
use super::database::{DatabaseError, reading_vault};
use super::integrity::{Progress, Report, Walk};
use super::salvage::{read_in_part, sound_or};
use super::vault::Masters;
use super::{StoreError, builder};

/// See the module.
pub struct StoreFile {
    path: PathBuf,
}

/// Opened with a look at every page, or without where that finds damage.
enum Opened {
    Whole(Database),
    InPart(ReadOnlyDatabase, String),
}

impl StoreFile {
    /// The store in a file.
    pub fn at(path: &Path) -> StoreFile {
        StoreFile {
            path: path.to_path_buf(),
        }
    }

    /// Looks at everything, and changes nothing.
    pub fn check(&self, masters: &Masters, progress: &Progress) -> Result<Report, StoreError> {
        self.check_in(masters, progress)
            .map_err(|error| self.failed(error))
    }

    /// Writes an archive of what is kept.
    pub fn export(
        &self,
        masters: &Masters,
        archive: &Path,
        secret: &ArchiveSecret,
        progress: &Progress,
    ) -> Result<ArchiveContents, ArchiveError> {
        let database = builder().open(&self.path).map_err(DatabaseError::from)?;
        let reading = database.begin_read().map_err(DatabaseError::from)?;
        let (vault, _) = reading_vault(&reading, masters)?;
        archive::export(&reading, &vault, archive, secret, progress)
    }

    /// Makes a store of an archive, in the place of none or of an empty one.
    pub fn import(
        &self,
        masters: &Masters,
        archive: &Path,
        secret: &ArchiveSecret,
        progress: &Progress,
    ) -> Result<ArchiveContents, ArchiveError> {
        if self.path.exists() {
            let there = self.check_in(masters, &Progress::default())?;
            if there.checked_values > 0 || !there.is_sound() {
                return Err(ArchiveError::NotEmpty(self.path.clone()));
            }
        }
        archive::import(archive, secret, &self.path, masters, progress)
    }

    /// Moves what is kept to the front of the file and gives the rest back. Returns its bytes before and after.
    pub fn compact(&self) -> Result<(u64, u64), StoreError> {
        let compact = || {
            let before = std::fs::metadata(&self.path)?.len();
            let mut database = builder().open(&self.path)?;
            database.compact()?;
            drop(database);
            Ok((before, std::fs::metadata(&self.path)?.len()))
        };
        compact().map_err(|error| self.failed(error))
    }

    fn check_in(&self, masters: &Masters, progress: &Progress) -> Result<Report, DatabaseError> {
        let opened = self.open()?;
        let begin = || opened.read();
        let reading = begin()?;
        let (vault, _) = sound_or(|| reading_vault(&reading, masters))?;
        let walk = Walk {
            begin: &begin,
            vault: &vault,
            is_still: true,
            bytes_per_s: None,
            progress,
        };
        let report = walk.run(&mut |_| Ok(()))?;
        let mut report = report.unwrap_or_default();
        if let Opened::InPart(_, damage) = &opened {
            report.broken_file(damage.clone());
        }
        Ok(report)
    }

    fn open(&self) -> Result<Opened, DatabaseError> {
        match builder().open(&self.path) {
            Ok(database) => Ok(Opened::Whole(database)),
            Err(error) => {
                let error = DatabaseError::from(error);
                match read_in_part(&self.path) {
                    Ok(database) if error.is_corruption() => Ok(Opened::InPart(database, error.to_string())),
                    _ => Err(error),
                }
            }
        }
    }

    fn failed(&self, source: DatabaseError) -> StoreError {
        StoreError::Database {
            path: self.path.clone(),
            source,
        }
    }
}

impl Opened {
    fn read(&self) -> Result<ReadTransaction, DatabaseError> {
        Ok(match self {
            Self::Whole(database) => database.begin_read()?,
            Self::InPart(database, _) => database.begin_read()?,
        })
    }
}
