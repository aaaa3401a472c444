//! The actor that decides which request runs when. It holds the queue and the running requests, so
//! that both outlive the inference process: when that dies, everybody who waits for it hears of it
//! here, and what only queued runs on the next one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use actix::prelude::*;
use models::{Event, FinishReason, GenerateRequest, ModelSummary, SequenceId, TokenLogprob, ToolCall};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::conversation::{PromptTokensDetails, Timings, Usage};
use crate::inference_worker::{InferenceWorker, ToChild};
use crate::metrics::{Ending, RequestMetrics};
use crate::policy::queue::{Priority, PriorityQueue, QueueFull};
use crate::worker_protocol::{FromWorker, ToWorker};

/// Submissions that find it full are refused with an item (`overloaded`); all else waits for room.
const MAILBOX: usize = 4096;

/// The code of a request that ends because the daemon does.
pub(crate) const SHUTTING_DOWN: &str = "shutting_down";

/// Names a request for the life of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobId(SequenceId);

impl JobId {
    /// A new one.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}

/// The newest state, for those who must not ask an actor: health, metrics.
#[derive(Debug, Default)]
pub struct SchedulerGauge {
    running: AtomicU64,
    waiting: AtomicU64,
    ready: AtomicBool,
    workers_lost: AtomicU64,
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

    /// Whether a model is loaded and answers.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// Inference processes lost since the start.
    pub fn workers_lost(&self) -> u64 {
        self.workers_lost.load(Relaxed)
    }
}

/// See the module.
pub struct Scheduler {
    queue: PriorityQueue<Submit>,
    running: HashMap<SequenceId, Running>,
    worker: Worker,
    draining: Vec<oneshot::Sender<()>>,
    stopping: bool,
    metrics: RequestMetrics,
    gauge: Arc<SchedulerGauge>,
}

enum Worker {
    /// None is configured.
    NoModel,
    /// Being started; requests wait for it.
    Starting {
        /// How far its weights are packed, if they are.
        packed_percent: Option<u8>,
    },
    Ready {
        address: Addr<InferenceWorker>,
        slots: usize,
        summary: ModelSummary,
    },
    /// Failed again and again; requests are refused until it works.
    Unavailable { reason: String },
}

/// Texts of one request that came together.
struct Said {
    id: SequenceId,
    text: String,
    logprobs: Vec<TokenLogprob>,
}

struct Running {
    job: JobId,
    priority: Priority,
    accepted_at: Instant,
    began_at: Instant,
    first_text_at: Option<Instant>,
    progress: Recipient<Progress>,
    cancelled: bool,
}

impl Scheduler {
    /// An actor not started yet, for at most `max_queued` waiting requests.
    pub fn new(
        has_model: bool,
        max_queued: usize,
        metrics: RequestMetrics,
        gauge: Arc<SchedulerGauge>,
    ) -> Self {
        Self {
            queue: PriorityQueue::new(max_queued),
            running: HashMap::new(),
            worker: if has_model {
                Worker::Starting { packed_percent: None }
            } else {
                Worker::NoModel
            },
            draining: Vec::new(),
            stopping: false,
            metrics,
            gauge,
        }
    }
}

impl Actor for Scheduler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// A request for an answer. What becomes of it is told to `progress`.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct Submit {
    /// Its name.
    pub job: JobId,
    /// How much it matters.
    pub priority: Priority,
    /// What to generate.
    pub request: GenerateRequest,
    /// When the daemon took it on.
    pub accepted_at: Instant,
    /// Who is told.
    pub progress: Recipient<Progress>,
}

