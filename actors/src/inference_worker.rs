//! The actor that owns the inference process: the same binary, started with a hidden subcommand,
//! its standard input being one end of a socket pair ([`host`]). Only a process of its own keeps a crash, or
//! the system's memory killer, away from the broker.

pub mod host;

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix::prelude::*;
use models::EngineOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::inference_worker::host::{Host, Hosted, Process};
use crate::outside;
use crate::policy::failover::Cause;
use crate::scheduler::{Scheduler, WorkerPacks, WorkerReady, WorkerSays, WorkerSteppedTo};
use crate::supervisor::{Supervisor, WorkerExited, WorkerIsAt, WorkerUp};
use crate::worker_protocol::{FrameReader, FromWorker, ToWorker, VERSION, WorkerStats, write_frame};

/// Frames to the child are few: a start and a cancel for each of its sequences. A child that lets
/// this many wait hangs, and is killed.
const FRAMES_WAITING: usize = 256;

/// How long a child asked to stop may take before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// How often the log says how far packing has come.
const PACKING_LOGGED_EVERY: Duration = Duration::from_secs(10);

/// How the process is started, and what it is to load.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    /// Where processes run.
    pub host: Arc<dyn Host>,
    /// What to load.
    pub model: PathBuf,
    /// What to load where that runs at no precision.
    pub fallback: Option<PathBuf>,
    /// Its bounds, precision and threads. It must have room for more sequences than `slots`: for those that stand still.
    pub engine: EngineOptions,
    /// Sequences that it computes at once.
    pub slots: usize,
    /// How long loading may take.
    pub load_timeout: Duration,
    /// How often the process says that it is alive.
    pub heartbeat_interval: Duration,
    /// How long it may be silent.
    pub heartbeat_timeout: Duration,
    /// Where the process that runs is told of.
    pub gauge: Arc<WorkerGauge>,
}

/// The process that runs, for those who must not ask an actor.
#[derive(Debug, Default)]
pub struct WorkerGauge(Mutex<Option<RunningProcess>>);

/// A process that has loaded its model.
#[derive(Clone, Copy, Debug)]
pub struct RunningProcess {
    /// Its number.
    pub id: u32,
    /// Whether it runs the fallback, not the model that was asked for.
    pub is_fallback: bool,
    /// What it said last.
    pub stats: WorkerStats,
}

impl WorkerGauge {
    /// The process, if one has loaded its model.
    pub fn running(&self) -> Option<RunningProcess> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, running: Option<RunningProcess>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = running;
    }
}

/// See the module.
pub struct InferenceWorker {
    spec: WorkerSpec,
    scheduler: Addr<Scheduler>,
    supervisor: Addr<Supervisor>,
    child: Option<Box<dyn Process>>,
    frames: Option<mpsc::Sender<Vec<u8>>>,
    last_heard: Rc<Cell<Instant>>,
    started_at: Instant,
    ready: bool,
    /// When the log last said how far packing has come.
    packing_logged_at: Option<Instant>,
    /// Why we end it ourselves, if we do, or what it said was wrong with the model.
    verdict: Option<(Cause, String)>,
    stopping: bool,
}

impl InferenceWorker {
    /// An actor not started yet; its process starts with it.
    pub fn new(spec: WorkerSpec, scheduler: Addr<Scheduler>, supervisor: Addr<Supervisor>) -> Self {
        let now = outside::now();
        Self {
            spec,
            scheduler,
            supervisor,
            child: None,
            frames: None,
            last_heard: Rc::new(Cell::new(now)),
            started_at: now,
            ready: false,
            packing_logged_at: None,
            verdict: None,
            stopping: false,
        }
    }

    fn start_child(&mut self, ctx: &mut Context<Self>) -> io::Result<()> {
        let Hosted { read, write, process } = self.spec.host.start()?;
        tracing::info!(pid = process.id(), model = %self.spec.model.display(), "inference process started");
        self.child = Some(process);
        let (sender, receiver) = mpsc::channel(FRAMES_WAITING);
        self.frames = Some(sender);
        actix_rt::spawn(write_frames(write, receiver));
        actix_rt::spawn(read_frames(read, ctx.address(), self.last_heard.clone()));
        self.send(&ToWorker::Load {
            version: VERSION,
            model: self.spec.model.clone(),
            engine: self.spec.engine.clone(),
            heartbeat_interval_ms: self.spec.heartbeat_interval.as_millis() as u64,
        });
        Ok(())
    }

