//! The thread that writes: everything that waits, in one commit.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actors::stats::Stats;
use actors::store::{Change, StoreFull, Ticket};

use opentelemetry::global;
use opentelemetry::metrics::Histogram;

use super::database::{DatabaseError, SealedDatabase};
use crate::telemetry::disk;

/// What may wait to be written, as messages weigh in queues.
const MAX_WAITING_BYTES: usize = 32 * 1024 * 1024;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// How long the end waits for a disk that takes nothing.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What else may wait for the thread that writes: there is one check at a time, and what people ask for by hand.
const MAX_ERRANDS: usize = 8;

/// Something else that only the thread that writes may do.
type Errand = Box<dyn FnOnce(&SealedDatabase) + Send>;

/// What a change weighs beside its message.
const CHANGE_BYTES: usize = 64;

pub(super) struct Writer {
    desk: Arc<Desk>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Between those who hand in and the thread that writes.
struct Desk {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    /// Held by those who hand in what belongs together, and against them to take it all.
    together: RwLock<()>,
    /// The newest ticket that was given out.
    newest: AtomicU64,
    /// The newest ticket whose change is on disk.
    durable: AtomicU64,
    is_crowded: AtomicBool,
    is_full: AtomicBool,
    stats: Arc<Stats>,
    /// Seconds of each commit, the flush of the disk among them.
    took: Histogram<f64>,
}

#[derive(Default)]
struct Waiting {
    changes: Vec<Change>,
    /// Of `changes`, and of those that are being written.
    bytes: usize,
    wakers: Vec<(Ticket, Waker)>,
    errands: Vec<Errand>,
    /// Nothing is taken any more.
    closed: bool,
    ends: bool,
}

impl Writer {
    pub(super) fn start(database: Arc<SealedDatabase>, stats: Arc<Stats>) -> Writer {
        let desk = Arc::new(Desk {
            waiting: Mutex::default(),
            filled: Condvar::new(),
            together: RwLock::new(()),
            newest: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            is_crowded: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            stats,
            took: disk::histogram(
                &global::meter("clawdbot"),
                "clawdbot.store.commit.duration",
                "Writing all that waits for the store, and flushing the disk",
            ),
        });
        let desk_there = desk.clone();
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || {
            let _end = End(&desk_there, &database);
            desk_there.write_until_the_end(&database);
        });
        if let Err(error) = &thread {
            tracing::error!(%error, "the store's thread could not be started: nothing is kept");
            desk.waiting().ends = true;
        }
        Writer {
            desk,
            thread: Mutex::new(thread.ok()),
        }
    }

    pub(super) fn submit(&self, change: Change) -> Result<Ticket, StoreFull> {
        let mut waiting = self.desk.waiting();
        let bytes = weight(&change);
        if waiting.closed || (waiting.bytes + bytes > MAX_WAITING_BYTES && !change.only_removes()) {
            return Err(StoreFull);
        }
        waiting.bytes += bytes;
        self.desk.note_room(&waiting);
        if waiting.changes.is_empty() {
            self.desk.filled.notify_one();
        }
        waiting.changes.push(change);
        Ok(Ticket(self.desk.newest.fetch_add(1, Ordering::Release) + 1))
    }

    /// Has something done by the thread that writes, after all that was handed in before, and waits for it.
    pub(super) fn errand<T: Send + 'static>(
        &self,
        work: impl FnOnce(&SealedDatabase) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let (tell, told) = mpsc::sync_channel(1);
        {
            let mut waiting = self.desk.waiting();
            if waiting.ends || waiting.errands.len() >= MAX_ERRANDS {
                return Err(DatabaseError::Closed);
            }
            waiting.errands.push(Box::new(move |database| {
                // Whoever asked waits for it, or its thread is gone.
                let _ = tell.send(work(database));
            }));
            self.desk.filled.notify_one();
        }
        told.recv().unwrap_or(Err(DatabaseError::Closed))
    }

    pub(super) fn newest(&self) -> Ticket {
        Ticket(self.desk.newest.load(Ordering::Acquire))
    }

    pub(super) fn together(&self) -> RwLockReadGuard<'_, ()> {
        self.desk.together.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.desk.is_crowded.load(Ordering::Relaxed)
    }

    pub(super) fn waiting_bytes(&self) -> u64 {
        self.desk.waiting().bytes as u64
    }

    pub(super) fn is_full(&self) -> bool {
        self.desk.is_full.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        self.desk.waiting().closed = true;
    }

    pub(super) fn poll_durable(&self, ticket: Ticket, cx: &mut Context<'_>) -> Poll<()> {
        if self.desk.is_durable(ticket) {
            return Poll::Ready(());
        }
        let mut waiting = self.desk.waiting();
        // It may have come to be since, and then nobody would wake this waker.
        if self.desk.is_durable(ticket) {
            return Poll::Ready(());
        }
        let waker = cx.waker();
        if !waiting
            .wakers
            .iter()
            .any(|(known, other)| *known <= ticket && other.will_wake(waker))
        {
            waiting.wakers.push((ticket, waker.clone()));
        }
        Poll::Pending
    }
}

