//! The actor that decides which request runs when, by a [`Schedule`]. It holds what waits and what runs, with what was said
//! of its answer, so that both outlive the inference process: when that dies, the next one goes on where it was, and
//! whoever listens hears one unbroken answer.

mod answers;
mod books;
mod governing;
mod leave;
mod messages;
mod status;
#[cfg(test)]
mod tests;
mod weight;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use models::{FinishReason, ModelSummary, Precision, SequenceId, WhilePaused};
use tokio::sync::oneshot;

use crate::conversation::{Timings, Usage};
use crate::events::{Event, Events};
use crate::inference_worker::{InferenceWorker, ToChild};
use crate::metrics::{Ending, RequestMetrics};
use crate::outside;
use crate::policy::chores::Chores;
use crate::policy::priority::Priority;
use crate::policy::schedule::{Cancelled, Decision, End, Entry, Schedule, ScheduleConfig, Tokens};
use crate::policy::suspects::Suspects;
use crate::worker_protocol::ToWorker;

pub use books::AwaitsTurn;
pub use leave::{AskLeave, Leave};
pub use messages::{
    CancelJob, Drain, Govern, JobId, Progress, Submit, WorkerGone, WorkerPacks, WorkerReady, WorkerSays,
    WorkerSteppedTo,
};
pub use status::{GetStatus, SchedulerGauge, SchedulerStatus};
pub use weight::Weight;

/// Submissions that find it full are refused with an item (`overloaded`); all else waits for room.
const MAILBOX: usize = 4096;

/// The code of a request that ends because the daemon does.
pub(crate) const SHUTTING_DOWN: &str = "shutting_down";

/// A token has about so many bytes of text; what a prompt really has is known when it runs.
const BYTES_PER_TOKEN: usize = 4;

/// See the module.
pub struct Scheduler {
    schedule: Schedule<Submit>,
    /// What has begun and not ended, in the order in which it came.
    begun: BTreeMap<SequenceId, Begun>,
    suspects: Suspects,
    /// Of requests that the schedule's account has now.
    turns_come: Vec<AwaitsTurn>,
    /// What becomes of the caches of those that are paused.
    while_paused: WhilePaused,
    worker: Worker,
    /// Of all answers since the start.
    generated_tokens: u64,
    /// The daemon's own work.
    chores: Chores<AskLeave>,
    draining: Vec<oneshot::Sender<()>>,
    stopping: bool,
    alarm: Option<SpawnHandle>,
    metrics: RequestMetrics,
    gauge: Arc<SchedulerGauge>,
    events: Events,
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

struct Begun {
    submit: Submit,
    began_at: Instant,
    first_text_at: Option<Instant>,
    /// Tokens of its answer whose text was told.
    said: Vec<u32>,
    /// That text.
    text: String,
    /// The model that computes it.
    model: String,
    /// At which precision.
    precision: Option<Precision>,
    /// Whether that is the embedded assistant.
    is_assistant: bool,
    /// Whether more than one has: their tokens mean nothing to each other.
    is_mixed: bool,
    /// 1, and more with each worker that was lost with it.
    attempt: u32,
    cancelled: bool,
}

impl Begun {
    fn tell_begun(&self, precision: Precision) {
        let (job, attempt) = (self.submit.job, self.attempt);
        let begun = Progress::Begun {
            job,
            model: self.model.clone(),
            precision,
            attempt,
            is_assistant: self.is_assistant,
        };
        tell(&self.submit.progress, begun);
    }
}

impl Scheduler {
    /// An actor not started yet.
    pub fn new(
        has_model: bool,
        config: ScheduleConfig,
        metrics: RequestMetrics,
        gauge: Arc<SchedulerGauge>,
        events: Events,
    ) -> Self {
        Self {
            chores: Chores::new(config.ageing.background_after),
            schedule: Schedule::new(config),
            begun: BTreeMap::new(),
            suspects: Suspects::default(),
            turns_come: Vec::new(),
            while_paused: WhilePaused::Keep,
            worker: if has_model {
                Worker::Starting { packed_percent: None }
            } else {
                Worker::NoModel
            },
            generated_tokens: 0,
            draining: Vec::new(),
            stopping: false,
            alarm: None,
            metrics,
            gauge,
            events,
        }
    }
}

impl Actor for Scheduler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Submit> for Scheduler {
    type Result = ();

    fn handle(&mut self, mut submit: Submit, ctx: &mut Self::Context) {
        self.turns_come.extend(submit.turn.take());
        if let Some((code, message, retry_after_ms)) = self.objection(&submit) {
            self.schedule.refused_elsewhere(submit.priority);
            self.refuse(&submit, code, &message, retry_after_ms);
            return self.publish_gauge();
        }
        let prompt = submit.request.prompt.bytes().div_ceil(BYTES_PER_TOKEN);
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let entry = Entry {
            id: submit.job.0,
            priority: submit.priority,
            device: submit.device.clone(),
            deadline: submit.deadline,
            tokens: Tokens {
                prompt: count(prompt),
                answer: count(submit.request.max_tokens),
            },
            payload: submit,
        };
        if let Err(refused) = self.schedule.submit(outside::now(), entry) {
            let (code, message) = words::refused(refused.why);
            let retry_after_ms = refused.retry_after.map(milliseconds);
            self.refuse(&refused.entry.payload, code, &message, retry_after_ms);
        }
        self.dispatch(ctx);
    }
}

impl Handler<CancelJob> for Scheduler {
    type Result = ();