/// What becomes of a request: any number of texts, then one of the others.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum Progress {
    /// More of the answer.
    Text {
        /// Which request.
        job: JobId,
        /// What to append.
        text: String,
        /// Of its tokens, where the request asked for it.
        logprobs: Vec<TokenLogprob>,
    },
    /// The answer calls tools; its end follows.
    ToolCalls {
        /// Which request.
        job: JobId,
        /// What it calls.
        calls: Vec<ToolCall>,
    },
    /// The answer is complete, or was cancelled.
    Done {
        /// Which request.
        job: JobId,
        /// Why it ended.
        reason: FinishReason,
        /// Its tokens.
        usage: Usage,
        /// Its times.
        timings: Timings,
        /// What answered.
        model: String,
    },
    /// There will be no answer, or no more of it.
    Failed {
        /// Which request.
        job: JobId,
        /// Stable, for programs.
        code: String,
        /// For people: what happened and what to try.
        message: String,
        /// When asking again may help.
        retry_after_ms: Option<u64>,
    },
}

impl Progress {
    /// Which request.
    pub fn job(&self) -> JobId {
        match self {
            Self::Text { job, .. }
            | Self::ToolCalls { job, .. }
            | Self::Done { job, .. }
            | Self::Failed { job, .. } => *job,
        }
    }
}

impl Handler<Submit> for Scheduler {
    type Result = ();

    fn handle(&mut self, submit: Submit, _: &mut Self::Context) {
        if self.stopping {
            return self.refuse(
                &submit,
                SHUTTING_DOWN,
                "the daemon is stopping; ask again when it is back",
                None,
            );
        }
        match &self.worker {
            Worker::NoModel => {
                let message = "no model is configured; set model.path to a GGUF file or a directory with \
                    config.json, model.safetensors and tokenizer.json, or start with `clawdbot serve --model PATH`";
                return self.refuse(&submit, "no_model", message, None);
            }
            Worker::Unavailable { reason } => {
                let message = format!("the model does not run at the moment: {reason}");
                return self.refuse(&submit, "model_unavailable", &message, Some(5000));
            }
            Worker::Starting { .. } | Worker::Ready { .. } => {}
        }
        if let Err(QueueFull { bound }) = self.queue.push(submit.priority, submit.clone()) {
            let message = format!("{bound} requests wait already (scheduler.max_queued); ask again later");
            return self.refuse(&submit, "queue_full", &message, Some(2000));
        }
        self.dispatch();
    }
}

/// Ends a request early; its last [`Progress`] says `Cancelled`.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CancelJob {
    /// Which.
    pub job: JobId,
}

impl Handler<CancelJob> for Scheduler {
    type Result = ();

    fn handle(&mut self, CancelJob { job }: CancelJob, _: &mut Self::Context) {
        for submit in self.queue.remove_if(|submit| submit.job == job) {
            let waited_s = submit.accepted_at.elapsed().as_secs_f64();
            self.ended(submit.priority, &Ending::Finished("cancelled"), waited_s);
            tell(
                &submit.progress,
                Progress::Done {
                    job,
                    reason: FinishReason::Cancelled,
                    usage: Usage::default(),
                    timings: Timings {
                        queue_s: waited_s,
                        time_to_first_token_s: None,
                        duration_s: waited_s,
                    },
                    model: String::new(),
                },
            );
        }
        if let Some(running) = self.running.get_mut(&job.0)
            && !std::mem::replace(&mut running.cancelled, true)
        {
            self.to_worker(ToWorker::Cancel { id: job.0 });
        }
    }
}

/// The worker loaded its model.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkerReady {
    /// The worker.
    pub address: Addr<InferenceWorker>,
    /// Sequences it runs at once.
    pub slots: usize,
    /// What it loaded.
    pub summary: ModelSummary,
}

impl Handler<WorkerReady> for Scheduler {
    type Result = ();

    fn handle(&mut self, msg: WorkerReady, _: &mut Self::Context) {
        self.worker = Worker::Ready {
            address: msg.address,
            slots: msg.slots,
            summary: msg.summary,
        };
        self.dispatch();
    }
}

/// The worker packs its model's weights, which is done once.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkerPacks {
    /// 0 to 100.
    pub percent: u8,
}

impl Handler<WorkerPacks> for Scheduler {
    type Result = ();

