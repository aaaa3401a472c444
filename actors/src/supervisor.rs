//! The actor that keeps an inference worker alive: `one_for_one`, `permanent`, with backoff. Each
//! start is a new worker with a new process; the requests are with the [`Scheduler`]. A worker that failed is started again
//! at a lower precision where that may help ([`failover`](crate::policy::failover)), and one that would not fit the memory is
//! started at one that does ([`StartRoom`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use models::Precision;
use tokio::sync::oneshot;

use crate::events::{Event, Events};
use crate::inference_worker::host::Shelf;
use crate::inference_worker::{InferenceWorker, StopWorker, WorkerSpec};
use crate::memory_governor::MemoryGauge;
use crate::outside;
use crate::packer::{Pack, Packer};
use crate::policy::backoff::{Backoff, BackoffConfig};
use crate::policy::failover::{Cause, Failover, FailoverConfig};
use crate::policy::governor::Action;
use crate::scheduler::{Govern, Scheduler, WorkerGone};
use crate::start_room::StartRoom;

/// One worker's starts and exits and one stop at a time.
const MAILBOX: usize = 16;

/// After so many failures without ever being ready in between, waiting requests are refused.
const HOPELESS_AFTER: u32 = 3;

/// How often it is seen whether a better rung may be tried again.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(30);

/// Weights of so few bytes are packed at a start before anybody notices.
const PACKED_IN_NO_TIME: u64 = 64 << 20;

/// See the module.
pub struct Supervisor {
    spec: WorkerSpec,
    start: Start,
    scheduler: Addr<Scheduler>,
    backoff: Backoff,
    failover: Failover,
    /// The model's precision as configured, then each that is lower; at last the fallback.
    rungs: Vec<Rung>,
    /// What is packed, once it was looked up.
    shelf: Option<Box<dyn Shelf>>,
    packer: Option<Addr<Packer>>,
    events: Events,
    worker: Option<Addr<InferenceWorker>>,
    failures_unready: u32,
    /// Whether the worker was asked to end so that a better one may start.
    is_rising: bool,
    restarts: u64,
    stopping: Option<Vec<oneshot::Sender<()>>>,
}

/// How it is found out where a model begins, and where that is told.
pub struct Start {
    /// What the memory has room for.
    pub room: StartRoom,
    /// Where it is remembered, beside what the governor does.
    pub memory: Arc<MemoryGauge>,
}

/// What a worker may be started with.
#[derive(Clone, Debug)]
struct Rung {
    model: PathBuf,
    /// None for that which suits the model.
    precision: Option<Precision>,
}

impl Supervisor {
    /// An actor not started yet; it starts a worker when it is.
    pub fn new(
        spec: WorkerSpec,
        start: Start,
        scheduler: Addr<Scheduler>,
        backoff: BackoffConfig,
        failover: FailoverConfig,
        packer: Option<Addr<Packer>>,
        events: Events,
    ) -> Self {
        let rungs = rungs_of(&spec, start.room.ladder(spec.engine.precision));
        Self {
            failover: Failover::new(failover, rungs.len()),
            rungs,
            shelf: None,
            start,
            packer,
            events,
            spec,
            scheduler,
            backoff: Backoff::new(backoff),
            worker: None,
            failures_unready: 0,
            is_rising: false,
            restarts: 0,
            stopping: None,
        }
    }

    fn start_worker(&mut self, ctx: &mut Context<Self>) {
        if self.stopping.is_none() {
            self.backoff.started(outside::now());
            self.begin_where_there_is_room();
            let mut spec = self.spec.clone();
            if let Some(rung) = self.rungs.get(self.failover.rung()) {
                (spec.model, spec.engine.precision) = (rung.model.clone(), rung.precision);
            }
            let worker = InferenceWorker::new(spec, self.scheduler.clone(), ctx.address());
            self.worker = Some(worker.start());
        }
    }

