//! Requests that nobody wants any more: those that are cancelled, and those whose answer nobody can receive.

use std::collections::VecDeque;
use std::time::Instant;

use actix::prelude::*;
use models::FinishReason;

use super::item::{End, finish_reason};
use super::request::{self, CancelTarget};
use super::{Conversation, Fate, JobId, Pending, ReplyTo};
use crate::outside;
use crate::request_trace::RequestTrace;
use crate::scheduler::CancelJob;
use crate::switchboard::{Inbound, Switchboard};

impl Conversation {
    pub(super) fn cancel(&mut self, msg: &Inbound, ctx: &mut Context<Self>) {
        let target = match request::parse_cancel(&msg.message.payload) {
            Ok(target) => target,
            Err(invalid) => {
                if let Some(reply) = self.reply_to(msg) {
                    self.reject(&reply, &invalid);
                }
                return;
            }
        };
        let hit = |id: &str| match &target {
            CancelTarget::All => true,
            CancelTarget::Id(wanted) => wanted == id,
        };
        for running in self.running.iter().filter(|running| hit(&running.id)) {
            self.cancel_job(running.job, ctx);
        }
        let (gone, kept): (VecDeque<_>, _) = self.queue.drain(..).partition(|pending| hit(&pending.id));
        self.queue = kept;
        let understanding = std::mem::take(&mut self.understanding);
        let (let_be, kept): (Vec<_>, _) = understanding
            .into_iter()
            .partition(|(_, pending)| hit(&pending.id));
        self.understanding = kept;
        let let_be = let_be.into_iter().map(|(_, pending)| pending);
        for pending in let_be.chain(gone) {
            self.cancelled(pending);
        }
        self.next(ctx);
    }

    /// The last item comes from the engine, when it has stopped.
    fn cancel_job(&self, job: JobId, ctx: &mut Context<Self>) {
        let asked = self.scheduler.send(CancelJob { job });
        ctx.spawn(
            async move {
                let _ = asked.await;
            }
            .into_actor(self),
        );
    }

    pub(super) fn look_for_receivers(&mut self, ctx: &mut Context<Self>) {
        let (now, grace) = (outside::now(), self.config.undeliverable_grace);
        let seen = |switchboard: &Switchboard, reply: &ReplyTo, last: &mut Instant| {
            if switchboard.has_receiver(&reply.topic) {
                *last = now;
            }
            now.saturating_duration_since(*last) < grace
        };
        let mut abandoned = Vec::new();
        for running in &mut self.running {
            if !seen(&self.switchboard, &running.reply, &mut running.last_receiver_seen) {
                let _speaks = running.trace.as_ref().map(RequestTrace::speaks);
                let trace_id = running.trace.as_ref().map(RequestTrace::id);
                tracing::info!(id = running.id, topic = %running.reply.topic, trace_id, "nobody can receive the answer: cancelled");
                abandoned.push(running.job);
            }
        }
        for job in abandoned {
            self.cancel_job(job, ctx);
        }
        let (gone, kept): (VecDeque<_>, _) = self
            .queue
            .drain(..)
            .map(|mut pending| {
                (
                    seen(&self.switchboard, &pending.reply, &mut pending.last_receiver_seen),
                    pending,
                )
            })
            .partition(|(seen, _)| !seen);
        self.queue = kept.into_iter().map(|(_, pending)| pending).collect();
        for (_, pending) in gone {
            self.cancelled(pending);
        }
    }

    fn cancelled(&self, pending: Pending) {
        let end = End {
            finish_reason: finish_reason(FinishReason::Cancelled),
            ..End::default()
        };
        self.only_item(&pending.reply, &pending.id, end);
        if let Some(trace) = pending.trace {
            trace.failed("cancelled");
        }
        if let Some(turn) = pending.turn {
            turn.ends(Fate::Cancelled);
        }
    }
}
