//! The embedded assistant beside another model: a scheduler, a supervisor and an inference process of its own, so that nothing
//! of the other model's holds up a command.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use actors::commander::Commands;
use actors::events::Events;
use actors::inference_worker::WorkerGauge;
use actors::inference_worker::host::Host;
use actors::memory_governor::{MemoryGauge, Meter};
use actors::metrics::RequestMetrics;
use actors::policy::schedule::{PerPriority, ScheduleConfig};
use actors::scheduler::{Scheduler, SchedulerGauge};
use actors::start_room::ModelSizes;
use actors::supervisor::{Start, Supervisor};
use models::assistant::CACHE_BYTES;
use opentelemetry::metrics::MeterProvider;
use opentelemetry::metrics::noop::NoopMeterProvider;

use super::backoff;
use super::configure::{failover, schedule, start_room, worker_spec};
use crate::settings::Settings;

/// Sentences that are understood at the same time; one takes some milliseconds.
const SEQUENCES: usize = 8;
/// More wait that long only that the other model had better have them.
const QUEUED: usize = 64;

/// Where the assistant's file is.
pub(super) struct Assistant {
    pub(super) path: PathBuf,
    pub(super) sizes: Arc<dyn ModelSizes>,
}

/// It at work.
pub(super) struct Beside {
    pub(super) commands: Commands,
    pub(super) supervisor: Addr<Supervisor>,
    pub(super) gauge: Arc<SchedulerGauge>,
    pub(super) worker: Arc<WorkerGauge>,
}

impl Beside {
    pub(super) fn start(
        settings: &Settings,
        assistant: Assistant,
        host: Arc<dyn Host>,
        meter: Arc<dyn Meter>,
        metrics: RequestMetrics,
    ) -> Self {
        let mut settings = settings.clone();
        let model = &mut settings.model;
        model.path = Some(assistant.path.clone());
        model.fallback = None;
        model.precision = None;
        model.max_sequences = SEQUENCES;
        // One is enough, and the other model has use for the rest.
        model.threads = Some(1);
        model.cache_bytes = Some(CACHE_BYTES);
        let few = PerPriority {
            urgent: QUEUED,
            interactive: QUEUED,
            background: QUEUED,
        };
        let config = ScheduleConfig {
            max_queued: 3 * QUEUED,
            max_queued_of_class: few,
            // Its answers come whole, so that nothing is learnt of how long they take, and none is refused as too late.
            retry_before_learnt: Duration::ZERO,
            ..schedule(&settings)
        };
        // What it is asked counts with the requests that it is asked for, and what happens to it is in the log.
        let (uncounted, untold) = (NoopMeterProvider::new().meter("commands"), Events::default());
        let gauge = Arc::<SchedulerGauge>::default();
        let scheduler = Scheduler::new(
            true,
            config,
            RequestMetrics::new(&uncounted),
            gauge.clone(),
            untold.clone(),
        )
        .start();
        let start = Start {
            room: start_room(&settings, assistant.sizes, meter),
            memory: Arc::<MemoryGauge>::default(),
        };
        let spec = worker_spec(&settings, host, assistant.path);
        let worker = spec.gauge.clone();
        let supervisor = Supervisor::new(
            spec,
            start,
            scheduler.clone(),
            backoff(&settings),
            failover(&settings),
            None,
            untold,
        );
        Self {
            commands: Commands::launch(scheduler, gauge.clone(), metrics, settings.model.commands_within),
            supervisor: supervisor.start(),
            gauge,
            worker,
        }
    }
}