    fn handle(&mut self, CancelJob { job }: CancelJob, ctx: &mut Self::Context) {
        match self.schedule.cancel(job.0) {
            Cancelled::Waiting(Entry { payload: submit, .. }) => {
                let waited_s = outside::since(submit.accepted_at).as_secs_f64();
                self.ended(&submit, &Ending::Finished("cancelled"), waited_s);
                let timings = Timings {
                    queue_s: waited_s,
                    time_to_first_token_s: None,
                    duration_s: waited_s,
                };
                tell(
                    &submit.progress,
                    Progress::Done {
                        job,
                        reason: FinishReason::Cancelled,
                        usage: Usage::default(),
                        timings,
                        spent: None,
                        model: String::new(),
                    },
                );
            }
            Cancelled::Lost => self.cancelled(job.0),
            Cancelled::Running => {
                if let Some(begun) = self.begun.get_mut(&job.0)
                    && !std::mem::replace(&mut begun.cancelled, true)
                {
                    self.to_worker(ToWorker::Cancel { id: job.0 });
                }
            }
            Cancelled::Unknown => {}
        }
        self.dispatch(ctx);
        self.end_drain_if_empty();
    }
}

impl Handler<WorkerReady> for Scheduler {
    type Result = ();

    fn handle(&mut self, msg: WorkerReady, ctx: &mut Self::Context) {
        self.events.tell(&Event::WorkerReady {
            model: msg.summary.name.clone(),
            precision: msg.summary.precision,
        });
        self.worker = Worker::Ready {
            address: msg.address,
            slots: msg.slots,
            summary: msg.summary,
        };
        self.dispatch(ctx);
    }
}

impl Handler<WorkerPacks> for Scheduler {
    type Result = ();

    fn handle(&mut self, msg: WorkerPacks, _: &mut Self::Context) {
        if let Worker::Starting { packed_percent } = &mut self.worker {
            *packed_percent = Some(msg.percent);
        }
    }
}

impl Handler<WorkerGone> for Scheduler {
    type Result = ();

    fn handle(&mut self, msg: WorkerGone, ctx: &mut Self::Context) {
        let lost = self.schedule.worker_lost(outside::now());
        for id in lost.cancelled {
            self.cancelled(id);
        }
        if !msg.planned
            && let Some(guilty) = self.suspects.died(&lost.ran)
        {
            let reason = msg.reason.clone();
            self.tell_of(guilty, |_, device| Event::DeadLettered { device, reason });
            let message = words::dead_lettered(&msg.reason);
            self.fail(guilty, End::DeadLettered, "dead_lettered", &message, None);
        }
        for begun in self.begun.values_mut() {
            begun.attempt = begun.attempt.saturating_add(1);
        }
        if msg.hopeless {
            let message = words::unavailable(&msg.reason);
            for id in self.begun.keys().copied().collect::<Vec<_>>() {
                self.fail(id, End::Failed, "model_unavailable", &message, Some(5000));
            }
            for entry in self.schedule.end_waiting(End::Failed) {
                self.refuse(&entry.payload, "model_unavailable", &message, Some(5000));
            }
            self.worker = Worker::Unavailable { reason: msg.reason };
        } else {
            self.worker = Worker::Starting { packed_percent: None };
        }
        if !msg.planned {
            self.gauge.lost_worker();
        }
        self.dispatch(ctx);
        self.end_drain_if_empty();
    }
}

impl Handler<Drain> for Scheduler {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Drain { grace }: Drain, ctx: &mut Self::Context) -> Self::Result {
        self.stopping = true;
        self.gauge.stops();
        self.chores.clear();
        for entry in self.schedule.drain() {
            self.refuse(&entry.payload, SHUTTING_DOWN, words::STOPPING, None);
        }
        let (sender, receiver) = oneshot::channel();
        self.draining.push(sender);
        self.publish_gauge();
        self.end_drain_if_empty();
        ctx.run_later(grace, move |act, _| {
            for id in act.begun.keys().copied().collect::<Vec<_>>() {
                act.fail(id, End::Failed, SHUTTING_DOWN, words::STOPPING, None);
            }
            act.publish_gauge();
            act.end_drain_if_empty();
        });
        Box::pin(async move {
            let _ = receiver.await;
        })
    }
}

