//! Commands, where the embedded assistant stands beside another model: each sentence is put to it first.

use actix::prelude::*;
use models::assistant::actions::Answer;
use models::{FinishReason, Prompt};

use super::history::Turn;
use super::item::{End, Item, finish_reason};
use super::{Conversation, Fate, JobId, Pending, ReplyTo, commanded, memory};
use crate::commander::Understood;
use crate::external_broker::Answering;
use crate::outside;
use crate::request_trace::Ended;

/// What was said to the assistant is counted in the tokens of another model, of which each has some three bytes.
const BYTES_PER_TOKEN: usize = 3;

impl Conversation {
    pub(super) fn may_be_a_command(&self, pending: &Pending) -> bool {
        let commands = self.config.commands.as_ref();
        !pending.is_no_command
            && !self.config.requests.is_stopping()
            && commands.is_some_and(|commands| commands.may_understand(&pending.request.generate))
    }

    pub(super) fn understand(&mut self, pending: Pending, ctx: &mut Context<Self>) {
        let Some(commands) = &self.config.commands else {
            return;
        };
        let understood = commands.understand(
            self.device.clone(),
            &pending.request.generate,
            pending.request.priority,
            pending.request.min_precision,
            pending.accepted_at,
            pending.deadline,
        );
        // Of its own, as the same words may come twice.
        let name = JobId::next();
        self.understanding.push((name, pending));
        ctx.spawn(
            understood
                .into_actor(self)
                .map(move |understood, act, ctx| act.understood(name, understood, ctx)),
        );
    }

    fn understood(&mut self, name: JobId, understood: Option<Understood>, ctx: &mut Context<Self>) {
        let place = self.understanding.iter().position(|(other, _)| *other == name);
        // One that was cancelled has said so.
        let Some(place) = place else { return };
        let (_, mut pending) = self.understanding.remove(place);
        let is_late = pending.deadline.is_some_and(|at| at <= outside::now());
        match understood.filter(|_| !is_late) {
            Some(understood) => self.commanded(pending, &understood),
            // One that is late is told so where all others are.
            None => {
                pending.is_no_command = true;
                let is_before = |other: &Pending| other.request.priority < pending.request.priority;
                let place = self.queue.partition_point(is_before);
                self.queue.insert(place, pending);
            }
        }
        self.next(ctx);
    }

    /// What is said of a command is in words, as is all that the other model says; what is to be done of it is in the last item.
    fn commanded(&self, mut pending: Pending, understood: &Understood) {
        let (reply, id, answer) = (&pending.reply, &pending.id, &understood.answer);
        let item = Item {
            id,
            seq: 0,
            delta: &answer.say,
            logprobs: &[],
            model: None,
            precision: understood.precision,
            attempt: reply.attempt(),
            end: None,
        };
        self.publish(reply, &item);
        self.tell_intent(answer, reply, id, reply.attempt());
        self.remember_command(&pending, &answer.say);
        if let Some(commands) = &self.config.commands {
            commands.answered(pending.request.priority, understood);
        }
        let end = End {
            finish_reason: finish_reason(FinishReason::Stop),
            actions: &answer.actions,
            model: Some(&understood.model),
            usage: Some(understood.usage),
            timings: Some(understood.timings),
            ..End::default()
        };
        self.publish(
            reply,
            &Item {
                seq: 1,
                delta: "",
                end: Some(end),
                ..item
            },
        );
        if let Some(mut trace) = pending.trace.take() {
            trace.said(&answer.say);
            trace.answered(&Ended {
                model: &understood.model,
                precision: understood.precision,
                attempt: reply.attempt(),
                finish_reason: finish_reason(FinishReason::Stop),
                usage: understood.usage,
                timings: understood.timings,
                spent: understood.spent,
                tool_calls: &[],
            });
        }
        if let Some(turn) = pending.turn {
            turn.ends(Fate::Completed);
        }
    }

    /// So that the other model knows what was spoken of.
    fn remember_command(&self, pending: &Pending, say: &str) {
        let memory = &self.config.memory;
        let Prompt::Text(text) = &pending.request.generate.prompt else {
            return;
        };
        if memory.remembers() && pending.request.history {
            let turn = Turn {
                user: text.clone(),
                assistant: say.to_owned(),
                tokens: (text.len() + say.len()).div_ceil(BYTES_PER_TOKEN),
                at_s: memory::unix_s(outside::calendar()),
            };
            memory.note(&self.device, turn);
        }
    }

    /// Before the last item: what is done of an answer comes from this, and that lets go of the request.
    pub(super) fn tell_intent(&self, answer: &Answer, reply: &ReplyTo, id: &str, attempt: u32) {
        if let Some(event) = commanded::event(answer, &self.device, id, attempt) {
            // A part of the answer to an external broker, too: where there is no room for it, the request comes again.
            let answering = reply.receipt.clone().map(Answering::Item);
            self.switchboard.publish_answer(event, answering);
        }
    }
}