    fn handle(&mut self, msg: WorkerPacks, _: &mut Self::Context) {
        if let Worker::Starting { packed_percent } = &mut self.worker {
            *packed_percent = Some(msg.percent);
        }
    }
}

/// The worker's process is gone, or there is hope for another one.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkerGone {
    /// Why, for people.
    pub reason: String,
    /// Whether it failed so often that requests had better be refused.
    pub hopeless: bool,
}

impl Handler<WorkerGone> for Scheduler {
    type Result = ();

    fn handle(&mut self, msg: WorkerGone, _: &mut Self::Context) {
        let message = format!(
            "the inference process was lost ({}); another one is started, ask again",
            msg.reason
        );
        for (_, running) in std::mem::take(&mut self.running) {
            let lasted_s = running.accepted_at.elapsed().as_secs_f64();
            self.ended(running.priority, &Ending::Failed("worker_lost"), lasted_s);
            tell(
                &running.progress,
                Progress::Failed {
                    job: running.job,
                    code: "worker_lost".into(),
                    message: message.clone(),
                    retry_after_ms: Some(1000),
                },
            );
        }
        if msg.hopeless {
            let message = format!("the model does not run at the moment: {}", msg.reason);
            for submit in self.queue.remove_if(|_| true) {
                self.refuse(&submit, "model_unavailable", &message, Some(5000));
            }
            self.worker = Worker::Unavailable { reason: msg.reason };
        } else {
            self.worker = Worker::Starting { packed_percent: None };
        }
        self.gauge.workers_lost.fetch_add(1, Relaxed);
        self.publish_gauge();
        self.end_drain_if_empty();
    }
}

/// Frames of the worker about requests, in their order.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkerSays(pub Vec<FromWorker>);

impl Handler<WorkerSays> for Scheduler {
    type Result = ();

    fn handle(&mut self, WorkerSays(frames): WorkerSays, _: &mut Self::Context) {
        // Texts of one request that came together go out together: what piles up while a client is
        // slow becomes fewer items, not more.
        let mut frames = frames.into_iter().peekable();
        let mut texts: Vec<Said> = Vec::new();
        while let Some(frame) = frames.next() {
            match frame {
                FromWorker::Event {
                    event: Event::Text {
                        id, text, logprobs, ..
                    },
                } => match texts.iter_mut().find(|said| said.id == id) {
                    Some(said) => {
                        said.text.push_str(&text);
                        said.logprobs.extend(logprobs);
                    }
                    None => texts.push(Said { id, text, logprobs }),
                },
                FromWorker::Event {
                    event: Event::ToolCalls { id, calls },
                } => {
                    self.texts(&mut texts);
                    self.calls(id, calls);
                }
                FromWorker::Event {
                    event:
                        Event::Done {
                            id,
                            finish_reason,
                            prompt_tokens,
                            completion_tokens,
                            cached_tokens,
                        },
                } => {
                    self.texts(&mut texts);
                    self.done(
                        id,
                        finish_reason,
                        Usage {
                            prompt_tokens,
                            completion_tokens,
                            prompt_tokens_details: PromptTokensDetails { cached_tokens },
                        },
                    );
                }
                FromWorker::Event {
                    event: Event::Failed { id, message },
                } => {
                    self.texts(&mut texts);
                    self.failed(id, "generation_failed".into(), message);
                }
                FromWorker::Refused { id, code, message } => {
                    self.texts(&mut texts);
                    self.failed(id, code, message);
                }
                FromWorker::Packing { .. }
                | FromWorker::Ready { .. }
                | FromWorker::LoadFailed { .. }
                | FromWorker::Heartbeat => {}
            }
            if frames.peek().is_none() {
                self.texts(&mut texts);
            }
        }
        self.dispatch();
        self.end_drain_if_empty();
    }
}

/// Stop: refuse what waits, let what runs finish for as long as `grace`, then end it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain {
    /// How long what runs may go on.
    pub grace: Duration,
}