    /// Goes down to the first rung for which memory has room. The fallback is the last resort, whatever room there is.
    fn begin_where_there_is_room(&mut self) {
        let due = self.failover.rung();
        let precisions: Vec<_> = (due..self.rungs.len())
            .filter_map(|rung| self.precision_of(rung))
            .collect();
        let begin = self.start.room.begin(&precisions);
        let (Some(wanted), Some(begin)) = (precisions.first(), begin) else {
            return;
        };
        let (Some(reason), Some(rung)) = (begin.reason, self.rung_of(begin.precision)) else {
            return;
        };
        let (wanted, precision) = (*wanted, begin.precision);
        if begin.fits {
            tracing::info!(reason, %wanted, %precision, "the model begins at a lower precision");
        } else {
            tracing::warn!(reason, %wanted, %precision, "the model does not fit the memory, and begins all the same");
        }
        if rung != due {
            self.failover.moved(outside::now(), rung);
            let down = Action::StepDown { to: precision };
            self.start
                .memory
                .remember(down, format!("at the start: {reason}"));
        }
        self.events.tell(&Event::BegunLower {
            wanted,
            precision,
            reason,
        });
    }

    /// What cannot be reached in place (the reference, the model from its fallback, what nobody packs) is reached by another
    /// process, which takes up the answers where they are. All else is for the memory governor to decide.
    fn rise(&mut self) {
        let now = outside::now();
        let (Some(worker), Some(better)) = (&self.worker, self.failover.may_rise(now)) else {
            return;
        };
        // From the fallback, the lowest precision is begun at whatever room there is.
        if self.precision_of(self.failover.rung()).is_some()
            && let Some(precision) = self.precision_of(better)
        {
            let is_packed = self.has_file(precision) || self.packer().is_some();
            let is_in_place = precision != Precision::F32 && is_packed;
            if is_in_place || !self.start.room.has_room(precision) {
                return;
            }
        }
        if self.stopping.is_some() || worker.try_send(StopWorker).is_err() {
            return;
        }
        tracing::info!("a better model or precision is tried again");
        self.failover.rose(now, better);
        self.is_rising = true;
    }

    fn tell_scheduler<M>(&self, message: M, ctx: &mut Context<Self>)
    where
        M: actix::Message<Result = ()> + Send + 'static,
        Scheduler: Handler<M>,
    {
        let told = self.scheduler.send(message);
        ctx.spawn(
            async move {
                let _ = told.await;
            }
            .into_actor(self),
        );
    }

    /// Whether a start on this rung need not pack weights first, while everybody waits.
    fn is_packed(&self, rung: usize) -> bool {
        // The fallback is the last resort, whatever is packed of it.
        let Some(precision) = self.precision_of(rung) else {
            return false;
        };
        self.is_small() || self.has_file(precision)
    }

    fn has_file(&self, precision: Precision) -> bool {
        let is_this = |file: &models::PackedFile| file.precision == precision && !file.is_stale;
        let shelf = self.shelf.as_ref();
        shelf.is_some_and(|shelf| shelf.packed().iter().any(is_this))
    }

    fn is_small(&self) -> bool {
        self.start.room.summary().weights_bytes <= PACKED_IN_NO_TIME
    }

    /// Who packs what is not begun at; nobody where that takes no time.
    fn packer(&self) -> Option<&Addr<Packer>> {
        self.packer.as_ref().filter(|_| !self.is_small())
    }

    /// Of the model that was asked for.
    fn precision_of(&self, rung: usize) -> Option<Precision> {
        let rung = self
            .rungs
            .get(rung)
            .filter(|rung| rung.model == self.spec.model)?;
        rung.precision
    }

    fn rung_of(&self, precision: Precision) -> Option<usize> {
        (0..self.rungs.len()).find(|rung| self.precision_of(*rung) == Some(precision))
    }

    /// Looks up what is packed of the model.
    fn look_up(&self, ctx: &mut Context<Self>) {
        let Some(directory) = self.spec.engine.packed_directory.clone() else {
            return;
        };
        let shelf = self.spec.host.shelf(self.spec.model.clone(), directory);
        ctx.spawn(shelf.into_actor(self).map(|shelf, act, _| {
            act.shelf = shelf;
            act.pack_others();
        }));
    }

