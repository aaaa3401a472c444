//! Leave for the daemon's own work, which stands at the tail of the same queue as requests.

use std::time::Instant;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::Scheduler;
use crate::outside;
use crate::policy::chores::{Begun, LONGEST_HOLD};
use crate::policy::priority::Priority;

/// Asks for leave to do some of the daemon's own work. `tell` hears when it may begin; it is dropped where it may not any
/// more, because the daemon stops, or because too many wait.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AskLeave {
    /// What it is, for people.
    pub what: &'static str,
    /// Who hears.
    pub tell: oneshot::Sender<Leave>,
}

/// To be held for as long as the work takes. After [`LONGEST_HOLD`] the next piece begins nevertheless.
pub struct Leave {
    number: u64,
    scheduler: Addr<Scheduler>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        // Past the mailbox's bound: there is a handful of leaves at most, and the end of each is said once.
        self.scheduler.do_send(LeaveOver(self.number));
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct LeaveOver(u64);

impl Handler<AskLeave> for Scheduler {
    type Result = ();

    fn handle(&mut self, ask: AskLeave, ctx: &mut Self::Context) {
        if self.stopping {
            return;
        }
        let what = ask.what;
        if self.chores.ask(outside::now(), what, ask).is_err() {
            tracing::warn!(what, "too much of the daemon's own work waits");
        }
        self.dispatch(ctx);
    }
}

impl Handler<LeaveOver> for Scheduler {
    type Result = ();

    fn handle(&mut self, LeaveOver(number): LeaveOver, ctx: &mut Self::Context) {
        self.chores.ended(number);
        self.dispatch(ctx);
    }
}

impl Scheduler {
    /// Lets the next piece of work begin, if it may.
    pub(super) fn give_leave(&mut self, now: Instant, ctx: &Context<Self>) {
        let account = self.schedule.account();
        let is_quiet = [Priority::Urgent, Priority::Interactive]
            .into_iter()
            .all(|priority| {
                let counts = account.of(priority);
                counts.running + counts.queued == 0
            });
        let Some(begun) = self.chores.next(now, is_quiet) else {
            return;
        };
        let Begun {
            chore,
            number,
            beside,
        } = begun;
        if let Some(what) = beside {
            let minutes = LONGEST_HOLD.as_secs() / 60;
            tracing::warn!(
                what,
                minutes,
                "some of the daemon's own work takes longer than these minutes and is waited for no more; look whether a \
                 disk hangs"
            );
        }
        tracing::debug!(what = chore.what, "the daemon's own work begins");
        let scheduler = ctx.address();
        // Where nobody hears any more, the leave comes back at once.
        let _unheard = chore.tell.send(Leave { number, scheduler });
    }
}
