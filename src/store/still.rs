//! The store of a daemon that does not run. Whoever uses it holds the daemon's lock.

use std::fs;
use std::io;
use std::path::Path;

use redb::{Database, ReadOnlyDatabase, ReadableDatabase};

use super::archive::{self, ArchiveError, ArchiveSecret, Contents as ArchiveContents, NextFrame, PutFrame};
use super::backend::{Backend, Reading};
use super::database::{DatabaseError, SealedDatabase, reading_vault};
use super::integrity::{Progress, Report, Walk};
#[cfg(feature = "postgres")]
use super::postgres::Postgres;
use super::redb_file::salvage::{read_in_part, sound_or};
use super::redb_file::{Moment, RedbFile, builder};
use super::vault::{Masters, Vault};
use super::{StoreError, StorePlace};

/// See the module.
pub struct StillStore {
    place: StorePlace,
}

/// Opened to be read.
enum Opened {
    /// A file, with a look at every page of it.
    Whole(Database),
    /// A file in which that finds damage.
    InPart(ReadOnlyDatabase, String),
    #[cfg(feature = "postgres")]
    Postgres(Box<Postgres>),
}

impl StillStore {
    /// The store in a place.
    pub fn at(place: StorePlace) -> StillStore {
        StillStore { place }
    }

    /// Looks at everything, and changes nothing.
    pub fn check(&self, masters: &Masters, progress: &Progress) -> Result<Report, StoreError> {
        self.check_in(masters, progress)
            .map_err(|error| self.place.failed(error))
    }

    /// Writes an archive of what is kept.
    pub fn export(
        &self,
        masters: &Masters,
        archive: &Path,
        secret: &ArchiveSecret,
        progress: &Progress,
    ) -> Result<ArchiveContents, ArchiveError> {
        self.read_whole(masters, |reading, vault| {
            archive::export(reading, vault, archive, secret, progress)
        })
    }

    /// Hands over what is kept, a frame of an archive at a time.
    pub(crate) fn export_frames(
        &self,
        masters: &Masters,
        progress: &Progress,
        put: PutFrame<'_>,
    ) -> Result<ArchiveContents, ArchiveError> {
        self.read_whole(masters, |reading, vault| {
            archive::export_frames(reading, vault, progress, put)
        })
    }

    fn read_whole(
        &self,
        masters: &Masters,
        read: impl FnOnce(&dyn Reading, &Vault) -> Result<ArchiveContents, ArchiveError>,
    ) -> Result<ArchiveContents, ArchiveError> {
        let opened = self.open()?;
        if let Opened::InPart(_, damage) = &opened {
            return Err(DatabaseError::corrupted(damage).into());
        }
        let reading = opened.read()?;
        let (vault, _) = reading_vault(&*reading, masters)?;
        read(&*reading, &vault)
    }

    /// Makes a store of an archive, in the place of none or of an empty one.
    pub fn import(
        &self,
        masters: &Masters,
        archive: &Path,
        secret: &ArchiveSecret,
        progress: &Progress,
    ) -> Result<ArchiveContents, ArchiveError> {
        self.import_with(masters, |database| {
            archive::import(archive, secret, database, progress)
        })
    }

    /// The same of frames that come from elsewhere.
    pub(crate) fn import_frames(
        &self,
        masters: &Masters,
        progress: &Progress,
        next: NextFrame<'_>,
    ) -> Result<ArchiveContents, ArchiveError> {
        self.import_with(masters, |database| {
            archive::import_frames(next, database, progress)
        })
    }

    fn import_with(
        &self,
        masters: &Masters,
        import: impl FnOnce(&SealedDatabase) -> Result<ArchiveContents, ArchiveError>,
    ) -> Result<ArchiveContents, ArchiveError> {
        if self.is_begun()? {
            let there = self.check_in(masters, &Progress::default())?;
            if there.checked_values > 0 || !there.is_sound() {
                return Err(ArchiveError::NotEmpty(self.place.to_string()));
            }
        }
        let into = |backend: Box<dyn Backend>| {
            let (database, _) = SealedDatabase::open(backend, masters)?;
            let contents = import(&database);
            database.close();
            contents
        };
        match &self.place {
            StorePlace::File(path) => by_draft(path, into),
            #[cfg(feature = "postgres")]
            StorePlace::Postgres(config) => into(Box::new(Postgres::open(config)?)),
        }
    }

    /// Moves what is kept together and gives the rest back. Returns its bytes before and after.
    pub fn compact(&self) -> Result<(u64, u64), StoreError> {
        let compacted = match &self.place {
            StorePlace::File(path) => compact_file(path),
            #[cfg(feature = "postgres")]
            StorePlace::Postgres(config) => Postgres::open(config).and_then(|server| server.compact()),
        };
        compacted.map_err(|error| self.place.failed(error))
    }

    fn check_in(&self, masters: &Masters, progress: &Progress) -> Result<Report, DatabaseError> {
        let opened = self.open()?;
        let begin = || opened.read();
        let reading = begin()?;
        let (vault, _) = sound_or(|| reading_vault(&*reading, masters))?;
        drop(reading);
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

    /// Whether anything was made there.
    fn is_begun(&self) -> Result<bool, DatabaseError> {
        match &self.place {
            StorePlace::File(path) => Ok(path.exists()),
            #[cfg(feature = "postgres")]
            StorePlace::Postgres(config) => Ok(Postgres::open(config)?.read()?.schema()?.is_some()),
        }
    }

    fn open(&self) -> Result<Opened, DatabaseError> {
        match &self.place {
            StorePlace::File(path) => Opened::file(path),
            #[cfg(feature = "postgres")]
            StorePlace::Postgres(config) => Ok(Opened::Postgres(Box::new(Postgres::open(config)?))),
        }
    }
}

impl Opened {
    fn file(path: &Path) -> Result<Opened, DatabaseError> {
        match builder().open(path) {
            Ok(database) => Ok(Opened::Whole(database)),
            Err(error) => {
                let error = DatabaseError::from(error);
                match read_in_part(path) {
                    Ok(database) if error.is_corruption() => Ok(Opened::InPart(database, error.to_string())),
                    _ => Err(error),
                }
            }
        }
    }

    fn read(&self) -> Result<Box<dyn Reading + '_>, DatabaseError> {
        Ok(match self {
            Self::Whole(database) => Box::new(Moment(database.begin_read()?)),
            Self::InPart(database, _) => Box::new(Moment(database.begin_read()?)),
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => server.read()?,
        })
    }
}

/// Makes a file beside its place first, so that there is never half a one.
fn by_draft(
    path: &Path,
    make: impl FnOnce(Box<dyn Backend>) -> Result<ArchiveContents, ArchiveError>,
) -> Result<ArchiveContents, ArchiveError> {
    let draft = archive::with_suffix(path, ".import");
    if let Err(error) = fs::remove_file(&draft)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error.into());
    }
    let made = archive::create_new(&draft)
        .and_then(|_| make(Box::new(RedbFile::open(&draft)?)))
        .and_then(|contents| {
            // An empty one was looked at by who asks for this; it holds the daemon's lock.
            fs::rename(&draft, path)?;
            archive::sync_directory(path)?;
            Ok(contents)
        });
    if made.is_err() {
        // What is in it is in the archive.
        let _ = fs::remove_file(&draft);
    }
    made
}

fn compact_file(path: &Path) -> Result<(u64, u64), DatabaseError> {
    let before = fs::metadata(path)?.len();
    let mut database = builder().open(path)?;
    database.compact()?;
    drop(database);
    Ok((before, fs::metadata(path)?.len()))
}
