//! Looks after the store while the daemon runs: a check now and then, and what its owner asks for, one after the other
//! on a thread of their own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actors::stats::Stats;
use serde_json::{Value, json};

use super::integrity::{Progress, Report};
use super::{ArchiveSecret, DatabaseError, DurableStore};

/// How it goes about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CaretakerConfig {
    /// Time between two checks; None for none.
    pub interval: Option<Duration>,
    /// What a check may read in a second.
    pub bytes_per_s: u64,
}

/// What the last check found, for whoever scrapes.
#[derive(Debug, Default)]
pub struct CareGauge {
    checked_at_unix_s: AtomicU64,
    orphans: AtomicU64,
    set_aside: AtomicU64,
}

impl CareGauge {
    /// When the last check was over, in Unix time; 0 before the first.
    pub fn checked_at_unix_s(&self) -> u64 {
        self.checked_at_unix_s.load(Relaxed)
    }

    /// Values that stood alone.
    pub fn orphans(&self) -> u64 {
        self.orphans.load(Relaxed)
    }

    /// Values that are set aside.
    pub fn set_aside(&self) -> u64 {
        self.set_aside.load(Relaxed)
    }

    fn note(&self, report: &Report) {
        self.checked_at_unix_s.store(report.finished_at_unix_s, Relaxed);
        self.orphans.store(report.orphans.total(), Relaxed);
        self.set_aside.store(report.set_aside.values().sum(), Relaxed);
    }
}

/// Why nothing was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// One at a time.
    #[error("the store is being worked on already; wait for the end of that, and ask again")]
    Busy,
    /// The daemon ends.
    #[error("the daemon stops; ask again when it runs")]
    Stopping,
}

/// Waits until a check that nobody asked for may begin, for as long as it is to wait; what comes is held while it runs.
pub type AskForLeave = Box<dyn Fn(&dyn Fn() -> bool) -> Option<Box<dyn Send>> + Send + Sync>;

/// What it does when it is asked. It may hold secrets: there is no Debug.
pub type Job = Box<dyn FnOnce(&DurableStore, &Progress) -> Result<Value, String> + Send>;

/// The thread, and how to speak to it.
pub struct Caretaker {
    desk: Arc<Desk>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Desk {
    config: CaretakerConfig,
    leave: AskForLeave,
    state: Mutex<State>,
    changed: Condvar,
    progress: Progress,
    gauge: Arc<CareGauge>,
    stats: Arc<Stats>,
}

#[derive(Default)]
struct State {
    asked: Option<Job>,
    is_running: bool,
    /// Jobs that were asked for.
    begun: u64,
    /// How the last of them ended.
    outcome: Option<Result<Value, String>>,
    ends: bool,
}

impl Caretaker {
    /// Begins to look after a store.
    pub fn start(
        store: Arc<DurableStore>,
        config: CaretakerConfig,
        leave: AskForLeave,
        stats: Arc<Stats>,
    ) -> Caretaker {
        let desk = Arc::new(Desk {
            config,
            leave,
            state: Mutex::default(),
            changed: Condvar::new(),
            progress: Progress::default(),
            gauge: Arc::default(),
            stats,
        });
        let desk_there = desk.clone();
        let thread = std::thread::Builder::new()
            .name("store-care".into())
            .spawn(move || desk_there.work_until_the_end(&store));
        if let Err(error) = &thread {
            tracing::error!(%error, "the store is not checked: its thread could not be started");
        }
        Caretaker {
            desk,
            thread: Mutex::new(thread.ok()),
        }
    }

    /// What the last check found.
    pub fn gauge(&self) -> Arc<CareGauge> {
        self.desk.gauge.clone()
    }

    /// Begins a check, as soon as a check that runs already is over.
    pub fn check(&self, forget: bool) -> Result<u64, JobError> {
        let desk = self.desk.clone();
        self.begin(Box::new(move |store, progress| {
            let report = desk.check(store, progress).map_err(|error| error.to_string())?;
            let report = report.ok_or_else(|| JobError::Stopping.to_string())?;
            if forget {
                store.forget_set_aside().map_err(|error| error.to_string())?;
                desk.gauge.set_aside.store(0, Relaxed);
            }
            serde_json::to_value(report).map_err(|error| error.to_string())
        }))
    }

