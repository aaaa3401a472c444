//! What the memory governor wants of the requests and their worker.

use actix::prelude::*;
use models::WhilePaused;

use super::{Govern, Scheduler, Worker, WorkerSteppedTo, words};
use crate::events::Event;
use crate::policy::governor::Action;
use crate::policy::schedule::End;
use crate::worker_protocol::ToWorker;

impl Handler<Govern> for Scheduler {
    type Result = ();

    fn handle(&mut self, Govern(action): Govern, ctx: &mut Self::Context) {
        match action {
            Action::Rest => {}
            Action::FreeKept { bytes } => self.to_worker(ToWorker::FreeKept { bytes }),
            Action::SetKvBudget { bytes } => self.to_worker(ToWorker::CacheBudget { bytes }),
            Action::PauseBackground => {
                self.while_paused = WhilePaused::Drop;
                self.schedule.pause_background(true);
                self.dispatch(ctx);
            }
            Action::ResumeBackground => {
                self.while_paused = WhilePaused::Keep;
                self.schedule.pause_background(false);
                self.dispatch(ctx);
            }
            Action::StepDown { to } | Action::StepUp { to } => {
                self.to_worker(ToWorker::StepTo { precision: to });
            }
        }
    }
}

impl Handler<WorkerSteppedTo> for Scheduler {
    type Result = ();

    fn handle(&mut self, WorkerSteppedTo(precision): WorkerSteppedTo, ctx: &mut Self::Context) {
        if let Worker::Ready { summary, .. } = &mut self.worker {
            summary.precision = precision;
        }
        self.events.tell(&Event::SteppedTo { precision });
        for id in self.begun.keys().copied().collect::<Vec<_>>() {
            let Some(begun) = self.begun.get(&id) else {
                continue;
            };
            let least = begun.submit.min_precision;
            match least.and_then(|least| words::too_few_bits(least, precision)) {
                None => begun.tell_begun(precision),
                Some(message) => {
                    self.to_worker(ToWorker::Cancel { id });
                    self.fail(id, End::Failed, "precision_unavailable", &message, Some(30_000));
                }
            }
        }
        self.dispatch(ctx);
    }
}