impl Handler<Drain> for Scheduler {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Drain { grace }: Drain, ctx: &mut Self::Context) -> Self::Result {
        self.stopping = true;
        let message = "the daemon is stopping; ask again when it is back";
        for submit in self.queue.remove_if(|_| true) {
            self.refuse(&submit, SHUTTING_DOWN, message, None);
        }
        let (sender, receiver) = oneshot::channel();
        self.draining.push(sender);
        self.end_drain_if_empty();
        ctx.run_later(grace, move |act, _| {
            for (_, running) in std::mem::take(&mut act.running) {
                let lasted_s = running.accepted_at.elapsed().as_secs_f64();
                act.ended(running.priority, &Ending::Failed(SHUTTING_DOWN), lasted_s);
                tell(
                    &running.progress,
                    Progress::Failed {
                        job: running.job,
                        code: SHUTTING_DOWN.into(),
                        message: message.into(),
                        retry_after_ms: None,
                    },
                );
            }
            act.end_drain_if_empty();
        });
        Box::pin(async move {
            let _ = receiver.await;
        })
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
    /// Requests running.
    pub running: usize,
    /// Requests waiting.
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
            running: self.running.len(),
            waiting: self.queue.len(),
        }
    }
}

impl Scheduler {
    /// Gives the worker what it has room for.
    fn dispatch(&mut self) {
        self.dispatch_to_free_slots();
        self.publish_gauge();
    }

    fn dispatch_to_free_slots(&mut self) {
        let Worker::Ready { slots, .. } = &self.worker else {
            return;
        };
        let slots = *slots;
        while self.running.len() < slots {
            let Some(submit) = self.queue.pop() else { break };
            let began_at = Instant::now();
            self.metrics.began(
                submit.priority,
                began_at.duration_since(submit.accepted_at).as_secs_f64(),
            );
            self.running.insert(
                submit.job.0,
                Running {
                    job: submit.job,
                    priority: submit.priority,
                    accepted_at: submit.accepted_at,
                    began_at,
                    first_text_at: None,
                    progress: submit.progress,
                    cancelled: false,
                },
            );
            self.to_worker(ToWorker::Start {
                id: submit.job.0,
                request: Box::new(submit.request),
            });
        }
    }

    fn publish_gauge(&self) {
        self.gauge.running.store(self.running.len() as u64, Relaxed);
        self.gauge.waiting.store(self.queue.len() as u64, Relaxed);
        self.gauge
            .ready
            .store(matches!(self.worker, Worker::Ready { .. }), Relaxed);
    }

    fn to_worker(&self, frame: ToWorker) {
        if let Worker::Ready { address, .. } = &self.worker
            && address.try_send(ToChild(frame)).is_err()
        {
            // A worker that died or hangs is reported as gone, and its requests are ended then.
            tracing::debug!("a frame for a worker that does not take it");
        }
    }

    fn texts(&mut self, texts: &mut Vec<Said>) {
        for Said { id, text, logprobs } in texts.drain(..) {
            if let Some(running) = self.answering(id) {
                let job = running.job;
                tell(&running.progress, Progress::Text { job, text, logprobs });
            }
        }
    }

    fn calls(&mut self, id: SequenceId, calls: Vec<ToolCall>) {
        if let Some(running) = self.answering(id) {
            let job = running.job;
            tell(&running.progress, Progress::ToolCalls { job, calls });
        }
    }

    /// A request that is being answered from now on, if it was not before.
    fn answering(&mut self, id: SequenceId) -> Option<&Running> {
        let running = self.running.get_mut(&id)?;
        if running.first_text_at.is_none() {
            let now = Instant::now();
            running.first_text_at = Some(now);
            let seconds = now.duration_since(running.accepted_at).as_secs_f64();
            self.metrics
                .first_text(running.priority, model_of(&self.worker), seconds);
        }
        Some(running)
    }