    /// Begins to write an archive.
    pub fn export(&self, archive: PathBuf, secret: ArchiveSecret) -> Result<u64, JobError> {
        self.begin(Box::new(move |store, progress| {
            let contents = store
                .export(&archive, &secret, progress)
                .map_err(|error| format!("{}: {error}", archive.display()))?;
            serde_json::to_value(contents).map_err(|error| error.to_string())
        }))
    }

    /// Begins something that takes long.
    pub fn begin(&self, job: Job) -> Result<u64, JobError> {
        let mut state = self.desk.state();
        if state.ends {
            return Err(JobError::Stopping);
        }
        if state.asked.is_some() || (state.is_running && state.outcome.is_none() && state.begun > 0) {
            return Err(JobError::Busy);
        }
        state.asked = Some(job);
        state.outcome = None;
        state.begun += 1;
        self.desk.changed.notify_all();
        Ok(state.begun)
    }

    /// How far the job with this number is, and how it ended.
    pub fn job(&self, number: u64) -> Value {
        let state = self.desk.state();
        let outcome = state.outcome.as_ref().filter(|_| state.begun == number);
        json!({
            "running": outcome.is_none() && state.begun == number,
            "done": self.desk.progress.done.load(Relaxed),
            "total": self.desk.progress.total.load(Relaxed),
            "result": outcome.and_then(|outcome| outcome.as_ref().ok()),
            "error": outcome.and_then(|outcome| outcome.as_ref().err()),
        })
    }

    /// Ends what it does as soon as it can. It may wait for the thread that writes.
    pub fn begin_to_stop(&self) {
        self.desk.state().ends = true;
        self.desk.progress.stop.store(true, Relaxed);
        self.desk.changed.notify_all();
    }

    /// Ends what it does, and waits for that. Where the disk takes nothing, the store must be finished first.
    pub fn stop(&self) {
        self.begin_to_stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // One that panicked has nothing left to end.
            let _ = thread.join();
        }
    }
}

impl Drop for Caretaker {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Desk {
    fn work_until_the_end(&self, store: &DurableStore) {
        // Everything was read at the start.
        let mut last = Instant::now();
        loop {
            match self.next(last) {
                Next::End => return,
                Next::Check => {
                    // Somebody's job, or the end, is not kept waiting by what nobody asked for.
                    let waits = || {
                        let state = self.state();
                        !state.ends && state.asked.is_none()
                    };
                    let leave = (self.leave)(&waits);
                    if leave.is_none() && !waits() {
                        continue;
                    }
                    match self.check(store, &self.progress) {
                        Ok(Some(report)) if !report.is_sound() => {
                            tracing::error!(%report, "the store was checked and is damaged");
                        }
                        Ok(Some(report)) => tracing::info!(
                            values = report.checked_values,
                            orphans = report.orphans.total(),
                            duration_ms = report.duration_ms,
                            "the store was checked and is sound"
                        ),
                        Ok(None) => {}
                        Err(error) => tracing::warn!(%error, "the store could not be checked"),
                    }
                    last = Instant::now();
                }
                Next::Job(job) => {
                    let outcome = job(store, &self.progress);
                    self.state().outcome = Some(outcome);
                }
            }
            self.state().is_running = false;
        }
    }

    fn next(&self, last: Instant) -> Next {
        let mut state = self.state();
        loop {
            if state.ends {
                return Next::End;
            }
            if let Some(job) = state.asked.take() {
                state.is_running = true;
                return Next::Job(job);
            }
            let left = self
                .config
                .interval
                .map(|every| every.saturating_sub(last.elapsed()));
            state = match left {
                Some(Duration::ZERO) => return Next::Check,
                Some(left) => {
                    self.changed
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn check(&self, store: &DurableStore, progress: &Progress) -> Result<Option<Report>, DatabaseError> {
        let report = store.check(Some(self.config.bytes_per_s), progress)?;
        if let Some(report) = &report {
            self.stats.store_checks.add(1);
            self.stats.store_checked_values.add(report.checked_values);
            self.stats
                .store_damaged
                .add(report.damaged + report.missing + report.broken);
            self.gauge.note(report);
        }
        Ok(report)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Next {
    End,
    Check,
    Job(Job),
}