    /// Has what may be stepped to packed before it is needed: what is lower, the nearest first, and then what is higher,
    /// where the model began lower than it was asked to.
    fn pack_others(&self) {
        let Some(packer) = self.packer() else { return };
        let rung = self.failover.rung();
        let others = (rung + 1..self.rungs.len()).chain((0..rung).rev());
        let wanted = others.filter_map(|rung| self.precision_of(rung));
        let wanted: Vec<Precision> = wanted
            .filter(|precision| *precision != Precision::F32 && !self.has_file(*precision))
            .collect();
        if !wanted.is_empty() && packer.try_send(Pack(wanted)).is_err() {
            tracing::debug!("the packer does not take what is wanted");
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.start_worker(ctx);
        ctx.run_interval(self.failover.rise_after().min(LOOKED_AT_EVERY), |act, _| {
            act.rise()
        });
    }
}

/// A worker's process is gone. Sent past the mailbox's bound: a worker says it once, and it must
/// not be lost.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkerExited {
    /// Why, for people.
    pub reason: String,
    /// Why, as far as that can be told.
    pub cause: Cause,
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
        if std::mem::take(&mut self.is_rising) && msg.expected {
            let reason = "a better one is started".to_owned();
            self.tell_scheduler(
                WorkerGone {
                    reason,
                    hopeless: false,
                    planned: true,
                },
                ctx,
            );
            return self.start_worker(ctx);
        }
        self.failures_unready = if msg.was_ready {
            0
        } else {
            self.failures_unready + 1
        };
        self.restarts += 1;
        let now = outside::now();
        let wait = self.backoff.failed(now, outside::random_part());
        let packed: Vec<bool> = (0..self.rungs.len()).map(|rung| self.is_packed(rung)).collect();
        let is_ready = |rung| packed.get(rung).copied().unwrap_or(false);
        let rung = self.failover.failed(now, msg.cause, is_ready);
        let started = self.rungs.get(rung);
        let precision = started.and_then(|rung| rung.precision);
        tracing::warn!(
            reason = msg.reason,
            failures = self.backoff.failures(),
            wait_ms = wait.as_millis() as u64,
            precision = precision.map_or_else(|| "auto".to_owned(), |precision| precision.to_string()),
            "the inference worker is started again after a wait"
        );
        self.events.tell(&Event::WorkerLost {
            reason: msg.reason.clone(),
            restart_in_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            precision,
            restarts: self.restarts,
        });
        let gone = WorkerGone {
            reason: msg.reason,
            hopeless: self.failures_unready >= HOPELESS_AFTER,
            planned: false,
        };
        self.tell_scheduler(gone, ctx);
        ctx.run_later(wait, |act, ctx| act.start_worker(ctx));
    }
}

/// The worker's weights have this precision after a step to another one, which came about or failed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkerIsAt(pub Precision);

impl Handler<WorkerIsAt> for Supervisor {
    type Result = ();

    fn handle(&mut self, WorkerIsAt(precision): WorkerIsAt, _: &mut Self::Context) {
        // The fallback has its own precisions, none of which is a rung.
        let runs_model = self.precision_of(self.failover.rung()).is_some();
        if let Some(rung) = self.rung_of(precision).filter(|_| runs_model) {
            self.failover.is_on(outside::now(), rung);
        }
    }
}

/// The worker has loaded its model.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkerUp;

impl Handler<WorkerUp> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: WorkerUp, ctx: &mut Self::Context) {
        if self.shelf.is_none() {
            self.look_up(ctx);
        }
    }
}

/// A step to another precision goes by the supervisor, which must start a worker there if the present one fails, and
/// knows when a better one is too early after a failure. All else goes on to the scheduler.
impl Handler<Govern> for Supervisor {
    type Result = ();

    fn handle(&mut self, Govern(action): Govern, ctx: &mut Self::Context) {
        let now = outside::now();
        match action {
            Action::StepDown { to } => {
                let Some(rung) = self.rung_of(to) else { return };
                self.failover.moved(now, rung);
            }
            Action::StepUp { to } => {
                let Some(rung) = self.rung_of(to) else { return };
                if self.failover.may_rise(now).is_none_or(|best| best > rung) {
                    return tracing::debug!(%to, "it is too early for a better precision after a failure");
                }
                self.failover.rose(now, rung);
            }
            _ => {}
        }
        self.tell_scheduler(Govern(action), ctx);
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

/// The model at these precisions, then the fallback.
fn rungs_of(spec: &WorkerSpec, precisions: impl Iterator<Item = Precision>) -> Vec<Rung> {
    let rung = |precision| Rung {
        model: spec.model.clone(),
        precision: Some(precision),
    };
    let fallback = spec.fallback.iter().map(|model| Rung {
        model: model.clone(),
        precision: None,
    });
    precisions.map(rung).chain(fallback).collect()
}