    fn send(&mut self, frame: &ToWorker) {
        let mut bytes = Vec::new();
        if let Err(error) = write_frame(frame, &mut bytes) {
            return tracing::error!(%error, "a frame that cannot be written");
        }
        if self
            .frames
            .as_ref()
            .is_some_and(|frames| frames.try_send(bytes).is_err())
        {
            self.kill("it does not read what it is told".into());
        }
    }

    fn kill(&mut self, why: String) {
        if let Some(child) = &mut self.child {
            self.verdict.get_or_insert((Cause::Other, why));
            child.start_kill();
        }
    }

    fn check_heartbeat(&mut self) {
        let silent = outside::since(self.last_heard.get());
        if self.ready && silent > self.spec.heartbeat_timeout {
            self.kill(format!("no heartbeat for {} s", silent.as_secs()));
        } else if !self.ready && outside::since(self.started_at) > self.spec.load_timeout {
            self.kill(format!(
                "the model was not loaded within {} s (model.load_timeout_s)",
                self.spec.load_timeout.as_secs()
            ));
        }
    }

    fn exited(&mut self, cause: Cause, reason: String, ctx: &mut Context<Self>) {
        let (cause, reason) = self.verdict.take().unwrap_or((cause, reason));
        self.spec.gauge.set(None);
        if self.stopping {
            tracing::info!("inference process stopped");
        } else {
            tracing::warn!(reason, "inference process lost");
        }
        self.supervisor.do_send(WorkerExited {
            reason,
            cause,
            was_ready: self.ready,
            expected: self.stopping,
        });
        ctx.stop();
    }
}

impl Actor for InferenceWorker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(FRAMES_WAITING);
        if let Err(error) = self.start_child(ctx) {
            let reason = format!("it could not be started: {error}");
            return self.exited(Cause::Other, reason, ctx);
        }
        ctx.run_interval(self.spec.heartbeat_interval, |act, _| act.check_heartbeat());
    }
}

/// A frame for the process.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ToChild(pub ToWorker);

impl Handler<ToChild> for InferenceWorker {
    type Result = ();

    fn handle(&mut self, ToChild(frame): ToChild, _: &mut Self::Context) {
        self.send(&frame);
    }
}

/// Ask the process to exit, and kill it if it does not.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopWorker;

impl Handler<StopWorker> for InferenceWorker {
    type Result = ();

    fn handle(&mut self, _: StopWorker, ctx: &mut Self::Context) {
        self.stopping = true;
        self.send(&ToWorker::Stop);
        ctx.run_later(STOP_GRACE, |act, _| act.kill("it did not stop when asked".into()));
    }
}

/// What the process says.
#[derive(Message)]
#[rtype(result = "()")]
struct Frames(Vec<FromWorker>);

impl Handler<Frames> for InferenceWorker {
    type Result = ();