    fn done(&mut self, id: SequenceId, reason: FinishReason, usage: Usage) {
        let Some(running) = self.running.remove(&id) else {
            return;
        };
        let since = |at: Instant| at.saturating_duration_since(running.accepted_at).as_secs_f64();
        let now = Instant::now();
        let timings = Timings {
            queue_s: since(running.began_at),
            time_to_first_token_s: running.first_text_at.map(since),
            duration_s: since(now),
        };
        let how = match reason {
            FinishReason::Stop => "stop",
            FinishReason::ToolCalls => "tool_calls",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        };
        self.ended(running.priority, &Ending::Finished(how), timings.duration_s);
        let decode_s = running
            .first_text_at
            .map(|first| now.duration_since(first).as_secs_f64());
        let model = self.model().to_owned();
        self.metrics.used(
            running.priority,
            &model,
            usage.prompt_tokens,
            usage.completion_tokens,
            decode_s,
        );
        tell(
            &running.progress,
            Progress::Done {
                job: running.job,
                reason,
                usage,
                timings,
                model,
            },
        );
    }

    fn failed(&mut self, id: SequenceId, code: String, message: String) {
        let Some(running) = self.running.remove(&id) else {
            return;
        };
        self.ended(
            running.priority,
            &Ending::Failed(&code),
            running.accepted_at.elapsed().as_secs_f64(),
        );
        tell(
            &running.progress,
            Progress::Failed {
                job: running.job,
                code,
                message,
                retry_after_ms: None,
            },
        );
    }

    fn refuse(&self, submit: &Submit, code: &str, message: &str, retry_after_ms: Option<u64>) {
        self.ended(
            submit.priority,
            &Ending::Failed(code),
            submit.accepted_at.elapsed().as_secs_f64(),
        );
        tell(
            &submit.progress,
            Progress::Failed {
                job: submit.job,
                code: code.into(),
                message: message.into(),
                retry_after_ms,
            },
        );
    }

    fn model(&self) -> &str {
        model_of(&self.worker)
    }

    fn ended(&self, priority: Priority, ending: &Ending<'_>, duration_s: f64) {
        self.metrics.ended(priority, self.model(), ending, duration_s);
    }

    fn end_drain_if_empty(&mut self) {
        if self.running.is_empty() {
            for waiting in self.draining.drain(..) {
                // Whoever waited may have given up.
                let _ = waiting.send(());
            }
        }
    }
}

/// The loaded model's name; empty while none is.
fn model_of(worker: &Worker) -> &str {
    match worker {
        Worker::Ready { summary, .. } => &summary.name,
        _ => "",
    }
}

/// Conversations read faster than tokens come, and texts that come together are joined: a full
/// mailbox here means a conversation that died. The word is then lost with it.
fn tell(progress: &Recipient<Progress>, what: Progress) {
    if progress.try_send(what).is_err() {
        tracing::warn!("a conversation did not take the progress of its request");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix::test]
    async fn the_status_says_how_far_weights_are_packed_until_another_process_begins() {
        let meter = opentelemetry::global::meter("tests");
        let scheduler = Scheduler::new(true, 1, RequestMetrics::new(&meter), Arc::default()).start();
        let percent = async || scheduler.send(GetStatus).await.unwrap().packed_percent;
        assert_eq!(percent().await, None);
        scheduler.send(WorkerPacks { percent: 40 }).await.unwrap();
        assert_eq!(percent().await, Some(40));
        let reason = "killed".to_owned();
        scheduler
            .send(WorkerGone {
                reason,
                hopeless: false,
            })
            .await
            .unwrap();
        assert_eq!(percent().await, None);
        let reason = "killed".to_owned();
        scheduler
            .send(WorkerGone {
                reason,
                hopeless: true,
            })
            .await
            .unwrap();
        scheduler.send(WorkerPacks { percent: 50 }).await.unwrap();
        assert_eq!(percent().await, None);
    }
}
