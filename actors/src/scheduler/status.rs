//! How the scheduler is doing, for those who ask it and those who must not.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::prelude::*;
use models::ModelSummary;
use serde::Serialize;

use super::books::Books;
use super::{Scheduler, Weight, Worker};
use crate::policy::priority::Priority;

/// The newest state, for those who must not ask an actor: health, metrics.
#[derive(Debug, Default)]
pub struct SchedulerGauge {
    running: AtomicU64,
    waiting: AtomicU64,
    paused: AtomicU64,
    ready: AtomicBool,
    precision_bits: AtomicU32,
    stopping: AtomicBool,
    workers_lost: AtomicU64,
    request_bytes: Arc<AtomicU64>,
    books: Mutex<Books>,
}

impl SchedulerGauge {
    /// Requests running.
    pub fn running(&self) -> u64 {
        self.running.load(Relaxed)
    }

    /// Requests waiting.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    /// Requests that have begun and stand still for others.
    pub fn paused(&self) -> u64 {
        self.paused.load(Relaxed)
    }

    /// Whether a model is loaded and answers.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// Whether what waits is refused, because the daemon ends.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    pub(super) fn stops(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Bits of a weight of the model that answers; 0 while none does.
    pub fn precision_bits(&self) -> u32 {
        self.precision_bits.load(Relaxed)
    }

    /// Inference processes lost since the start.
    pub fn workers_lost(&self) -> u64 {
        self.workers_lost.load(Relaxed)
    }

    /// Bytes of the prompts of all requests that were accepted and have not ended.
    pub fn request_bytes(&self) -> u64 {
        self.request_bytes.load(Relaxed)
    }

    /// Counts so many bytes of a request for as long as what is returned lives.
    pub(crate) fn weigh(&self, bytes: usize) -> Weight {
        Weight::of(&self.request_bytes, bytes)
    }

    /// What became of all requests: each term of the conservation law, per priority.
    pub fn account(&self) -> Vec<(Priority, &'static str, u64)> {
        self.books().sum().counts().collect()
    }

    /// Whole whoever panicked beside it: nothing in it can panic halfway.
    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lost_worker(&self) {
        self.workers_lost.fetch_add(1, Relaxed);
    }
}

/// For `status`.
#[derive(Message)]
#[rtype(result = "SchedulerStatus")]
pub struct GetStatus;

/// What the scheduler knows.
#[derive(Clone, Debug, Serialize, MessageResponse)]
pub struct SchedulerStatus {
    /// `ready`, `starting`, `no_model` or `unavailable`.
    pub worker: &'static str,
    /// While it starts: how far its weights are packed, if they must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packed_percent: Option<u8>,
    /// Why it is unavailable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSummary>,
    /// Requests that have begun, those that are paused among them.
    pub running: usize,
    /// Of these, those that stand still for others.
    pub paused: usize,
    /// Requests waiting.
    pub waiting: usize,
    /// Tokens of all answers since the start.
    pub generated_tokens: u64,
    /// Inference processes lost since the start.
    pub workers_lost: u64,
    /// The daemon's own work, at the tail of the queue.
    pub own_work: OwnWork,
}

/// Packing weights, looking through the store.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OwnWork {
    /// Whether some is done now.
    pub running: bool,
    /// Pieces that wait for a quiet moment.
    pub waiting: usize,
}

impl Handler<GetStatus> for Scheduler {
    type Result = SchedulerStatus;

    fn handle(&mut self, _: GetStatus, _: &mut Self::Context) -> SchedulerStatus {
        let (worker, reason, model) = match &self.worker {
            Worker::NoModel => ("no_model", None, None),
            Worker::Starting { .. } => ("starting", None, None),
            Worker::Ready { summary, .. } => ("ready", None, Some(summary.clone())),
            Worker::Unavailable { reason } => ("unavailable", Some(reason.clone()), None),
        };
        let packed_percent = match &self.worker {
            Worker::Starting { packed_percent } => *packed_percent,
            _ => None,
        };
        SchedulerStatus {
            worker,
            packed_percent,
            reason,
            model,
            running: self.schedule.running() + self.schedule.paused(),
            paused: self.schedule.paused(),
            waiting: self.schedule.queued(),
            generated_tokens: self.generated_tokens,
            workers_lost: self.gauge.workers_lost(),
            own_work: OwnWork {
                running: self.chores.is_running(),
                waiting: self.chores.waiting(),
            },
        }
    }
}

impl Scheduler {
    pub(super) fn publish_gauge(&mut self) {
        let gauge = &self.gauge;
        let (running, paused) = (self.schedule.running(), self.schedule.paused());
        gauge.running.store((running + paused) as u64, Relaxed);
        gauge.paused.store(paused as u64, Relaxed);
        gauge.waiting.store(self.schedule.queued() as u64, Relaxed);
        let bits = match &self.worker {
            Worker::Ready { summary, .. } => summary.precision.bits(),
            _ => 0,
        };
        gauge.ready.store(bits > 0, Relaxed);
        gauge.precision_bits.store(bits, Relaxed);
        gauge.books().note(self.schedule.account(), &mut self.turns_come);
    }
}