impl Scheduler {
    /// Why a request is not even looked at, in which words, and when asking again may help.
    fn objection(&self, submit: &Submit) -> Option<(&'static str, String, Option<u64>)> {
        if self.stopping {
            return Some((SHUTTING_DOWN, words::STOPPING.to_owned(), None));
        }
        match &self.worker {
            Worker::NoModel => Some(("no_model", words::NO_MODEL.to_owned(), None)),
            Worker::Unavailable { reason } => {
                Some(("model_unavailable", words::unavailable(reason), Some(5000)))
            }
            Worker::Starting { .. } => None,
            Worker::Ready { summary, .. } => {
                let message = words::too_few_bits(submit.min_precision?, summary.precision)?;
                Some(("precision_unavailable", message, Some(30_000)))
            }
        }
    }

    /// Does what the schedule says, and wakes when time alone will have it say more.
    fn dispatch(&mut self, ctx: &mut Context<Self>) {
        if let Worker::Ready { slots, .. } = &self.worker {
            self.schedule.set_slots(self.suspects.places(*slots));
        }
        let now = outside::now();
        for decision in self.schedule.decide(now) {
            match decision {
                Decision::Start(entry) => self.start(entry.payload, now),
                Decision::Restart { id } => self.compute(id),
                Decision::Pause { id } => {
                    let cache = self.while_paused;
                    self.to_worker(ToWorker::Pause { id, cache });
                    self.tell_of(id, |priority, device| Event::RequestPaused { priority, device });
                }
                Decision::Resume { id } => {
                    self.to_worker(ToWorker::Resume { id });
                    self.tell_of(id, |priority, device| Event::RequestResumed { priority, device });
                }
                Decision::Expire(entry, late) => {
                    self.refuse(&entry.payload, "expired", &words::expired(late), None);
                }
            }
        }
        self.give_leave(now, ctx);
        if let Some(alarm) = self.alarm.take() {
            ctx.cancel_future(alarm);
        }
        let due = [self.schedule.next_expiry(now), self.chores.next_due(now)];
        if let Some(after) = due.into_iter().flatten().min() {
            let after = after.max(Duration::from_millis(1));
            self.alarm = Some(ctx.run_later(after, |act, ctx| {
                act.alarm = None;
                act.dispatch(ctx);
            }));
        }
        self.publish_gauge();
    }

    fn start(&mut self, submit: Submit, now: Instant) {
        let waited = now.saturating_duration_since(submit.accepted_at);
        self.metrics.began(submit.priority, waited.as_secs_f64());
        let id = submit.job.0;
        let begun = Begun {
            submit,
            began_at: now,
            first_text_at: None,
            said: Vec::new(),
            text: String::new(),
            model: String::new(),
            precision: None,
            is_assistant: false,
            is_mixed: false,
            attempt: 1,
            cancelled: false,
        };
        self.begun.insert(id, begun);
        self.tell_of(id, |priority, device| Event::RequestBegun {
            priority,
            device,
            waited_ms: milliseconds(waited),
        });
        self.compute(id);
    }

    /// Has the worker begin it, behind what was said of its answer.
    fn compute(&mut self, id: SequenceId) {
        let (Some(begun), Worker::Ready { summary, .. }) = (self.begun.get_mut(&id), &self.worker) else {
            return;
        };
        let precision = summary.precision;
        if let Some(message) = begun
            .submit
            .min_precision
            .and_then(|least| words::too_few_bits(least, precision))
        {
            return self.fail(id, End::Failed, "precision_unavailable", &message, Some(30_000));
        }
        begun.is_mixed |= !begun.model.is_empty() && begun.model != summary.name;
        begun.model.clone_from(&summary.name);
        begun.precision = Some(precision);
        begun.is_assistant = summary.assistant;
        begun.tell_begun(precision);
        let mut request = Box::new(begun.submit.request.clone());
        if begun.is_mixed {
            request.said_text.clone_from(&begun.text);
        } else {
            request.said.clone_from(&begun.said);
        }
        let hurry = begun.submit.priority == Priority::Urgent;
        self.to_worker(ToWorker::Start { id, hurry, request });
    }

    fn tell_of(&self, id: SequenceId, event: impl FnOnce(Priority, String) -> Event) {
        if let Some(begun) = self.begun.get(&id) {
            let submit = &begun.submit;
            self.events
                .tell(&event(submit.priority, submit.device.to_string()));
        }
    }

    fn to_worker(&self, frame: ToWorker) {
        if let Worker::Ready { address, .. } = &self.worker
            && address.try_send(ToChild(frame)).is_err()
        {
            // A worker that died or hangs is reported as gone, and its requests are begun anew then.
            tracing::debug!("a frame for a worker that does not take it");
        }
    }

    fn end_drain_if_empty(&mut self) {
        if self.begun.is_empty() {
            for waiting in self.draining.drain(..) {
                // Whoever waited may have given up.
                let _ = waiting.send(());
            }
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Conversations read faster than tokens come, and texts that come together are joined: a full
/// mailbox here means a conversation that died. The word is then lost with it.
fn tell(progress: &Recipient<Progress>, what: Progress) {
    if progress.try_send(what).is_err() {
        tracing::warn!("a conversation did not take the progress of its request");
    }
}
