//! The store of a daemon that does not run. Whoever uses it holds the daemon's lock.

use std::path::{Path, PathBuf};

use redb::{Database, ReadOnlyDatabase, ReadTransaction, ReadableDatabase};

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
