//! A store whose disk is made up: what is sealed, and how it is read again, is the store's own. The disk outlives the daemons
//! of a simulation, and has of each what was committed when it was killed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actors::store::{Change, Store, StoreFull, Ticket};
use tokio::sync::Notify;

use super::Restored;
use super::backend::{Backend, Batch, Page, PageSize, Place, Reading, Work, Writing};
use super::database::{DatabaseError, SealedDatabase};
use super::vault::{Key, Masters, Opening};

/// Changes that may wait.
const MAX_WAITING: usize = 10_000;

/// What is on it, as of the last commit.
#[derive(Clone, Default)]
struct Contents {
    schema: Option<u64>,
    data_key: Option<Vec<u8>>,
    openings: BTreeMap<u32, Opening>,
    values: BTreeMap<(&'static str, Place), Vec<u8>>,
}

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct SimulatedDisk(Arc<Mutex<Contents>>);

impl SimulatedDisk {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the store on it, as a daemon does. What was kept comes in an order that does not depend on keys.
    pub(crate) fn open(
        &self,
        master: &[u8; super::KEY_BYTES],
    ) -> Result<(Arc<SimulatedStore>, Restored), DatabaseError> {
        let masters = Masters::from(Key::new(*master));
        let (database, mut restored) = SealedDatabase::open(Box::new(self.clone()), &masters)?;
        restored
            .retained
            .sort_by(|one, other| one.topic.as_str().cmp(other.topic.as_str()));
        restored
            .records
            .sort_by(|one, other| one.name.as_bytes().cmp(other.name.as_bytes()));
        let sessions = &mut restored.sessions;
        sessions
            .sessions
            .sort_by(|one, other| one.client_id.as_bytes().cmp(other.client_id.as_bytes()));
        sessions.received.sort();
        let store = SimulatedStore {
            database,
            next_id: AtomicU64::new(restored.newest_id + 1),
            waiting: Mutex::default(),
            together: RwLock::new(()),
            filled: Notify::new(),
        };
        Ok((Arc::new(store), restored))
    }
}

impl Backend for SimulatedDisk {
    fn transact(&self, work: Work<'_>) -> Result<(), DatabaseError> {
        let mut written = Transaction(self.contents().clone());
        work(&mut written)?;
        *self.contents() = written.0;
        Ok(())
    }

    fn read(&self) -> Result<Box<dyn Reading + '_>, DatabaseError> {
        Ok(Box::new(self.contents().clone()))
    }

    fn wipe(&self, _secret: &[u8]) -> Result<(), DatabaseError> {
        Ok(())
    }

    fn close(&self) {}
}

struct Transaction(Contents);

impl Writing for Transaction {
    fn apply(&mut self, batch: &Batch) -> Result<(), DatabaseError> {
        let contents = &mut self.0;
        for (place, value) in &batch.values {
            match value {
                Some(value) => drop(contents.values.insert(*place, value.clone())),
                None => drop(contents.values.remove(place)),
            }
        }
        contents.schema = batch.schema.or(contents.schema);
        contents.data_key = batch.data_key.clone().or(contents.data_key.take());
        contents.openings.extend(batch.opening);
        Ok(())
    }
}

impl Reading for Contents {
    fn schema(&self) -> Result<Option<u64>, DatabaseError> {
        Ok(self.schema)
    }

    fn data_key(&self) -> Result<Option<Vec<u8>>, DatabaseError> {
        Ok(self.data_key.clone())
    }

    fn openings(&self) -> Result<Vec<(u32, Opening)>, DatabaseError> {
        Ok(self
            .openings
            .iter()
            .map(|(number, opening)| (*number, *opening))
            .collect())
    }

    fn get(&self, table: &'static str, place: &Place) -> Result<Option<Vec<u8>>, DatabaseError> {
        Ok(self.values.get(&(table, *place)).cloned())
    }

    fn page(
        &self,
        table: &'static str,
        after: Option<Place>,
        _size: PageSize,
    ) -> Result<Page, DatabaseError> {
        let of_table = self
            .values
            .iter()
            .filter(|((of, place), _)| *of == table && after.is_none_or(|after| *place > after));
        Ok(Page {
            values: of_table
                .map(|((_, place), value)| (*place, value.clone()))
                .collect(),
            is_end: true,
        })
    }

    fn len(&self, table: &'static str) -> Result<u64, DatabaseError> {
        Ok(self.values.keys().filter(|(of, _)| *of == table).count() as u64)
    }

    fn set_aside(&self) -> Result<BTreeMap<String, u64>, DatabaseError> {
        Ok(BTreeMap::new())
    }
}

/// The store of one daemon.
pub(crate) struct SimulatedStore {
    database: SealedDatabase,
    next_id: AtomicU64,
    waiting: Mutex<Waiting>,
    together: RwLock<()>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    changes: Vec<Change>,
    newest: u64,
    durable: u64,
    wakers: Vec<(Ticket, Waker)>,
    is_closed: bool,
}

impl SimulatedStore {
    /// Writes what waits, each time as long after it came as `delay` says. Never ready.
    pub(crate) async fn write(self: Arc<Self>, mut delay: impl FnMut() -> Duration) {
        loop {
            self.filled.notified().await;
            tokio::time::sleep(delay()).await;
            let (changes, newest) = {
                let mut waiting = self.waiting();
                (std::mem::take(&mut waiting.changes), waiting.newest)
            };
            if let Err(error) = self.database.write(&changes) {
                panic!("a disk in memory does not fail: {error}");
            }
            let mut waiting = self.waiting();
            waiting.durable = newest;
            let (due, wakers): (Vec<_>, Vec<_>) = std::mem::take(&mut waiting.wakers)
                .into_iter()
                .partition(|(ticket, _)| ticket.0 <= newest);
            waiting.wakers = wakers;
            drop(waiting);
            due.into_iter().for_each(|(_, waker)| waker.wake());
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for SimulatedStore {
    fn submit(&self, change: Change) -> Result<Ticket, StoreFull> {
        let mut waiting = self.waiting();
        if waiting.is_closed || (waiting.changes.len() >= MAX_WAITING && !change.only_removes()) {
            return Err(StoreFull);
        }
        waiting.changes.push(change);
        waiting.newest += 1;
        self.filled.notify_one();
        Ok(Ticket(waiting.newest))
    }

    fn newest(&self) -> Ticket {
        Ticket(self.waiting().newest)
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed)
    }

    fn together(&self) -> RwLockReadGuard<'_, ()> {
        self.together.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_crowded(&self) -> bool {
        self.waiting().changes.len() > MAX_WAITING / 2
    }

    fn is_full(&self) -> bool {
        self.waiting().changes.len() > MAX_WAITING / 4 * 3
    }

    fn close(&self) {
        self.waiting().is_closed = true;
    }

    fn waiting_bytes(&self) -> u64 {
        self.waiting().changes.len() as u64 * size_of::<Change>() as u64
    }

    fn cache_bytes(&self) -> u64 {
        0
    }

    fn poll_durable(&self, ticket: Ticket, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting();
        if waiting.durable >= ticket.0 {
            return Poll::Ready(());
        }
        waiting.wakers.push((ticket, cx.waker().clone()));
        Poll::Pending
    }
}
