//! What the scheduler is told, and what it tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use actix::prelude::*;
use models::{FinishReason, GenerateRequest, ModelSummary, Precision, SequenceId, TokenLogprob, ToolCall};

use super::{AwaitsTurn, Weight};
use crate::conversation::{Timings, Usage};
use crate::inference_worker::InferenceWorker;
use crate::policy::governor::Action;
use crate::policy::priority::Priority;
use crate::worker_protocol::{FromWorker, Spent};

/// Names a request for the life of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub(super) SequenceId);

impl JobId {
    /// A new one.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}

/// A request for an answer. What becomes of it is told to `progress`.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Submit {
    /// Its name.
    pub job: JobId,
    /// How much it matters.
    pub priority: Priority,
    /// Whose it is.
    pub device: Arc<str>,
    /// What to generate.
    pub request: GenerateRequest,
    /// What it weighs until it has ended.
    pub weight: Weight,
    /// Its place in the conversations' account, until the schedule's has it.
    pub turn: Option<AwaitsTurn>,
    /// When the daemon took it on.
    pub accepted_at: Instant,
    /// When its answer must be complete.
    pub deadline: Option<Instant>,
    /// Fewer bits than these, and it had rather not be answered.
    pub min_precision: Option<Precision>,
    /// Who is told.
    pub progress: Recipient<Progress>,
}

/// What becomes of a request: any number of beginnings and texts, then one of the others.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum Progress {
    /// It is computed from now on, for the first time, anew after the worker was lost, or at another precision. What was
    /// told of its answer stands.
    Begun {
        /// Which request.
        job: JobId,
        /// What computes it.
        model: String,
        /// How many bits a weight has.
        precision: Precision,
        /// 1, and more with each worker that was lost with it.
        attempt: u32,
        /// Whether it is the embedded assistant, whose answers are actions.
        is_assistant: bool,
    },
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
        /// What the inference process says of them.
        spent: Option<Spent>,
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
            Self::Begun { job, .. }
            | Self::Text { job, .. }
            | Self::ToolCalls { job, .. }
            | Self::Done { job, .. }
            | Self::Failed { job, .. } => *job,
        }
    }
}

/// Ends a request early; its last [`Progress`] says `Cancelled`.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CancelJob {
    /// Which.
    pub job: JobId,
}

/// The worker loaded its model.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkerReady {
    /// The worker.
    pub address: Addr<InferenceWorker>,
    /// Sequences it computes at once.
    pub slots: usize,
    /// What it loaded.
    pub summary: ModelSummary,
}

/// The worker packs its model's weights, which is done once.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkerPacks {
    /// 0 to 100.
    pub percent: u8,
}

/// The worker's process is gone, or there is hope for another one.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkerGone {
    /// Why, for people.
    pub reason: String,
    /// Whether it failed so often that requests had better be refused.
    pub hopeless: bool,
    /// Whether it ended because a better one is started: nobody is to blame.
    pub planned: bool,
}

/// The memory governor has decided.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Govern(pub Action);

/// The worker's weights are at another precision.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkerSteppedTo(pub Precision);

/// Frames of the worker about requests, in their order.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkerSays(pub Vec<FromWorker>);

/// Stop: refuse what waits, let what runs finish for as long as `grace`, then end it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain {
    /// How long what runs may go on.
    pub grace: Duration,
}
