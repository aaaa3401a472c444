//! Signs of life of what everything passes through: the daemon's own arbiter, the topic router's mailbox and the scheduler's.
//! Whoever must know whether they hang reads the counters from a thread of its own, which no actor can hold up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use actix::prelude::*;

use crate::scheduler::{GetStatus, Scheduler, SchedulerStatus};
use crate::topic_router::TopicRouter;

/// What is watched, in the order of [`Pulse::signs`].
pub const PARTS: [&str; 3] = ["main arbiter", "topic router", "scheduler"];

/// Only its own timer gives it anything to do.
const MAILBOX: usize = 1;

/// How many signs of life each part has given.
#[derive(Debug, Default)]
pub struct Pulse {
    arbiter: AtomicU64,
    router: AtomicU64,
    scheduler: AtomicU64,
}

impl Pulse {
    /// In the order of [`PARTS`].
    pub fn signs(&self) -> [u64; PARTS.len()] {
        [&self.arbiter, &self.router, &self.scheduler].map(|signs| signs.load(Relaxed))
    }
}

/// Asks for signs of life.
pub struct PulseTaker {
    pulse: Arc<Pulse>,
    every: Duration,
    router: Addr<TopicRouter>,
    scheduler: Addr<Scheduler>,
    /// Told what the scheduler says of itself with each sign.
    told: Box<dyn Fn(&SchedulerStatus)>,
    // One question at a time: a mailbox that is full is not filled further.
    is_router_asked: bool,
    is_scheduler_asked: bool,
}

impl PulseTaker {
    /// An actor not started yet, for the arbiter that is watched.
    pub fn new(
        pulse: Arc<Pulse>,
        every: Duration,
        router: Addr<TopicRouter>,
        scheduler: Addr<Scheduler>,
        told: impl Fn(&SchedulerStatus) + 'static,
    ) -> Self {
        Self {
            pulse,
            every,
            router,
            scheduler,
            told: Box::new(told),
            is_router_asked: false,
            is_scheduler_asked: false,
        }
    }

    fn ask(&mut self, ctx: &mut Context<Self>) {
        self.pulse.arbiter.fetch_add(1, Relaxed);
        // One that is gone is not asked again, and gives no sign any more.
        if !std::mem::replace(&mut self.is_router_asked, true) {
            let answer = self.router.send(GiveSign).into_actor(self);
            ctx.spawn(answer.map(|answer, act, _| {
                if answer.is_ok() {
                    act.pulse.router.fetch_add(1, Relaxed);
                    act.is_router_asked = false;
                }
            }));
        }
        if !std::mem::replace(&mut self.is_scheduler_asked, true) {
            let answer = self.scheduler.send(GetStatus).into_actor(self);
            ctx.spawn(answer.map(|answer, act, _| {
                if let Ok(status) = answer {
                    act.pulse.scheduler.fetch_add(1, Relaxed);
                    act.is_scheduler_asked = false;
                    (act.told)(&status);
                }
            }));
        }
    }
}

impl Actor for PulseTaker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.ask(ctx);
        ctx.run_interval(self.every, Self::ask);
    }
}

/// A question with nothing in it: what counts is that it is answered.
#[derive(Message)]
#[rtype(result = "()")]
struct GiveSign;

impl Handler<GiveSign> for TopicRouter {
    type Result = ();

    fn handle(&mut self, _: GiveSign, _: &mut Self::Context) {}
}

#[cfg(test)]
mod tests {
    use opentelemetry::metrics::MeterProvider;
    use opentelemetry::metrics::noop::NoopMeterProvider;
    use topics::retained::RetainedBounds;

    use super::*;
    use crate::events::Events;
    use crate::metrics::RequestMetrics;
    use crate::policy::schedule::{Ageing, PerPriority, ScheduleConfig};
    use crate::stats::Stats;

    #[actix::test]
    async fn every_part_gives_signs_and_what_the_scheduler_says_is_passed_on() {
        let bounds = RetainedBounds {
            max_messages: 1,
            max_bytes: 1,
        };
        let switchboard = TopicRouter::launch(bounds, Arc::<Stats>::default());
        let one = PerPriority {
            urgent: 1,
            interactive: 1,
            background: 1,
        };
        let config = ScheduleConfig {
            max_queued: 3,
            max_queued_of_class: one,
            max_queued_of_device: 1,
            ageing: Ageing {
                background_after: Duration::from_secs(1),
                oldest_first_after: Duration::from_secs(1),
            },
            retry_before_learnt: Duration::ZERO,
        };
        let metrics = RequestMetrics::new(&NoopMeterProvider::new().meter("test"));
        let scheduler = Scheduler::new(false, config, metrics, Arc::default(), Events::default()).start();
        let (pulse, said) = (Arc::<Pulse>::default(), Arc::<AtomicU64>::default());
        let heard = said.clone();
        PulseTaker::new(
            pulse.clone(),
            Duration::from_millis(1),
            switchboard.router().clone(),
            scheduler,
            move |status| {
                assert_eq!(status.worker, "no_model");
                heard.fetch_add(1, Relaxed);
            },
        )
        .start();
        while pulse.signs().iter().any(|signs| *signs < 3) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(said.load(Relaxed) >= 3);
    }
}
