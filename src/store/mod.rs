//! The embedded store: what must outlive the daemon, in one file of the data directory, every value sealed.
//!
//! Changes are handed in from any thread and written by one of the store's own, all that wait at once: a flush of
//! the disk is paid for by as many changes as came during the one before. redb keeps what was committed through a
//! crash or a power cut at any instant; `tests.rs` replays both.

mod archive;
mod caretaker;
mod database;
mod file;
mod integrity;
mod record;
mod salvage;
mod vault;
mod wipe;
mod writer;

#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, RwLockReadGuard};
use std::task::{Context, Poll};

use actors::stats::Stats;
use actors::store::{Accepted, Change, Record, RestoredSessions, Store, StoreFull, Ticket};
use topics::message::Message;

pub use archive::{ArchiveError, ArchiveSecret, Contents as ArchiveContents};
pub use caretaker::{CareGauge, Caretaker, CaretakerConfig, JobError};
pub use database::DatabaseError;
use database::SealedDatabase;
pub use file::StoreFile;
use integrity::Walk;
pub use integrity::{Finding, Progress, Report};
pub use record::RecordError;
pub use vault::{KEY_BYTES, Key, Masters, OpenedBy, VaultError};
use writer::Writer;

/// What is read at the start of a page cache of its own, and no more: the rest is the system's.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file.
    #[error("{action} the store {} failed: {source}; check who owns it and that its disk has room", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// What is in it.
    #[error("the store {}: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: DatabaseError,
    },
}

/// The store at work. It writes what it has when it is dropped.
pub struct EmbeddedStore {
    writer: Writer,
    /// To read in it.
    database: Arc<SealedDatabase>,
    /// None where it is on no real disk.
    file: Option<PathBuf>,
    next_id: AtomicU64,
}

/// What was kept.
#[derive(Default)]
pub struct Restored {
    /// The last word on each topic.
    pub retained: Vec<Message>,
    /// Records of every table, in no order.
    pub records: Vec<Record>,
    /// Sessions that outlive their connections, with their messages.
    pub sessions: RestoredSessions,
    /// Messages for actors, in the order in which they came.
    pub accepted: Vec<Accepted>,
    /// The greatest number that a message has.
    newest_id: u64,
    /// Values that could not be opened. They are set aside in the store, and everything else goes on.
    pub damaged: usize,
    /// Which master key opened it.
    pub opened_by: OpenedBy,
}

impl EmbeddedStore {
    /// Opens the store in a file, and makes it where there is none. A file that something has damaged is put aside,
    /// and what can be read of it goes on in another one.
    pub fn open(
        path: &Path,
        masters: impl Into<Masters>,
        stats: Arc<Stats>,
    ) -> Result<(EmbeddedStore, Restored), StoreError> {
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
        let failed = |source| StoreError::Database {
            path: path.to_path_buf(),
            source,
        };
        let masters = masters.into();
        let file = path.to_path_buf();
        let open = move || {
            builder()
                .set_repair_callback(|_| tracing::info!("the store is put in order after an unclean end"))
                .create(&file)
        };
        let damage = match SealedDatabase::open(Box::new(open.clone()), &masters) {
            Err(error) if error.is_corruption() => error,
            opened => return Ok(Self::begin(opened.map_err(failed)?, Some(path), stats)),
        };
        let Some(lost) = salvage::salvage(path) else {
            return Err(failed(damage));
        };
        let (database, mut restored) = SealedDatabase::open(Box::new(open), &masters).map_err(failed)?;
        restored.damaged += lost;
        Ok(Self::begin((database, restored), Some(path), stats))
    }

    #[cfg(test)]
    fn open_with(
        open: database::Open,
        masters: impl Into<Masters>,
        stats: Arc<Stats>,
    ) -> Result<(EmbeddedStore, Restored), DatabaseError> {
        Ok(Self::begin(
            SealedDatabase::open(open, &masters.into())?,
            None,
            stats,
        ))
    }

    fn begin(
        (database, restored): (SealedDatabase, Restored),
        file: Option<&Path>,
        stats: Arc<Stats>,
    ) -> (EmbeddedStore, Restored) {
        stats.store_damaged.add(restored.damaged as u64);
        let database = Arc::new(database);
        let store = EmbeddedStore {
            writer: Writer::start(database.clone(), stats),
            database,
            file: file.map(Path::to_path_buf),
            next_id: AtomicU64::new(restored.newest_id + 1),
        };
        (store, restored)
    }

    /// Looks at everything that is kept, beside the thread that writes, and has it set aside what is damaged. None if
    /// it was stopped.
    pub fn check(
        &self,
        bytes_per_s: Option<u64>,
        progress: &Progress,
    ) -> Result<Option<Report>, DatabaseError> {
        let walk = Walk {
            begin: &|| self.database.read(),
            vault: &self.database.vault,
            is_still: false,
            bytes_per_s,
            progress,
        };
        walk.run(&mut |damaged| {
            self.writer.errand(move |database| {
                database.transact(|transaction| database::set_aside(transaction, &damaged))
            })
        })
    }

    /// Writes an archive of what is kept at this moment, while it is used.
    pub fn export(
        &self,
        archive: &Path,
        secret: &ArchiveSecret,
        progress: &Progress,
    ) -> Result<ArchiveContents, ArchiveError> {
        // As long as this is read, the file grows by what is written meanwhile; an archive must be of one moment.
        archive::export(
            &self.database.read()?,
            &self.database.vault,
            archive,
            secret,
            progress,
        )
    }

    /// Which of these keys opens it now.
    pub fn opened_by(&self, masters: Masters) -> Result<OpenedBy, DatabaseError> {
        Ok(database::reading_vault(&self.database.read()?, &masters)?.1)
    }

    /// Has it opened by another master key from now on, and by the old one no more.
    pub fn rewrap(&self, old: Key, new: Key) -> Result<(), DatabaseError> {
        let file = self.file.clone();
        self.writer.errand(move |database| {
            let before = database.transact(|transaction| database::rewrap(transaction, &old, &new))?;
            // What a commit replaces is still there for the one before it: after two more nobody knows of it.
            for _ in 0..2 {
                database.transact(database::count_rewrap)?;
            }
            match file {
                Some(file) => wipe::wipe(&file, &before).map_err(DatabaseError::from),
                None => Ok(()),
            }
        })
    }

    /// Lets go of what was set aside.
    pub fn forget_set_aside(&self) -> Result<(), DatabaseError> {
        self.writer
            .errand(|database| database.transact(database::forget_set_aside))
    }

    /// Writes what waits, and closes the file.
    pub fn finish(&self) {
        self.writer.finish();
    }
}

/// How the file is opened: every page is looked at first, because redb trusts a file that was closed in order.
fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true);
    builder
}

impl Store for EmbeddedStore {
    fn submit(&self, change: Change) -> Result<Ticket, StoreFull> {
        self.writer.submit(change)
    }

    fn newest(&self) -> Ticket {
        self.writer.newest()
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed)
    }

    fn together(&self) -> RwLockReadGuard<'_, ()> {
        self.writer.together()
    }

    fn is_crowded(&self) -> bool {
        self.writer.is_crowded()
    }

    fn is_full(&self) -> bool {
        self.writer.is_full()
    }

    fn close(&self) {
        self.writer.close();
    }

    fn poll_durable(&self, ticket: Ticket, cx: &mut Context<'_>) -> Poll<()> {
        self.writer.poll_durable(ticket, cx)
    }
}
