//! The store: what must outlive the daemon, in one file of the data directory or on a PostgreSQL server, every value
//! sealed.
//!
//! Changes are handed in from any thread and written by one of the store's own, all that wait at once: a flush of
//! the disk is paid for by as many changes as came during the one before.

mod archive;
mod backend;
mod caretaker;
mod database;
mod integrity;
mod place;
#[cfg(feature = "postgres")]
mod postgres;
mod record;
mod redb_file;
#[cfg(test)]
pub(crate) mod simulated;
mod still;
mod vault;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, RwLockReadGuard};
use std::task::{Context, Poll};

use actors::stats::Stats;
use actors::store::{Accepted, Change, Record, RestoredSessions, Store, StoreFull, Ticket};
use topics::message::Message;

pub(crate) use archive::frames;
pub use archive::{ArchiveError, ArchiveSecret, Contents as ArchiveContents};
pub(crate) use archive::{PutFrame, look_at};
pub use caretaker::{AskForLeave, CareGauge, Caretaker, CaretakerConfig, Job, JobError};
pub use database::DatabaseError;
use database::SealedDatabase;
use integrity::Walk;
pub use integrity::{Finding, Progress, Report};
pub use place::StorePlace;
#[cfg(feature = "postgres")]
pub use postgres::PostgresError;
#[cfg(feature = "postgres")]
pub(crate) use postgres::config as postgres_config;
pub use record::RecordError;
pub use still::StillStore;
pub use vault::{KEY_BYTES, Key, Masters, OpenedBy, VaultError};
use writer::Writer;

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
    #[error("the store {place}: {source}")]
    Database {
        /// Where it is.
        place: String,
        /// What is wrong.
        source: DatabaseError,
    },
}

impl StoreError {
    /// Whether another start may find it well: a disk that was full or a server that was away. A service is started again then, while
    /// with the wrong key it would be so again and again.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Io { .. } => true,
            Self::Database { source, .. } => source.may_pass(),
        }
    }
}

/// The store at work. It writes what it has when it is dropped.
pub struct DurableStore {
    writer: Writer,
    /// To read in it.
    database: Arc<SealedDatabase>,
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

impl DurableStore {
    /// Opens the store, and makes it where there is none. A file that something has damaged is put aside, and what can
    /// be read of it goes on in another one.
    pub fn open(
        place: &StorePlace,
        masters: impl Into<Masters>,
        stats: Arc<Stats>,
    ) -> Result<(DurableStore, Restored), StoreError> {
        Ok(Self::begin(place.open(&masters.into())?, stats))
    }

    #[cfg(test)]
    fn open_with(
        open: redb_file::Open,
        masters: impl Into<Masters>,
        stats: Arc<Stats>,
    ) -> Result<(DurableStore, Restored), DatabaseError> {
        let backend = redb_file::RedbFile::open_with(open, None)?;
        Ok(Self::begin(
            SealedDatabase::open(Box::new(backend), &masters.into())?,
            stats,
        ))
    }

    fn begin(
        (database, restored): (SealedDatabase, Restored),
        stats: Arc<Stats>,
    ) -> (DurableStore, Restored) {
        stats.store_damaged.add(restored.damaged as u64);
        let database = Arc::new(database);
        let store = DurableStore {
            writer: Writer::start(database.clone(), stats),
            database,
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
        walk.run(&mut |damaged| self.writer.errand(move |database| database.set_aside(damaged)))
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
            &*self.database.read()?,
            &self.database.vault,
            archive,
            secret,
            progress,
        )
    }

    /// Hands over what is kept at this moment, a frame of an archive at a time, while it is used.
    pub(crate) fn export_frames(
        &self,
        progress: &Progress,
        put: PutFrame<'_>,
    ) -> Result<ArchiveContents, ArchiveError> {
        archive::export_frames(&*self.database.read()?, &self.database.vault, progress, put)
    }

    /// Which of these keys opens it now.
    pub fn opened_by(&self, masters: Masters) -> Result<OpenedBy, DatabaseError> {
        Ok(database::reading_vault(&*self.database.read()?, &masters)?.1)
    }

    /// Has it opened by another master key from now on, and by the old one no more.
    pub fn rewrap(&self, old: Key, new: Key) -> Result<(), DatabaseError> {
        self.writer.errand(move |database| database.rewrap(&old, &new))
    }

    /// Lets go of what was set aside.
    pub fn forget_set_aside(&self) -> Result<(), DatabaseError> {
        self.writer.errand(SealedDatabase::forget_set_aside)
    }

    /// Writes what waits, and closes the database.
    pub fn finish(&self) {
        self.writer.finish();
    }
}

impl Store for DurableStore {
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

    fn waiting_bytes(&self) -> u64 {
        self.writer.waiting_bytes()
    }

    fn cache_bytes(&self) -> u64 {
        self.database.cache_bytes()
    }

    fn close(&self) {
        self.writer.close();
    }

    fn poll_durable(&self, ticket: Ticket, cx: &mut Context<'_>) -> Poll<()> {
        self.writer.poll_durable(ticket, cx)
    }
}
