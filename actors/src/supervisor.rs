//! The actor that keeps an inference worker alive: `one_for_one`, `permanent`, with backoff. Each
//! start is a new worker with a new process; the requests are with the [`Scheduler`].

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Instant;

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::inference_worker::{InferenceWorker, StopWorker, WorkerSpec};
use crate::policy::backoff::{Backoff, BackoffConfig};
use crate::scheduler::{Scheduler, WorkerGone};

/// One worker's exits and one stop at a time.
const MAILBOX: usize = 16;

/// After so many failures without ever being ready in between, waiting requests are refused.
const HOPELESS_AFTER: u32 = 3;

/// See the module.
pub struct Supervisor {
    spec: WorkerSpec,
    scheduler: Addr<Scheduler>,
    backoff: Backoff,
    worker: Option<Addr<InferenceWorker>>,
    failures_unready: u32,
    restarts: u64,
    stopping: Option<Vec<oneshot::Sender<()>>>,
}

impl Supervisor {
    /// An actor not started yet; it starts a worker when it is.
    pub fn new(spec: WorkerSpec, scheduler: Addr<Scheduler>, backoff: BackoffConfig) -> Self {
        Self {
            spec,
            scheduler,
            backoff: Backoff::new(backoff),
            worker: None,
            failures_unready: 0,
            restarts: 0,
            stopping: None,
        }
    }

    fn start_worker(&mut self, ctx: &mut Context<Self>) {
        if self.stopping.is_none() {
            self.backoff.started(Instant::now());
            let worker = InferenceWorker::new(self.spec.clone(), self.scheduler.clone(), ctx.address());
            self.worker = Some(worker.start());
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.start_worker(ctx);
    }
}

/// A worker's process is gone. Sent past the mailbox's bound: a worker says it once, and it must
/// not be lost.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkerExited {
    /// Why.
    pub reason: String,
    /// Whether it had loaded its model.
    pub was_ready: bool,
    /// Whether it was asked to.
    pub expected: bool,
}

impl Handler<WorkerExited> for Supervisor {
    type Result = ();

    fn handle(&mut self, msg: WorkerExited, ctx: &mut Self::Context) {
        self.worker = None;
        if let Some(waiting) = &mut self.stopping {
            for waiting in waiting.drain(..) {
                // Whoever waited may have given up.
                let _ = waiting.send(());
            }
            if msg.expected {
                return;
            }
        }
        self.failures_unready = if msg.was_ready {
            0
        } else {
            self.failures_unready + 1
        };
        self.restarts += 1;
        let wait = self.backoff.failed(Instant::now(), random());
        tracing::warn!(
            reason = msg.reason,
            failures = self.backoff.failures(),
            wait_ms = wait.as_millis() as u64,
            "the inference worker is started again after a wait"
        );
        let gone = WorkerGone {
            reason: msg.reason,
            hopeless: self.failures_unready >= HOPELESS_AFTER,
        };
        let told = self.scheduler.send(gone);
        ctx.spawn(
            async move {
                let _ = told.await;
            }
            .into_actor(self),
        );
        ctx.run_later(wait, |act, ctx| act.start_worker(ctx));
    }
}

/// Stop the worker and start no other. Answered when its process is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopSupervisor;

impl Handler<StopSupervisor> for Supervisor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: StopSupervisor, _: &mut Self::Context) -> Self::Result {
        let Some(worker) = &self.worker else {
            self.stopping.get_or_insert_default();
            return Box::pin(async {});
        };
        let stop = worker.send(StopWorker);
        let (sender, receiver) = oneshot::channel();
        self.stopping.get_or_insert_default().push(sender);
        Box::pin(async move {
            // Either fails only if the worker is gone, which is what is wanted.
            let _ = stop.await;
            let _ = receiver.await;
        })
    }
}

/// How often a worker was started again.
#[derive(Message)]
#[rtype(result = "u64")]
pub struct GetRestarts;

impl Handler<GetRestarts> for Supervisor {
    type Result = u64;

    fn handle(&mut self, _: GetRestarts, _: &mut Self::Context) -> u64 {
        self.restarts
    }
}

/// In 0..1, from the hasher's keys, which the system seeds.
fn random() -> f64 {
    (RandomState::new().build_hasher().finish() >> 11) as f64 / (1u64 << 53) as f64
}
