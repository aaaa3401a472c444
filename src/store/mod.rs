//! The embedded store: what must outlive the daemon, in one file of the data directory, every value sealed.
//!
//! Changes are handed in from any thread and written by one of the store's own, all that wait at once: a flush of
//! the disk is paid for by as many changes as came during the one before. redb keeps what was committed through a
//! crash or a power cut at any instant; `tests.rs` replays both.

mod database;
mod record;
mod vault;
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

pub use database::DatabaseError;
use database::SealedDatabase;
pub use record::RecordError;
pub use vault::{KEY_BYTES, Key, VaultError};
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
}

impl EmbeddedStore {
    /// Opens the store in a file, and makes it where there is none.
    pub fn open(
        path: &Path,
        master: Key,
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
        let file = path.to_path_buf();
        let open = move || {
            redb::Builder::new()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true)
                .set_repair_callback(|_| tracing::info!("the store is put in order after an unclean end"))
                .create(&file)
        };
        Self::open_with(Box::new(open), master, stats).map_err(|source| StoreError::Database {
            path: path.to_path_buf(),
            source,
        })
    }

    fn open_with(
        open: database::Open,
        master: Key,
        stats: Arc<Stats>,
    ) -> Result<(EmbeddedStore, Restored), DatabaseError> {
        let (database, restored) = SealedDatabase::open(open, &master)?;
        stats.store_damaged.add(restored.damaged as u64);
        let store = EmbeddedStore {
            writer: Writer::start(database, stats),
            next_id: AtomicU64::new(restored.newest_id + 1),
        };
        Ok((store, restored))
    }

    /// Writes what waits, and closes the file.
    pub fn finish(&self) {
        self.writer.finish();
    }
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
