//! The actor that has plain sentences understood by the embedded assistant first, where another model answers all else: it
//! has a scheduler and an inference process of its own, so that a command is done while the other model is being loaded, is busy
//! or is gone. What it does not understand, or not at once, it leaves to the other model.

use std::collections::BTreeMap;
use std::sync::Arc;
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

/// What finds it full goes to the other model.
const MAILBOX: usize = 256;

/// So long a sentence waits to be understood, then the other model has it.
const PATIENCE: Duration = Duration::from_millis(400);

/// See the module.
pub struct Commander {
    scheduler: Addr<Scheduler>,
    gauge: Arc<SchedulerGauge>,
    asked: BTreeMap<JobId, Asked>,
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
}

/// Whoever has it asks the commander. Cheap to clone.
#[derive(Clone)]
pub struct Commands {
    commander: Addr<Commander>,
    gauge: Arc<SchedulerGauge>,
    metrics: RequestMetrics,
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commands").finish_non_exhaustive()
    }
}

impl Commands {
    /// Starts the commander in front of this scheduler, whose gauge this is. What is understood counts where all requests do.
    pub fn launch(scheduler: Addr<Scheduler>, gauge: Arc<SchedulerGauge>, metrics: RequestMetrics) -> Self {
        let commander = Commander {
            scheduler,
            gauge: gauge.clone(),
            asked: BTreeMap::new(),
        };
        Self {
            commander: commander.start(),
            gauge,
            metrics,
        }
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
        is_sentence && wants_words && is_possible && self.gauge.is_ready()
    }

    /// What it asks for; none where that is nothing that can be done, or where it does not turn out at once.
    pub(crate) fn understand(
        &self,
        device: Arc<str>,
        request: &GenerateRequest,
        priority: Priority,
        min_precision: Option<Precision>,
        accepted_at: Instant,
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
    /// Let go of where there is no answer.
    answer: oneshot::Sender<Understood>,
}

impl Handler<Understand> for Commander {
    type Result = ();

    fn handle(&mut self, msg: Understand, ctx: &mut Self::Context) {
        let job = JobId::next();
        let submit = Submit {
            job,
            priority: msg.priority,
            device: msg.device,
            weight: self.gauge.weigh(msg.request.prompt.bytes()),
            request: msg.request,
            turn: None,
            accepted_at: msg.accepted_at,
            deadline: Some(outside::now() + PATIENCE),
            min_precision: msg.min_precision,
            progress: ctx.address().recipient(),
        };
        if self.scheduler.try_send(submit).is_err() {
            return;
        }
        let patience = ctx.run_later(PATIENCE, move |act, ctx| act.give_up(job, ctx));
        let asked = Asked {
            text: String::new(),
            precision: None,
            answer: msg.answer,
            patience,
        };
        self.asked.insert(job, asked);
    }
}

impl Commander {
    fn give_up(&mut self, job: JobId, ctx: &mut Context<Self>) {
        if self.asked.remove(&job).is_none() {
            return;
        }
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
