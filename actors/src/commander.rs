//! The actor that has plain sentences understood by the embedded assistant first, where another model answers all else: it
//! has a scheduler and an inference process of its own, so that a command is done while the other model is being loaded, is busy
//! or is gone. What it does not understand, or not at once, it leaves to the other model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use actix::prelude::*;
use models::assistant::actions::Answer;
use models::assistant::{LONGEST_SENTENCE, MIN_CONFIDENCE_BESIDE, asking};
use models::{FinishReason, GenerateRequest, Precision, Prompt};
use tokio::sync::oneshot;

use crate::conversation::{Timings, Usage, to_do};
use crate::metrics::{By, Ending, RequestMetrics};
use crate::outside;
use crate::policy::priority::Priority;
use crate::scheduler::{CancelJob, JobId, Progress, Scheduler, SchedulerGauge, Submit};
use crate::worker_protocol::Spent;

/// What finds it full goes to the other model.
const MAILBOX: usize = 256;

/// See the module.
pub struct Commander {
    scheduler: Addr<Scheduler>,
    gauge: Arc<SchedulerGauge>,
    asked: BTreeMap<JobId, Asked>,
    /// So long a sentence waits to be understood, then the other model has it.
    patience: Duration,
    /// Nothing was heard of the last one in that time, nor since.
    is_silent: Arc<AtomicBool>,
    is_stopping: bool,
}

struct Asked {
    text: String,
    precision: Option<Precision>,
    answer: oneshot::Sender<Understood>,
    patience: SpawnHandle,
}

/// What a sentence asks for.
#[derive(Clone, Debug)]
pub(crate) struct Understood {
    pub(crate) answer: Answer,
    pub(crate) model: String,
    pub(crate) precision: Option<Precision>,
    pub(crate) usage: Usage,
    pub(crate) timings: Timings,
    pub(crate) spent: Option<Spent>,
}

/// Whoever has it asks the commander. Cheap to clone.
#[derive(Clone)]
pub struct Commands {
    commander: Addr<Commander>,
    gauge: Arc<SchedulerGauge>,
    is_silent: Arc<AtomicBool>,
    metrics: RequestMetrics,
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commands").finish_non_exhaustive()
    }
}

impl Commands {
    /// Starts the commander in front of this scheduler, whose gauge this is. What is understood counts where all requests do; what
    /// is not within `patience` is left to the other model.
    pub fn launch(
        scheduler: Addr<Scheduler>,
        gauge: Arc<SchedulerGauge>,
        metrics: RequestMetrics,
        patience: Duration,
    ) -> Self {
        let is_silent = Arc::<AtomicBool>::default();
        let commander = Commander {
            patience,
            is_silent: is_silent.clone(),
            is_stopping: false,
            scheduler,
            gauge: gauge.clone(),
            asked: BTreeMap::new(),
        };
        Self {
            commander: commander.start(),
            gauge,
            is_silent,
            metrics,
        }
    }

    /// From now on nothing is understood; what is being is left to the other model.
    pub async fn stop(&self) {
        // One that is gone understands nothing.
        let _gone = self.commander.send(StopUnderstanding).await;
    }

    /// Whether this may be a command at all, and there is somebody to understand it: one sentence, whose answer may have any
    /// form.
    pub(crate) fn may_understand(&self, request: &GenerateRequest) -> bool {
        let Prompt::Text(text) = &request.prompt else {
            return false;
        };
        let is_sentence = text.chars().nth(LONGEST_SENTENCE).is_none();
        let answer = &request.answer;
        let wants_words = answer.is_plain() && answer.logprobs.is_none();
        // Nobody is surer than that.
        let is_possible = answer.min_confidence.is_none_or(|least| least < 1.0);
        let is_there = self.gauge.is_ready() && !self.is_silent.load(Relaxed);
        is_sentence && wants_words && is_possible && is_there
    }

