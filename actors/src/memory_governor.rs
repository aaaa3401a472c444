//! The actor that watches memory: it measures, keeps the sum with its owners for whoever asks, and does what the
//! [`Governor`] decides, by the supervisor and the scheduler.

mod meter;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::prelude::*;
use models::Precision;
use platform::memory::MachineMemory;
use serde::Serialize;

use crate::events::{Event, Events};
use crate::holdings::Holdings;
use crate::inference_worker::host::{Host, Shelf};
use crate::inference_worker::{RunningProcess, WorkerGauge};
use crate::outside;
use crate::policy::governor::{
    Action, Governor, GovernorSettings, Ledger, ModelReading, Reading, WorkerMemory,
};
use crate::scheduler::Govern;
use crate::supervisor::Supervisor;

pub use meter::{Meter, ThisMachine};

/// Nothing is sent to it yet but the start.
const MAILBOX: usize = 16;

/// Decisions that are remembered for whoever asks.
const REMEMBERED: usize = 16;

/// From the settings.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// Time between two readings.
    pub interval: Duration,
    /// The share of memory that is to be kept free.
    pub keep_free_percent: u8,
    /// So much more must be free after something was taken back.
    pub recovery_margin_percent: u8,
    /// Least time between two changes of the precision.
    pub dwell: Duration,
}

/// The model that is governed, if there is one.
#[derive(Clone)]
pub struct Governed {
    /// Its file or directory.
    pub model: PathBuf,
    /// Where its weights are kept packed.
    pub packed_directory: PathBuf,
    /// The precision that was asked for, to which it comes back whenever there is room.
    pub precision: Precision,
    /// The most that keys and values may take; none for all there is.
    pub kv_bytes: Option<u64>,
    /// The process in which it runs.
    pub worker: Arc<WorkerGauge>,
    /// Where that process runs.
    pub host: Arc<dyn Host>,
    /// Who carries out what is decided.
    pub supervisor: Addr<Supervisor>,
}

/// The smallest bound of keys and values: a short conversation with a model of 3 billion parameters.
const SMALLEST_KV_BYTES: u64 = 64 << 20;
/// How long memory must be well before something is taken back.
const SETTLE: Duration = Duration::from_secs(15);
/// The longest that background requests pause for memory alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// The newest measurement, for metrics and status. Zero before the first one.
#[derive(Debug, Default)]
pub struct MemoryGauge {
    total_bytes: AtomicU64,
    available_bytes: AtomicU64,
    decisions: AtomicU64,
    status: Mutex<MemoryStatus>,
}

/// Memory with its owners, and what the governor did and why.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MemoryStatus {
    /// The sum.
    pub ledger: Ledger,
    /// What the last reading came to, in words.
    pub verdict: String,
    /// What was done, the latest last.
    pub done: VecDeque<Done>,
}

/// Something that the governor did.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    /// When, in seconds since 1970.
    pub at_s: u64,
    /// What.
    #[serde(flatten)]
    pub action: Action,
    /// Why.
    pub reason: String,
}

impl MemoryGauge {
    /// What the machine has, or what the tightest control group around us may have.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Relaxed)
    }

    /// What could be had of it without swapping.
    pub fn available_bytes(&self) -> u64 {
        self.available_bytes.load(Relaxed)
    }

    /// How often the governor did something.
    pub fn decisions(&self) -> u64 {
        self.decisions.load(Relaxed)
    }

    /// The sum, and what was done.
    pub fn status(&self) -> MemoryStatus {
        self.lock().clone()
    }

    /// Remembers that something was done, for whoever asks.
    pub(crate) fn remember(&self, action: Action, reason: String) {
        let mut status = self.lock();
        while status.done.len() >= REMEMBERED {
            status.done.pop_front();
        }
        status.done.push_back(Done {
            at_s: outside::unix_s(),
            action,
            reason,
        });
    }

    fn lock(&self) -> MutexGuard<'_, MemoryStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
pub struct MemoryGovernor {
    config: MemoryConfig,
    meter: Arc<dyn Meter>,
    gauge: Arc<MemoryGauge>,
    governed: Option<Governed>,
    governor: Option<Governor>,
    /// What is packed of the model, once it was looked up.
    shelf: Option<Box<dyn Shelf>>,
    is_background_paused: bool,
    warned: bool,
    failed: bool,
    events: Events,
    holdings: Holdings,
    /// Of the embedded assistant beside the model; it is counted, not governed.
    assistant: Option<Arc<WorkerGauge>>,
}

impl MemoryGovernor {
    /// An actor not started yet.
    pub fn new(
        config: MemoryConfig,
        meter: Arc<dyn Meter>,
        governed: Option<Governed>,
        gauge: Arc<MemoryGauge>,
        events: Events,
        holdings: Holdings,
    ) -> Self {
        Self {
            events,
            holdings,
            config,
            meter,
            gauge,
            governed,
            governor: None,
            shelf: None,
            is_background_paused: false,
            warned: false,
            failed: false,
            assistant: None,
        }
    }

    /// With the embedded assistant's process, beside the model's.
    pub fn with_assistant(mut self, assistant: Option<Arc<WorkerGauge>>) -> Self {
        self.assistant = assistant;
        self
    }