impl Writer {
    /// Writes what waits, and ends. What is handed in afterwards is not written.
    pub(super) fn finish(&self) {
        self.desk.waiting().ends = true;
        self.desk.filled.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A writer that panicked has said so, and there is nothing left to wait for.
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Of the thread that writes, however it comes: nobody waits for an errand any more, and the next daemon finds the file
/// free, whoever still reads in it.
struct End<'a>(&'a Desk, &'a SealedDatabase);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let errands = {
            let mut waiting = self.0.waiting();
            waiting.ends = true;
            std::mem::take(&mut waiting.errands)
        };
        drop(errands);
        self.1.close();
    }
}

impl Desk {
    fn write_until_the_end(&self, database: &SealedDatabase) {
        let mut ending_since = None;
        while let Some((changes, newest, errands)) = self.take_all() {
            let mut pause = FIRST_RETRY;
            while let Err(error) = self.write(database, &changes) {
                self.stats.store_failures.add(1);
                if pause == FIRST_RETRY {
                    tracing::error!(%error, waiting = changes.len(),
                        "the store cannot be written; what waits for it is tried again, and not acknowledged before");
                }
                if self.waiting().ends && ending_since.get_or_insert_with(Instant::now).elapsed() > LAST_WORDS
                {
                    tracing::error!(lost = changes.len(), "the store was not written to its end");
                    return;
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(LAST_RETRY);
            }
            if pause > FIRST_RETRY {
                tracing::info!("the store can be written again");
            }
            self.tell(newest, changes.iter().map(weight).sum());
            for errand in errands {
                errand(database);
            }
        }
    }

    fn write(&self, database: &SealedDatabase, changes: &[Change]) -> Result<(), DatabaseError> {
        if !changes.is_empty() {
            let began = Instant::now();
            database.write(changes)?;
            self.took.record(began.elapsed().as_secs_f64(), &[]);
            self.stats.store_commits.add(1);
            self.stats.store_changes.add(changes.len() as u64);
        }
        Ok(())
    }

    /// Waits for something to write; None at the end, when all is written.
    fn take_all(&self) -> Option<(Vec<Change>, u64, Vec<Errand>)> {
        let mut waiting = self.waiting();
        while waiting.changes.is_empty() && waiting.errands.is_empty() {
            if waiting.ends {
                return None;
            }
            waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        drop(waiting);
        // What belongs together is here as a whole when nobody is about to hand in more of it.
        let _nobody = self.together.write().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self.waiting();
        let newest = self.newest.load(Ordering::Acquire);
        let (changes, errands) = (
            std::mem::take(&mut waiting.changes),
            std::mem::take(&mut waiting.errands),
        );
        Some((changes, newest, errands))
    }

    fn note_room(&self, waiting: &Waiting) {
        self.is_crowded
            .store(waiting.bytes > MAX_WAITING_BYTES / 2, Ordering::Relaxed);
        // Whoever asks now finds room for what it may have in hand.
        self.is_full
            .store(waiting.bytes > MAX_WAITING_BYTES / 4 * 3, Ordering::Relaxed);
    }

    fn tell(&self, newest: u64, written_bytes: usize) {
        let mut waiting = self.waiting();
        waiting.bytes -= written_bytes;
        self.note_room(&waiting);
        self.durable.store(newest, Ordering::Release);
        let (due, wakers) = std::mem::take(&mut waiting.wakers)
            .into_iter()
            .partition(|(ticket, _)| ticket.0 <= newest);
        waiting.wakers = wakers;
        drop(waiting);
        let due: Vec<(Ticket, Waker)> = due;
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    fn is_durable(&self, ticket: Ticket) -> bool {
        self.durable.load(Ordering::Acquire) >= ticket.0
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn weight(change: &Change) -> usize {
    CHANGE_BYTES
        + match change {
            Change::Retain(message) => message.queued_bytes(),
            Change::Forget(topic) => topic.as_str().len(),
            Change::Put(record) => record.name.len() + record.value.len(),
            Change::Remove(_, name) => name.len(),
            Change::Session(record) => {
                let filters = record.session.subscriptions.iter();
                let will = record.session.will.as_ref();
                record.client_id.len()
                    + filters.map(|(filter, _)| filter.as_str().len()).sum::<usize>()
                    + will.map_or(0, |will| will.message.queued_bytes())
            }
            Change::Keep(keeping) => keeping.delivery.message.queued_bytes(),
            Change::EndSession(client_id)
            | Change::Received(client_id, _)
            | Change::Released(client_id, _) => client_id.len(),
            Change::Accept(accepted) => accepted.client_id.len() + accepted.message.queued_bytes(),
            Change::Stage(..) | Change::Done { .. } | Change::Handled(_) => 0,
        }
}