    /// What it asks for; none where that is nothing that can be done, or where it does not turn out at once.
    pub(crate) fn understand(
        &self,
        device: Arc<str>,
        request: &GenerateRequest,
        priority: Priority,
        min_precision: Option<Precision>,
        accepted_at: Instant,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Option<Understood>> + use<> {
        let least = request.answer.min_confidence.or(Some(MIN_CONFIDENCE_BESIDE));
        let mut request = match &request.prompt {
            Prompt::Text(text) => asking::request(text),
            Prompt::Messages(_) => request.clone(),
        };
        request.answer.min_confidence = least;
        let (answer, understood) = oneshot::channel();
        let asked = Understand {
            device,
            request,
            priority,
            min_precision,
            accepted_at,
            deadline,
            answer,
        };
        // One that is not taken is let go of, and with it the sender.
        let _full = self.commander.try_send(asked);
        async move { understood.await.ok() }
    }

    /// An answer was given.
    pub(crate) fn answered(&self, priority: Priority, understood: &Understood) {
        let by = By {
            model: &understood.model,
            precision: understood.precision,
        };
        let (usage, timings) = (understood.usage, understood.timings);
        self.metrics.began(priority, timings.queue_s);
        // It is said when it is whole: there is no time between tokens.
        self.metrics
            .used(priority, by, usage, timings.time_to_first_token_s, None);
        let ending = Ending::Finished("stop");
        self.metrics.ended(priority, by, &ending, timings.duration_s);
    }
}

impl Actor for Commander {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Understand {
    device: Arc<str>,
    request: GenerateRequest,
    priority: Priority,
    min_precision: Option<Precision>,
    accepted_at: Instant,
    deadline: Option<Instant>,
    /// Let go of where there is no answer.
    answer: oneshot::Sender<Understood>,
}

impl Handler<Understand> for Commander {
    type Result = ();

    fn handle(&mut self, msg: Understand, ctx: &mut Self::Context) {
        if self.is_stopping {
            return;
        }
        let now = outside::now();
        // The other model wants time as well.
        let left = msg.deadline.map(|at| at.saturating_duration_since(now) / 2);
        let patience = left.map_or(self.patience, |left| left.min(self.patience));
        let job = JobId::next();
        let submit = Submit {
            job,
            priority: msg.priority,
            device: msg.device,
            weight: self.gauge.weigh(msg.request.prompt.bytes()),
            request: msg.request,
            turn: None,
            accepted_at: msg.accepted_at,
            deadline: Some(now + patience),
            min_precision: msg.min_precision,
            progress: ctx.address().recipient(),
        };
        if self.scheduler.try_send(submit).is_err() {
            return;
        }
        let patience = ctx.run_later(patience, move |act, ctx| act.give_up(job, ctx));
        let asked = Asked {
            text: String::new(),
            precision: None,
            answer: msg.answer,
            patience,
        };
        self.asked.insert(job, asked);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct StopUnderstanding;

impl Handler<StopUnderstanding> for Commander {
    type Result = ();

    fn handle(&mut self, _: StopUnderstanding, _: &mut Self::Context) {
        self.is_stopping = true;
        // With each its sender.
        self.asked.clear();
    }
}

impl Commander {
    fn give_up(&mut self, job: JobId, ctx: &mut Context<Self>) {
        let Some(asked) = self.asked.remove(&job) else {
            return;
        };
        // Nobody else waits for one that hangs.
        self.is_silent.store(asked.text.is_empty(), Relaxed);
        let cancelled = self.scheduler.send(CancelJob { job });
        ctx.spawn(
            async move {
                // A scheduler that is gone computes nothing.
                let _gone = cancelled.await;
            }
            .into_actor(self),
        );
    }
}

impl Handler<Progress> for Commander {
    type Result = ();

    fn handle(&mut self, progress: Progress, ctx: &mut Self::Context) {
        let job = progress.job();
        if !matches!(progress, Progress::Begun { .. }) {
            self.is_silent.store(false, Relaxed);
        }
        let Some(asked) = self.asked.get_mut(&job) else {
            return;
        };
        match progress {
            Progress::Begun { precision, .. } => asked.precision = Some(precision),
            Progress::Text { text, .. } => asked.text.push_str(&text),
            Progress::ToolCalls { .. } => {}
            Progress::Done {
                reason,
                usage,
                timings,
                spent,
                model,
                ..
            } => {
                let Some(asked) = self.asked.remove(&job) else {
                    return;
                };
                ctx.cancel_future(asked.patience);
                let answer = to_do(&asked.text).filter(|_| reason == FinishReason::Stop);
                if let Some(answer) = answer {
                    // Whoever asked may have been told to let it be.
                    let _cancelled = asked.answer.send(Understood {
                        answer,
                        model,
                        precision: asked.precision,
                        usage,
                        timings,
                        spent,
                    });
                }
            }
            Progress::Failed { .. } => {
                if let Some(asked) = self.asked.remove(&job) {
                    ctx.cancel_future(asked.patience);
                }
            }
        }
    }
}