    fn measure(&mut self) {
        let limits = match self.meter.limits() {
            Ok(limits) => limits,
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::warn!(%error, "the machine's memory cannot be measured; nothing is done when it runs short");
                }
                return;
            }
        };
        let running = self
            .governed
            .as_ref()
            .and_then(|governed| governed.worker.running());
        let reading = Reading {
            pressure: self.meter.pressure(),
            refaulted_bytes: self.meter.refaulted_bytes(),
            model: running.map(|running| self.read_model(running)),
            limits,
        };
        self.publish(&reading, running);
        self.govern(&reading);
    }

    fn read_model(&self, running: RunningProcess) -> ModelReading {
        let stats = running.stats;
        let packed = self.shelf.iter().flat_map(|shelf| shelf.packed());
        // What is packed of the model is not what the fallback could step to.
        let packed = packed.filter(|file| !file.is_stale && !running.is_fallback);
        let configured = self.governed.as_ref().and_then(|governed| governed.kv_bytes);
        let budget = stats.engine.cache_budget_bytes.map(|bytes| bytes as u64);
        ModelReading {
            precision: stats.precision,
            packed: packed.map(|file| (file.precision, file.bytes)).collect(),
            mapped_bytes: stats.mapped_bytes,
            resident_bytes: stats.resident_bytes,
            kv_running_bytes: stats.engine.running_bytes as u64,
            kv_kept_bytes: stats.engine.kept_bytes as u64,
            kv_budget_bytes: budget.or(configured).unwrap_or(u64::MAX),
            is_background_paused: self.is_background_paused,
            is_stepping: stats.is_stepping,
        }
    }

    fn publish(&mut self, reading: &Reading, running: Option<RunningProcess>) {
        let Some(least) = reading.limits.iter().min_by_key(|memory| memory.available_bytes) else {
            return;
        };
        self.gauge.total_bytes.store(least.total_bytes, Relaxed);
        self.gauge.available_bytes.store(least.available_bytes, Relaxed);
        let private = |id| self.meter.private_bytes(id);
        let daemon = self.holdings.within(private(std::process::id()));
        let worker = running.map(|running| {
            let stats = running.stats;
            WorkerMemory {
                private_bytes: private(running.id),
                mapped_weights_bytes: stats.resident_bytes.unwrap_or(stats.mapped_bytes),
                private_weights_bytes: stats.private_weights_bytes,
                kv_running_bytes: stats.engine.running_bytes as u64,
                kv_kept_bytes: stats.engine.kept_bytes as u64,
            }
        });
        let assistant = self.assistant.as_ref().and_then(|gauge| gauge.running());
        let assistant_bytes = assistant.map_or(0, |running| {
            let mapped = running.stats.resident_bytes.unwrap_or(running.stats.mapped_bytes);
            private(running.id).saturating_add(mapped)
        });
        self.gauge.lock().ledger = Ledger::new(daemon, worker.unwrap_or_default(), assistant_bytes);
        if reading.model.is_none() {
            self.warn(least);
        }
    }

    /// With no model that could be governed, words are all there is.
    fn warn(&mut self, memory: &MachineMemory) {
        let free_percent = memory.free_percent();
        let low = u64::from(self.config.keep_free_percent);
        if !self.warned && free_percent < low {
            self.warned = true;
            tracing::warn!(
                free_percent,
                available_bytes = memory.available_bytes,
                "memory runs short: close other programs or choose a smaller model"
            );
        } else if self.warned && free_percent >= low + 5 {
            // Five points above, so that a reading on the edge does not fill the log.
            self.warned = false;
            tracing::info!(free_percent, "memory has recovered");
        }
    }

    fn govern(&mut self, reading: &Reading) {
        let Some(governed) = &self.governed else { return };
        if self.governor.is_none() {
            if reading.model.is_none() {
                return;
            }
            let total = reading.limits.iter().map(|memory| memory.total_bytes).min();
            self.governor = Some(Governor::new(GovernorSettings {
                keep_free_percent: self.config.keep_free_percent,
                recovery_margin_percent: self.config.recovery_margin_percent,
                dwell: self.config.dwell,
                settle: SETTLE,
                longest_pause: LONGEST_PAUSE,
                precision: governed.precision,
                kv_bytes: governed.kv_bytes.or(total).unwrap_or(u64::MAX),
                smallest_kv_bytes: SMALLEST_KV_BYTES,
            }));
        }
        let Some(governor) = &mut self.governor else {
            return;
        };
        let decision = governor.decide(outside::now(), reading);
        self.gauge.lock().verdict.clone_from(&decision.reason);
        if decision.action == Action::Rest {
            return;
        }
        self.events.tell(&Event::Governed {
            action: decision.action,
            reason: decision.reason.clone(),
        });
        tracing::info!(action = ?decision.action, reason = decision.reason, "memory is governed");
        self.gauge.remember(decision.action, decision.reason);
        self.gauge.decisions.fetch_add(1, Relaxed);
        // A supervisor with no room has more urgent things to see to; the next reading says it again.
        if governed.supervisor.try_send(Govern(decision.action)).is_ok() {
            match decision.action {
                Action::PauseBackground => self.is_background_paused = true,
                Action::ResumeBackground => self.is_background_paused = false,
                _ => {}
            }
        }
    }

    /// Looks up what is packed of the model.
    fn look_up(&self, ctx: &mut Context<Self>) {
        let Some(governed) = &self.governed else { return };
        let shelf = governed
            .host
            .shelf(governed.model.clone(), governed.packed_directory.clone());
        ctx.spawn(shelf.into_actor(self).map(|shelf, act, _| act.shelf = shelf));
    }
}

impl Actor for MemoryGovernor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.look_up(ctx);
        self.measure();
        ctx.run_interval(self.config.interval, |act, _| act.measure());
    }
}