    fn handle(&mut self, Frames(mut frames): Frames, ctx: &mut Self::Context) {
        for frame in &frames {
            match frame {
                FromWorker::Ready { version, .. } if *version != VERSION => {
                    self.kill(format!(
                        "it speaks version {version}, this daemon {VERSION}: restart the daemon"
                    ));
                }
                FromWorker::Ready { summary, .. } => {
                    self.ready = true;
                    tracing::info!(model = summary.name, precision = %summary.precision, "model loaded");
                    self.supervisor.do_send(WorkerUp);
                    let ready = WorkerReady {
                        address: ctx.address(),
                        slots: self.spec.slots,
                        summary: summary.clone(),
                    };
                    self.tell_scheduler(ready, ctx);
                }
                FromWorker::Packing { percent } => self.packs(*percent),
                FromWorker::Heartbeat { stats } => {
                    let id = self.child.as_ref().and_then(|child| child.id());
                    let running = id.map(|id| RunningProcess {
                        id,
                        is_fallback: self.spec.fallback.as_ref() == Some(&self.spec.model),
                        stats: *stats,
                    });
                    self.spec.gauge.set(running);
                }
                FromWorker::SteppedTo { precision } => {
                    tracing::info!(%precision, "the model's weights are at another precision");
                    self.supervisor.do_send(WorkerIsAt(*precision));
                    self.tell_scheduler(WorkerSteppedTo(*precision), ctx);
                }
                FromWorker::StepFailed { precision, message } => {
                    tracing::warn!(message, %precision, "the model's weights stay at their precision");
                    self.supervisor.do_send(WorkerIsAt(*precision));
                }
                FromWorker::LoadFailed { message } => self.verdict = Some((Cause::Load, message.clone())),
                _ => {}
            }
        }
        frames.retain(|frame| matches!(frame, FromWorker::Event { .. } | FromWorker::Refused { .. }));
        if !frames.is_empty() {
            self.tell_scheduler(WorkerSays(frames), ctx);
        }
    }
}

impl InferenceWorker {
    fn packs(&mut self, percent: u8) {
        let is_due = |at: Instant| outside::since(at) >= PACKING_LOGGED_EVERY;
        if percent == 100 || self.packing_logged_at.is_none_or(is_due) {
            self.packing_logged_at = Some(outside::now());
            tracing::info!(
                percent,
                "the model's weights are packed, once for all later starts"
            );
        }
        // The next one says more; a scheduler with no room has more important things to read.
        let _lost = self.scheduler.try_send(WorkerPacks { percent });
    }

    /// Waits for room in the scheduler's mailbox; meanwhile the process is not read, and waits too.
    fn tell_scheduler<M>(&self, message: M, ctx: &mut Context<Self>)
    where
        M: actix::Message<Result = ()> + Send + 'static,
        Scheduler: Handler<M>,
    {
        let told = self.scheduler.send(message);
        ctx.wait(
            async move {
                let _ = told.await;
            }
            .into_actor(self),
        );
    }
}

/// The process closed its end: it exits, or has.
#[derive(Message)]
#[rtype(result = "()")]
struct Closed(Option<String>);

impl Handler<Closed> for InferenceWorker {
    type Result = ();

    fn handle(&mut self, Closed(problem): Closed, ctx: &mut Self::Context) {
        if let Some(problem) = problem {
            self.kill(problem);
        }
        let Some(mut child) = self.child.take() else {
            return;
        };
        let ended = async move {
            match tokio::time::timeout(STOP_GRACE, child.wait()).await {
                Ok(ended) => ended,
                Err(_) => {
                    child.start_kill();
                    child.wait().await
                }
            }
        };
        ctx.wait(
            ended
                .into_actor(self)
                .map(|(cause, reason), act, ctx| act.exited(cause, reason, ctx)),
        );
    }
}

async fn write_frames(mut write: Box<dyn AsyncWrite + Unpin>, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        // The reader sees the same broken socket and reports it.
        if write.write_all(&frame).await.is_err() {
            return;
        }
    }
}

async fn read_frames(
    mut read: Box<dyn AsyncRead + Unpin>,
    worker: Addr<InferenceWorker>,
    last_heard: Rc<Cell<Instant>>,
) {
    let mut reader = FrameReader::default();
    let mut buffer = vec![0; 64 * 1024];
    let problem = loop {
        let count = match read.read(&mut buffer).await {
            Ok(0) => break None,
            Ok(count) => count,
            // It ended with words of ours unread; how is for its exit status to say.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break None,
            Err(error) => break Some(format!("its socket broke: {error}")),
        };
        last_heard.set(outside::now());
        reader.push(buffer.get(..count).unwrap_or_default());
        let mut frames = Vec::new();
        let problem = loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break None,
                Err(error) => break Some(format!("it said {error}")),
            }
        };
        if worker.send(Frames(frames)).await.is_err() {
            return;
        }
        if problem.is_some() {
            break problem;
        }
    };
    // An actor that is gone needs no word.
    let _ = worker.send(Closed(problem)).await;
}
