//! What the scheduler tells of a request, made into items of its answer.

use actix::prelude::*;
use models::FinishReason;

use super::item::{End, Item, ItemError, finish_reason};
use super::{Conversation, Pending, Running, TOO_LONG};
use crate::request_trace::Ended;
use crate::scheduler::{Progress, SHUTTING_DOWN};

impl Handler<Progress> for Conversation {
    type Result = ();

    fn handle(&mut self, progress: Progress, ctx: &mut Self::Context) {
        let is_this = |running: &Running| running.job == progress.job();
        let Some(number) = self.running.iter().position(is_this) else {
            return;
        };
        let mut running = self.running.swap_remove(number);
        match progress {
            Progress::Begun {
                model,
                precision,
                attempt,
                is_assistant,
                ..
            } => {
                if is_assistant {
                    // To it each sentence is a command of its own.
                    running.remembered = None;
                    if running.is_plain {
                        running.commanded.get_or_insert_default();
                    }
                }
                (running.precision, running.attempt) = (Some(precision), attempt);
                if *running.first_model.get_or_insert_with(|| model.clone()) != model {
                    running.other_model = Some(model);
                }
                self.running.push(running);
            }
            Progress::ToolCalls { calls, .. } => {
                running.again = None;
                running.tool_calls = calls;
                self.running.push(running);
            }
            Progress::Text { text, logprobs, .. } => {
                // Only before the first text may it begin anew.
                running.again = None;
                if let Some(turn) = &mut running.remembered {
                    turn.assistant.push_str(&text);
                }
                if let Some(trace) = &mut running.trace {
                    trace.said(&text);
                }
                if let Some(commanded) = &mut running.commanded {
                    commanded.push(&text);
                }
                self.publish(
                    &running.reply,
                    &Item {
                        id: &running.id,
                        seq: running.seq,
                        delta: &text,
                        logprobs: &logprobs,
                        model: running.other_model.as_deref(),
                        precision: running.precision,
                        attempt: running.all_attempts(),
                        end: None,
                    },
                );
                running.seq += 1;
                self.running.push(running);
            }
            Progress::Done {
                reason,
                usage,
                timings,
                spent,
                model,
                ..
            } => {
                // Kept before the last item is: whoever has that finds the turn remembered.
                if let Some(turn) = running.remembered.take() {
                    self.remember(turn, usage);
                }
                let commanded = running.commanded.take().filter(|_| reason == FinishReason::Stop);
                let answer = commanded.and_then(|commanded| commanded.to_do());
                if let Some(answer) = &answer {
                    self.tell_intent(answer, &running.reply, &running.id, running.all_attempts());
                }
                let end = End {
                    finish_reason: finish_reason(reason),
                    actions: answer.as_ref().map_or(&[], |answer| &answer.actions),
                    tool_calls: &running.tool_calls,
                    model: Some(&model),
                    usage: Some(usage),
                    timings: Some(timings),
                    ..End::default()
                };
                self.end(&running, end);
                if let Some(trace) = running.trace.take() {
                    trace.answered(&Ended {
                        model: &model,
                        precision: running.precision,
                        attempt: running.all_attempts(),
                        finish_reason: finish_reason(reason),
                        usage,
                        timings,
                        spent,
                        tool_calls: &running.tool_calls,
                    });
                }
                self.next(ctx);
            }
            Progress::Failed {
                code,
                message,
                retry_after_ms,
                ..
            } => {
                if code == SHUTTING_DOWN && self.is_left_to_the_next_daemon(&running.reply) {
                    drop(running);
                    return self.next(ctx);
                }
                if let (true, Some(again)) = (TOO_LONG.contains(&code.as_str()), running.again.take()) {
                    let turn = Some(self.turn(again.request.priority));
                    let again = Pending { turn, ..again };
                    self.queue.push_front(again);
                    return self.next(ctx);
                }
                let error = ItemError {
                    code: &code,
                    message: &message,
                    retry_after_ms,
                };
                self.end(&running, End::failed(error));
                if let Some(trace) = running.trace.take() {
                    {
                        let _speaks = trace.speaks();
                        tracing::info!(id = running.id, code, trace_id = trace.id(), "a request failed");
                    }
                    trace.failed(&code);
                }
                self.next(ctx);
            }
        }
    }
}
