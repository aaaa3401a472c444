//! What the worker says of answers, told to whoever asked; and how answers end.

use std::time::Instant;

use actix::prelude::*;
use models::{Event, FinishReason, SequenceId, TokenLogprob, ToolCall};

use super::{Begun, Progress, Scheduler, Submit, Worker, WorkerSays, tell};
use crate::conversation::{PromptTokensDetails, Timings, Usage};
use crate::metrics::{By, Ending};
use crate::outside;
use crate::policy::schedule::{End, Tokens};
use crate::worker_protocol::{FromWorker, Spent};

/// Texts of one request that came together.
struct Said {
    id: SequenceId,
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprob>,
}

impl Handler<WorkerSays> for Scheduler {
    type Result = ();

    fn handle(&mut self, WorkerSays(frames): WorkerSays, ctx: &mut Self::Context) {
        // Texts of one request that came together go out together: what piles up while a client is
        // slow becomes fewer items, not more.
        let mut texts: Vec<Said> = Vec::new();
        for frame in frames {
            let (event, spent) = match frame {
                FromWorker::Event { event, spent } => (event, spent),
                FromWorker::Refused { id, code, message } => {
                    self.texts(&mut texts);
                    self.fail(id, End::Failed, &code, &message, None);
                    continue;
                }
                FromWorker::Packing { .. }
                | FromWorker::Ready { .. }
                | FromWorker::LoadFailed { .. }
                | FromWorker::SteppedTo { .. }
                | FromWorker::StepFailed { .. }
                | FromWorker::Heartbeat { .. } => continue,
            };
            match event {
                Event::Text {
                    id,
                    text,
                    tokens,
                    logprobs,
                } => match texts.iter_mut().find(|said| said.id == id) {
                    Some(said) => {
                        said.text.push_str(&text);
                        said.tokens.extend(tokens);
                        said.logprobs.extend(logprobs);
                    }
                    None => texts.push(Said {
                        id,
                        text,
                        tokens,
                        logprobs,
                    }),
                },
                Event::ToolCalls { id, calls } => {
                    self.texts(&mut texts);
                    self.calls(id, calls);
                }
                Event::Done {
                    id,
                    finish_reason,
                    prompt_tokens,
                    completion_tokens,
                    cached_tokens,
                } => {
                    self.texts(&mut texts);
                    let usage = Usage {
                        prompt_tokens,
                        completion_tokens,
                        prompt_tokens_details: PromptTokensDetails { cached_tokens },
                    };
                    self.done(id, finish_reason, usage, spent);
                }
                Event::Failed { id, message } => {
                    self.texts(&mut texts);
                    self.fail(id, End::Failed, "generation_failed", &message, None);
                }
            }
        }
        self.texts(&mut texts);
        self.dispatch(ctx);
        self.end_drain_if_empty();
    }
}

impl Scheduler {
    fn texts(&mut self, texts: &mut Vec<Said>) {
        let now = outside::now();
        for said in texts.drain(..) {
            let Some(begun) = self.answering(said.id, now) else {
                continue;
            };
            let tokens = said.tokens.len() as u64;
            begun.said.extend(said.tokens);
            let (job, answered) = (begun.submit.job, begun.said.len());
            let (text, logprobs) = (said.text, said.logprobs);
            begun.text.push_str(&text);
            tell(&begun.submit.progress, Progress::Text { job, text, logprobs });
            self.generated_tokens += tokens;
            self.schedule.told(said.id, now, count(answered));
        }
    }

    fn calls(&mut self, id: SequenceId, calls: Vec<ToolCall>) {
        if let Some(begun) = self.answering(id, outside::now()) {
            let job = begun.submit.job;
            tell(&begun.submit.progress, Progress::ToolCalls { job, calls });
        }
    }

    /// A request that is being answered from now on, if it was not before.
    fn answering(&mut self, id: SequenceId, now: Instant) -> Option<&mut Begun> {
        let begun = self.begun.get_mut(&id)?;
        if begun.first_text_at.is_none() {
            begun.first_text_at = Some(now);
        }
        Some(begun)
    }

    fn done(&mut self, id: SequenceId, reason: FinishReason, usage: Usage, spent: Option<Spent>) {
        let (end, how) = match reason {
            FinishReason::Stop => (End::Completed, "stop"),
            FinishReason::ToolCalls => (End::Completed, "tool_calls"),
            FinishReason::Length => (End::Completed, "length"),
            FinishReason::Cancelled => (End::Cancelled, "cancelled"),
        };
        let Some(begun) = self.begun.remove(&id) else {
            return;
        };
        let now = outside::now();
        let used = Tokens {
            prompt: count(usage.prompt_tokens),
            answer: count(usage.completion_tokens),
        };
        self.schedule.finished(id, now, end, Some(used));
        self.suspects.ended(id);
        let since = |at: Instant| {
            at.saturating_duration_since(begun.submit.accepted_at)
                .as_secs_f64()
        };
        let timings = Timings {
            queue_s: since(begun.began_at),
            time_to_first_token_s: begun.first_text_at.map(since),
            duration_s: since(now),
        };
        self.ended(&begun.submit, &Ending::Finished(how), timings.duration_s);
        let decode_s = begun
            .first_text_at
            .map(|first| now.duration_since(first).as_secs_f64());
        let by = By {
            model: &begun.model,
            precision: begun.precision,
        };
        // Of one whose process was lost, it is not known what it had read.
        let is_known = usage.prompt_tokens > 0;
        let first_s = timings.time_to_first_token_s.filter(|_| is_known);
        self.metrics
            .used(begun.submit.priority, by, usage, first_s, decode_s);
        let model = by.model.to_owned();
        let job = begun.submit.job;
        tell(
            &begun.submit.progress,
            Progress::Done {
                job,
                reason,
                usage,
                timings,
                spent,
                model,
            },
        );
    }

    /// One whose end was asked for and whose worker is gone: nobody else says that it has ended.
    pub(super) fn cancelled(&mut self, id: SequenceId) {
        let said = self.begun.get(&id).map_or(0, |begun| begun.said.len());
        let usage = Usage {
            completion_tokens: said,
            ..Usage::default()
        };
        self.done(id, FinishReason::Cancelled, usage, None);
    }

    /// Ends what has begun, without the rest of its answer.
    pub(super) fn fail(
        &mut self,
        id: SequenceId,
        end: End,
        code: &str,
        message: &str,
        retry_after_ms: Option<u64>,
    ) {
        if let Some(begun) = self.begun.remove(&id) {
            self.schedule.finished(id, outside::now(), end, None);
            self.suspects.ended(id);
            self.refuse(&begun.submit, code, message, retry_after_ms);
        }
    }

    /// Says that there will be no answer, or no more of it.
    pub(super) fn refuse(&self, submit: &Submit, code: &str, message: &str, retry_after_ms: Option<u64>) {
        let lasted_s = outside::since(submit.accepted_at).as_secs_f64();
        self.ended(submit, &Ending::Failed(code), lasted_s);
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

    pub(super) fn ended(&self, submit: &Submit, ending: &Ending<'_>, duration_s: f64) {
        self.metrics
            .ended(submit.priority, by(&self.worker), ending, duration_s);
    }
}

/// The loaded model.
fn by(worker: &Worker) -> By<'_> {
    match worker {
        Worker::Ready { summary, .. } => By {
            model: &summary.name,
            precision: Some(summary.precision),
        },
        _ => By {
            model: "",
            precision: None,
        },
    }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
